//! One partition: entries with offsets, some of them not yet visible, open or aborted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Stored;
use crate::log::{Bounds, Cleanup, Error, Fetched, TopicPartition};
use crate::record::{Batch, BatchBuilder, Offset, Timestamp};

/// A compacted partition is cleaned when it holds so many entries, so that its cost stays amortised.
const COMPACT_AT: usize = 64;

/// Names a transaction within its partition.
pub(super) type Transaction = u64;

#[derive(Debug)]
pub(super) struct PartitionLog {
    cleanup: Cleanup,
    entries: VecDeque<Entry>,
    start: Offset,
    end: Offset,
    stamped: Timestamp,
    open: BTreeMap<Transaction, Offset>,
    next_transaction: Transaction,
    changed: Arc<Notify>,
    /// Batches with an offset among these cannot be read.
    damaged: Range<Offset>,
    /// Where it ends as the next one who asks is told.
    told_end: Option<Offset>,
}

#[derive(Debug)]
struct Entry {
    batch: Batch,
    next: Offset,
    /// Never before that of an earlier entry.
    visible: Instant,
    /// Of which transaction it is, where that is not committed.
    transaction: Option<Transaction>,
}

/// What is at a position.
pub(super) enum Found {
    Records(Fetched),
    /// Nothing yet; something may be visible then, or after the next change.
    Nothing(Option<Instant>),
}

impl PartitionLog {
    pub(super) fn new(cleanup: Cleanup) -> Self {
        Self {
            cleanup,
            entries: VecDeque::new(),
            start: Offset::ZERO,
            end: Offset::ZERO,
            stamped: Timestamp(0),
            open: BTreeMap::new(),
            next_transaction: 0,
            changed: Arc::new(Notify::new()),
            damaged: Offset::ZERO..Offset::ZERO,
            told_end: None,
        }
    }

    /// Notified whenever something was added, removed or ended.
    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Forgets everything; who waits is told.
    pub(super) fn reset(&mut self) {
        let changed = self.changed();
        *self = Self { changed, ..Self::new(self.cleanup) };
        self.changed.notify_waiters();
    }

    /// Adds a committed batch. Returns its first offset, and when it can be read, which is not
    /// before `visible` nor before what is there already.
    pub(super) fn append(&mut self, batch: &Batch, now: Timestamp, visible: Instant) -> (Offset, Instant) {
        let visible = self.entries.back().map_or(visible, |last| last.visible.max(visible));
        let base = self.push(batch, now, visible, None);
        if self.cleanup == Cleanup::Compact && self.entries.len() >= COMPACT_AT {
            self.compact();
        }
        (base, visible)
    }

    /// Leaves out offsets.
    pub(super) fn skip(&mut self, count: u64) {
        self.end.0 += count;
        self.changed.notify_waiters();
    }

    pub(super) fn open(&mut self, batch: &Batch, now: Timestamp) -> Transaction {
        let transaction = self.next_transaction;
        self.next_transaction += 1;
        self.open.insert(transaction, self.end);
        let visible = self.entries.back().map_or_else(Instant::now, |last| last.visible);
        self.push(batch, now, visible, Some(transaction));
        transaction
    }

    pub(super) fn finish(&mut self, transaction: Transaction, commit: bool) {
        if self.open.remove(&transaction).is_none() {
            return;
        }
        for entry in self.entries.iter_mut().filter(|e| commit && e.transaction == Some(transaction)) {
            entry.transaction = None;
        }
        self.skip(1);
    }

    fn push(&mut self, batch: &Batch, now: Timestamp, visible: Instant, transaction: Option<Transaction>) -> Offset {
        self.stamped = self.stamped.max(now);
        let base = self.end;
        let batch = batch.placed(base, self.stamped);
        self.end = Offset(base.0 + batch.len() as u64);
        if !batch.is_empty() {
            self.entries.push_back(Entry { batch, next: self.end, visible, transaction });
        }
        self.changed.notify_waiters();
        base
    }

    pub(super) fn bounds(&mut self, now: Instant) -> Bounds {
        let end = self.told_end.take().unwrap_or(self.end);
        Bounds { start: self.start, stable_end: self.stable_end(now).min(end), end }
    }

    pub(super) fn tell_end(&mut self, end: Offset) {
        self.told_end = Some(end);
    }

