//! Looking at single records, and searching a partition by a field that never goes down.

use tokio::time::timeout;

use super::PATIENCE;
use crate::log::{Error, Fetched, Log, Reader, TopicPartition, Visibility};
use crate::record::{Batch, Offset, RecordRef};

/// Bytes asked for where one record is wanted.
const ONE: usize = 1;

/// Opens a partition for reading what is durable.
pub(super) async fn open(
    log: &dyn Log,
    of: &TopicPartition,
    from: Offset,
    max_bytes: usize,
) -> Result<Box<dyn Reader>, Error> {
    timeout(PATIENCE, log.read(of, from, Visibility::Durable, max_bytes)).await.map_err(|_| slow(of))?
}

/// What the reader hands out next, where something is known to be there.
pub(super) async fn next(reader: &mut dyn Reader, of: &TopicPartition) -> Result<Fetched, Error> {
    timeout(PATIENCE, reader.next()).await.map_err(|_| slow(of))?
}

fn slow(of: &TopicPartition) -> Error {
    Error::Unavailable(format!("{of} could not be read within {} s", PATIENCE.as_secs()))
}

/// The first record in `from..end` that `accept` takes: its place and what `accept` made of it.
pub(super) async fn first<T>(
    log: &dyn Log,
    of: &TopicPartition,
    from: Offset,
    end: Offset,
    mut accept: impl FnMut(&Batch, RecordRef<'_>) -> Option<T>,
) -> Result<Option<(Offset, T)>, Error> {
    if from >= end {
        return Ok(None);
    }
    let mut reader = open(log, of, from, ONE).await?;
    while reader.position() < end {
        let fetched = next(&mut *reader, of).await?;
        for batch in &fetched.batches {
            for record in batch.iter().take_while(|record| record.offset < end) {
                if let Some(found) = accept(batch, record) {
                    return Ok(Some((record.offset, found)));
                }
            }
        }
    }
    Ok(None)
}

/// The offset of the first record in `low..high` whose field is at least `wanted`, else `high`.
/// `field` is `None` for records without it, which are passed over. It must never go down.
/// Looks at `low` first, then gallops: cheap where the answer is near.
pub(super) async fn search(
    log: &dyn Log,
    of: &TopicPartition,
    range: std::ops::Range<Offset>,
    wanted: u64,
    field: impl Fn(RecordRef<'_>) -> Option<u64>,
) -> Result<Offset, Error> {
    let (mut low, mut high) = (range.start.0, range.end.0);
    let (mut step, mut galloping) = (0, true);
    while low < high {
        let at = if galloping { (low + step).min(high - 1) } else { low + (high - low) / 2 };
        match first(log, of, Offset(at), Offset(high), |_, record| field(record)).await? {
            Some((offset, value)) if value < wanted => {
                low = offset.0 + 1;
                step = (2 * step).max(1);
            }
            Some((offset, _)) if at == low => return Ok(offset),
            // Below `high` everything from `at` on is high enough, or without the field.
            _ => (high, galloping) = (at, false),
        }
    }
    first(log, of, Offset(low), range.end, |_, record| field(record))
        .await
        .map(|found| found.map_or(range.end, |f| f.0))
}
