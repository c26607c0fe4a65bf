//! The state of a batch: of the size of its window, whatever the number of its items.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Mode, OnItemFailure, Request};

/// The most batches of a lane that run at once. Each holds its start in memory, and an upload some
/// of its items.
pub const MOST_RUNNING: usize = 256;

/// Of how many retries and discards a batch remembers to how many items they applied: more than
/// come between an owner's commit and whoever asks.
pub const APPLIED_KEPT: usize = 16;

/// The words of [`BatchState::status`].
pub const STATUSES: [&str; 8] =
    ["running", "paused", "cancelling", "failing", "completing", "completed", "failed", "cancelled"];

/// How a batch is to be run: what its start says, with every default filled in. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// When items are generated.
    pub mode: Mode,
    /// Items generated and not finished at once; in mode `paced`, items an interval. At least 1.
    pub window: u32,
    /// The interval of mode `paced`.
    pub interval: u64,
    /// Its items leave in index order among themselves.
    pub ordered: bool,
    /// What becomes of the batch when more items fail than are tolerated.
    pub on_failure: OnItemFailure,
    /// How many may fail without consequence; all where neither bound is set and the policy is `continue`.
    pub tolerated_count: Option<u64>,
    /// The same as a share of all items, 0 to 100.
    pub tolerated_percentage: Option<f64>,
    /// How long an item may take from its generation.
    pub item_timeout: Option<u64>,
    /// How long the batch may take from its start.
    pub deadline: Option<u64>,
    /// A batch of which nothing finishes for so long counts as stalled.
    pub stall_after: u64,
    /// A final work item is asked for.
    pub completion: bool,
}

/// Where a batch stands.
///
/// `generated` is the high-water mark: every item below it was generated, none at or above it was.
/// Of those, the ones in `open` are unfinished and all others are done for good; the lowest open
/// index is the low-water mark. So the state holds each item's truth, and grows with the window only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchState {
    /// How it is run.
    pub rules: Rules,
    /// How many items it has.
    pub total: u64,
    /// Where in its life it is.
    pub phase: Phase,
    /// No items are generated until it is resumed.
    pub paused: bool,
    /// It cannot go on by itself, and said so.
    pub stalled: bool,
    /// When it was started, when an item was last generated or finished, when it ended: milliseconds
    /// since the Unix epoch.
    pub started_at: i64,
    /// See `started_at`.
    pub progress_at: i64,
    /// See `started_at`.
    pub ended_at: Option<i64>,
    /// The high-water mark.
    pub generated: u64,
    /// Items that ended, by how. Held ones count by how they failed, too.
    pub succeeded: u64,
    /// See `succeeded`.
    pub failed: u64,
    /// See `succeeded`.
    pub timed_out: u64,
    /// See `succeeded`.
    pub discarded: u64,
    /// See `succeeded`. Known once the batch no longer generates.
    pub cancelled: u64,
    /// The unfinished items below the high-water mark.
    pub open: BTreeMap<u64, Open>,
    /// In modes `barrier` and `paced`: how many items may still go out before all are done, or before
    /// the next interval.
    pub left: u32,
    /// In mode `paced`: when the next interval begins.
    pub next_interval: i64,
    /// How the final work item is.
    pub completion: Completion,
    /// Why it ended before its end, in words.
    pub reason: Option<String>,
}

/// Where in its life a batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Items are generated and finish.
    #[default]
    Running,
    /// No more items are generated; those that are out finish.
    Ending(Outcome),
    /// All items are done; the final one is out.
    Completing(Outcome),
    /// `WorkAllDone` is said. Nothing changes any more.
    Ended(Outcome),
}

/// How a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every item came to its own end.
    Completed,
    /// More items failed than were tolerated, or time ran out.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// The final work item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Completion {
    /// None is asked for, or it is not its turn.
    #[default]
    None,
    /// It is out, and times out then (milliseconds since the Unix epoch; never where that is the largest number).
    Running(i64),
    /// It succeeded.
    Succeeded,
    /// It failed, or took too long.
    Failed,
}

/// An item that is generated and not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// How often it was to be sent again, by an operator or because its record was lost; answers of other
    /// rounds count for nothing.
    pub round: u32,
    /// How it stands.
    pub state: ItemState,
    /// When it times out, milliseconds since the Unix epoch; never where that is the largest number.
    pub due: i64,
}

