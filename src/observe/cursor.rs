//! The last committed state of an owner, from its cursor topic.

use super::{probe, unreadable};
use crate::log::{Error, Fetched, Log, Reader, TopicPartition, Visibility};
use crate::record::cursor::{OwnerCursor, decode};
use crate::record::{Offset, Partition, RecordRef};
use crate::topics::Topics;

/// Bytes of a cursor topic read at once; one record of it at least.
const READ_BYTES: usize = 1024 * 1024;

/// The state of the resequencer that owns this lane, `None` where none has ever owned it.
///
/// # Errors
///
/// Those of the log, and [`Error::Damaged`] for a cursor that this program cannot read.
pub async fn of_lane(log: &dyn Log, topics: &Topics, lane: Partition) -> Result<Option<OwnerCursor>, Error> {
    last(log, &topics.cursors_resequence.partition(topics.control_of(lane).partition)).await
}

/// The last committed cursor of one partition of a cursor topic.
///
/// # Errors
///
/// As [`of_lane`].
pub async fn last(log: &dyn Log, of: &TopicPartition) -> Result<Option<OwnerCursor>, Error> {
    let bounds = log.bounds(of).await?;
    let (start, end) = (bounds.start.0, bounds.stable_end.0);
    // The last offsets may be holes, so look further and further back.
    let mut back = 1;
    loop {
        let from = start.max(end.saturating_sub(back));
        let found = last_from(log, of, Offset(from), bounds.stable_end).await?;
        if found.is_some() || from == start {
            return Ok(found);
        }
        back *= 4;
    }
}

async fn last_from(
    log: &dyn Log,
    of: &TopicPartition,
    from: Offset,
    end: Offset,
) -> Result<Option<OwnerCursor>, Error> {
    let mut reader = probe::open(log, of, from, READ_BYTES).await?;
    let mut found = None;
    while reader.position() < end {
        let fetched = probe::next(&mut *reader, of).await?;
        found = newest(of, &fetched)?.or(found);
    }
    Ok(found)
}

fn newest(of: &TopicPartition, fetched: &Fetched) -> Result<Option<OwnerCursor>, Error> {
    fetched.batches.iter().flatten().last().map(|record| read(of, record)).transpose()
}

fn read(of: &TopicPartition, record: RecordRef<'_>) -> Result<OwnerCursor, Error> {
    let value = record.value.unwrap_or_default();
    decode(value).map_err(|e| unreadable(&format!("{of} at offset {}", record.offset), &e))
}

/// Follows the cursors of one control partition.
pub struct Tail {
    of: TopicPartition,
    reader: Box<dyn Reader>,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("of", &self.of).finish_non_exhaustive()
    }
}

impl Tail {
    /// Begins with the last committed cursor, which is handed out too, and what follows it.
    ///
    /// # Errors
    ///
    /// As [`of_lane`].
    pub async fn open(log: &dyn Log, of: TopicPartition) -> Result<(Option<OwnerCursor>, Self), Error> {
        let end = log.bounds(&of).await?.stable_end;
        let reader = log.read(&of, end, Visibility::Durable, READ_BYTES).await?;
        Ok((last(log, &of).await?, Self { of, reader }))
    }

    /// Waits for a newer cursor; where several have come, only the newest is handed out. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`of_lane`].
    pub async fn next(&mut self) -> Result<OwnerCursor, Error> {
        loop {
            let fetched = self.reader.next().await?;
            if let Some(cursor) = newest(&self.of, &fetched)? {
                return Ok(cursor);
            }
        }
    }
}
