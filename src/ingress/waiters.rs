//! Those who wait for a message of one lane to be released, and the one reader that wakes them.
//!
//! The reader follows the lane's ledger from the moment somebody waits until nobody has for a
//! while. Who is about to write a message announces it first, as a [`Guest`]; so what is released
//! before its place is known is still among the releases that the reader remembers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, sleep, timeout};

use crate::log::{Error, Log, Reader, TopicPartition, Visibility};
use crate::observe::ledger;
use crate::record::ledger::{LedgerRecord, Outcome};

/// Bytes of the ledger read at once.
const READ_BYTES: usize = 1024 * 1024;

/// Ledger entries remembered for guests whose message is still being written: more than are
/// released while that takes, and at most a few MiB.
const RECENT: usize = 16 * 1024;

/// For how long the reader stays when nobody waits: opening one is dear on a remote log.
const LINGER: Duration = Duration::from_secs(10);

/// How long after a failure it tries again; those who wait look the ledger up meanwhile.
const PAUSE: Duration = Duration::from_millis(500);

/// What a waiter is woken with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// This became of the message.
    Outcome(Outcome),
    /// It has been released, and only the whole ledger tells how.
    LookUp,
}

#[derive(Debug, Default)]
struct State {
    guests: usize,
    /// How many guests there have ever been.
    arrivals: u64,
    recent: VecDeque<LedgerRecord>,
    entries: usize,
    /// How many remembered records were forgotten.
    forgotten: u64,
    /// Whether messages leave in parts, so that one record does not tell all of them.
    in_parts: bool,
    waiting: BTreeMap<u64, Vec<oneshot::Sender<Woken>>>,
}

/// The waiters of one lane. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Waiters {
    state: Arc<Mutex<State>>,
    /// Whether the reader follows.
    live: Arc<watch::Sender<bool>>,
    /// Whether anybody waits.
    wanted: Arc<watch::Sender<bool>>,
}

/// Somebody who waits, or will.
#[derive(Debug)]
pub(super) struct Guest {
    waiters: Waiters,
    /// Whether the reader followed when the guest came, and what it had forgotten by then.
    since: Option<u64>,
}

impl Waiters {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::default(),
            live: Arc::new(watch::Sender::new(false)),
            wanted: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Announces somebody who will wait.
    pub(super) fn guest(&self) -> Guest {
        let mut state = self.lock();
        state.guests += 1;
        state.arrivals += 1;
        let since = self.live.borrow().then_some(state.forgotten);
        self.wanted.send_replace(true);
        Guest { waiters: self.clone(), since }
    }

    /// Follows the ledger whenever somebody waits. Never ends; dropping it ends all waiting.
    pub(super) async fn follow(self, log: Arc<dyn Log>, of: TopicPartition) {
        let mut wanted = self.wanted.subscribe();
        // The sender is held by `self`, so waiting cannot fail.
        while wanted.wait_for(|wanted| *wanted).await.is_ok() {
            let ended = self.session(&*log, &of).await;
            self.close();
            if let Err(error) = ended {
                tracing::warn!(%of, %error, "cannot follow the ledger");
                sleep(PAUSE).await;
            }
        }
    }

    async fn session(&self, log: &dyn Log, of: &TopicPartition) -> Result<(), Error> {
        let end = log.bounds(of).await?.stable_end;
        let mut reader = log.read(of, end, Visibility::Durable, READ_BYTES).await?;
        self.live.send_replace(true);
        let mut arrivals = self.lock().arrivals;
        loop {
            let until_quiet = timeout(LINGER, self.take(&mut *reader, of)).await;
            if let Ok(taken) = until_quiet {
                taken?;
                continue;
            }
            let mut state = self.lock();
            if state.guests == 0 && state.arrivals == arrivals {
                self.wanted.send_replace(false);
                return Ok(());
            }
            arrivals = state.arrivals;
            state.forget_unless_wanted();
        }
    }

    async fn take(&self, reader: &mut dyn Reader, of: &TopicPartition) -> Result<(), Error> {
        let fetched = reader.next().await?;
        for record in fetched.batches.iter().flatten() {
            let release = ledger::read(of, record)?;
            self.lock().released(release);
        }
        Ok(())
    }

    /// Nothing is followed any more: those who wait look for themselves.
    fn close(&self) {
        self.live.send_replace(false);
        let mut state = self.lock();
        let (guests, arrivals, forgotten) = (state.guests, state.arrivals, state.forgotten + 1);
        *state = State { guests, arrivals, forgotten, ..State::default() };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn released(&mut self, release: LedgerRecord) {
        for entry in &release.entries {
            if matches!(entry.outcome, Outcome::Partly(_)) {
                self.in_parts = true;
                continue;
            }
            let end = entry.offset.saturating_add(entry.count.into());
            while let Some((&offset, _)) = self.waiting.range(entry.offset..end).next() {
                let woken = self.woken(entry.outcome_of(offset));
                for waiter in self.waiting.remove(&offset).into_iter().flatten() {
                    // Who has given up is not there to be told.
                    let _ = waiter.send(woken.clone());
                }
            }
        }
        if self.guests > 0 {
            self.entries += release.entries.len();
            self.recent.push_back(release);
        }
        while self.entries > RECENT {
            self.forget_one();
        }
    }

    fn woken(&self, outcome: Option<Outcome>) -> Woken {
        match outcome {
            Some(outcome) if !self.in_parts => Woken::Outcome(outcome),
            _ => Woken::LookUp,
        }
    }

    fn forget_one(&mut self) {
        let Some(oldest) = self.recent.pop_front() else { return };
        self.entries -= oldest.entries.len();
        self.forgotten += 1;
    }

    fn forget_unless_wanted(&mut self) {
        while self.guests == 0 && !self.recent.is_empty() {
            self.forget_one();
        }
    }

    /// What a remembered release said of the message.
    fn remembered(&self, offset: u64) -> Option<Woken> {
        let whole = |outcome: &Outcome| !matches!(outcome, Outcome::Partly(_));
        let outcome = self.recent.iter().find_map(|release| release.outcomes(offset).find(whole))?;
        Some(self.woken(Some(outcome)))
    }
}

impl Guest {
    /// Waits for the reader to follow, then asks to be woken for the message at `offset`. The
    /// second part says whether the message may have been released before that was seen, so that
    /// the ledger has to be looked up, too. `new`: written after this guest came.
    pub(super) async fn register(&self, offset: u64, new: bool) -> (oneshot::Receiver<Woken>, bool) {
        let mut live = self.waiters.live.subscribe();
        // Cannot fail: the sender is held by `self`.
        let _ = live.wait_for(|live| *live).await;
        let (waker, woken) = oneshot::channel();
        let mut state = self.waiters.lock();
        let covered = new && self.since == Some(state.forgotten);
        match state.remembered(offset) {
            Some(known) => {
                let _ = waker.send(known);
                (woken, false)
            }
            None => {
                let waiting = state.waiting.entry(offset).or_default();
                waiting.retain(|waiter| !waiter.is_closed());
                waiting.push(waker);
                (woken, !covered)
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut state = self.waiters.lock();
        state.guests -= 1;
        if state.guests == 0 {
            state.waiting.clear();
            state.forget_unless_wanted();
        }
    }
}
