//! Reading: from memory near the end, else from the store.

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::Shared;
use super::marks::{Look, Marks, end_of};
use super::store::scan;
use crate::log::{Cleanup, Error, Fetched, Reader, Visibility};
use crate::record::{Batch, Offset};

/// What there is to be done about damage.
const REMEDY: &str = "restore the folder from a copy, or accept the loss and move to a new folder soon";

pub(super) struct EmbeddedReader {
    /// Keeps the log open.
    _shared: Arc<Shared>,
    marks: Arc<Marks>,
    position: Offset,
    visibility: Visibility,
    max_bytes: usize,
}

impl EmbeddedReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        marks: Arc<Marks>,
        position: Offset,
        visibility: Visibility,
        max_bytes: usize,
    ) -> Self {
        Self { _shared: shared, marks, position, visibility, max_bytes }
    }

    async fn fetch(&mut self) -> Result<Fetched, Error> {
        loop {
            let moved = self.marks.moved(self.visibility).notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let fetched = match self.marks.look(self.position, self.visibility, self.max_bytes)? {
                Look::Cached(batches) => hand_out(self.position, batches),
                Look::Stored(mark) => self.fetch_stored(mark).await?,
                Look::Wait => {
                    moved.await;
                    continue;
                }
            };
            self.position = fetched.next;
            return Ok(fetched);
        }
    }

    /// On the blocking pool: a block that the system has in memory is there in microseconds, one
    /// on a busy disk may take as long as many a stage's whole turn.
    async fn fetch_stored(&self, mark: Offset) -> Result<Fetched, Error> {
        let (marks, from, max_bytes) = (Arc::clone(&self.marks), self.position, self.max_bytes);
        let read = tokio::task::spawn_blocking(move || read_stored(&marks, from, mark, max_bytes));
        let at = &self.marks.at;
        read.await.unwrap_or_else(|e| Err(Error::Damaged(format!("{at}: reading at {from} failed: {e}"))))
    }
}

impl Reader for EmbeddedReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Fetched, Error>> {
        self.fetch().boxed()
    }

    fn position(&self) -> Offset {
        self.position
    }
}

fn hand_out(from: Offset, mut batches: Vec<Batch>) -> Fetched {
    let next = batches.last().map_or(from, end_of);
    if let Some(first) = batches.first_mut().filter(|first| first.base() < from) {
        *first = first.skip_to(from);
    }
    Fetched { batches, next }
}

/// What is stored from `from` up to `mark`. Offsets are dense but for compaction, so that a batch
/// that is missing shows. What comes before damage is handed out first.
fn read_stored(marks: &Marks, from: Offset, mark: Offset, max_bytes: usize) -> Result<Fetched, Error> {
    let compacted = marks.cleanup == Cleanup::Compact;
    let mut next = from;
    let mut batches = Vec::new();
    let mut bytes = 0;
    for stored in scan(&marks.keyspace, &marks.at, from).map_err(|e| unreadable(from, e))? {
        let batch = match stored {
            Ok(stored) => stored.batch,
            Err(_) if !batches.is_empty() => return Ok(hand_out(from, batches)),
            Err(error) => return Err(unreadable(from, error)),
        };
        if batch.base() >= mark {
            break;
        }
        if end_of(&batch) <= from {
            continue;
        }
        if batch.base() > next && !compacted {
            return unless_missing(marks, from, next..batch.base(), batches);
        }
        bytes += batch.frame().len();
        if bytes > max_bytes && !batches.is_empty() {
            return Ok(hand_out(from, batches));
        }
        next = end_of(&batch);
        batches.push(batch);
    }
    if next < mark && !compacted {
        return unless_missing(marks, from, next..mark, batches);
    }
    Ok(Fetched { next: mark, ..hand_out(from, batches) })
}

fn unreadable(from: Offset, error: Error) -> Error {
    match error {
        Error::Damaged(reason) => {
            Error::Damaged(format!("{reason}; the records from offset {from} on cannot be read: {REMEDY}"))
        }
        other => other,
    }
}

/// What was found before a gap, if anything.
fn unless_missing(marks: &Marks, from: Offset, gap: Range<Offset>, found: Vec<Batch>) -> Result<Fetched, Error> {
    if found.is_empty() { Err(missing(marks, from, &gap)) } else { Ok(hand_out(from, found)) }
}

/// Removed by retention while it was being read, or gone in earnest.
fn missing(marks: &Marks, from: Offset, gap: &Range<Offset>) -> Error {
    let lost = marks.still_there(from).err();
    lost.unwrap_or_else(|| {
        let (at, Range { start, end }) = (&marks.at, gap);
        Error::Damaged(format!("{at}: the records from {start} to below {end} are missing: {REMEDY}"))
    })
}
