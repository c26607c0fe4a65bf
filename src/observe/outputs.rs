//! Where outputs stand in the ordered topic of their destination.

use std::ops::Range;

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
    let (start, end) = (bounds.start, bounds.stable_end);
    let first_in = async |range: Range<Offset>| probe::first(log, of, range.start, range.end, |_, r| sequence(r)).await;
    // Each output before it has taken an offset, so it does not lie below its own number, unless the topic was
    // made anew and numbers went on.
    let guess = start.max(Offset(wanted.0)).min(end);
    match first_in(guess..end).await? {
        Some((at, found)) if found == wanted.0 => return Ok(Position::At(at)),
        Some((at, found)) if found < wanted.0 => {
            return probe::search(log, of, at.next()..end, wanted.0, sequence).await.map(Position::At);
        }
        _ => {}
    }
    let last = first_in(Offset(end.0.saturating_sub(1)).max(start)..end).await?;
    if last.is_some_and(|(_, last)| last < wanted.0) {
        return Ok(Position::At(end));
    }
    match first_in(start..end).await? {
        Some((_, first)) if first > wanted.0 => Ok(Position::Removed(Sequence(first))),
        _ => probe::search(log, of, start..guess, wanted.0, sequence).await.map(Position::At),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::Memory;
    use crate::log::{Cleanup, Topic, TopicShape};
    use crate::record::{BatchBuilder, Epoch, Partition, Source};

    /// Outputs with these sequence numbers, and records of strangers where there is none.
    async fn written(sequences: &[Option<u64>]) -> (Memory, TopicPartition) {
        let (log, topic) = (Memory::new(5), Topic::from("out"));
        let shape = TopicShape { partitions: 1, cleanup: Cleanup::Delete };
        log.ensure(&[(topic.clone(), shape)]).await.expect("it is new");
        let (of, mut batch) = (topic.partition(Partition(0)), BatchBuilder::default());
        for sequence in sequences {
            let headers = sequence.map(|sequence| OutputHeaders {
                source: Source { lane: Partition(0), offset: Offset(sequence) },
                output: 0,
                group: 0,
                sequence: Sequence(sequence),
                epoch: Epoch(0),
            });
            batch.push(None, Some(b"x"), |to| headers.iter().for_each(|headers| headers.encode(to)));
        }
        log.append(&of, batch.finish()).await.expect("no faults").await.expect("no faults");
        (log, of)
    }

    #[tokio::test]
    async fn every_sequence_number_is_found_wherever_they_begin() {
        let dense: Vec<_> = (0..40).map(Some).collect();
        let anew: Vec<_> = (50..90).map(Some).collect();
        let put_back: Vec<_> = (0..10).chain(50..80).map(Some).collect();
        let holes: Vec<_> = (0..60).map(|n| (n % 3 == 0).then_some(7 + n / 3)).collect();
        for sequences in [dense, anew, put_back, holes] {
            let (log, of) = written(&sequences).await;
            let first = sequences.iter().flatten().min().copied().expect("there are some");
            for wanted in 0..100 {
                let found = position(&log, &of, Sequence(wanted)).await.expect("no faults");
                let here = sequences.iter().position(|s| s.is_some_and(|s| s >= wanted));
                match found {
                    Position::Removed(lowest) => assert_eq!((lowest.0, wanted < first), (first, true), "{wanted}"),
                    Position::At(at) => {
                        let read = sequences.iter().skip(usize::try_from(at.0).expect("a few")).flatten();
                        let expected = here.and_then(|here| sequences[here]);
                        assert_eq!(read.min().copied(), expected, "{wanted} of {sequences:?}");
                        assert!(wanted >= first, "{wanted} is gone");
                    }
                }
            }
        }
    }
}
