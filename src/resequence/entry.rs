//! What the owner keeps of a record from its admission to its release.

use crate::order::Ticket;
use crate::record::ledger::Identity;
use crate::record::{Batch, Offset, Round, Timestamp};

/// Marks the result that an operator's skip is, beside status `failed`, as passed over whatever the policy is.
pub(super) const SKIPPED: &[u8] = b"skipped";

/// A record of the input, admitted and not yet released. Its body stays in the log.
#[derive(Debug)]
pub struct Entry {
    /// What a result has to carry to be one for this very record.
    pub check: u32,
    /// The round whose results count.
    pub round: Round,
    /// When the log took the record.
    pub timestamp: Timestamp,
    /// The destinations that the message names, as bits; those of `default` where it names none.
    pub destinations: u64,
    /// The message's key, which a single output takes.
    pub key: Option<Box<[u8]>>,
    /// Its identity, where it has one and is the first with it.
    pub identity: Option<Box<Identity>>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// The last attempt that failed and is followed by another.
    pub retrying: Option<Box<Retrying>>,
    /// The input record itself, fetched again to be dead-lettered.
    pub(super) input: Option<Batch>,
}

/// How work on a record ended.
#[derive(Debug)]
pub enum Outcome {
    /// By this result.
    Result(Answer),
    /// It repeats the message at this offset.
    Duplicate(Offset),
    /// It uses the key of the message at this offset for another body.
    KeyReused(Offset),
    /// It could not be worked on at all: an error as JSON.
    Refused(String),
}

/// The first valid result of a record.
#[derive(Debug)]
pub struct Answer {
    /// Why it failed, as JSON, where it did.
    pub(super) error: Option<Box<str>>,
    /// The result record, or `None` while memory is short: then it is read again from the log.
    pub(super) body: Option<Batch>,
    /// Where it is on the results partition.
    pub(super) position: Offset,
    /// Its place among the results that are still needed.
    pub(super) ticket: Ticket,
}

impl Entry {
    /// Why the record failed, as JSON, where it did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match self.outcome.as_ref()? {
            Outcome::Result(answer) => answer.error.as_deref().map(ToOwned::to_owned),
            Outcome::Refused(error) => Some(error.clone()),
            Outcome::KeyReused(_) | Outcome::Duplicate(_) => None,
        }
    }
}

/// What a worker said of a failed attempt.
#[derive(Clone, Debug)]
pub struct Retrying {
    /// Which attempt failed, from 1.
    pub attempt: u32,
    /// Who made it.
    pub worker: String,
    /// Why it failed, JSON.
    pub error: String,
}
