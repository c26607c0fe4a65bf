//! What readers share with the writing thread of one partition: where it begins and ends, and its
//! newest batches.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use fjall::Keyspace;
use tokio::sync::Notify;

use super::compact::Compact;
use super::store::scan;
use crate::log::{Bounds, Cleanup, Error, TopicPartition, Visibility};
use crate::record::{Batch, Offset, Timestamp};

/// One partition.
pub(super) struct Marks {
    pub(super) at: TopicPartition,
    /// Its place among all partitions of the log, in the order in which they were made.
    pub(super) index: usize,
    pub(super) cleanup: Cleanup,
    pub(super) keyspace: Keyspace,
    /// Both end marks have moved, or a start mark has.
    durable_moved: Notify,
    written_moved: Notify,
    state: Mutex<State>,
}

/// What the store knew of a partition when it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) start: Offset,
    pub(super) end: Offset,
    pub(super) stamped: Timestamp,
    /// Bytes ever stored.
    pub(super) bytes: u64,
}

#[derive(Debug)]
struct State {
    start: Offset,
    written: Offset,
    durable: Offset,
    stamped: Timestamp,
    bytes: u64,
    /// Without a gap, up to `written`.
    cache: VecDeque<Batch>,
    /// Of a compacted partition.
    compact: Option<Compact>,
}

/// What a reader has to do at its position.
pub(super) enum Look {
    /// Hand these out.
    Cached(Vec<Batch>),
    /// Ask the store for what is below this mark.
    Stored(Offset),
    /// Wait for the mark to move.
    Wait,
}

impl Marks {
    /// Reads all that a compacted partition holds.
    pub(super) fn new(
        at: TopicPartition,
        index: usize,
        cleanup: Cleanup,
        keyspace: Keyspace,
        found: Found,
    ) -> Result<Self, Error> {
        let mut compact = (cleanup == Cleanup::Compact).then(Compact::default);
        if let Some(compact) = &mut compact {
            for stored in scan(&keyspace, &at, Offset::ZERO)? {
                compact.add(&stored?.batch);
            }
        }
        let Found { start, end, stamped, bytes } = found;
        let state = State { start, written: end, durable: end, stamped, bytes, cache: VecDeque::new(), compact };
        let (durable_moved, written_moved) = (Notify::new(), Notify::new());
        Ok(Self { at, index, cleanup, keyspace, durable_moved, written_moved, state: Mutex::new(state) })
    }

    /// The bases of the stored batches that this new one makes superfluous.
    pub(super) fn supersede(&self, batch: &Batch) -> Vec<Offset> {
        self.lock().compact.as_mut().map(|compact| compact.add(batch)).unwrap_or_default()
    }

    pub(super) fn bounds(&self) -> Bounds {
        let state = self.lock();
        Bounds { start: state.start, stable_end: state.written, end: state.written }
    }

    /// The end of what a crash of the machine leaves.
    pub(super) fn durable(&self) -> Offset {
        self.lock().durable
    }

    /// Where the next batch goes; the time is never before that of the last one.
    pub(super) fn head(&self, now: Timestamp) -> Found {
        let state = self.lock();
        Found { start: state.start, end: state.written, stamped: state.stamped.max(now), bytes: state.bytes }
    }

    pub(super) fn moved(&self, visibility: Visibility) -> &Notify {
        match visibility {
            Visibility::Durable => &self.durable_moved,
            Visibility::Written => &self.written_moved,
        }
    }

    /// The batches are in the store, in order, not yet synced. `head` is what is beyond them.
    pub(super) fn wrote(&self, batches: impl Iterator<Item = Batch>, head: Found) {
        let mut state = self.lock();
        state.cache.extend(batches);
        (state.written, state.stamped, state.bytes) = (head.end, head.stamped, head.bytes);
        drop(state);
        self.written_moved.notify_waiters();
    }

    /// All that is written is synced.
    pub(super) fn synced(&self) {
        let mut state = self.lock();
        state.durable = state.written;
        drop(state);
        self.durable_moved.notify_waiters();
    }

    /// Forgets the oldest batch in memory; returns its weight.
    pub(super) fn evict(&self) -> usize {
        self.lock().cache.pop_front().map_or(0, |batch| weight(&batch))
    }

    /// What is below is about to be removed.
    pub(super) fn begin_at(&self, start: Offset) {
        let mut state = self.lock();
        state.start = state.start.max(start);
        drop(state);
        self.durable_moved.notify_waiters();
        self.written_moved.notify_waiters();
    }

    pub(super) fn look(&self, from: Offset, visibility: Visibility, max_bytes: usize) -> Result<Look, Error> {
        let state = self.lock();
        if from < state.start {
            return Err(Error::Lost { at: self.at.clone(), wanted: from, start: state.start });
        }
        if from > state.written {
            let (at, end) = (&self.at, state.written);
            return Err(Error::Damaged(format!(
                "{at}: position {from} lies beyond the log's end at {end}: was it made anew, or has it lost its end?"
            )));
        }
        let mark = match visibility {
            Visibility::Durable => state.durable,
            Visibility::Written => state.written,
        };
        if from >= mark {
            return Ok(Look::Wait);
        }
        // The batch that holds the position is the last one that begins at or below it.
        let Some(first) = state.cache.partition_point(|batch| batch.base() <= from).checked_sub(1) else {
            return Ok(Look::Stored(mark));
        };
        let mut bytes = 0;
        let fits = |batch: &&Batch| {
            let first = bytes == 0;
            bytes += batch.frame().len();
            first || bytes <= max_bytes
        };
        let shown = state.cache.range(first..).take_while(|batch| batch.base() < mark).take_while(fits);
        Ok(Look::Cached(shown.cloned().collect()))
    }

    /// [`Error::Lost`] where the position has been removed meanwhile.
    pub(super) fn still_there(&self, from: Offset) -> Result<(), Error> {
        let start = self.lock().start;
        if from < start { Err(Error::Lost { at: self.at.clone(), wanted: from, start }) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

/// The offset after a batch of this log, whose offsets are dense.
pub(super) fn end_of(batch: &Batch) -> Offset {
    Offset(batch.base().0 + batch.len() as u64)
}

/// What a batch in memory takes, its own bookkeeping included.
pub(super) fn weight(batch: &Batch) -> usize {
    const BOOKKEEPING: usize = 128;
    batch.frame().len() + BOOKKEEPING
}
