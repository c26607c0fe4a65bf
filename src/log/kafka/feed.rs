//! What one reader is fed: a bounded buffer between the thread that fetches and the stage that reads.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::Notify;

use crate::log::{Fetched, TopicPartition};
use crate::record::{Batch, Offset};

/// One partition as one reader reads it.
pub(super) struct Feed {
    pub(super) of: TopicPartition,
    max_bytes: usize,
    state: Mutex<State>,
    /// Somebody who waits has something to look at.
    pub(super) changed: Notify,
}

struct State {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// Every committed record below is in `batches` or has been handed out.
    next: Offset,
    /// Up to where the reader has been handed records.
    position: Offset,
    failed: Option<Code>,
    /// The fetcher has stopped fetching for want of room.
    full: bool,
    /// The reader is gone.
    closed: bool,
}

/// What a reader finds.
pub(super) enum Found {
    /// Records, a hole, or both.
    Some(Fetched),
    Nothing,
    /// The partition cannot be read on.
    Failed(Code),
}

impl Feed {
    pub(super) fn new(of: TopicPartition, from: Offset, max_bytes: usize) -> Self {
        let state = State {
            batches: VecDeque::new(),
            bytes: 0,
            next: from,
            position: from,
            failed: None,
            full: false,
            closed: false,
        };
        Self { of, max_bytes, state: Mutex::new(state), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Hands out what there is, and says whether the fetcher is to go on after a stop.
    pub(super) fn take(&self) -> (Found, bool) {
        let mut state = self.lock();
        if state.batches.is_empty() && state.next == state.position {
            return (state.failed.map_or(Found::Nothing, Found::Failed), false);
        }
        let mut taken = Fetched { batches: Vec::new(), next: state.next };
        let mut bytes = 0;
        while let Some(batch) = state.batches.front() {
            bytes += batch.frame().len();
            if bytes > self.max_bytes && !taken.batches.is_empty() {
                taken.next = taken.batches.last().map_or(taken.next, Batch::next);
                break;
            }
            let batch = state.batches.pop_front().expect("it is at the front");
            state.bytes -= batch.frame().len();
            taken.batches.push(batch);
        }
        state.position = taken.next;
        let resume = state.full && state.bytes <= self.max_bytes / 2;
        if resume {
            state.full = false;
        }
        (Found::Some(taken), resume)
    }

    pub(super) fn position(&self) -> Offset {
        self.lock().position
    }

    /// The reader is gone; nothing more is wanted.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The offset to fetch from.
    pub(super) fn next(&self) -> Offset {
        self.lock().next
    }

    /// How many bytes it takes until it is full.
    pub(super) fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.lock().bytes)
    }

    /// Adds what was fetched: records up to `next`, or none and a hole up to it. Returns whether the
    /// fetcher is to stop for now.
    pub(super) fn put(&self, batches: impl IntoIterator<Item = Batch>, next: Offset) -> bool {
        let mut state = self.lock();
        for batch in batches {
            state.bytes += batch.frame().len();
            state.batches.push_back(batch);
        }
        let moved = next > state.next;
        state.next = state.next.max(next);
        state.full |= state.bytes >= self.max_bytes;
        let full = state.full;
        drop(state);
        if moved {
            self.changed.notify_one();
        }
        full
    }

    pub(super) fn fail(&self, code: Code) {
        self.lock().failed = Some(code);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Topic;
    use crate::record::{BatchBuilder, Partition, Timestamp};

    fn feed(max_bytes: usize) -> Feed {
        Feed::new(Topic::from("t").partition(Partition(0)), Offset(10), max_bytes)
    }

    fn batch(offset: u64) -> Batch {
        let (base, time) = (Offset(offset), Timestamp(0));
        let mut builder = BatchBuilder::default();
        builder.push_at((base, time), (base, time), None, Some(b"value"), |_| {});
        builder.finish_at(base, time)
    }

    fn taken(feed: &Feed) -> Option<(Vec<u64>, u64, bool)> {
        match feed.take() {
            (Found::Some(found), resume) => {
                Some((found.batches.iter().flatten().map(|r| r.offset.0).collect(), found.next.0, resume))
            }
            _ => None,
        }
    }

    #[test]
    fn holes_are_handed_out_after_the_records_before_them() {
        let feed = feed(1);
        assert!(taken(&feed).is_none());
        assert!(feed.put([batch(10)], Offset(11)));
        feed.put([batch(12)], Offset(20));
        assert_eq!(taken(&feed), Some((vec![10], 11, false)));
        assert_eq!(feed.position(), Offset(11));
        assert_eq!(taken(&feed), Some((vec![12], 20, true)));
        assert!(taken(&feed).is_none());
        feed.put([], Offset(25));
        assert_eq!(taken(&feed), Some((vec![], 25, false)));
    }

    #[test]
    fn fetching_stops_when_full_and_goes_on_at_half() {
        let size = batch(10).frame().len();
        let feed = feed(4 * size);
        for n in 10..13 {
            assert!(!feed.put([batch(n)], Offset(n + 1)));
        }
        assert!(feed.put([batch(13)], Offset(14)));
        assert_eq!(feed.room(), 0);
        assert_eq!(taken(&feed), Some((vec![10, 11, 12, 13], 14, true)));
        assert_eq!(feed.room(), 4 * size);
    }

    #[test]
    fn what_was_fetched_comes_before_the_failure() {
        let feed = feed(100);
        feed.put([batch(10)], Offset(11));
        feed.fail(Code::AutoOffsetReset);
        assert_eq!(taken(&feed), Some((vec![10], 11, false)));
        assert!(matches!(feed.take().0, Found::Failed(Code::AutoOffsetReset)));
    }
}
