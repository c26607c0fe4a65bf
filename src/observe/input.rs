//! Whether the input has a record at an offset.

use super::probe;
use crate::log::{Error, Log};
use crate::record::{Offset, Source};
use crate::topics::Topics;

/// What the input has at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A record.
    Present,
    /// Nothing: a hole, or the end.
    Absent,
    /// Perhaps something, before retention removed it.
    Removed,
}

/// Looks the input up.
///
/// # Errors
///
/// Those of the log.
pub async fn presence(log: &dyn Log, topics: &Topics, message: Source) -> Result<Presence, Error> {
    let of = topics.input.partition(message.lane);
    let bounds = log.bounds(&of).await?;
    if message.offset < bounds.start {
        return Ok(Presence::Removed);
    }
    let end = bounds.stable_end.min(Offset(message.offset.0.saturating_add(1)));
    let found = probe::first(log, &of, message.offset, end, |_, _| Some(())).await?;
    Ok(if found.is_some() { Presence::Present } else { Presence::Absent })
}
