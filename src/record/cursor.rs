//! The cursor: the whole durable state of the owner of one control partition, as one record.
//!
//! Every release appends one in the same commit as its outputs; the last committed one is the
//! state. Observers (workers for the limit, operators' questions, retention) tail it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::ledger::Voided;
use super::{TopicId, TopicIds};

/// The version that this program writes. An owner that meets a newer one lets go.
pub const CURSOR_VERSION: u8 = 5;

/// The budget of one encoded cursor, 512 KiB: half of what `max.message.bytes` of the cursor
/// topics allows, so that a state which grows between two checks still fits.
pub const CURSOR_BUDGET: usize = 512 * 1024;

/// Why a cursor, or another record of this program's own, cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Written by a newer release.
    #[error("it has version {0}, this program reads up to version {CURSOR_VERSION}: upgrade this process")]
    Newer(u8),
    /// Written by a build from before the first release.
    #[error("it has version {0}, of a development build before 0.1, which is read no more: begin under a new name")]
    Older(u8),
    /// Not written by this program, or damaged.
    #[error("it does not decode: {0}")]
    Damaged(String),
}

/// The state of a resequencer's control partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerCursor {
    /// The epoch of the owner that wrote it.
    pub epoch: u64,
    /// The position in the control log: every verb below it has been executed.
    pub control: u64,
    /// The lanes owned, by number.
    pub lanes: BTreeMap<u32, LaneCursor>,
    /// The topics that the positions and counters of the lanes are about, where the log tells topics of one
    /// name apart. [`LaneCursor::about`] has those of a lane that stands still over others.
    pub topics: TopicIds,
}

impl OwnerCursor {
    /// The topic of this name that the positions of a lane are about, where that is known.
    #[must_use]
    pub fn about(&self, lane: u32, topic: &str) -> Option<TopicId> {
        let former = self.lanes.get(&lane).and_then(|lane| lane.about.get(topic));
        former.or_else(|| self.topics.get(topic)).copied()
    }
}

/// The state of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneCursor {
    /// The lowest input offset that is not yet released.
    pub frontier: u64,
    /// When the frontier came to be there, in the log's time: the clock of the record there goes
    /// on from it, whoever owns the lane.
    pub frontier_since: i64,
    /// Up to where owners have read the input; a new one begins at the frontier again. What the ledger holds it by
    /// never goes down.
    pub read_to: u64,
    /// Runs `(first ordinal, length)` of records released above the frontier; ordinal 0 is the
    /// first committed record at or above it.
    pub released: Vec<(u64, u64)>,
    /// Records of which some parts have left: `(ordinal, bit mask of those parts)`.
    pub partly: Vec<(u64, u64)>,
    /// The position in the results log: everything below it is done with.
    pub results: u64,
    /// Workers may work on offsets below this one. Never goes down.
    pub limit: u64,
    /// Every record below it that had to be put on the work topic is there. Stands still while
    /// workers read the input itself.
    pub dispatched: u64,
    /// The next sequence number of each output topic's partition. Entries are never dropped.
    pub sequences: BTreeMap<String, u64>,
    /// With which of these numbers an output topic begins that was made anew, or lost all it held, and was
    /// accepted; the others began with 0.
    pub begins: BTreeMap<String, u64>,
    /// The raised rounds of unreleased records, by offset.
    pub rounds: BTreeMap<u64, u32>,
    /// The position in the ledger from which a new owner reads the identities it has to know.
    pub identities: u64,
    /// What the ledger says of records that the input has lost since.
    pub voided: Voided,
    /// The order scope, as configured: `lane`, `destination`, `key`, `header:NAME`, `none`.
    pub order: String,
    /// Where the scope above begins to hold; below it the one before, all of which is released first.
    pub next_order: Option<(u64, String)>,
    /// The outputs that a former owner has committed beyond this cursor, by topic: `(source
    /// offset, output index)` and their sequence number. Not written again; removed as they are met.
    pub suppressed: BTreeMap<String, BTreeMap<(u64, u32), u64>>,
    /// The position in the commands of batches: every command below it has been executed.
    pub batches: u64,
    /// The lowest offset of uploaded items that a batch which has not ended still needs, if any.
    pub batch_items: Option<u64>,
    /// Events of batches that are in the input, on their way to a destination, and not released: runs
    /// `(epoch, first number, how many)`.
    pub events: Vec<(u64, u64, u64)>,
    /// An operator has accepted that the input lost records, maybe items of batches that are out; the lane has not
    /// gone on since.
    pub items_lost: bool,
    /// Why the lane stands still for good, until an operator accepts the loss.
    pub halted: Option<String>,
    /// Where the input ended when it was found to have lost its end, which the lane stands still for: what is there
    /// from here on is not what was there before.
    pub lost_from: Option<u64>,
    /// The topics that were made anew since, which the lane stands still for, as they were.
    pub about: TopicIds,
}

/// Encodes a record of this program's own: a version byte, then postcard.
///
/// # Panics
///
/// Never for the types of this crate, all of which postcard can serialize.
#[must_use]
pub fn encode<T: Serialize>(state: &T) -> Vec<u8> {
    postcard::to_extend(state, vec![CURSOR_VERSION]).expect("plain data always serializes")
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
///
/// [`Unreadable`], where it comes from another release or from somewhere else.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, Unreadable> {
    match value.split_first() {
        Some((&CURSOR_VERSION, rest)) => {
            let (state, rest) = postcard::take_from_bytes(rest).map_err(|e| Unreadable::Damaged(e.to_string()))?;
            if rest.is_empty() { Ok(state) } else { Err(Unreadable::Damaged("bytes follow its end".to_owned())) }
        }
        Some((&version, _)) if version > CURSOR_VERSION => Err(Unreadable::Newer(version)),
        Some((&version, _)) if version > 0 => Err(Unreadable::Older(version)),
        _ => Err(Unreadable::Damaged("it has no version".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_strange_ones_are_refused() {
        let lane = LaneCursor { frontier: 5, released: vec![(1, 2)], order: "key".to_owned(), ..LaneCursor::default() };
        let cursor = OwnerCursor { epoch: 3, control: 9, lanes: BTreeMap::from([(0, lane)]), ..OwnerCursor::default() };
        let topics = TopicIds::from([("t.input".to_owned(), TopicId(u128::MAX))]);
        let cursor = OwnerCursor { topics, ..cursor };
        let bytes = encode(&cursor);
        assert_eq!(decode(&bytes), Ok(cursor));
        let newer = [&[CURSOR_VERSION + 1], &bytes[1..]].concat();
        assert_eq!(decode::<OwnerCursor>(&newer), Err(Unreadable::Newer(CURSOR_VERSION + 1)));
        let older = [&[CURSOR_VERSION - 1], &bytes[1..]].concat();
        assert_eq!(decode::<OwnerCursor>(&older), Err(Unreadable::Older(CURSOR_VERSION - 1)));
        for end in 0..bytes.len() {
            assert!(matches!(decode::<OwnerCursor>(&bytes[..end]), Err(Unreadable::Damaged(_))), "{end}");
        }
        assert!(matches!(decode::<OwnerCursor>(&[&bytes[..], &[0]].concat()), Err(Unreadable::Damaged(_))));
    }
}
