//! What has a result already, found out from the logs when partitions are assigned: a crash repeats
//! what was being worked on, and not what was finished.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _, Shared};

use super::cursors::{Cursors, Failed};
use crate::log::{Bounds, Error, Log, TopicPartition, Visibility};
use crate::record::cursor::LaneCursor;
use crate::record::{Offset, Partition, RecordRef, ResultHeaders, Round, Status};
use crate::topics::Topics;

/// So many answered records are remembered at most, some 40 MB: more than 16 windows of the
/// largest sensible size. What is forgotten is merely worked on again.
const MAX_ANSWERED: usize = 1_000_000;

/// Results are read through once and not kept, so in larger pieces than input.
const RESULTS_FETCH_BYTES: usize = 1 << 20;

/// What has a result in its current round, by lane.
#[derive(Debug, Default)]
pub(super) struct Answered(BTreeMap<Partition, OfLane>);

#[derive(Debug)]
struct OfLane {
    frontier: Offset,
    rounds: BTreeMap<u64, u32>,
    results: BTreeSet<(Offset, u32)>,
}

/// One look at all lanes, for all partitions of the work topic that are assigned together.
pub(super) type Look = Shared<BoxFuture<'static, Result<Arc<Answered>, Error>>>;

/// Begins to look at all lanes.
pub(super) fn look(log: Arc<dyn Log>, topics: Topics) -> Look {
    all(log, topics).boxed().shared()
}

impl Answered {
    /// Whether what this record of the work topic asks for is there.
    pub(super) fn has(&self, asked: &ResultHeaders<'_>) -> bool {
        let Some(lane) = self.0.get(&asked.source.lane) else { return false };
        let offset = asked.source.offset;
        let is_current = asked.round.0 == lane.rounds.get(&offset.0).copied().unwrap_or(0);
        offset < lane.frontier || is_current && lane.results.contains(&(offset, asked.check))
    }
}

async fn all(log: Arc<dyn Log>, topics: Topics) -> Result<Arc<Answered>, Error> {
    let mut answered = Answered::default();
    for cursors in topics.cursors_resequence.partitions(topics.control_partitions) {
        let Bounds { start, stable_end, .. } = log.bounds(&cursors).await?;
        if start == stable_end {
            continue;
        }
        let owner = match Cursors::new(Arc::clone(&log), cursors).next().await {
            Ok(owner) => owner,
            Err(Failed::Log(error)) => return Err(error),
            // It only saves work.
            Err(Failed::Unreadable(_)) => continue,
        };
        for (lane, cursor) in owner.lanes {
            let (lane, frontier) = (Partition(lane), Offset(cursor.frontier));
            let results = of_lane(&*log, &topics.results.partition(lane), &cursor, frontier).await?;
            answered.0.insert(lane, OfLane { frontier, rounds: cursor.rounds, results });
        }
    }
    Ok(Arc::new(answered))
}

/// The records from `from` that have a result of their current round, with the check it shows.
pub(super) async fn of_lane(
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
