//! The ledger: what became of each message. Each release appends one packed record a lane.

use serde::{Deserialize, Serialize};

use super::Offset;

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

/// What of a ledger is about records that their lane's input has lost since: its topic was made anew, or has lost its
/// end, and an operator has accepted that. Other records have those offsets now.
///
/// Pairs of a position in the ledger and an input offset: what stands below that position of that offset and those
/// above is void. One is added by each such order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voided(Vec<(u64, u64)>);

impl Voided {
    /// What stands in the ledger so far, which ends at `position`, is void for the records from `offset` on.
    pub fn add(&mut self, position: Offset, offset: Offset) {
        self.0.push((position.0, offset.0));
    }

    /// The ledger ends here: it may have lost its end, too, and what comes there is about what is there now.
    pub fn end_at(&mut self, end: Offset) {
        for (position, _) in &mut self.0 {
            *position = (*position).min(end.0);
        }
    }

    /// The ledger holds nothing below this position any more.
    pub fn forget_below(&mut self, position: Offset) {
        self.0.retain(|(below, _)| *below > position.0);
    }

    /// Whether all of it is valid.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The position in the ledger from which on it speaks of the record that is at `offset` now.
    #[must_use]
    pub fn valid_from(&self, offset: Offset) -> Offset {
        let applying = self.0.iter().filter(|(_, from)| *from <= offset.0);
        applying.map(|(position, _)| Offset(*position)).max().unwrap_or_default()
    }

    /// The offset from which on what stands at `position` in the ledger is void; the highest there is where it is all
    /// valid.
    #[must_use]
    pub fn void_from(&self, position: Offset) -> Offset {
        let applying = self.0.iter().filter(|(below, _)| position.0 < *below);
        applying.map(|(_, from)| Offset(*from)).min().unwrap_or(Offset(u64::MAX))
    }

    /// How many of those orders were given before `position` in the ledger: with each, sources begin again.
    #[must_use]
    pub fn lives_before(&self, position: Offset) -> usize {
        self.0.iter().filter(|(below, _)| *below <= position.0).count()
    }
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
    fn what_is_void_is_what_was_said_before_of_these_offsets() {
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..200 {
            let (mut voided, mut orders, mut end) = (Voided::default(), Vec::new(), 0);
            for _ in 0..rng.u64(0..6) {
                end += rng.u64(0..3);
                let from = rng.u64(0..10);
                voided.add(Offset(end), Offset(from));
                orders.push((end, from));
            }
            let start = rng.u64(0..=end);
            voided.forget_below(Offset(start));
            let is_void = |position, offset| orders.iter().any(|(end, from)| position < *end && offset >= *from);
            for (position, offset) in
                (start..end + 2).flat_map(|position| (0..12).map(move |offset| (position, offset)))
            {
                let expected = is_void(position, offset);
                assert_eq!(voided.void_from(Offset(position)).0 <= offset, expected, "{orders:?} {position} {offset}");
                assert_eq!(position < voided.valid_from(Offset(offset)).0, expected, "{orders:?} {position} {offset}");
            }
        }
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
