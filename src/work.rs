//! Works on records: reads the lanes that the group assigns to this process, hands each record to
//! a [`Processor`], up to [`Options::concurrency`] at once and in any order, and writes what comes
//! of it to the results. The resequencer puts them back in order.
//!
//! What holds:
//!
//! - Nothing is begun at or above the limit that the lane's owner publishes in its cursor.
//! - Only durable records are worked on, as what a worker does leaves this process.
//! - A result is kept until the log has it; while the log takes none, nothing new is begun.
//! - A record may be worked on twice, after a crash or a rebalance; the first result counts.
//! - Memory is bounded: by `concurrency` for what is being worked on, and by bytes for what waits
//!   for another attempt and for results that the log has not acknowledged.
//!
//! With [`Options::fan_out`] all records come by the work topic, whose partitions have their turn one
//! after the other; a partition is read ahead by a bounded number of bytes, so that a slow process
//! slows only the partitions that it holds. Else the records of the work topic are those that block
//! somebody (overdue ones, an operator's retries), so they go first; then those that wait for
//! another attempt; then the lanes in turn, each from its lowest offset up. A record between two
//! attempts takes no place among those being worked on; how many there are is bounded by the
//! owner's window.

mod answered;
pub mod builtin;
mod cursors;
pub mod exec;
mod feed;
mod gate;
pub mod http;
mod inlet;
pub mod jq;
mod opening;
mod outbox;
mod pool;
mod processor;
mod seats;
mod stage;
mod store;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use processor::{Answer, Class, Failure, Job, Output, Processor};

use crate::log::{self, Log};
use crate::record::cursor::Unreadable;
use crate::topics::Topics;

/// How to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// The consumer group that shares out the lanes and the work topic, `<name>.work`.
    pub group: String,
    /// Whether records come by the work topic alone, on which the lanes' owners put them; else the
    /// input is read, too: it is.
    pub fan_out: bool,
    /// Records being worked on at once, in this process: 1,000. At least 1.
    pub concurrency: usize,
    /// How long one attempt may take: 30 s.
    pub timeout: Duration,
    /// What follows a failed attempt.
    pub retry: Retry,
    /// The largest output, in bytes: 1 MiB. A larger one makes the result a failure.
    pub max_output: usize,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included: 5. At least 1.
    pub attempts: u32,
    /// The pause after the first attempt: 200 ms. Doubles with each, up to two thirds of `cap`; up
    /// to half of it is added at random.
    pub backoff: Duration,
    /// The longest pause: 30 s.
    pub cap: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, backoff: Duration::from_millis(200), cap: Duration::from_secs(30) }
    }
}

impl Options {
    /// The defaults for the pipeline of this name.
    #[must_use]
    pub fn for_pipeline(name: &str) -> Self {
        Self {
            group: format!("{name}.work"),
            fan_out: false,
            concurrency: 1000,
            timeout: Duration::from_secs(30),
            retry: Retry::default(),
            max_output: 1 << 20,
        }
    }
}

/// Why the stage ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed in a way that does not pass.
    #[error("work: {0}")]
    Log(#[from] log::Error),
    /// A cursor cannot be read, so that nobody knows what may be worked on.
    #[error("work: the cursor of {at}: {reason}")]
    Cursor {
        /// Where it is.
        at: log::TopicPartition,
        /// What is wrong with it.
        reason: Unreadable,
    },
}

/// Runs the stage until `drain` is cancelled: then nothing new is begun, what is being worked on
/// comes to its end (at most one attempt's time-out) and its results into the log, positions are
/// stored and the group is left. Records between two attempts are left to whoever comes next.
///
/// `member` names this process in results and to operators; `seed` decides all that is random.
/// Dropping the future is a crash: what was begun may have happened, and is done again.
///
/// # Errors
///
/// [`Error`], where repeating does not help. Everything that passes is waited for.
pub async fn run(
    log: Arc<dyn Log>,
    topics: Topics,
    options: Options,
    processor: Arc<dyn Processor>,
    member: String,
    seed: u64,
    drain: CancellationToken,
) -> Result<(), Error> {
    stage::Stage::new(log, topics, options, processor, member, seed).run(drain).await
}
