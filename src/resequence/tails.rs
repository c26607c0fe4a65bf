//! Take-over: what former owners have written to the destinations' topics, against the cursor.
//!
//! Sequence numbers are compared, never source offsets. Equal: go on. The tail is ahead: a commit
//! of outputs went through without its cursor; the counter goes on from the tail, and what the
//! tail holds is not written again. The tail is behind, or gone: outputs of a committed cursor are
//! missing; the lane halts.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::log::{Bounds, Error, Log, TopicPartition, damage};
use crate::record::{Offset, OutputHeaders};
use crate::takeover;

/// What a destination's partition holds, compared with the cursor's counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// As the cursor says.
    Equal,
    /// Outputs beyond the cursor: `(source offset, output index)` and their sequence numbers.
    Ahead { next: u64, outputs: BTreeMap<(u64, u32), u64> },
    /// Its last outputs are missing; the reason. The counter would go on from `next`.
    Behind { next: u64, reason: String },
    /// None of the outputs is there; the reason.
    Gone { reason: String },
    /// It may not even be asked where it ends, so nothing may be written to it; the reason.
    Refused { reason: String },
    /// Its topic was deleted and is not made again, so that there is nothing to compare.
    Missing,
}

/// How far back the first look goes; doubled until the cursor's place is found.
const FIRST_LOOK: u64 = 256;

/// Compares the committed tail of a destination's partition with the sequence numbers that the cursor
/// counts in it, from the one with which the topic began to the next. Call after the former owners are
/// fenced: nothing of theirs can be added any more.
pub(super) async fn compare(log: &dyn Log, of: &TopicPartition, numbers: Range<u64>) -> Result<Tail, Error> {
    let bounds = match log.bounds(of).await {
        Err(_) if log.is_gone(&of.topic) => return Ok(Tail::Missing),
        Err(Error::Rejected { at, reason }) => return Ok(Tail::Refused { reason: format!("{at}: {reason}") }),
        bounds => bounds?,
    };
    let mut back = FIRST_LOOK;
    loop {
        let from = Offset(bounds.end.0.saturating_sub(back)).max(bounds.start);
        let found = outputs_from(log, of, from, bounds.end).await?;
        let reaches_back = found.iter().any(|(_, sequence)| *sequence < numbers.end);
        if reaches_back || from == bounds.start {
            return Ok(judge(&found, numbers, bounds, of));
        }
        back = back.saturating_mul(2);
    }
}

/// The offset after the highest source of these outputs, 0 of none: so far an input that they came from has reached.
pub(super) fn beyond(outputs: &BTreeMap<(u64, u32), u64>) -> u64 {
    outputs.last_key_value().map_or(0, |((source, _), _)| source.saturating_add(1))
}

type Output = ((u64, u32), u64);

fn judge(found: &[Output], numbers: Range<u64>, bounds: Bounds, of: &TopicPartition) -> Tail {
    let counter = numbers.end;
    // Below its beginning a topic that was made anew holds what somebody put back.
    let Some(next) = found.iter().map(|(_, sequence)| sequence + 1).filter(|next| *next > numbers.start).max() else {
        // Retention may have emptied it; a log that starts at 0 and holds none never held what the cursor counts.
        if numbers.is_empty() || bounds.start > Offset::ZERO {
            return Tail::Equal;
        }
        let missing = counter - numbers.start;
        let reason = format!("{of} holds none of {missing} outputs that were written to it: was the topic made anew?");
        return Tail::Gone { reason };
    };
    match next.cmp(&counter) {
        std::cmp::Ordering::Equal => Tail::Equal,
        std::cmp::Ordering::Greater => {
            let outputs = found.iter().filter(|(_, sequence)| *sequence >= counter).copied().collect();
            Tail::Ahead { next, outputs }
        }
        std::cmp::Ordering::Less => {
            let missing = counter - next;
            let reason = format!("{of} lacks its last {missing} outputs, which the cursor counts: a torn transaction");
            Tail::Behind { next, reason }
        }
    }
}

async fn outputs_from(log: &dyn Log, of: &TopicPartition, from: Offset, end: Offset) -> Result<Vec<Output>, Error> {
    let (mut found, mut from) = (Vec::new(), from);
    loop {
        let scanned = takeover::scan(log, of, from, end, |record| {
            if let Some(output) = OutputHeaders::decode(record.headers) {
                found.push(((output.source.offset.0, output.output), output.sequence.0));
            }
            true
        });
        match scanned.await {
            Ok(()) => return Ok(found),
            // What counts is the end; what cannot be read before it concerns its readers.
            Err(Error::Damaged(_)) => {
                let Some(damage) = damage::first(log, of, from, end).await? else { continue };
                (found, from) = (Vec::new(), damage.end);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Topic;
    use crate::record::Partition;

    fn judged(sequences: &[u64], numbers: Range<u64>, start: u64) -> Tail {
        let found: Vec<_> = sequences.iter().map(|s| ((s + 100, 0), *s)).collect();
        let bounds = Bounds { start: Offset(start), stable_end: Offset(50), end: Offset(50) };
        judge(&found, numbers, bounds, &Topic::from("out").partition(Partition(0)))
    }

    #[test]
    fn tails_are_compared_by_sequence() {
        assert_eq!(judged(&[3, 4], 0..5, 0), Tail::Equal);
        assert_eq!(judged(&[], 0..0, 0), Tail::Equal);
        assert_eq!(judged(&[], 0..7, 9), Tail::Equal, "retention emptied it");
        let outputs = BTreeMap::from([((104, 0), 4), ((105, 0), 5)]);
        assert_eq!(judged(&[3, 4, 5], 0..4, 0), Tail::Ahead { next: 6, outputs });
        assert!(matches!(judged(&[3], 0..5, 0), Tail::Behind { next: 4, .. }));
        assert!(matches!(judged(&[], 0..5, 0), Tail::Gone { .. }));
    }

    #[test]
    fn a_topic_that_was_made_anew_and_accepted_begins_with_its_number() {
        assert_eq!(judged(&[], 5..5, 0), Tail::Equal);
        assert_eq!(judged(&[2, 3], 5..5, 0), Tail::Equal, "somebody put them back");
        assert_eq!(judged(&[5], 5..6, 0), Tail::Equal);
        assert_eq!(judged(&[5], 5..5, 0), Tail::Ahead { next: 6, outputs: BTreeMap::from([((105, 0), 5)]) });
        assert!(matches!(judged(&[5], 5..7, 0), Tail::Behind { next: 6, .. }));
        assert!(matches!(judged(&[2, 3], 5..6, 0), Tail::Gone { .. }));
    }
}
