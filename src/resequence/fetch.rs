//! Single records of the input, read again: to be dead-lettered, or sent to the workers once more.

use crate::log::{Error, Log, TopicPartition, Visibility};
use crate::record::{Batch, BatchBuilder, Offset, Round, Source, check};

use super::work_record;

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

/// The record at `offset` as one of the work topic, `None` where there is none.
pub(super) async fn work_record(
    log: &dyn Log,
    of: &TopicPartition,
    offset: Offset,
    round: Round,
) -> Result<Option<Batch>, Error> {
    let found = record(log, of, offset).await?;
    let Some(record) = found.as_ref().and_then(Batch::first) else { return Ok(None) };
    let mut builder = BatchBuilder::default();
    let source = Source { lane: of.partition, offset };
    work_record::write(&mut builder, &record, source, round, check(&record));
    Ok(Some(builder.finish()))
}
