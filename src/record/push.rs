//! The cursor of a deliverer: the whole durable state of the pushes of one control partition.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{TopicId, TopicIds};

/// The state of a deliverer's control partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushCursor {
    /// The epoch of the owner that wrote it.
    pub epoch: u64,
    /// The position in the control log: every verb below it has been executed.
    pub control: u64,
    /// How far each output topic is pushed, by its full name and lane. Entries are never dropped:
    /// a destination that is taken out of the config and put back goes on where it stood.
    pub topics: BTreeMap<String, BTreeMap<u32, PushPosition>>,
    /// Which topics these positions are about, by name, where the log tells topics of one name apart.
    /// [`PushPosition::about`] has the one of a position that stands still over another.
    pub ids: TopicIds,
    /// Why destinations do not get at once what is there for them, by name.
    pub held: BTreeMap<String, Held>,
    /// What came of the last test item of each destination.
    pub tests: BTreeMap<String, Tested>,
}

/// What came of a test item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// The offset of the order for it in the control log.
    pub order: u64,
    /// Whether the receiver took it.
    pub taken: bool,
    /// What it said, or why it could not be asked; at most [`REASON_KEPT`] bytes.
    pub said: String,
    /// How long that took.
    pub millis: u64,
}

/// How far one partition of an output topic is pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushPosition {
    /// The lowest offset that is not yet done; all below is acknowledged, dead-lettered or skipped.
    pub position: u64,
    /// Runs `(first ordinal, length)` of records done above it; ordinal 0 is the first committed
    /// record at or above the position.
    pub done: Vec<(u64, u64)>,
    /// The records that the receiver refused for good and that hold their sequence groups, with
    /// the reason. At most [`HALTED_KEPT`] of the lowest; a new owner finds the rest by pushing them again.
    pub halted: BTreeMap<u64, String>,
    /// Why nothing is pushed from here until an operator accepts the loss.
    pub lost: Option<String>,
    /// The topic that it is about, which was deleted; the one that was made anew since is not pushed.
    pub about: Option<TopicId>,
    /// What is pushed once more at present.
    pub replay: Option<Replaying>,
}

/// A replay that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaying {
    /// What receivers know it by.
    pub id: String,
    /// The offset below which items are part of it.
    pub until: u64,
}

/// How many halted records a position names, and how many bytes of each reason: 16 KiB at most, so
/// that a receiver that refuses everything does not use up the budget of the cursor.
pub const HALTED_KEPT: usize = 64;
/// See [`HALTED_KEPT`].
pub const REASON_KEPT: usize = 256;

/// Why a destination does not get at once what is there for it. The first two hold it for every owner and
/// until an operator resumes; the others are what this owner saw last, for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// An operator said so; the reason.
    Paused(String),
    /// The receiver answered 410: it does not want any more, ever; what it said.
    Disabled(String),
    /// Attempts have failed, and further ones follow.
    Retrying(Retrying),
    /// Its rate lets no more go at present.
    Paced,
}

impl Held {
    /// Whether only an operator ends it.
    #[must_use]
    pub const fn is_for_good(&self) -> bool {
        matches!(self, Self::Paused(_) | Self::Disabled(_))
    }
}

/// An item whose attempts have failed so far: of those of a destination the one that was tried most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retrying {
    /// Its lane.
    pub lane: u32,
    /// Its offset in the destination's topic.
    pub offset: u64,
    /// How often this owner has tried it, at least once.
    pub attempts: u32,
    /// What came of the last attempt; at most [`REASON_KEPT`] bytes.
    pub error: String,
    /// When the first of these attempts failed, in the log's time.
    pub since: i64,
    /// Before when no other follows, in the log's time.
    pub next: i64,
    /// Whether the receiver is taken for down: only one item at a time is tried then.
    pub down: bool,
}

/// The value of the `seriatim-kind` header of a [`PushVerb`] on the control topic.
pub const PUSH_VERB: &[u8] = b"push";

/// An operator's order to the deliverers of one control partition, executed once, in control-log
/// order. JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushVerb {
    /// The name of the destination.
    pub destination: String,
    /// What to do.
    pub action: PushAction,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who asked.
    pub by: String,
}

/// What to do with a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum PushAction {
    /// Start no further push.
    Pause,
    /// Go on after a pause, or after the receiver's 410.
    Resume,
    /// Push halted items again.
    Retry(HaltedItems),
    /// Pass halted items over; they count as done.
    Skip(HaltedItems),
    /// End a halt by loss: go on with the first record that the lane's topic still has.
    Accept {
        /// The lane.
        lane: u32,
    },
    /// Push a lane's items once more, from an offset on. What was never pushed waits behind.
    Replay {
        /// The lane.
        lane: u32,
        /// The offset of the first of them in the destination's topic.
        from: u64,
        /// What receivers know it by: [`is_replay_id`].
        id: String,
    },
    /// Send the receiver an item that is none, also while nothing else is pushed there.
    Test(TestItem),
}

/// An item that is in no topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestItem {
    /// The body, Base64; at most [`LONGEST_TEST`] bytes of it are accepted.
    pub body: String,
    /// Its media type.
    pub content_type: Option<String>,
}

/// The longest body of a test: it travels in the control log, which is for orders.
pub const LONGEST_TEST: usize = 64 << 10;

/// The longest id of a replay: it is a header of each of its items.
pub const LONGEST_REPLAY_ID: usize = 64;

/// Whether a text can be the id of a replay: letters, digits, `.`, `_` and `-`, so that it can stand in
/// a header and in a receiver's tables as it is.
#[must_use]
pub fn is_replay_id(id: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=LONGEST_REPLAY_ID).contains(&id.len()) && id.bytes().all(fine)
}

/// Items whose sequence groups they hold. What is not halted is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaltedItems {
    /// The lane.
    pub lane: u32,
    /// Their offsets in the destination's topic; all halted ones of the lane where there are none.
    pub offsets: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::cursor::{decode, encode};

    #[test]
    fn push_cursors_round_trip() {
        let position = PushPosition {
            position: 7,
            done: vec![(1, 2)],
            halted: BTreeMap::from([(7, "404".to_owned())]),
            lost: Some("gone".to_owned()),
            about: Some(TopicId(5)),
            replay: Some(Replaying { id: "fix".to_owned(), until: 12 }),
        };
        let error = "status 503".to_owned();
        let retrying = Retrying { lane: 1, offset: 7, attempts: 4, error, since: 5, next: 9, down: true };
        let cursor = PushCursor {
            epoch: 3,
            control: 9,
            topics: BTreeMap::from([("o.output".to_owned(), BTreeMap::from([(1, position)]))]),
            ids: TopicIds::from([("o.output".to_owned(), TopicId(6))]),
            held: BTreeMap::from([
                ("a".to_owned(), Held::Disabled("410".to_owned())),
                ("b".to_owned(), Held::Retrying(retrying)),
                ("c".to_owned(), Held::Paced),
            ]),
            tests: BTreeMap::from([(
                "a".to_owned(),
                Tested { order: 4, taken: true, said: "status 204".to_owned(), millis: 3 },
            )]),
        };
        assert_eq!(decode(&encode(&cursor)), Ok(cursor));
    }
}
