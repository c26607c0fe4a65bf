//! What is started: pushes, reads, commits.

use futures::FutureExt as _;
use tokio::time::Instant;

use super::super::Push;
use super::tasks::{self, Done, Item, Piece, Read, Request};
use super::{Owner, TICK, VOUCHED};
use crate::metrics;
use crate::order::{Part, Pass};
use crate::record::{Batch, OutputHeaders, Timestamp};

/// The most bytes of items that share a request: what receivers take in one body by default, at least.
const REQUEST_BYTES: usize = 1 << 20;

impl Owner {
    /// Starts all that may start now. Idempotent: what is started is not started again.
    pub(super) fn pump(&mut self) {
        let now = Instant::now();
        self.obey();
        if !self.stopping {
            self.listen();
            for target in 0..self.targets.len() {
                self.send_tests(target);
                self.push_all(target, now);
            }
            self.read_on(now);
        }
        if now >= self.tick {
            self.tick = now + TICK;
            self.beat(now);
        }
        self.begin_commit();
    }

    /// When something is due that no task tells of.
    pub(super) fn wake(&self) -> Option<Instant> {
        // Before a commit has vouched nothing goes, and its end is told.
        if self.stopping || (self.writer.is_none() && !self.is_vouched(Instant::now())) {
            return None;
        }
        let now = Instant::now();
        let due = self.targets.iter().filter(|target| target.has_room()).filter_map(|target| {
            let first = self.feeds[target.feeds.clone()].iter().filter_map(super::Feed::next_due).min();
            let first = first.map(|first| target.not_before().map_or(first, |at| at.max(first)));
            first.into_iter().chain(target.paced_until(now)).min()
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
        let pieces = self.gather(index, feed, part, record, now);
        let pushes: Vec<Push> = pieces.iter().map(|piece| self.push(index, feed, piece)).collect();
        let target = &mut self.targets[index];
        target.in_flight += 1;
        target.count_on_pace(self.origin, since_origin, u32::try_from(pieces.len()).unwrap_or(u32::MAX));
        self.feeds[feed].under_way += 1;
        let (sender, timeout) = (target.sender.clone(), target.options.timeout);
        let request = Request { feed, life: item.life, pieces, pushes };
        self.tasks.push(tasks::send(request, sender, timeout).boxed());
        true
    }

    /// What goes with an item in one request: those behind it in its group, then others that may go, as
    /// many as the receiver takes.
    fn gather(&mut self, index: usize, feed: usize, part: Part, record: Batch, now: Instant) -> Vec<Piece> {
        let most = self.targets[index].batch();
        let feed = &mut self.feeds[feed];
        let replay = feed.replay_of(part.offset);
        let mut bytes = record.frame().len();
        let mut pieces = vec![Piece { part, follows: false, record }];
        if most == 1 || !feed.may_share(part) {
            return pieces;
        }
        let mut head = Some(part);
        while let Some(part) = head {
            for behind in feed.behind(part, most - pieces.len()) {
                let Some(record) = feed.record(behind) else { break };
                if bytes + record.frame().len() > REQUEST_BYTES || feed.replay_of(behind.offset) != replay {
                    return pieces;
                }
                bytes += record.frame().len();
                pieces.push(Piece { part: behind, follows: true, record });
            }
            head = if pieces.len() < most { feed.next(now) } else { None };
            if let Some(part) = head {
                let record = feed.record(part).filter(|_| feed.may_share(part));
                let fits = |record: &Batch| bytes + record.frame().len() <= REQUEST_BYTES;
                let Some(record) = record.filter(|r| fits(r) && feed.replay_of(part.offset) == replay) else {
                    feed.delay(part, now);
                    return pieces;
                };
                bytes += record.frame().len();
                pieces.push(Piece { part, follows: false, record });
            }
        }
        pieces
    }

    fn push(&mut self, index: usize, feed: usize, piece: &Piece) -> Push {
        let provenance = piece.record.iter().next().and_then(|record| OutputHeaders::decode(record.headers));
        let feed = &mut self.feeds[feed];
        Push {
            destination: self.targets[index].name.clone(),
            lane: feed.at.partition,
            offset: piece.part.offset,
            epoch: self.epoch,
            done_below: provenance.and(feed.done_below()),
            provenance,
            timestamp: self.shared.log.now(),
            attempt: feed.entry(piece.part).map_or(0, |entry| entry.attempts).saturating_add(1),
            replay: feed.replay_of(piece.part.offset),
            test: false,
            record: piece.record.clone(),
        }
    }

    fn read_on(&mut self, now: Instant) {
        for (index, feed) in self.feeds.iter_mut().enumerate() {
            self.dirty |= feed.stops_at_damage();
            let target = &self.targets[feed.target];
            // What waits for room only is about to go: shed, it would be loaded again at once, and
            // two lanes that take turns would do that to each other for ever.
            let waits = target.not_before().is_some_and(|at| at > now);
            let is_going = !waits && feed.next_due().is_some_and(|at| at <= now);
            // An order that waits for what is still to be read waits for a paused destination, too.
            if feed.is_stuck() && !is_going && (target.held.is_none() || feed.quiet) {
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

    /// Every now and then: gauges, positions that moved without an acknowledgement, and what goes wrong.
    fn beat(&mut self, now: Instant) {
        let all = self.feeds.iter().map(|feed| feed.at.clone()).collect();
        self.tasks.push(tasks::measure(self.shared.log.clone(), all).boxed());
        let letters = self.shared.topics.dead_letter.clone();
        self.tasks.push(tasks::look(self.shared.log.clone(), self.pushed(), letters).boxed());
        self.dirty |= self.feeds.iter().any(|feed| feed.frontier() != feed.committed);
        self.dirty |= self.has_news(now);
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
