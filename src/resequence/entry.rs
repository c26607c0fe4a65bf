//! What the owner keeps of a record from its admission to its release.

use super::destinations::Mask;
use crate::order::Ticket;
use crate::record::ledger::Identity;
use crate::record::{Batch, BatchItem, Name, Offset, Partition, RecordRef, Round, Timestamp};

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
    pub destinations: Mask,
    /// The message's key, which a single output takes.
    pub key: Option<Box<[u8]>>,
    /// Its identity, where it has one and is the first with it.
    pub identity: Option<Box<Identity>>,
    /// The batch's item that it is, where it is one.
    pub item: Option<Box<Item>>,
    /// The event of a batch that it is, where it is one: nobody works on it.
    pub event: Option<(u64, u64)>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// The last attempt that failed and is followed by another.
    pub retrying: Option<Box<Retrying>>,
    /// The partition of the work topic to which it was sent first, while it has no result.
    pub(super) sent: Option<Partition>,
    /// The input record itself, fetched again to be dead-lettered.
    pub(super) input: Option<Batch>,
}

/// An item of a batch, as the header of its input record names it. Workers need not repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The batch.
    pub id: Box<str>,
    /// Its index; one past the last is the final item.
    pub index: u64,
    /// Its round within the batch, which is not that of the record.
    pub round: Round,
}

impl Item {
    /// The item that an input record is, `None` where it is none.
    pub(super) fn of(record: &RecordRef<'_>) -> Option<Self> {
        let BatchItem { id, index, round } = BatchItem::decode(record.headers.text(Name::Batch)?)?;
        Some(Self { id: id.into(), index, round })
    }
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
    /// It is an event of a batch and leaves as it is: the one record.
    Event(Batch),
    /// An item that its batch does not wait for, or no longer: its place is passed over, for this
    /// reason as JSON.
    Withdrawn(String),
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
            Outcome::KeyReused(_) | Outcome::Duplicate(_) | Outcome::Withdrawn(_) | Outcome::Event(_) => None,
        }
    }

    /// Whether it belongs to a batch: then it has groups of its own, and is never held back in the
    /// lane because it failed.
    pub(super) const fn is_of_batch(&self) -> bool {
        self.item.is_some() || self.event.is_some()
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
