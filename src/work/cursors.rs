//! Following the owner's cursors, which say what may be worked on.

use std::sync::Arc;

use crate::log::{self, Log, Reader, TopicPartition, Visibility};
use crate::record::Offset;
use crate::record::cursor::{OwnerCursor, Unreadable, decode};

/// Enough for a few cursors of the largest size.
const FETCH_BYTES: usize = 1 << 20;

/// How far before the end the search for the last cursor begins. Each step back is this many times longer.
const STEP: u64 = 16;

/// Why a cursor cannot be followed.
#[derive(Debug)]
pub(super) enum Failed {
    Log(log::Error),
    Unreadable(Unreadable),
}

impl From<log::Error> for Failed {
    fn from(error: log::Error) -> Self {
        Self::Log(error)
    }
}

/// A control partition's cursors, from the last one on.
pub(super) struct Cursors {
    log: Arc<dyn Log>,
    at: TopicPartition,
    reader: Option<Box<dyn Reader>>,
    step: u64,
}

impl Cursors {
    pub(super) fn new(log: Arc<dyn Log>, at: TopicPartition) -> Self {
        Self { log, at, reader: None, step: STEP }
    }

    /// Waits for a cursor newer than the one before; those in between are passed over.
    /// Where it fails for a reason that passes, call it again.
    pub(super) async fn next(&mut self) -> Result<OwnerCursor, Failed> {
        loop {
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None => self.open().await?,
            };
            let fetched = match reader.next().await {
                Ok(fetched) => fetched,
                // Compacted away before it was read: there is a newer one.
                Err(log::Error::Lost { .. }) => continue,
                Err(error) => {
                    self.reader = Some(reader);
                    return Err(error.into());
                }
            };
            self.reader = Some(reader);
            let last = fetched.batches.iter().flatten().filter_map(|record| record.value).last();
            if let Some(value) = last {
                return decode(value).map_err(Failed::Unreadable);
            }
        }
    }

    /// A reader that has the last cursor ahead of it. Between two compactions the log holds every
    /// cursor there was, so the search starts at the end.
    async fn open(&mut self) -> Result<Box<dyn Reader>, log::Error> {
        loop {
            let bounds = self.log.bounds(&self.at).await?;
            let from = bounds.start.max(Offset(bounds.stable_end.0.saturating_sub(self.step)));
            let mut reader = self.log.read(&self.at, from, Visibility::Written, FETCH_BYTES).await?;
            let mut found = from == bounds.start;
            while !found && reader.position() < bounds.stable_end {
                found = reader.next().await?.batches.iter().flatten().any(|record| record.value.is_some());
            }
            if found {
                return self.log.read(&self.at, from, Visibility::Written, FETCH_BYTES).await;
            }
            self.step = self.step.saturating_mul(STEP);
        }
    }
}