/// How an unfinished item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemState {
    /// It is out.
    Running,
    /// It failed and waits for an operator.
    Failed,
    /// It took too long and waits for an operator.
    TimedOut,
    /// An operator wants it done again, or its record was lost; it goes out with the next refill, in its round.
    Again,
}

/// How an item ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ItemStatus {
    /// Its work was done.
    Succeeded,
    /// Its work failed.
    Failed,
    /// It took longer than the batch allows.
    TimedOut,
    /// An operator gave it up.
    Discarded,
    /// It was to be done again when the batch ended.
    Cancelled,
}

/// The items of a batch by how they are; together they are `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Those below the high-water mark; they are in one of the other counts as well.
    pub generated: u64,
    /// Not generated yet.
    pub pending: u64,
    /// Generated and not finished, or to be sent again.
    pub running: u64,
    /// Done.
    pub succeeded: u64,
    /// Failed, those that are held included.
    pub failed: u64,
    /// Took too long, those that are held included.
    pub timed_out: u64,
    /// Given up by an operator.
    pub discarded: u64,
    /// Not done because the batch ended.
    pub cancelled: u64,
}

impl BatchState {
    /// The items by how they are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let running = self.open.values().filter(|open| !open.is_held()).count() as u64;
        let ended = self.succeeded + self.failed + self.timed_out + self.discarded + self.cancelled;
        Counts {
            total: self.total,
            generated: self.generated,
            pending: self.total.saturating_sub(running + ended),
            running,
            succeeded: self.succeeded,
            failed: self.failed,
            timed_out: self.timed_out,
            discarded: self.discarded,
            cancelled: self.cancelled,
        }
    }

    /// Whether `WorkAllDone` is said.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// The state in one word of the contract, one of [`STATUSES`].
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match self.phase {
            Phase::Running if self.paused => "paused",
            Phase::Running => "running",
            Phase::Ending(Outcome::Cancelled) => "cancelling",
            Phase::Ending(_) => "failing",
            Phase::Completing(_) => "completing",
            Phase::Ended(outcome) => outcome.as_str(),
        }
    }

    /// The items that wait for an operator, in index order.
    pub fn held(&self) -> impl Iterator<Item = u64> + '_ {
        self.open.iter().filter(|(_, open)| open.is_held()).map(|(index, _)| *index)
    }

    /// When the batch will have ended if it goes on as it has on average, in milliseconds since the
    /// Unix epoch; `None` while nothing has finished, and once it has ended or does not go on.
    #[must_use]
    pub fn eta(&self, now: i64) -> Option<i64> {
        let Counts { pending, running, cancelled, .. } = self.counts();
        let done = self.total.saturating_sub(pending + running + cancelled);
        let goes_on = matches!(self.phase, Phase::Running) && !self.paused && !self.stalled;
        if done == 0 || !goes_on {
            return None;
        }
        let elapsed = i128::from(now.saturating_sub(self.started_at));
        let left = elapsed * i128::from(pending + running) / i128::from(done);
        i64::try_from(i128::from(now) + left).ok()
    }
}

impl ItemStatus {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Succeeded, Self::Failed, Self::TimedOut, Self::Discarded, Self::Cancelled];

    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timedOut",
            Self::Discarded => "discarded",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Open {
    /// Whether it waits for an operator.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(self.state, ItemState::Failed | ItemState::TimedOut)
    }
}

impl Outcome {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What stands on `batch-state` under a batch's id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchRecord {
    /// The offset of its start on `batches`; where ids were used twice, that tells whose state it is.
    pub start: u64,
    /// The offset of the last command for it that was executed, its start included.
    pub commanded: u64,
    /// To how many items the last retries and discards applied, by the offset of each; at most [`APPLIED_KEPT`].
    pub applied: BTreeMap<u64, u64>,
    /// The request that it came from, where that had an `Idempotency-Key`.
    pub request: Option<Request>,
    /// The state.
    pub state: BatchState,
    /// Of an upload: the position on `batch-items` from which items above the high-water mark are read.
    pub items: u64,
    /// Of an upload: where on `batch-items` the open items stand, by index.
    pub bodies: BTreeMap<u64, u64>,
}
