//! The threads that run a filter: it computes, and it cannot be interrupted.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::filter::{compile, run};
use crate::work::processor::{Answer, Failure, Job};

/// Enough to keep the threads busy between two turns of the stage.
const QUEUE: usize = 256;

/// Filters recurse. Only what is used of it becomes memory.
const STACK_BYTES: usize = 64 << 20;

/// So many threads may hang in a filter that does not end before no more are started.
const MAX_STUCK: usize = 8;

struct Ask {
    job: Job,
    started: oneshot::Sender<()>,
    answer: oneshot::Sender<Result<Answer, Failure>>,
    state: Arc<AtomicUsize>,
}

/// The states of an ask.
const WAITING: usize = 0;
const RUNNING: usize = 1;
const ABANDONED: usize = 2;
const ENDED: usize = 3;

pub(super) struct Threads {
    asks: mpsc::Sender<Ask>,
    shared: Arc<Shared>,
}

struct Shared {
    filter: String,
    max_output: usize,
    asks: Mutex<mpsc::Receiver<Ask>>,
    stuck: AtomicUsize,
}

impl Threads {
    /// Starts one thread a core. They end with this handle.
    pub(super) fn start(filter: String, max_output: usize) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared { filter, max_output, asks: Mutex::new(receiver), stuck: AtomicUsize::new(0) });
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            start_one(&shared);
        }
        Self { asks: sender, shared }
    }

    /// Runs the filter on a job, for as long as `patience` lasts from when it has a thread.
    /// Dropping the future abandons it, even while it runs.
    pub(super) async fn run(&self, job: Job, patience: Duration) -> Result<Answer, Failure> {
        let (answer, answered) = oneshot::channel();
        let (started, has_started) = oneshot::channel();
        let state = Arc::new(AtomicUsize::new(WAITING));
        let _abandon = Abandon { state: Arc::clone(&state), shared: Arc::clone(&self.shared) };
        let gone = || Failure::retry("filter-gone", "no thread runs the filter any more");
        self.asks.send(Ask { job, started, answer, state }).await.map_err(|_| gone())?;
        has_started.await.map_err(|_| gone())?;
        match tokio::time::timeout(patience, answered).await {
            Ok(outcome) => outcome.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(Failure::fail("filter-too-slow", format_args!("the filter still runs after {patience:?}"))),
        }
    }
}

/// Replaces the thread of a job that is given up while it runs.
struct Abandon {
    state: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

impl Drop for Abandon {
    fn drop(&mut self) {
        if self.state.swap(ABANDONED, SeqCst) != RUNNING {
            return;
        }
        let stuck = self.shared.stuck.fetch_add(1, SeqCst) + 1;
        if stuck <= MAX_STUCK {
            tracing::warn!(stuck, "the filter does not come to an end, another thread takes over");
            start_one(&self.shared);
        } else {
            tracing::error!(stuck, "the filter does not come to an end, again and again; no more threads are started");
        }
    }
}

fn start_one(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name("jq".to_owned()).stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(move || shared.work()) {
        tracing::error!(%error, "no thread can be started for the filter");
    }
}

impl Shared {
    fn work(&self) {
        let Ok(filter) = compile(&self.filter) else { return };
        // A poisoned lock only says that some filter panicked while it was not even held.
        while let Some(ask) = { self.asks.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv() } {
            let Ask { job, started, answer, state } = ask;
            if state.compare_exchange(WAITING, RUNNING, SeqCst, SeqCst).is_err() {
                continue;
            }
            // Nobody waits any more where it was abandoned just now; likewise below.
            let _ = started.send(());
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&filter, job.body(), self.max_output)))
                    .unwrap_or_else(|_| Err(Failure::fail("filter-error", "the filter panicked")));
            if state.swap(ENDED, SeqCst) == ABANDONED {
                // It came to an end after all, and was replaced meanwhile.
                if self.stuck.fetch_sub(1, SeqCst) <= MAX_STUCK {
                    return;
                }
            }
            let _ = answer.send(outcome);
        }
    }
}
