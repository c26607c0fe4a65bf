//! The stage's one loop: wait for something to happen, take it in, begin what may be begun.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::feed::FeedId;
use super::inlet::Happened;
use super::outbox::{Outbox, Stored};
use super::pool::{Finished, Pool};
use super::processor::{Class, Processor};
use super::seats::Seats;
use super::tally::Tally;
use super::{Error, Options, Retry};
use crate::log::{self, Event, Log, Membership, SESSION_TIMEOUT, Topic, TopicPartition};
use crate::metrics::Attempt;
use crate::order::Backoff;
use crate::topics::Topics;

/// How often the group stores how far each partition is answered. After a crash so much is looked
/// at again, and passed over where the results are there.
const STORE_EVERY: Duration = Duration::from_secs(1);

/// Storing positions only saves work later: nothing waits longer for it.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries to join, or to learn a stored position.
const PAUSE: Duration = Duration::from_millis(500);

/// A group that is being shared out anew, after a death for instance, takes about a session for it. Who has no
/// lane for longer has none because there are more processes than lanes.
const STANDBY: Duration = SESSION_TIMEOUT.saturating_mul(2);

/// See the module.
pub(super) struct Stage {
    log: Arc<dyn Log>,
    group: String,
    /// What the group shares out.
    topics: Vec<Topic>,
    /// Since when this process has no lane to read.
    laneless: Option<Instant>,
    stands_by: bool,
    member: String,
    pool: Pool,
    outbox: Outbox,
    seats: Seats,
    /// Assigned, while their stored position is not known yet.
    unknown: Vec<TopicPartition>,
    /// When to ask for it.
    ask_at: Instant,
    store_at: Instant,
    /// The lane that had the last turn.
    turn: FeedId,
    tally: Tally,
}

/// What the loop waits for.
enum Woken {
    Drain,
    Time,
    Group(Result<Event, log::Error>),
    Stored(Stored),
    Finished(Finished),
    Log(Happened),
}

/// Why the loop ended.
enum Ended {
    Drained,
    Expelled(String),
}

impl Stage {
    pub(super) fn new(
        log: Arc<dyn Log>,
        topics: Topics,
        options: Options,
        processor: Arc<dyn Processor>,
        member: String,
        seed: u64,
    ) -> Self {
        let Options { group, fan_out, concurrency, timeout, retry, max_output } = options;
        let mut rng = fastrand::Rng::with_seed(seed);
        let Retry { attempts, backoff, cap } = retry;
        let backoff = Backoff { base: backoff, cap, attempts };
        let pool = Pool::new(processor, concurrency.max(1), timeout, backoff, rng.fork());
        let outbox = Outbox::new(Arc::clone(&log), topics.results.clone(), &member, max_output, rng.fork());
        let now = Instant::now();
        let joined = if fan_out { vec![&topics.work] } else { vec![&topics.input, &topics.work] };
        let joined = joined.into_iter().cloned().collect();
        let seats = Seats::new(Arc::clone(&log), topics);
        Self {
            log,
            group,
            topics: joined,
            laneless: None,
            stands_by: false,
            member,
            pool,
            outbox,
            seats,
            unknown: Vec::new(),
            ask_at: now,
            store_at: now + STORE_EVERY,
            turn: FeedId(0),
            tally: Tally::new(),
        }
    }

    /// Joins, works, and joins again where the group has expelled this member.
    pub(super) async fn run(mut self, drain: CancellationToken) -> Result<(), Error> {
        while !drain.is_cancelled() {
            let joined = self.log.join(&self.group, &self.topics, &self.member).await;
            match joined {
                Ok(mut membership) => match self.stay(&mut *membership, &drain).await? {
                    Ended::Drained => {
                        membership.leave().await;
                        return Ok(());
                    }
                    Ended::Expelled(reason) => {
                        tracing::warn!(reason, "expelled from the group, joining again");
                        self.let_go(self.seats.partitions());
                    }
                },
                Err(log::Error::Unavailable(reason)) => tracing::warn!(reason, "cannot join the group yet"),
                Err(error) => return Err(error.into()),
            }
            drain.run_until_cancelled(sleep(PAUSE)).await;
        }
        Ok(())
    }

