//! Reading.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Shared;
use super::faults::{happens, wait};
use super::partition::{Found, regroup};
use crate::log::{Error, Fetched, Reader, TopicPartition};
use crate::record::Offset;

pub(super) struct MemoryReader {
    shared: Arc<Shared>,
    of: TopicPartition,
    position: Offset,
    max_bytes: usize,
    changed: Arc<Notify>,
    /// Kept over calls, so that whoever asks again and again does not wait anew each time.
    not_before: Option<Instant>,
}

impl MemoryReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        of: TopicPartition,
        position: Offset,
        max_bytes: usize,
        changed: Arc<Notify>,
    ) -> Self {
        Self { shared, of, position, max_bytes, changed, not_before: None }
    }

    async fn fetch(&mut self) -> Result<Fetched, Error> {
        let not_before = *self.not_before.get_or_insert_with(|| {
            let mut state = self.shared.lock();
            let delay = state.faults.read_delay.clone();
            Instant::now() + wait(&mut state.dice.read, &delay)
        });
        sleep_until(not_before).await;
        let changed = Arc::clone(&self.changed);
        loop {
            let changed = changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.look()? {
                Found::Records(found) => {
                    self.position = found.next;
                    self.not_before = None;
                    return Ok(found);
                }
                // Whether by time or by change, it is looked at again.
                Found::Nothing(Some(visible)) => drop(timeout_at(visible, changed).await),
                Found::Nothing(None) => changed.await,
            }
        }
    }

    fn look(&self) -> Result<Found, Error> {
        let mut state = self.shared.lock();
        let mut found = state.partition(&self.of)?.fetch(&self.of, self.position, self.max_bytes, Instant::now())?;
        if let Found::Records(records) = &mut found {
            let chance = state.faults.regrouped;
            if happens(&mut state.dice.read, chance) {
                records.batches = regroup(&records.batches).into_iter().collect();
            }
        }
        Ok(found)
    }
}

impl Reader for MemoryReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Fetched, Error>> {
        self.fetch().boxed()
    }

    fn position(&self) -> Offset {
        self.position
    }
}