    fn stable_end(&self, now: Instant) -> Offset {
        let hidden = self.entries.partition_point(|entry| entry.visible <= now);
        let shown = self.entries.get(hidden).map_or(self.end, |entry| entry.batch.base());
        self.open.values().copied().fold(shown, Offset::min)
    }

    pub(super) fn fetch(
        &self,
        of: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        now: Instant,
    ) -> Result<Found, Error> {
        if from < self.start {
            return Err(Error::Lost { at: of.clone(), wanted: from, start: self.start });
        }
        if from > self.end {
            let end = self.end;
            return Err(Error::Damaged(format!(
                "{of}: position {from} lies beyond the log's end at {end}: was it made anew, or has it lost its end?"
            )));
        }
        let stable = self.stable_end(now);
        if from >= stable {
            let hidden = self.entries.partition_point(|entry| entry.visible <= now);
            return Ok(Found::Nothing(self.entries.get(hidden).map(|entry| entry.visible)));
        }
        let mut found = Fetched { batches: Vec::new(), next: from };
        let mut bytes = 0;
        let first = self.entries.partition_point(|entry| entry.next <= from);
        for entry in self.entries.range(first..).take_while(|entry| entry.batch.base() < stable) {
            if entry.batch.base() < self.damaged.end && entry.next > self.damaged.start {
                if found.batches.is_empty() {
                    let next = found.next;
                    return Err(Error::Damaged(format!("{of}: the records from offset {next} on cannot be read")));
                }
                return Ok(Found::Records(found));
            }
            if entry.transaction.is_none() {
                let batch = entry.batch.skip_to(from);
                bytes += batch.frame().len();
                if bytes > max_bytes && !found.batches.is_empty() {
                    return Ok(Found::Records(found));
                }
                found.batches.push(batch);
            }
            found.next = entry.next;
        }
        found.next = stable;
        Ok(Found::Records(found))
    }

    pub(super) fn delete_below(&mut self, offset: Offset) {
        self.start = self.start.max(offset.min(self.end));
        while self.entries.front().is_some_and(|entry| entry.next <= self.start) {
            self.entries.pop_front();
        }
        if let Some(entry) = self.entries.front_mut().filter(|entry| entry.batch.base() < self.start) {
            entry.batch = entry.batch.skip_to(self.start);
        }
        self.changed.notify_waiters();
    }

    pub(super) fn lose_end(&mut self, from: Offset) {
        while let Some(lost) = self.entries.pop_back_if(|entry| entry.next > from) {
            self.end = lost.batch.base();
        }
        self.changed.notify_waiters();
    }

    pub(super) fn damage(&mut self, offsets: Range<Offset>) {
        self.damaged = offsets;
    }

    /// Drops the batches of which every record's key occurs again later.
    pub(super) fn compact(&mut self) {
        let mut later: BTreeSet<Option<Vec<u8>>> = BTreeSet::new();
        let mut keep = Vec::with_capacity(self.entries.len());
        for entry in self.entries.iter().rev() {
            let mut needed = entry.transaction.is_some();
            for record in &entry.batch {
                needed |= later.insert(record.key.map(<[u8]>::to_vec)) || record.key.is_none();
            }
            keep.push(needed);
        }
        self.entries.retain(|_| keep.pop().expect("one answer an entry"));
    }

    pub(super) fn snapshot(&self, from: Offset) -> Vec<Stored> {
        let first = self.entries.partition_point(|entry| entry.next <= from);
        let committed = self.entries.range(first..).filter(|entry| entry.transaction.is_none());
        committed
            .flat_map(|entry| &entry.batch)
            .filter(|record| record.offset >= from)
            .map(|record| Stored {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record.headers.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            })
            .collect()
    }
}

/// The same records in one batch, with the holes between them inside.
pub(super) fn regroup(batches: &[Batch]) -> Option<Batch> {
    let first = batches.first()?;
    let base = (first.base(), first.timestamp());
    let mut builder = BatchBuilder::default();
    for record in batches.iter().flatten() {
        let at = (record.offset, record.timestamp);
        builder.push_at(base, at, record.key, record.value, |headers| headers.put_all(record.headers));
    }
    Some(builder.finish_at(base.0, base.1))
}
