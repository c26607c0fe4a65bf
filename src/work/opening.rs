//! What has to be known before a partition can be worked on, found out from the logs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::answered::{self, Look};
use super::feed::{Backlog, FETCH_BYTES};
use crate::log::{Error, Log, Reader, TopicPartition, Visibility};
use crate::record::cursor::LaneCursor;
use crate::record::{Offset, TopicId};

/// A partition that is ready to be worked on.
pub(super) struct Opened {
    pub(super) reader: Box<dyn Reader>,
    pub(super) known: Known,
}

/// What needs no more work.
pub(super) enum Known {
    /// Of an input partition: records with their checks.
    Lane(BTreeSet<(Offset, u32)>),
    /// Of a partition of the work topic, where it has records that others may have worked on.
    Work(Option<Backlog>),
}

/// Opens an input partition at the higher of the frontier and the group's position, or at the frontier where that
/// position lies beyond the input's end, with what is answered above it. The cursor is `about` this input; in another
/// one its frontier means nothing, so nothing of that is worked on before its owner has begun it.
pub(super) async fn lane(
    log: Arc<dyn Log>,
    input: TopicPartition,
    results: TopicPartition,
    cursor: LaneCursor,
    about: Option<TopicId>,
    stored: Option<Offset>,
) -> Result<Opened, Error> {
    if let Some(about) = about {
        let now = log.identities(std::slice::from_ref(&input.topic)).await?;
        if now.get(input.topic.as_str()).is_some_and(|now| *now != about) {
            let reason = "it was deleted and made anew, and what is lost by that is not accepted yet";
            return Err(Error::Damaged(format!("{input}: {reason}")));
        }
    }
    let bounds = log.bounds(&input).await?;
    let wanted = Offset(cursor.frontier).max(stored.unwrap_or_default());
    // Beyond the end is only who has worked on what the input has lost since: the owner knows better.
    let wanted = if wanted > bounds.end { Offset(cursor.frontier) } else { wanted };
    let from = wanted.min(bounds.end).max(bounds.start);
    let answered = answered::of_lane(&*log, &results, &cursor, from).await?;
    let reader = log.read(&input, from, Visibility::Durable, FETCH_BYTES).await?;
    Ok(Opened { reader, known: Known::Lane(answered) })
}

/// Opens a partition of the work topic at the group's position, else at its start.
pub(super) async fn work(
    log: Arc<dyn Log>,
    at: TopicPartition,
    stored: Option<Offset>,
    look: Look,
) -> Result<Opened, Error> {
    let bounds = log.bounds(&at).await?;
    let from = bounds.start.max(stored.unwrap_or_default());
    let backlog =
        if from < bounds.stable_end { Some(Backlog { end: bounds.stable_end, answered: look.await? }) } else { None };
    let reader = log.read(&at, from, Visibility::Durable, FETCH_BYTES).await?;
    Ok(Opened { reader, known: Known::Work(backlog) })
}
