//! Where on the work topic a message waits to be worked on.

use super::probe;
use crate::log::{Error, Log, TopicPartition};
use crate::record::{Partition, ResultHeaders, Source, Timestamp};
use crate::topics::Topics;

/// So many bytes of each partition are looked through, from the time at which the message came: a
/// question must not cost more than an answer is worth.
const LOOK_BYTES: usize = 4 << 20;

/// The partition of the work topic that a message which came in at `since` was put on last; `None`
/// where it is on none, or so far behind others that it is not found within a bounded look.
///
/// # Errors
///
/// Those of the log.
pub async fn partition(
    log: &dyn Log,
    topics: &Topics,
    message: Source,
    since: Timestamp,
) -> Result<Option<Partition>, Error> {
    let mut last: Option<(Timestamp, Partition)> = None;
    for of in topics.work.partitions(topics.work_partitions) {
        let found = last_in(log, &of, message, since).await?.map(|at| (at, of.partition));
        last = last.max(found);
    }
    Ok(last.map(|(_, partition)| partition))
}

/// When the message was last put on this partition.
async fn last_in(
    log: &dyn Log,
    of: &TopicPartition,
    message: Source,
    since: Timestamp,
) -> Result<Option<Timestamp>, Error> {
    let bounds = log.bounds(of).await?;
    let range = bounds.start..bounds.stable_end;
    let time = |at: Timestamp| u64::try_from(at.0).unwrap_or(0);
    let from = probe::search(log, of, range, time(since), |record| Some(time(record.timestamp))).await?;
    if from >= bounds.stable_end {
        return Ok(None);
    }
    let (mut found, mut looked) = (None, 0);
    let mut reader = probe::open(log, of, from, LOOK_BYTES).await?;
    while reader.position() < bounds.stable_end && looked < LOOK_BYTES {
        let fetched = probe::next(&mut *reader, of).await?;
        for record in fetched.batches.iter().flatten() {
            looked += record.size();
            let is_it = ResultHeaders::decode(record.headers).is_ok_and(|headers| headers.source == message);
            found = if is_it { Some(record.timestamp) } else { found };
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::Memory;
    use crate::record::{BatchBuilder, Offset, Status};

    #[tokio::test(start_paused = true)]
    async fn a_message_is_found_where_it_was_put_last() {
        let topics = Topics { work_partitions: 3, ..Topics::derive("t", &["default"], 1, 1) };
        let log = Memory::new(1);
        log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
        let source = |offset| Source { lane: Partition(0), offset: Offset(offset) };
        let since = log.now();
        for (partition, offset) in [(0, 1), (2, 2), (0, 3), (1, 2), (2, 4)] {
            let mut builder = BatchBuilder::default();
            let headers = ResultHeaders { status: None, ..ResultHeaders::new(source(offset), 7, Status::Done) };
            builder.push(None, Some(b"body"), |to| headers.encode(to));
            let to = topics.work.partition(Partition(partition));
            log.append(&to, builder.finish()).await.expect("accepted").await.expect("durable");
            tokio::time::advance(std::time::Duration::from_millis(5)).await;
        }
        for (offset, expected) in [(1, Some(0)), (2, Some(1)), (3, Some(0)), (4, Some(2)), (5, None)] {
            let found = partition(&log, &topics, source(offset), since).await.expect("the log is well");
            assert_eq!(found, expected.map(Partition), "{offset}");
        }
        assert_eq!(partition(&log, &topics, source(1), log.now()).await.expect("the log is well"), None);
    }
}
