//! The ledger: what became of each message. Each release appends one packed record a lane.

use serde::{Deserialize, Serialize};

/// One release of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// The lane's frontier after this release: everything below it stands in this record or an
    /// earlier one. Never goes down along the ledger.
    pub frontier: u64,
    /// The lane had read its input up to here: nothing at or above it stands in this record or an
    /// earlier one. Never goes down along the ledger.
    pub read_to: u64,
    /// The messages released, in the order in which they were.
    pub entries: Vec<LedgerEntry>,
}

impl LedgerRecord {
    /// Adds that a message has left; one that continues the last entry's run costs nothing.
    pub fn push(&mut self, offset: u64, outcome: Outcome, identity: Option<Identity>) {
        self.entries.push(LedgerEntry { offset, count: 1, outcome, identity });
    }

    /// Adds that a message without identity has left with one output.
    pub fn push_sent(&mut self, offset: u64, destination: &str, sequence: u64) {
        if let Some(last) = self.entries.last_mut()
            && last.identity.is_none()
            && offset == last.offset + u64::from(last.count)
            && let Outcome::Sent(sent) = &last.outcome
            && let [(name, first)] = sent.as_slice()
            && *first + u64::from(last.count) == sequence
            && name == destination
            && last.count < u32::MAX
        {
            last.count += 1;
            return;
        }
        self.push(offset, Outcome::Sent(vec![(destination.to_owned(), sequence)]), None);
    }

    /// What this record says of the message at `offset`, in the order in which it happened.
    pub fn outcomes(&self, offset: u64) -> impl Iterator<Item = Outcome> + '_ {
        self.entries.iter().filter_map(move |entry| entry.outcome_of(offset))
    }
}

/// What became of one message, or of a run of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Its input offset.
    pub offset: u64,
    /// How many messages at consecutive offsets it stands for, from 1. Sequence numbers in the
    /// outcome are the first one's, and go up with the offsets.
    pub count: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Its identity, where it has one and is the first with it. Never in a run.
    pub identity: Option<Identity>,
}

impl LedgerEntry {
    /// What this entry says of the message at `offset`, if it stands for it.
    #[must_use]
    pub fn outcome_of(&self, offset: u64) -> Option<Outcome> {
        let index = offset.checked_sub(self.offset).filter(|index| *index < self.count.into())?;
        Some(match &self.outcome {
            Outcome::Sent(sent) => {
                Outcome::Sent(sent.iter().map(|(name, first)| (name.clone(), first + index)).collect())
            }
            other => other.clone(),
        })
    }
}

/// How a message left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// With these outputs: destination name and sequence number, by output index.
    Sent(Vec<(String, u64)>),
    /// These outputs have left in the order of their own group; others of the same message, or
    /// its last entry, follow. Only where the order is by destination.
    Partly(Vec<(String, u64)>),
    /// Worked on without any output.
    Empty,
    /// It failed and was put on the dead-letter topic; the reason as JSON.
    DeadLettered(String),
    /// It failed, or an operator said so, and its place was passed over; the reason as JSON.
    Skipped(String),
    /// It repeats the message at this offset, and has no output of its own.
    Duplicate(u64),
}

/// A message's identity, hashed: what tells a repeat, and a key that was used for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The first 128 bits of SHA-256 over `seriatim-id`.
    pub id: u128,
    /// The first 128 bits of SHA-256 over the value.
    pub fingerprint: u128,
}

impl Identity {
    /// The identity of a message with this `seriatim-id` and value.
    #[must_use]
    pub fn of(id: &[u8], value: Option<&[u8]>) -> Self {
        Self { id: hash(id), fingerprint: hash(value.unwrap_or_default()) }
    }
}

/// The first 128 bits of SHA-256: no one finds two inputs that agree on them, and they fit a register pair.
fn hash(bytes: &[u8]) -> u128 {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    u128::from_be_bytes(*digest.first_chunk().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::cursor::{decode, encode};

    #[test]
    fn ledger_records_round_trip() {
        let outcomes = [
            Outcome::Sent(vec![("a".to_owned(), 4)]),
            Outcome::Partly(vec![]),
            Outcome::Empty,
            Outcome::DeadLettered("{}".to_owned()),
            Outcome::Skipped("{}".to_owned()),
            Outcome::Duplicate(2),
        ];
        let mut record = LedgerRecord { frontier: 12, read_to: 30, entries: Vec::new() };
        for (outcome, offset) in outcomes.into_iter().zip(7..) {
            record.push(offset, outcome, Some(Identity::of(b"p/k", None)));
        }
        assert_eq!(decode(&encode(&record)), Ok(record));
    }

    #[test]
    fn runs_take_one_entry_and_answer_for_each_message() {
        let mut record = LedgerRecord::default();
        for (offset, destination, sequence) in [(5, "a", 1), (6, "a", 2), (7, "a", 3), (9, "a", 4), (10, "b", 5)] {
            record.push_sent(offset, destination, sequence);
        }
        assert_eq!(record.entries.len(), 3);
        let sent = |offset| record.outcomes(offset).collect::<Vec<_>>();
        assert_eq!(sent(7), [Outcome::Sent(vec![("a".to_owned(), 3)])]);
        assert_eq!(sent(10), [Outcome::Sent(vec![("b".to_owned(), 5)])]);
        assert_eq!(sent(8), []);
    }
}