    async fn stay(&mut self, membership: &mut dyn Membership, drain: &CancellationToken) -> Result<Ended, Error> {
        loop {
            let (now, draining) = (Instant::now(), drain.is_cancelled());
            self.ask_positions(membership, now).await?;
            if now >= self.store_at {
                self.note_standby();
                self.store_positions(membership).await;
            }
            self.proceed(now, draining);
            if draining && self.pool.running() == 0 && self.outbox.is_empty() {
                self.store_positions(membership).await;
                return Ok(Ended::Drained);
            }
            match self.wait(membership, drain, draining, now).await {
                Woken::Drain | Woken::Time => {}
                Woken::Group(Ok(event)) => self.group_event(membership, event).await,
                Woken::Group(Err(log::Error::Fenced(reason))) => return Ok(Ended::Expelled(reason)),
                Woken::Group(Err(error)) => return Err(error.into()),
                Woken::Stored(stored) => self.stored(stored)?,
                Woken::Finished(finished) => self.finished(finished),
                Woken::Log(happened) => self.seats.apply(happened)?,
            }
            self.take_in_the_rest()?;
            // Where everything is always ready, others on this thread have to have their turn.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Only waits. Dropped waits lose nothing.
    async fn wait(
        &mut self,
        membership: &mut dyn Membership,
        drain: &CancellationToken,
        draining: bool,
        now: Instant,
    ) -> Woken {
        let ask_at = (!self.unknown.is_empty()).then_some(self.ask_at);
        let due = [Some(self.store_at), ask_at, self.pool.due(now)];
        let due = due.into_iter().flatten().min().unwrap_or(self.store_at);
        tokio::select! {
            biased;
            () = drain.cancelled(), if !draining => Woken::Drain,
            event = membership.next() => Woken::Group(event),
            stored = self.outbox.stored() => Woken::Stored(stored),
            finished = self.pool.finished() => Woken::Finished(finished),
            happened = self.seats.next() => Woken::Log(happened),
            () = sleep_until(due) => Woken::Time,
        }
    }

    /// What else has happened already: one turn for all of it.
    fn take_in_the_rest(&mut self) -> Result<(), Error> {
        while let Some(stored) = self.outbox.stored_now() {
            self.stored(stored)?;
        }
        while let Some(finished) = self.pool.finished_now() {
            self.finished(finished);
        }
        while let Some(happened) = self.seats.next_now() {
            self.seats.apply(happened)?;
        }
        Ok(())
    }

    /// Begins what may be begun, and sends off what has come of it.
    fn proceed(&mut self, now: Instant, draining: bool) {
        if !draining {
            self.begin_work(now);
            self.seats.read_on();
        }
        self.outbox.flush();
        self.tally.settle(self.pool.running(), self.pool.gate.is_shut());
    }

    fn begin_work(&mut self, now: Instant) {
        let (mut work, mut lanes) = self.seats.in_turn(self.turn);
        let time = self.log.now();
        while self.outbox.has_room() && self.pool.has_room(now) {
            let fresh = self.pool.has_room_for_new();
            let blocking = if fresh { self.seats.take(&mut work) } else { None };
            let task = blocking.or_else(|| self.pool.next_again(now));
            let task = if fresh { task.or_else(|| self.seats.take(&mut lanes)) } else { task };
            let Some(task) = task else { return };
            self.turn = task.feed;
            if let Some(finished) = self.pool.begin(task, now, time) {
                self.finished(finished);
            }
        }
    }

    /// Decides what follows from an attempt.
    fn finished(&mut self, finished: Finished) {
        let now = Instant::now();
        if let Some(took) = finished.took {
            self.tally.took(took);
        }
        let is_ours = self.seats.feed_mut(finished.task.feed).is_some();
        let failure = match &finished.outcome {
            Ok(answer) => {
                self.pool.gate.reached(now);
                let outcome = self.outbox.answer(&finished.task, answer);
                return self.tally.count(if outcome.is_ok() { Attempt::Done } else { Attempt::Failed });
            }
            Err(failure) => failure,
        };
        if let Class::Unreachable { retry_after } = failure.class {
            self.tally.count(Attempt::Unreachable);
            if !self.pool.gate.is_shut() {
                tracing::warn!(
                    code = &*failure.code,
                    detail = failure.detail,
                    "the worker cannot be reached: waiting for it, no attempt is used up"
                );
            }
            return self.pool.unreachable(finished, retry_after, is_ours, now);
        }
        self.pool.gate.reached(now);
        let retry = failure.class == Class::Retry;
        let pause = retry.then(|| self.pool.pause_after(&finished.task)).flatten();
        self.tally.count(match (finished.timed_out, pause.is_some()) {
            (true, _) => Attempt::TimedOut,
            (false, true) => Attempt::Retried,
            (false, false) => Attempt::Failed,
        });
        match pause {
            None => self.outbox.failed(&finished.task, failure),
            Some(pause) if is_ours => {
                self.outbox.retrying(&finished.task, failure);
                self.pool.retry_later(finished.task, pause, now);
            }
            Some(_) => {}
        }
    }

    fn stored(&mut self, stored: Stored) -> Result<(), Error> {
        stored.outcome?;
        for (feed, offset) in stored.answers {
            if let Some(feed) = self.seats.feed_mut(feed) {
                feed.answered(offset);
            }
        }
        Ok(())
    }

    async fn group_event(&mut self, membership: &mut dyn Membership, event: Event) {
        match event {
            Event::Assigned(partitions) => {
                self.unknown.extend(partitions);
                self.ask_at = Instant::now();
            }
            Event::Revoked(partitions, barrier) => {
                self.store_positions(membership).await;
                self.let_go(partitions);
                drop(barrier);
            }
            Event::Lost(partitions) => self.let_go(partitions),
        }
    }

    /// Forgets partitions. What is being worked on comes to its end, and its results count where
    /// they are the first; nothing more is begun.
    fn let_go(&mut self, partitions: Vec<TopicPartition>) {
        self.unknown.retain(|at| !partitions.contains(at));
        for at in partitions {
            if let Some(feed) = self.seats.remove(&at) {
                self.pool.forget(feed.id);
            }
        }
    }

    /// Learns where the group was in what is newly assigned, and begins with it.
    async fn ask_positions(&mut self, membership: &mut dyn Membership, now: Instant) -> Result<(), Error> {
        if self.unknown.is_empty() || now < self.ask_at {
            return Ok(());
        }
        for at in std::mem::take(&mut self.unknown) {
            match membership.committed(&at).await {
                Ok(stored) => self.seats.add(at, stored),
                // Fenced: a revocation or the end is on its way.
                Err(error @ (log::Error::Unavailable(_) | log::Error::Unknown(_) | log::Error::Fenced(_))) => {
                    tracing::warn!(%at, %error, "the group's position cannot be learnt yet");
                    self.unknown.push(at);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.ask_at = now + PAUSE;
        Ok(())
    }

    /// Says once where there is no lane for this process, though it still takes part in the work
    /// that is sent out again.
    fn note_standby(&mut self) {
        let Some(lanes) = self.topics.iter().find(|topic| self.seats.is_input(topic)) else { return };
        let has_lane = self.seats.partitions().iter().chain(&self.unknown).any(|at| at.topic == *lanes);
        let now = Instant::now();
        self.laneless = (!has_lane).then(|| self.laneless.unwrap_or(now));
        let stands_by = self.laneless.is_some_and(|since| now - since >= STANDBY);
        if stands_by && !self.stands_by {
            tracing::info!("stands by: there are no more lanes than work processes; work.fan_out uses them all");
        }
        self.stands_by = stands_by;
        self.tally.stands_by(self.stands_by);
    }

    /// Stores how far each partition is answered, where that has changed.
    async fn store_positions(&mut self, membership: &mut dyn Membership) {
        self.store_at = Instant::now() + STORE_EVERY;
        let changed = self.seats.advanced();
        if changed.is_empty() {
            return;
        }
        match timeout(STORE_PATIENCE, membership.commit(&changed)).await {
            Ok(Ok(())) => self.seats.stored(&changed),
            Ok(Err(error)) => tracing::debug!(%error, "positions are not stored, the next time will do"),
            Err(_) => tracing::debug!("positions are not stored in time, the next time will do"),
        }
    }
}
