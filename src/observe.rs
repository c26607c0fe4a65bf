//! Read-only answers from the logs, for any process: what became of a message, what an owner's
//! state is, where an output stands. Nothing here is in anybody's way, and nothing is remembered.
//!
//! What is found is committed and durable. Every call is bounded: it reads up to the end that the
//! partition had when it began, and gives up with [`Error::Unavailable`] where the log hands out
//! nothing for [`PATIENCE`].

pub mod batches;
pub mod cursor;
pub mod input;
pub mod ledger;
pub mod live;
pub mod outputs;
mod probe;
pub mod work;

use std::time::Duration;

use crate::log::Error;

/// How long a read of what is there already may take: a log that takes longer is ill.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A record of this program's own that cannot be read.
fn unreadable(what: &str, error: &crate::record::cursor::Unreadable) -> Error {
    Error::Damaged(format!("{what}: {error}"))
}
