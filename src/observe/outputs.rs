//! Where outputs stand in the ordered topic of their destination.

use super::probe;
use crate::log::{Error, Log, TopicPartition};
use crate::record::{Batch, Offset, OutputHeaders, RecordRef, Sequence};

/// Where reading an output topic from a sequence number has to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At this offset; what lies there has this sequence number or a higher one, or is to come.
    At(Offset),
    /// It has been removed; the lowest sequence number that is left is this.
    Removed(Sequence),
}

/// Finds a sequence number. Where the log never held anything but outputs it takes one read.
///
/// # Errors
///
/// Those of the log.
pub async fn position(log: &dyn Log, of: &TopicPartition, wanted: Sequence) -> Result<Position, Error> {
    let bounds = log.bounds(of).await?;
    let end = bounds.stable_end;
    if bounds.start > Offset::ZERO {
        let first = probe::first(log, of, bounds.start, end, |_, record| sequence(record)).await?;
        if let Some((_, first)) = first.filter(|(_, first)| *first > wanted.0) {
            return Ok(Position::Removed(Sequence(first)));
        }
    }
    // Each output before it has taken an offset, so it cannot lie below its own number.
    let low = bounds.start.max(Offset(wanted.0)).min(end);
    probe::search(log, of, low..end, wanted.0, sequence).await.map(Position::At)
}

fn sequence(record: RecordRef<'_>) -> Option<u64> {
    OutputHeaders::decode(record.headers).map(|headers| headers.sequence.0)
}

/// The output with this sequence number, as a batch of one record; `None` where it is not there,
/// not yet or not any more.
///
/// # Errors
///
/// Those of the log.
pub async fn get(log: &dyn Log, of: &TopicPartition, wanted: Sequence) -> Result<Option<Batch>, Error> {
    let Position::At(at) = position(log, of, wanted).await? else { return Ok(None) };
    let end = log.bounds(of).await?.stable_end;
    let one = |batch: &Batch, record: RecordRef<'_>| {
        let sequence = sequence(record)?;
        Some((sequence == wanted.0).then(|| batch.skip_to(record.offset)))
    };
    Ok(probe::first(log, of, at, end, one).await?.and_then(|(_, batch)| batch))
}
