//! The records being worked on, those that wait for another attempt, and who is next.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use super::feed::{FeedId, Task};
use super::gate::Gate;
use super::processor::{Answer, Failure, Job, Processor};
use crate::order::Backoff;
use crate::record::{Offset, Timestamp};

/// Records that wait for another attempt are held in memory: beyond this nothing new is begun
/// until some are through. The window bounds their number.
const MAX_HELD_BYTES: usize = 64 << 20;

/// What a record costs beside its bytes.
const TASK_BYTES: usize = 256;

/// An attempt that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) task: Task,
    pub(super) outcome: Result<Answer, Failure>,
    /// How long it waited for the processor, `None` where that answered at once.
    pub(super) took: Option<Duration>,
    pub(super) timed_out: bool,
    probe: bool,
}

/// See the module.
pub(super) struct Pool {
    processor: Arc<dyn Processor>,
    timeout: Duration,
    retry: Backoff,
    rng: fastrand::Rng,
    pub(super) gate: Gate,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// To be begun before anything new, lowest offset first.
    again: BTreeMap<(Offset, FeedId), Task>,
    /// Between two attempts, by the time of the next; the number tells equal times apart.
    waiting: BTreeMap<(Instant, u64), Task>,
    waited: u64,
    held_bytes: usize,
}

impl Pool {
    pub(super) fn new(
        processor: Arc<dyn Processor>,
        concurrency: usize,
        timeout: Duration,
        retry: Backoff,
        rng: fastrand::Rng,
    ) -> Self {
        let (again, waiting) = (BTreeMap::new(), BTreeMap::new());
        let (gate, running) = (Gate::new(concurrency, Instant::now()), FuturesUnordered::new());
        Self { processor, timeout, retry, rng, gate, running, again, waiting, waited: 0, held_bytes: 0 }
    }

    /// How many are being worked on. Those that wait for another attempt are not.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether another one may begin; a new one only where `room_for_new` says so, too.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.gate.room(now, self.running.len()) > 0
    }

    /// Whether a record may be taken up that has never been tried.
    pub(super) const fn has_room_for_new(&self) -> bool {
        self.held_bytes < MAX_HELD_BYTES
    }

    /// The next of those that were tried before and are due.
    pub(super) fn next_again(&mut self, now: Instant) -> Option<Task> {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let task = entry.remove();
            self.again.insert((task.offset, task.feed), task);
        }
        let (_, task) = self.again.pop_first()?;
        self.held_bytes -= size(&task);
        Some(task)
    }

    /// Begins an attempt; it has ended already where the processor answers at once.
    pub(super) fn begin(&mut self, mut task: Task, now: Instant, time: Timestamp) -> Option<Finished> {
        let probe = self.gate.begin(now);
        let job = self.job(&task, time);
        let at_once = std::panic::catch_unwind(AssertUnwindSafe(|| self.processor.at_once(&job)))
            .unwrap_or_else(|panic| Some(Err(panicked(&*panic))));
        if let Some(outcome) = at_once {
            return Some(Finished { task, outcome, took: None, timed_out: false, probe });
        }
        // The frame it came in may be large, and work may take long.
        task.record = task.record.detached();
        let job = self.job(&task, time);
        let (processor, timeout) = (Arc::clone(&self.processor), self.timeout);
        self.running.push(attempt(processor, task, job, timeout, probe).boxed());
        None
    }

    fn job(&self, task: &Task, now: Timestamp) -> Job {
        let timeout = i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX);
        let deadline = Timestamp(now.0.saturating_add(timeout));
        Job::new(task.source, task.attempt, deadline, task.record.clone())
    }

    /// Waits for an attempt to end; for ever where none is under way. Cancel-safe.
    pub(super) async fn finished(&mut self) -> Finished {
        match self.running.next().await {
            Some(finished) => finished,
            None => std::future::pending().await,
        }
    }

    /// Another attempt that has ended already.
    pub(super) fn finished_now(&mut self) -> Option<Finished> {
        self.running.next().now_or_never().flatten()
    }

    /// The worker was not there: the same attempt again once it is, where the record is still ours.
    pub(super) fn unreachable(
        &mut self,
        finished: Finished,
        retry_after: Option<Duration>,
        is_ours: bool,
        now: Instant,
    ) {
        self.gate.unreachable(finished.probe, retry_after, now);
        if !is_ours {
            return;
        }
        let task = finished.task;
        self.held_bytes += size(&task);
        self.again.insert((task.offset, task.feed), task);
    }

    /// The pause before the attempt after this one, `None` where it was the last.
    pub(super) fn pause_after(&mut self, task: &Task) -> Option<Duration> {
        self.retry.delay(task.attempt, self.rng.u64(..))
    }

    /// Waits for the next attempt.
    pub(super) fn retry_later(&mut self, mut task: Task, pause: Duration, now: Instant) {
        task.attempt += 1;
        self.held_bytes += size(&task);
        self.waited += 1;
        self.waiting.insert((now + pause, self.waited), task);
    }

    /// Forgets what belongs to a partition that was let go. What is under way goes on.
    pub(super) fn forget(&mut self, feed: FeedId) {
        let kept = |task: &Task| task.feed != feed;
        self.again.retain(|_, task| kept(task));
        self.waiting.retain(|_, task| kept(task));
        self.held_bytes = self.again.values().chain(self.waiting.values()).map(size).sum();
    }

    /// When something may be begun that may not be begun now.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let retry = self.waiting.first_key_value().map(|((due, _), _)| *due);
        [retry, self.gate.probe_at()].into_iter().flatten().filter(|due| *due > now).min()
    }
}

async fn attempt(processor: Arc<dyn Processor>, task: Task, job: Job, timeout: Duration, probe: bool) -> Finished {
    let since = Instant::now();
    let work = AssertUnwindSafe(async move { processor.process(job).await }).catch_unwind();
    let (outcome, timed_out) = match tokio::time::timeout(timeout, work).await {
        Ok(Ok(outcome)) => (outcome, false),
        Ok(Err(panic)) => (Err(panicked(&*panic)), false),
        Err(_) => (Err(Failure::retry("timeout", format_args!("no answer within {timeout:?}"))), true),
    };
    Finished { task, outcome, took: Some(since.elapsed()), timed_out, probe }
}

fn size(task: &Task) -> usize {
    task.record.frame().len() + TASK_BYTES
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::retry("panic", format_args!("the processor panicked: {}", message.unwrap_or("no message")))
}
