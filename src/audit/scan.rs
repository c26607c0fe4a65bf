//! One partition read front to back, decoded as it comes. What cannot be read is passed over and noted.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::timeout;

use crate::log::{Bounds, Error, Log, Reader, TopicPartition, Visibility, damage};
use crate::record::{Offset, RecordRef};

/// Bytes read at once: a few of these are held for each partition that is read side by side.
const READ_BYTES: usize = 1 << 20;

/// How long a read of what is there already may take: a log that takes longer is ill.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module's documentation.
pub(super) struct Scan<'a, T> {
    log: &'a dyn Log,
    pub(super) of: TopicPartition,
    reader: Box<dyn Reader>,
    end: Offset,
    decode: fn(RecordRef<'_>) -> T,
    queue: VecDeque<T>,
    /// Records handed out.
    pub(super) read: u64,
    /// What cannot be read.
    unreadable: Vec<Range<Offset>>,
}

impl<'a, T> Scan<'a, T> {
    /// Reads a partition from its start to the end it had when its bounds were taken.
    pub(super) async fn open(
        log: &'a dyn Log,
        of: TopicPartition,
        bounds: Bounds,
        decode: fn(RecordRef<'_>) -> T,
    ) -> Result<Self, Error> {
        let reader = log.read(&of, bounds.start, Visibility::Durable, READ_BYTES).await.map_err(overtaken)?;
        let (end, queue) = (bounds.stable_end, VecDeque::new());
        Ok(Self { log, of, reader, end, decode, queue, read: 0, unreadable: Vec::new() })
    }

    /// The next record, `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Error> {
        self.fill().await?;
        let next = self.queue.pop_front();
        self.read += u64::from(next.is_some());
        Ok(next)
    }

    /// As [`Scan::next`], and leaves it there.
    pub(super) async fn peek(&mut self) -> Result<Option<&T>, Error> {
        self.fill().await?;
        Ok(self.queue.front())
    }

    /// How much is left, counted by offsets, holes included.
    pub(super) fn left(&self) -> u64 {
        self.end.0.saturating_sub(self.reader.position().0) + self.queue.len() as u64
    }

    async fn fill(&mut self) -> Result<(), Error> {
        while self.queue.is_empty() && self.reader.position() < self.end {
            let fetched = timeout(PATIENCE, self.reader.next()).await;
            let fetched = fetched.map_err(|_| Error::Unavailable(format!("{} cannot be read", self.of)))?;
            if let Err(Error::Damaged(_)) = &fetched
                && self.pass_over().await?
            {
                continue;
            }
            let fetched = fetched.map_err(overtaken)?;
            let (decode, end) = (self.decode, self.end);
            let records = fetched.batches.iter().flatten().take_while(|record| record.offset < end);
            self.queue.extend(records.map(decode));
            // What is read from memory never waits; others in this runtime want their turn too.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl<T> Scan<'_, T> {
    /// What could not be read so far, in words, with where it begins.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (Offset, String)> + '_ {
        self.unreadable.iter().map(|range| (range.start, format!("damaged: nothing below {} can be read", range.end)))
    }

    /// Reads on behind damage, if there is some.
    async fn pass_over(&mut self) -> Result<bool, Error> {
        let Some(damage) = damage::first(self.log, &self.of, self.reader.position(), self.end).await? else {
            return Ok(false);
        };
        self.reader = self.log.read(&self.of, damage.end, Visibility::Durable, READ_BYTES).await.map_err(overtaken)?;
        self.unreadable.push(damage);
        Ok(true)
    }
}

fn overtaken(error: Error) -> Error {
    match error {
        Error::Lost { .. } => Error::Unavailable(format!("{error}: retention was faster than the audit, run it again")),
        other => other,
    }
}
