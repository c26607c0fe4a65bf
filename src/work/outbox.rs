//! Results on their way to the log.
//!
//! Results of one turn go out as one batch a lane; a few batches of a lane are under way at a
//! time, and what comes meanwhile gathers for the next. A batch goes out again until the log has
//! it: a result that is there twice is harmless, one that is lost is worked on again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::oneshot;

use super::feed::{FeedId, Task};
use super::processor::{Answer, Failure, Output};
use super::store::Store;
use crate::log::{self, Log, Topic};
use crate::record::outputs;
use crate::record::{BatchBuilder, HeaderWriter, Offset, Partition, ResultHeaders, Status};

/// Results that the log has not acknowledged are held in memory: beyond this nothing new is begun.
const MAX_BYTES: usize = 32 << 20;

/// So many batches of a lane are under way at a time: enough to keep a log busy whose
/// acknowledgement takes a few times as long as a turn, and few enough to let batches gather.
const MAX_APPENDS: usize = 4;

/// A batch is sent off when it has grown to this, so that logs need not split it.
const BATCH_BYTES: usize = 512 * 1024;

/// Beside its output a result has headers; these are never that large unless a worker makes them so.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct Outbox {
    log: Arc<dyn Log>,
    results: Topic,
    worker: Bytes,
    max_output: usize,
    rng: fastrand::Rng,
    lanes: BTreeMap<Partition, Lane>,
    storing: FuturesUnordered<BoxFuture<'static, Stored>>,
    bytes: usize,
    troubled: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Lane {
    builder: BatchBuilder,
    answers: Vec<(FeedId, Offset)>,
    appends: usize,
    /// Resolves when the batch before has its place in the log's queue.
    turn: Option<oneshot::Receiver<()>>,
}

/// A batch that is in the log, or cannot be.
#[derive(Debug)]
pub(super) struct Stored {
    lane: Partition,
    bytes: usize,
    /// The records that it answers.
    pub(super) answers: Vec<(FeedId, Offset)>,
    pub(super) outcome: Result<(), log::Error>,
}

impl Outbox {
    pub(super) fn new(log: Arc<dyn Log>, results: Topic, worker: &str, max_output: usize, rng: fastrand::Rng) -> Self {
        let worker = Bytes::copy_from_slice(worker.as_bytes());
        let (lanes, storing, troubled) = (BTreeMap::new(), FuturesUnordered::new(), Arc::default());
        Self { log, results, worker, max_output, rng, lanes, storing, bytes: 0, troubled }
    }

