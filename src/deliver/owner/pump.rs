//! What is started: pushes, reads, commits.

use futures::FutureExt as _;
use tokio::time::Instant;

use super::super::Push;
use super::tasks::{self, Done, Item, Read};
use super::{Owner, TICK, VOUCHED};
use crate::metrics;
use crate::order::{Part, Pass};
use crate::record::{OutputHeaders, Timestamp};

impl Owner {
    /// Starts all that may start now. Idempotent: what is started is not started again.
    pub(super) fn pump(&mut self) {
        let now = Instant::now();
        self.obey();
        if !self.stopping {
            self.listen();
            for target in 0..self.targets.len() {
                self.push_all(target, now);
            }
            self.read_on(now);
        }
        if now >= self.tick {
            self.tick = now + TICK;
            self.beat();
        }
        self.begin_commit();
    }

    /// When something is due that no task tells of.
    pub(super) fn wake(&self) -> Option<Instant> {
        // Before a commit has vouched nothing goes, and its end is told.
        if self.stopping || (self.writer.is_none() && !self.is_vouched(Instant::now())) {
            return None;
        }
        let due = self.targets.iter().filter(|target| target.has_room()).filter_map(|target| {
            let first = self.feeds[target.feeds.clone()].iter().filter_map(super::Feed::next_due).min()?;
            Some(target.not_before().map_or(first, |at| at.max(first)))
        });
        due.min()
    }

    /// Whether a durable commit says that this was the owner a moment ago.
    fn is_vouched(&self, now: Instant) -> bool {
        self.vouched.is_some_and(|at| now.duration_since(at) < VOUCHED)
    }

    fn push_all(&mut self, index: usize, now: Instant) {
        loop {
            let target = &self.targets[index];
            if !target.has_room() || target.not_before().is_some_and(|at| at > now) {
                return;
            }
            let Some((feed, part)) = self.candidate(index, now) else { return };
            if !self.is_vouched(now) {
                // An idle owner has not committed for long: it does so first, if it is not about to.
                self.dirty |= self.writer.is_some();
                self.feeds[feed].delay(part, now);
                return;
            }
            if !self.start(index, feed, part, now) {
                return;
            }
        }
    }

    /// The next item of a destination, its lanes in turn.
    fn candidate(&mut self, target: usize, now: Instant) -> Option<(usize, Part)> {
        let (feeds, turn) = (self.targets[target].feeds.clone(), self.targets[target].turn);
        let (feed, part) =
            (turn..feeds.end).chain(feeds.start..turn).find_map(|feed| Some((feed, self.feeds[feed].next(now)?)))?;
        self.targets[target].turn = if feed + 1 < feeds.end { feed + 1 } else { feeds.start };
        Some((feed, part))
    }

    /// Starts a push, or the reading of what is to be pushed. False where the breaker holds it back.
    fn start(&mut self, index: usize, feed: usize, part: Part, now: Instant) -> bool {
        let since_origin = self.since_origin(now);
        let item = Item { feed, life: self.feeds[feed].life, part };
        let (target, at) = (&mut self.targets[index], self.feeds[feed].at.clone());
        let done_below = self.feeds[feed].done_below();
        let Some(entry) = self.feeds[feed].entry(part) else { return true };
        if entry.skip {
            self.finish(item);
            return true;
        }
        let Some(record) = entry.record.clone() else {
            target.in_flight += 1;
            self.feeds[feed].under_way += 1;
            self.tasks.push(tasks::load(item, self.shared.log.clone(), at).boxed());
            return true;
        };
        if let Pass::Wait(until) = target.breaker.try_pass(since_origin) {
            target.probe = Some(self.origin + until);
            self.feeds[feed].delay(part, now);
            return false;
        }
        entry.attempts = entry.attempts.saturating_add(1);
        let provenance = record.iter().next().and_then(|record| OutputHeaders::decode(record.headers));
        let push = Push {
            destination: target.name.clone(),
            lane: at.partition,
            offset: part.offset,
            epoch: self.epoch,
            done_below: provenance.and(done_below),
            provenance,
            timestamp: self.shared.log.now(),
            attempt: entry.attempts,
            record,
        };
        target.in_flight += 1;
        self.feeds[feed].under_way += 1;
        let (sender, timeout) = (target.sender.clone(), target.options.timeout);
        self.tasks.push(tasks::send(item, sender, timeout, push).boxed());
        true
    }

    fn read_on(&mut self, now: Instant) {
        for (index, feed) in self.feeds.iter_mut().enumerate() {
            let target = &self.targets[feed.target];
            // What waits for room only is about to go: shed, it would be loaded again at once, and
            // two lanes that take turns would do that to each other for ever.
            let waits = target.not_before().is_some_and(|at| at > now);
            let is_going = !waits && feed.next_due().is_some_and(|at| at <= now);
            if feed.is_stuck() && !is_going && target.held.is_none() {
                feed.shed();
            }
            if feed.wants_more() && (!self.crowded || feed.is_behind()) {
                feed.reading = true;
                let (life, from) = (feed.life, feed.read_to());
                let fetch = tasks::fetch(self.shared.log.clone(), feed.at.clone(), feed.reader.take(), from);
                let read = fetch.map(move |fetch| Done::Read(Read { feed: index, life, fetch }));
                self.tasks.push(read.boxed());
            }
        }
    }

    /// Every now and then: gauges, and positions that moved without an acknowledgement.
    fn beat(&mut self) {
        let all = self.feeds.iter().map(|feed| feed.at.clone()).collect();
        self.tasks.push(tasks::measure(self.shared.log.clone(), all).boxed());
        self.dirty |= self.feeds.iter().any(|feed| feed.frontier() != feed.committed);
        for target in &self.targets {
            let open = i64::from(target.breaker.is_open());
            for feed in &self.feeds[target.feeds.clone()] {
                feed.metrics.breaker_open.set(open);
            }
        }
    }

    pub(super) fn measured(&self, bounds: &[Result<crate::log::Bounds, crate::log::Error>]) {
        let now: Timestamp = self.shared.log.now();
        for (feed, bounds) in self.feeds.iter().zip(bounds) {
            if let Ok(bounds) = bounds {
                feed.show(bounds.stable_end, now);
            }
            feed.show_halted();
        }
    }

    pub(super) fn count_commit(seconds: f64) {
        metrics::owner(metrics::Role::Deliver).commit_seconds.observe(seconds);
    }
}
