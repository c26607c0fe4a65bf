//! Storing one batch of results, however long it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::oneshot;

use super::processor::Failure;
use crate::log::{self, Log, TopicPartition};
use crate::record::{Batch, BatchBuilder, ResultHeaders, Status};

/// The first and the longest pause between two tries. While one is waited for, no new work begins.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_CAP: Duration = Duration::from_secs(5);

/// Stores batches in one partition of the results.
pub(super) struct Store {
    pub(super) log: Arc<dyn Log>,
    pub(super) to: TopicPartition,
    pub(super) rng: fastrand::Rng,
    /// How many batches wait for a log that did not take them.
    pub(super) troubled: Arc<AtomicUsize>,
}

/// Counts one as troubled for as long as it lives, dropped futures included.
struct Trouble(Arc<AtomicUsize>);

impl Trouble {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Store {
    /// Appends the batch, after the one before has its place, until the log has it. `placed` is
    /// dropped when this one has its place.
    ///
    /// A record that the log will never take is replaced by a failed result that says so.
    ///
    /// # Errors
    ///
    /// What no repetition helps against.
    pub(super) async fn store(
        mut self,
        batch: Batch,
        before: Option<oneshot::Receiver<()>>,
        placed: oneshot::Sender<()>,
    ) -> Result<(), log::Error> {
        if let Some(before) = before {
            // It only ever ends by being dropped.
            let _ = before.await;
        }
        match self.append(&batch, Some(placed)).await {
            Err(log::Error::Rejected { .. }) => self.one_by_one(batch).await,
            outcome => outcome,
        }
    }

    /// Until it is in the log or refused. A place that the log lost is not kept: what comes after
    /// may then be before it, and with results no order is needed but that of the log.
    async fn append(&mut self, batch: &Batch, mut placed: Option<oneshot::Sender<()>>) -> Result<(), log::Error> {
        let mut trouble = None;
        let mut pause = PAUSE;
        loop {
            let place = self.log.append(&self.to, batch.clone()).await;
            drop(placed.take());
            let outcome = match place {
                Ok(acknowledged) => acknowledged.await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(_) => return Ok(()),
                Err(error @ (log::Error::Unavailable(_) | log::Error::Unknown(_))) => {
                    trouble.get_or_insert_with(|| {
                        tracing::warn!(to = %self.to, %error, "results are not stored yet, trying again");
                        Trouble::begin(&self.troubled)
                    });
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause.mul_f64(self.rng.f64().mul_add(0.5, 0.5))).await;
            pause = (pause * 2).min(PAUSE_CAP);
        }
    }

    /// Finds the record that the log refuses, and writes a failure in its place.
    async fn one_by_one(&mut self, mut batch: Batch) -> Result<(), log::Error> {
        while let Some(record) = batch.pop_first() {
            match self.append(&record, None).await {
                Ok(()) => {}
                Err(log::Error::Rejected { reason, .. }) => {
                    tracing::warn!(to = %self.to, reason, "the log refuses a result, a failure takes its place");
                    self.append(&refused(&record, &reason), None).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The failed result that takes the place of one that the log refuses.
fn refused(result: &Batch, reason: &str) -> Batch {
    let mut builder = BatchBuilder::default();
    for record in result {
        let Ok(headers) = ResultHeaders::decode(record.headers) else { continue };
        let attempts = headers.attempt.unwrap_or(1);
        let error = Failure::fail("output-refused", format_args!("the log does not take it: {reason}"));
        let error = error.to_json(attempts);
        let headers = ResultHeaders {
            status: Some(Status::Failed),
            destinations: None,
            content_type: None,
            error: Some(error.as_bytes()),
            ..headers
        };
        builder.push(record.key, None, |h| headers.encode(h));
    }
    builder.finish()
}