    /// Whether there is room for the results of new work, and a log that takes them.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < MAX_BYTES && self.troubled.load(Relaxed) == 0
    }

    /// Whether every result is in the log.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.storing.is_empty()
    }

    /// Adds a record's result. An answer that cannot be written becomes a failure, whose error is returned.
    pub(super) fn answer(&mut self, task: &Task, answer: &Answer) -> Result<(), Failure> {
        if let Err(failure) = self.check(answer) {
            self.failed(task, &failure);
            return Err(failure);
        }
        match answer {
            Answer::Empty => self.put(task, Status::Empty, None, |_| {}, |h| h),
            Answer::One(output) => {
                let destinations = output.destinations.as_deref().map(str::as_bytes);
                self.put(
                    task,
                    Status::Done,
                    Some(&output.body),
                    |h| output.headers.iter().for_each(|(name, value)| h.put_named(name, value)),
                    |h| ResultHeaders { destinations, content_type: output.content_type.as_deref(), ..h },
                );
            }
            Answer::Several(json) => {
                let content_type = Some(outputs::OUTPUTS.as_bytes());
                self.put(task, Status::Done, Some(json), |_| {}, |h| ResultHeaders { content_type, ..h });
            }
        }
        self.answered(task);
        Ok(())
    }

    /// Adds a record's failure for good.
    pub(super) fn failed(&mut self, task: &Task, failure: &Failure) {
        let error = failure.to_json(task.attempt);
        self.put(task, Status::Failed, None, |_| {}, |h| ResultHeaders { error: Some(error.as_bytes()), ..h });
        self.answered(task);
    }

    /// Tells that an attempt failed and another follows.
    pub(super) fn retrying(&mut self, task: &Task, failure: &Failure) {
        let error = failure.to_json(task.attempt);
        self.put(task, Status::Retrying, None, |_| {}, |h| ResultHeaders { error: Some(error.as_bytes()), ..h });
    }

    fn check(&self, answer: &Answer) -> Result<(), Failure> {
        let (body, headers) = match answer {
            Answer::Empty => return Ok(()),
            Answer::Several(json) => (json.len(), 0),
            Answer::One(output) => (output.body.len(), header_bytes(output)?),
        };
        if body > self.max_output {
            let detail = format_args!("the output has {body} bytes, at most {} are allowed", self.max_output);
            return Err(Failure::fail("output-too-large", detail));
        }
        if headers > MAX_HEADER_BYTES {
            let detail = format_args!("its headers have {headers} bytes, at most {MAX_HEADER_BYTES} are allowed");
            return Err(Failure::fail("output-too-large", detail));
        }
        Ok(())
    }

    fn put<'a>(
        &'a mut self,
        task: &Task,
        status: Status,
        value: Option<&[u8]>,
        further: impl FnOnce(&mut HeaderWriter<'_>),
        with: impl FnOnce(ResultHeaders<'a>) -> ResultHeaders<'a>,
    ) {
        let headers = with(ResultHeaders {
            round: task.round,
            attempt: Some(task.attempt),
            worker: Some(&self.worker),
            ..ResultHeaders::new(task.source, task.check, status)
        });
        let lane = self.lanes.entry(task.source.lane).or_default();
        let before = lane.builder.size();
        let mut key = Decimal::default();
        lane.builder.push(Some(key.write(task.source.offset.0)), value, |h| {
            further(h);
            headers.encode(h);
        });
        self.bytes += lane.builder.size() - before;
    }

    fn answered(&mut self, task: &Task) {
        let lane = self.lanes.entry(task.source.lane).or_default();
        lane.answers.push((task.feed, task.offset));
        if lane.builder.size() >= BATCH_BYTES {
            self.send(task.source.lane);
        }
    }

    /// Sends off what has gathered, as far as the lanes' limits allow.
    pub(super) fn flush(&mut self) {
        let ready: Vec<_> = self.lanes.iter().filter(|(_, l)| l.appends < MAX_APPENDS).map(|(n, _)| *n).collect();
        ready.into_iter().for_each(|lane| self.send(lane));
    }

    fn send(&mut self, number: Partition) {
        let Some(lane) = self.lanes.get_mut(&number).filter(|lane| !lane.builder.is_empty()) else { return };
        let batch = lane.builder.finish();
        let answers = std::mem::take(&mut lane.answers);
        lane.appends += 1;
        let (placed, turn) = oneshot::channel();
        let before = lane.turn.replace(turn);
        let bytes = batch.frame().len();
        let store = Store {
            log: Arc::clone(&self.log),
            to: self.results.partition(number),
            rng: self.rng.fork(),
            troubled: Arc::clone(&self.troubled),
        };
        let storing = async move {
            let outcome = store.store(batch, before, placed).await;
            Stored { lane: number, bytes, answers, outcome }
        };
        self.storing.push(storing.boxed());
    }

    /// Waits for a batch to be in the log; for ever where none is under way. Cancel-safe.
    pub(super) async fn stored(&mut self) -> Stored {
        match self.storing.next().await {
            Some(stored) => self.settle(stored),
            None => std::future::pending().await,
        }
    }

    /// Another batch that is in the log already.
    pub(super) fn stored_now(&mut self) -> Option<Stored> {
        let stored = self.storing.next().now_or_never().flatten()?;
        Some(self.settle(stored))
    }

    fn settle(&mut self, stored: Stored) -> Stored {
        self.bytes -= stored.bytes;
        if let Some(lane) = self.lanes.get_mut(&stored.lane) {
            lane.appends -= 1;
        }
        stored
    }
}

/// Bytes of what a worker may choose beside the body, refused where it may not.
fn header_bytes(output: &Output) -> Result<usize, Failure> {
    if let Some((name, _)) = output.headers.iter().find(|(name, _)| outputs::is_reserved(name)) {
        let detail = format_args!("the header {:?} is not for workers to set", String::from_utf8_lossy(name));
        return Err(Failure::fail("output-invalid", detail));
    }
    let named: usize = output.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let content_type = output.content_type.as_ref().map_or(0, Bytes::len);
    Ok(named + content_type + output.destinations.as_ref().map_or(0, String::len))
}

/// A number's decimal digits, without an allocation.
#[derive(Default)]
struct Decimal([u8; 20]);

impl Decimal {
    fn write(&mut self, mut number: u64) -> &[u8] {
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (number % 10).to_le_bytes()[0];
            number /= 10;
            if number == 0 {
                return &self.0[at..];
            }
        }
    }
}
