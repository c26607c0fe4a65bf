//! Resequence: the owner of a lane merges its input with the results of the work and releases
//! what may leave, in order, each release one atomic commit.
//!
//! The input says what order, the results say what values. [`LaneState`] decides, purely; the
//! owner of a control partition reads, commits and sends for its lanes; [`crate::takeover`] makes
//! it the only one.

mod accept;
mod admit;
mod anew;
mod batches;
mod destinations;
mod dispatch;
mod entry;
mod execute;
mod fetch;
mod judge;
mod lane;
mod left;
mod loads;
mod memory;
mod output;
mod owner;
mod release;
mod restore;
mod scope;
mod seat;
mod send;
mod snapshot;
mod tails;
mod verbs;
mod work_record;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use destinations::{Destinations, MOST_DESTINATIONS, MOST_NAMED, Mask, UnknownDestination};
pub use entry::{Answer, Entry, Item, Outcome, Retrying};
pub use lane::{DamagedCursor, LaneState, Need};
pub use scope::Scope;

use crate::log::{Log, TopicPartition};
use crate::metrics::Role;
use crate::record::Offset;
use crate::record::cursor::OwnerCursor;
use crate::takeover::{self, Claim, Empty, Place, TakenOver, hold, take_over};
use crate::topics::Topics;
use owner::{Exit, Owner, Shared};
use restore::Accepted;

/// What happens to a record that failed for good, when its turn comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Its group stops there until an operator retries, skips or replaces it: later messages
    /// build on earlier ones.
    #[default]
    Halt,
    /// It goes to the dead-letter topic in the same commit that passes its place.
    DeadLetter,
    /// Its place is passed, recorded in the ledger.
    Skip,
}

/// Which events of batches go to a destination, as outputs do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchEvents {
    /// The destination's name. Events of one that is not there are passed over, on the record.
    pub destination: String,
    /// Whether the end of each item is among them.
    pub items: bool,
}

/// How a resequencer works.
#[derive(Clone, Debug)]
pub struct Options {
    /// What has to leave in order.
    pub by: Scope,
    /// What becomes of failures.
    pub on_failure: OnFailure,
    /// Records admitted and not yet released, for each lane; at least 1. Default 10,000.
    pub window: u64,
    /// Bytes of results that wait for a predecessor, for each lane; more are read again from the
    /// log when their turn comes. Default 256 MiB.
    pub memory: usize,
    /// A record that blocks others is sent out again after this. Default 10 minutes.
    pub deadline: Duration,
    /// Whether records are spread over the partitions of the work topic for whoever reads them;
    /// else workers read the input itself. Default: they read the input.
    pub fan_out: bool,
    /// The identities remembered for each lane to find duplicates. Default 100,000.
    pub identities: usize,
    /// The largest body of an output in bytes. Default 1 MiB.
    pub max_output: usize,
    /// How many items of a batch are out at once where its start does not say. Default 100.
    pub batch_window: u32,
    /// Who gets the events of batches, beside the events topic. Default: nobody.
    pub batch_events: Option<BatchEvents>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            by: Scope::Lane,
            on_failure: OnFailure::Halt,
            window: 10_000,
            memory: 256 << 20,
            deadline: Duration::from_secs(600),
            fan_out: false,
            identities: 100_000,
            max_output: 1 << 20,
            batch_window: 100,
            batch_events: None,
        }
    }
}

/// Owns the control partitions that the group `<name>.resequence` assigns to this process, until
/// `drain` is cancelled: then commits under way are finished, and the rest is left to others.
///
/// Dropping the future at any point is a crash, which loses and repeats nothing.
///
/// # Errors
///
/// Where the log fails in a way that taking over again does not mend.
pub async fn run(
    log: Arc<dyn Log>,
    topics: Topics,
    options: Options,
    group: &str,
    member: &str,
    seed: u64,
    drain: CancellationToken,
) -> Result<(), takeover::Error> {
    let control = topics.control.clone();
    let place = Place { log: &*log, group, control: &control, member, role: Role::Resequence, seed };
    let holding = hold(place, &drain, |claim| own(claim, log.clone(), topics.clone(), options.clone()));
    tokio::select! {
        biased;
        held = holding => held,
        never = anew::keep_looking(&*log, &topics) => never,
    }
}

/// One ownership of one control partition.
async fn own(claim: Claim, log: Arc<dyn Log>, topics: Topics, options: Options) -> Result<(), takeover::Error> {
    let (stop, control) = (claim.stop.clone(), claim.control.clone());
    let cursors = topics.cursors_resequence.partition(control.partition);
    let empty = |position: Offset| OwnerCursor { control: position.0, ..OwnerCursor::default() };
    let lost = async |lost| cursor_lost(&lost, &*log, &control).await;
    let written = topics.written_by_owner(control.partition);
    let taking_over = take_over(claim, &*log, Role::Resequence, &cursors, &written, empty, lost);
    let Some(taken) = stop.run_until_cancelled(taking_over).await else { return Ok(()) };
    let TakenOver { mut writer, epoch, mut cursor, empty, .. } = taken?;
    let mut accepted = if empty == Some(Empty::Accepted) { Accepted::Cursor } else { Accepted::Nothing };
    let shared = Shared { log, topics, options, control: control.partition, epoch };
    loop {
        let lanes = restore::restore(&shared, &cursor, accepted).await?;
        match Owner::serve(shared.clone(), lanes, writer, &cursor, &stop).await? {
            Exit::Stopped => return Ok(()),
            Exit::Restore { writer: same, cursor: last, accepted: loss } => {
                (writer, cursor, accepted) = (same, last, loss);
            }
        }
    }
}

/// Its lanes stand still until an operator accepts for one of them; the other control partitions go on.
async fn cursor_lost(
    lost: &takeover::Error,
    log: &dyn Log,
    control: &TopicPartition,
) -> Result<Offset, takeover::Error> {
    tracing::error!(%control, error = %lost, "its lanes stand still: see `seriatim lanes show`, then `lanes accept`");
    takeover::order(log, control, restore::is_accept).await
}
