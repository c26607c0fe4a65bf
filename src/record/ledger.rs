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

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Its input offset.
    pub offset: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Its identity, where it has one and is the first with it.
    pub identity: Option<Identity>,
}

/// How a message left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// With these outputs: destination name and sequence number, by output index.
    Sent(Vec<(String, u64)>),
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
            Outcome::Empty,
            Outcome::DeadLettered("{}".to_owned()),
            Outcome::Skipped("{}".to_owned()),
            Outcome::Duplicate(2),
        ];
        let entries = outcomes
            .into_iter()
            .zip(7..)
            .map(|(outcome, offset)| LedgerEntry { offset, outcome, identity: Some(Identity::of(b"p/k", None)) })
            .collect();
        let record = LedgerRecord { frontier: 12, read_to: 30, entries };
        assert_eq!(decode(&encode(&record)), Ok(record));
    }
}
