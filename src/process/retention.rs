//! Retention: what is old goes from a log in a folder, but nothing that a cursor still needs. Kafka's
//! brokers see to theirs by themselves; how near it is to what is still needed is told for both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::config::{self, Size};
use super::engine::Engine;
use crate::log::embedded::{Embedded, Retention};
use crate::log::{Log, Topic, TopicPartition};
use crate::metrics;
use crate::record::cursor::{LaneCursor, OwnerCursor};
use crate::record::push::PushCursor;
use crate::record::{Offset, Partition};
use crate::takeover::{self, last_cursor};
use crate::topics::Topics;

/// How often to look: often beside any retention that makes sense, seldom beside the work of looking.
const EVERY: Duration = Duration::from_secs(60);

/// How often while nothing is taken in for want of disk: senders wait for it.
const SOON: Duration = Duration::from_secs(5);

/// What is to be kept, and for whom.
pub(super) struct Keep {
    pub(super) topics: Arc<Topics>,
    /// The output topics that are pushed, and so needed until they have been.
    pub(super) pushed: BTreeSet<Topic>,
    pub(super) config: config::Log,
}

/// Removes what is to go, again and again, until it is dropped. Failures are logged and tried again.
pub(super) async fn run(engine: Engine, keep: Keep) {
    let bytes = keep.config.retention_bytes.map(Size::get);
    let retention = Retention { age: Some(keep.config.retention.get()), bytes };
    loop {
        metrics::retention_headroom_ratio().set(headroom(&engine, &keep.config));
        if let Some(log) = engine.embedded() {
            match once(log, &keep, retention).await {
                Ok(0) => {}
                Ok(batches) => info!(batches, "removed what is older than the retention"),
                Err(error) => warn!(%error, "retention has failed and is tried again"),
            }
        }
        pause(&engine).await;
    }
}

/// Until the next time, which is soon where the disk is full by then.
async fn pause(engine: &Engine) {
    let due = tokio::time::Instant::now() + EVERY;
    loop {
        tokio::time::sleep(SOON).await;
        if engine.refuses_intake().is_some() || tokio::time::Instant::now() >= due {
            return;
        }
    }
}

async fn once(log: &Embedded, keep: &Keep, retention: Retention) -> Result<usize, takeover::Error> {
    let floors = floors(log, keep).await?;
    Ok(log.retain(&floors, retention).await?)
}

/// Up to where each partition is done with. Partitions of lanes that nobody has owned yet are not
/// in it, so nothing is removed from them.
async fn floors(log: &dyn Log, keep: &Keep) -> Result<BTreeMap<TopicPartition, Offset>, takeover::Error> {
    let topics = &*keep.topics;
    let mut floors = BTreeMap::new();
    for control in (0..topics.control_partitions).map(Partition) {
        let cursors = topics.cursors_resequence.partition(control);
        let owner = last_cursor::<OwnerCursor>(log, metrics::Role::Resequence, &cursors).await?.unwrap_or_default();
        floors.extend(owner.lanes.iter().flat_map(|(lane, cursor)| of_lane(topics, Partition(*lane), cursor)));
        let cursors = topics.cursors_deliver.partition(control);
        let owner = last_cursor::<PushCursor>(log, metrics::Role::Deliver, &cursors).await?.unwrap_or_default();
        floors.extend(keep.pushed.iter().flat_map(|topic| of_output(topic, &owner)));
    }
    for (topic, partitions) in done_when_written(keep) {
        for partition in (0..partitions).map(Partition) {
            let of = topic.partition(partition);
            let end = log.bounds(&of).await?.stable_end;
            floors.insert(of, end);
        }
    }
    Ok(floors)
}

/// Uploaded items of batches that have not ended are needed from the lowest on. Without such a batch
/// the retention alone decides, for uploads that are still coming in, too; a batch that finds its items
/// gone fails, and says so.
fn of_lane(topics: &Topics, lane: Partition, cursor: &LaneCursor) -> [(TopicPartition, Offset); 5] {
    let items = cursor.batch_items.unwrap_or(u64::MAX);
    [
        (topics.input.partition(lane), Offset(cursor.frontier)),
        (topics.results.partition(lane), Offset(cursor.results)),
        (topics.ledger.partition(lane), Offset(cursor.identities)),
        (topics.batches.partition(lane), Offset(cursor.batches)),
        (topics.batch_items.partition(lane), Offset(items)),
    ]
}

