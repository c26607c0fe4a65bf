//! Retention of the embedded log: what is old goes, but nothing that a cursor still needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::config::{self, Size};
use super::engine::Engine;
use crate::log::embedded::Retention;
use crate::log::{Log, Topic, TopicPartition};
use crate::metrics;
use crate::record::cursor::{LaneCursor, OwnerCursor};
use crate::record::{Offset, Partition};
use crate::takeover::{self, last_cursor};
use crate::topics::Topics;

/// How often to look: often beside any retention that makes sense, seldom beside the work of looking.
const EVERY: Duration = Duration::from_secs(60);

/// Removes what is to go, again and again, until it is dropped. Failures are logged and tried again.
pub(super) async fn run(engine: Engine, topics: Arc<Topics>, config: config::Log) {
    let retention = Retention { age: Some(config.retention.get()), bytes: config.retention_bytes.map(Size::get) };
    loop {
        metrics::retention_headroom_ratio().set(headroom(&engine, &topics, &config));
        match once(&engine, &topics, retention).await {
            Ok(0) => {}
            Ok(batches) => info!(batches, "removed what is older than the retention"),
            Err(error) => warn!(%error, "retention has failed and is tried again"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn once(engine: &Engine, topics: &Topics, retention: Retention) -> Result<usize, takeover::Error> {
    let floors = floors(&*engine.log(), topics).await?;
    Ok(engine.embedded.retain(&floors, retention).await?)
}

/// Up to where each partition is done with. Partitions of lanes that nobody has owned yet are not
/// in it, so nothing is removed from them.
async fn floors(log: &dyn Log, topics: &Topics) -> Result<BTreeMap<TopicPartition, Offset>, takeover::Error> {
    let mut floors = BTreeMap::new();
    for control in (0..topics.control_partitions).map(Partition) {
        let cursors = topics.cursors_resequence.partition(control);
        let Some(owner) = last_cursor::<OwnerCursor>(log, metrics::Role::Resequence, &cursors).await? else { continue };
        for (lane, cursor) in &owner.lanes {
            floors.extend(of_lane(topics, Partition(*lane), cursor));
        }
    }
    for (topic, partitions) in done_when_written(topics) {
        for partition in (0..partitions).map(Partition) {
            let of = topic.partition(partition);
            let end = log.bounds(&of).await?.stable_end;
            floors.insert(of, end);
        }
    }
    Ok(floors)
}

fn of_lane(topics: &Topics, lane: Partition, cursor: &LaneCursor) -> [(TopicPartition, Offset); 3] {
    [
        (topics.input.partition(lane), Offset(cursor.frontier)),
        (topics.results.partition(lane), Offset(cursor.results)),
        (topics.ledger.partition(lane), Offset(cursor.identities)),
    ]
}

/// The topics of which no cursor needs anything: what is for readers outside, who have the
/// retention's time, and the work topic, whose records are sent again by their clock.
fn done_when_written(topics: &Topics) -> Vec<(&Topic, u32)> {
    let outputs = topics.destinations.values().map(|topic| (topic, topics.lanes));
    outputs.chain([(&topics.dead_letter, topics.lanes), (&topics.work, topics.work_partitions)]).collect()
}

/// What is left of the retention before the oldest unreleased record has used it up, or of the
/// disk that the log may take, whichever is less.
fn headroom(engine: &Engine, topics: &Topics, config: &config::Log) -> f64 {
    let oldest = (0..topics.lanes).map(|lane| metrics::lane(Partition(lane)).oldest_unreleased_seconds.get());
    let age = 1.0 - oldest.fold(0.0, f64::max) / config.retention.get().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a ratio to a few digits")]
    let disk = config.max_disk.map_or(1.0, |max| 1.0 - engine.embedded.disk_space() as f64 / max.get() as f64);
    age.min(disk).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchBuilder;
    use crate::takeover::cursor_append;

    async fn append(log: &dyn Log, to: TopicPartition, count: usize) {
        for _ in 0..count {
            let mut batch = BatchBuilder::default();
            batch.push(None, Some(b"x"), |_| {});
            log.append(&to, batch.finish()).await.expect("there is room").await.expect("it is written");
        }
    }

    async fn start(log: &dyn Log, of: &TopicPartition) -> u64 {
        log.bounds(of).await.expect("it exists").start.0
    }

    #[tokio::test]
    async fn what_is_old_goes_up_to_the_cursor_and_no_further() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = config::Log { embedded: Some(folder.path().join("log")), ..config::Log::default() };
        let engine = Engine::open(&log).await.expect("nothing is in the way");
        let topics = Topics::derive("t", &["default"], 2, 1);
        engine.ensure(&topics).await.expect("there are none yet");
        let (log, lane) = (engine.log(), Partition(0));
        for topic in [&topics.input, &topics.results, &topics.ledger, &topics.destinations["default"]] {
            append(&*log, topic.partition(lane), 10).await;
        }
        append(&*log, topics.input.partition(Partition(1)), 10).await;
        let lanes = BTreeMap::from([(0, LaneCursor { frontier: 4, results: 7, ..LaneCursor::default() })]);
        let cursors = topics.cursors_resequence.partition(Partition(0));
        let cursor = OwnerCursor { lanes, ..OwnerCursor::default() };
        let cursor = cursor_append(metrics::Role::Resequence, &cursors, &cursor);
        log.append(&cursor.to, cursor.batch).await.expect("there is room").await.expect("it is written");

        let nothing = Retention { age: None, bytes: Some(1) };
        once(&engine, &topics, nothing).await.expect("the log is well");
        assert_eq!(start(&*log, &topics.input.partition(lane)).await, 4, "the frontier");
        assert_eq!(start(&*log, &topics.results.partition(lane)).await, 7, "the position in the results");
        assert_eq!(start(&*log, &topics.ledger.partition(lane)).await, 0, "the identities");
        assert_eq!(start(&*log, &topics.destinations["default"].partition(lane)).await, 9, "all but the last");
        assert_eq!(start(&*log, &topics.input.partition(Partition(1))).await, 0, "nobody has owned it yet");
    }
}
