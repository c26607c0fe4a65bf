//! What has to be known before a partition can be worked on, found out from the logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::log::{Bounds, Error, Log, Reader, TopicPartition, Visibility};
use crate::record::cursor::LaneCursor;
use crate::record::{Offset, RecordRef, ResultHeaders, Round, Status};

use super::feed::FETCH_BYTES;

/// So many answered records are remembered at most, some 40 MB: more than 16 windows of the
/// largest sensible size. What is forgotten is merely worked on again.
const MAX_ANSWERED: usize = 1_000_000;

/// Results are read through once and not kept, so in larger pieces than input.
const RESULTS_FETCH_BYTES: usize = 1 << 20;

/// A partition that is ready to be worked on.
pub(super) struct Opened {
    pub(super) reader: Box<dyn Reader>,
    pub(super) answered: BTreeSet<(Offset, u32)>,
}

/// Opens an input partition at the higher of the frontier and the group's position, with what is
/// answered above it.
pub(super) async fn lane(
    log: Arc<dyn Log>,
    input: TopicPartition,
    results: TopicPartition,
    cursor: LaneCursor,
    stored: Option<Offset>,
) -> Result<Opened, Error> {
    let wanted = Offset(cursor.frontier).max(stored.unwrap_or_default());
    let from = wanted.max(log.bounds(&input).await?.start);
    let answered = answered(&*log, &results, &cursor, from).await?;
    let reader = log.read(&input, from, Visibility::Durable, FETCH_BYTES).await?;
    Ok(Opened { reader, answered })
}

/// Opens a partition of the work topic at the group's position, else at its start.
pub(super) async fn work(log: Arc<dyn Log>, at: TopicPartition, stored: Option<Offset>) -> Result<Opened, Error> {
    let from = log.bounds(&at).await?.start.max(stored.unwrap_or_default());
    let reader = log.read(&at, from, Visibility::Durable, FETCH_BYTES).await?;
    Ok(Opened { reader, answered: BTreeSet::new() })
}

/// The records from `from` that have a result of their current round, with the check it shows.
async fn answered(
    log: &dyn Log,
    results: &TopicPartition,
    cursor: &LaneCursor,
    from: Offset,
) -> Result<BTreeSet<(Offset, u32)>, Error> {
    let mut answered = BTreeSet::new();
    let Bounds { start, stable_end, .. } = log.bounds(results).await?;
    let position = start.max(Offset(cursor.results));
    if position >= stable_end {
        return Ok(answered);
    }
    let mut reader = log.read(results, position, Visibility::Written, RESULTS_FETCH_BYTES).await?;
    while reader.position() < stable_end && answered.len() < MAX_ANSWERED {
        for record in reader.next().await?.batches.iter().flatten() {
            let answer = answer(&record, results, &cursor.rounds);
            answered.extend(answer.filter(|(offset, _)| *offset >= from));
        }
    }
    Ok(answered)
}

/// Which record a result answers, in its current round.
fn answer(record: &RecordRef<'_>, results: &TopicPartition, rounds: &BTreeMap<u64, u32>) -> Option<(Offset, u32)> {
    let headers = ResultHeaders::decode(record.headers).ok()?;
    let offset = headers.source.offset;
    let current = Round(rounds.get(&offset.0).copied().unwrap_or(0));
    // One without a readable status resolves its record, too: as a failure.
    let counts = headers.status != Some(Status::Retrying) && headers.round == current;
    (counts && headers.source.lane == results.partition).then_some((offset, headers.check))
}