fn of_output<'a>(topic: &'a Topic, owner: &'a PushCursor) -> impl Iterator<Item = (TopicPartition, Offset)> + 'a {
    let lanes = owner.topics.get(topic.as_str()).into_iter().flatten();
    lanes.map(|(lane, at)| (topic.partition(Partition(*lane)), Offset(at.position)))
}

/// The topics of which no cursor needs anything: what is for readers outside, who have the
/// retention's time, and the work topic, whose records are sent again by their clock.
fn done_when_written(keep: &Keep) -> Vec<(&Topic, u32)> {
    let topics = &*keep.topics;
    let read = topics.destinations.values().filter(|topic| !keep.pushed.contains(topic));
    let outputs = read.map(|topic| (topic, topics.lanes));
    let others = [(&topics.dead_letter, topics.lanes), (&topics.events, topics.lanes)];
    outputs.chain(others).chain([(&topics.work, topics.work_partitions)]).collect()
}

/// What is left of the retention before the oldest record that this process has to release or deliver has used it up,
/// or of the disk that the log may take, whichever is less.
fn headroom(engine: &Engine, config: &config::Log) -> f64 {
    let age = 1.0 - metrics::oldest_needed_seconds() / config.retention.get().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a ratio to a few digits")]
    let used = |(log, max): (&Embedded, Size)| 1.0 - log.disk_space() as f64 / max.get() as f64;
    let disk = engine.embedded().zip(config.max_disk).map_or(1.0, used);
    age.min(disk).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Append;
    use crate::record::BatchBuilder;
    use crate::record::push::PushPosition;
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

    fn lane_cursor(topics: &Topics) -> Append {
        let lanes = BTreeMap::from([(
            0,
            LaneCursor { frontier: 4, results: 7, batch_items: Some(5), ..LaneCursor::default() },
        )]);
        let cursor = OwnerCursor { lanes, ..OwnerCursor::default() };
        cursor_append(metrics::Role::Resequence, &topics.cursors_resequence.partition(Partition(0)), &cursor)
    }

    fn push_cursor(topics: &Topics, pushed: &Topic) -> Append {
        let lanes = BTreeMap::from([(0, PushPosition { position: 3, ..PushPosition::default() })]);
        let cursor = PushCursor { topics: BTreeMap::from([(pushed.to_string(), lanes)]), ..PushCursor::default() };
        cursor_append(metrics::Role::Deliver, &topics.cursors_deliver.partition(Partition(0)), &cursor)
    }

    #[tokio::test]
    async fn what_is_old_goes_up_to_the_cursors_and_no_further() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("log.embedded = '{}'", folder.path().join("log").display());
        let config = config::Config::parse(&text, []).expect("it is right");
        let engine = Engine::open(&config).await.expect("nothing is in the way");
        let topics = Arc::new(Topics::derive("t", &["default", "pushed"], 2, 1));
        engine.ensure(&topics).await.expect("there are none yet");
        let (read, pushed) = (&topics.destinations["default"], &topics.destinations["pushed"]);
        let (log, lane, other) = (engine.log(), Partition(0), Partition(1));
        for topic in [&topics.input, &topics.results, &topics.ledger, &topics.batch_items, read, pushed] {
            append(&*log, topic.partition(lane), 10).await;
            append(&*log, topic.partition(other), 10).await;
        }
        for Append { to, batch } in [lane_cursor(&topics), push_cursor(&topics, pushed)] {
            log.append(&to, batch).await.expect("there is room").await.expect("it is written");
        }
        let keep = Keep { topics: topics.clone(), pushed: BTreeSet::from([pushed.clone()]), config: config.log };
        once(engine.embedded().expect("it has a folder"), &keep, Retention { age: None, bytes: Some(1) })
            .await
            .expect("the log is well");
        for (topic, expected, why) in [
            (&topics.input, [4, 0], "up to the frontier, and nothing of a lane that nobody has owned"),
            (&topics.results, [7, 0], "up to the position in the results"),
            (&topics.ledger, [0, 0], "up to the identities"),
            (&topics.batch_items, [5, 0], "up to what a batch needs"),
            (pushed, [3, 0], "up to what is pushed"),
            (read, [9, 9], "all but the last, which says where the partition ends"),
        ] {
            let found = [start(&*log, &topic.partition(lane)).await, start(&*log, &topic.partition(other)).await];
            assert_eq!(found, expected, "{topic}: {why}");
        }
    }
}
