//! Single records of the input, read again: to be dead-lettered, or sent to the workers once more.

use crate::log::{Error, Log, TopicPartition, Visibility};
use crate::record::{Batch, BatchBuilder, Name, Offset, Partition, ResultHeaders, Round, Source, Status, check};
use crate::topics::Topics;

/// The record at `offset`, `None` where there is none.
pub(super) async fn record(log: &dyn Log, of: &TopicPartition, offset: Offset) -> Result<Option<Batch>, Error> {
    if log.bounds(of).await?.stable_end <= offset {
        return Ok(None);
    }
    let mut reader = log.read(of, offset, Visibility::Written, 1).await?;
    while reader.position() <= offset {
        let fetched = reader.next().await?;
        let found = fetched.batches.iter().flat_map(Batch::singles);
        for single in found {
            if single.first().is_some_and(|record| record.offset == offset) {
                return Ok(Some(single.detached()));
            }
        }
    }
    Ok(None)
}

/// Sends a record out again through the work topic, for the given round: to another partition
/// than under the last number, because whoever holds that one may be why there is no result.
pub(super) async fn resend(
    log: &dyn Log,
    topics: &Topics,
    lane: Partition,
    offset: Offset,
    round: Round,
    number: u32,
) -> Result<(), Error> {
    let Some(batch) = record(log, &topics.input.partition(lane), offset).await? else { return Ok(()) };
    let Some(record) = batch.first() else { return Ok(()) };
    let headers = ResultHeaders {
        round,
        status: None,
        ..ResultHeaders::new(Source { lane, offset }, check(&record), Status::Done)
    };
    let mut builder = BatchBuilder::default();
    builder.push(record.key, record.value, |to| {
        for (name, value) in record.headers.iter() {
            let of_the_message = [Name::Destination, Name::Batch].map(|name| name.as_str().as_bytes()).contains(&name);
            if !name.starts_with(b"seriatim-") || of_the_message {
                to.put_named(name, value);
            }
        }
        headers.encode(to);
    });
    let spread = offset.0.wrapping_add(number.into()) % u64::from(topics.work_partitions);
    let partition = Partition(u32::try_from(spread).expect("the remainder of a u32"));
    log.append(&topics.work.partition(partition), builder.finish()).await?.await?;
    Ok(())
}
