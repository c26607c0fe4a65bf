//! What becomes of an item after an attempt, and of what was read.

use std::time::Duration;

use tokio::time::Instant;

use super::super::options::OnFailure;
use super::super::verdict::{Verdict, Wish, judge};
use super::Owner;
use super::tasks::{Item, Loaded, Piece, Read, Sent, is_passing};
use crate::log;
use crate::order::retry_after;
use crate::record::push::{Held, REASON_KEPT};
use crate::record::{Batch, Name, error_json};

impl Owner {
    pub(super) fn sent(&mut self, sent: Sent) {
        let Sent { feed, life, pieces, outcome } = sent;
        let now = Instant::now();
        let index = self.feeds[feed].target;
        self.targets[index].in_flight -= 1;
        let verdict = judge(&outcome, self.shared.log.now());
        self.feed_breaker(index, &verdict, now);
        let answer = outcome.ok();
        if verdict == Verdict::Delivered {
            self.targets[index].takes = answer.as_ref().and_then(|answer| answer.takes).unwrap_or(1).max(1);
            if answer.as_ref().is_some_and(|answer| answer.wish == Some(Wish::Disable)) {
                self.disable(index, "it answered webhook-delivery: disable".to_owned());
            }
        }
        if self.feeds[feed].life != life {
            return;
        }
        self.feeds[feed].under_way -= 1;
        let told = answer.and_then(|answer| answer.applied).filter(|_| pieces.len() > 1);
        match told {
            None if verdict != Verdict::Delivered && pieces.len() > 1 => {
                self.failed_together(feed, &pieces, &verdict, now);
            }
            None if verdict != Verdict::Delivered => self.failed(feed, life, &pieces[0], verdict, now),
            applied => self.applied(feed, life, &pieces, applied.unwrap_or(pieces.len()), verdict, now),
        }
    }

    /// The first `count` of them are applied; the one behind these is what the verdict is about.
    fn applied(&mut self, feed: usize, life: u32, pieces: &[Piece], count: usize, verdict: Verdict, now: Instant) {
        let count = count.min(pieces.len());
        for piece in &pieces[..count] {
            // The one before it, which it follows, was finished just now.
            if piece.follows && !self.feeds[feed].take_next(piece.part) {
                return;
            }
            self.targets[self.feeds[feed].target].acknowledged.inc();
            self.finish(Item { feed, life, part: piece.part });
        }
        let Some((piece, rest)) = pieces[count..].split_first() else { return };
        for piece in rest.iter().filter(|piece| !piece.follows) {
            self.feeds[feed].delay(piece.part, now);
        }
        if piece.follows && !self.feeds[feed].take_next(piece.part) {
            return;
        }
        let verdict = match verdict {
            Verdict::Delivered => {
                let reason = format!("{count} of {} were applied", pieces.len());
                Verdict::Again { reason, after: None, down: false }
            }
            other => other,
        };
        self.failed(feed, life, piece, verdict, now);
    }

    /// An item, which is taken, was not acknowledged.
    fn failed(&mut self, feed: usize, life: u32, piece: &Piece, verdict: Verdict, now: Instant) {
        let item = Item { feed, life, part: piece.part };
        if let Some(entry) = self.feeds[feed].entry(item.part) {
            entry.attempts = entry.attempts.saturating_add(1);
        }
        let target = &self.targets[self.feeds[feed].target];
        match verdict {
            Verdict::Delivered => {}
            Verdict::Again { reason, after, down: _ } => {
                target.retried.inc();
                self.again(item, &piece.record, &reason, after, now);
            }
            Verdict::Gone(reason) => self.gone(item, reason, now),
            Verdict::Refused(reason) => {
                target.refused.inc();
                self.refuse(item, &piece.record, reason);
            }
        }
    }

    /// It is not known which of them is to blame: each goes alone the next time, which uses up none of
    /// its attempts.
    fn failed_together(&mut self, feed: usize, pieces: &[Piece], verdict: &Verdict, now: Instant) {
        let target = &self.targets[self.feeds[feed].target];
        target.retried.inc();
        let asked = if let Verdict::Again { after, .. } = verdict { *after } else { None };
        let pause = target.pause(1, self.rng.u64(..)).unwrap_or(target.options.retry.backoff);
        let due = now + retry_after(pause, asked, target.options.retry_after_max);
        tracing::debug!(at = %self.feeds[feed].at, items = pieces.len(), ?verdict, "again, one by one");
        if let (Verdict::Again { reason, .. }, Some(first)) = (verdict, pieces.first()) {
            self.failing(Item { feed, life: self.feeds[feed].life, part: first.part }, reason, due);
        }
        for piece in pieces {
            if let Some(entry) = self.feeds[feed].entry(piece.part) {
                entry.alone = true;
            }
            if !piece.follows {
                self.feeds[feed].delay(piece.part, due);
            }
        }
        if let Verdict::Gone(reason) = verdict {
            self.disable(self.feeds[feed].target, reason.clone());
        }
    }

    /// Every attempt tells of the receiver's health, whatever it tells of the item.
    fn feed_breaker(&mut self, index: usize, verdict: &Verdict, now: Instant) {
        let since_origin = self.since_origin(now);
        let target = &mut self.targets[index];
        let was_open = target.breaker.is_open();
        match verdict {
            Verdict::Again { reason, after, down: true } => {
                target.breaker.failure(since_origin, None);
                if let Some(after) = after {
                    target.asked = target.asked.max(Some(now + (*after).min(target.options.retry_after_max)));
                }
                if !was_open && target.breaker.is_open() {
                    tracing::warn!(destination = &*target.name, reason, "taken for down: only probed");
                }
            }
            Verdict::Again { down: false, .. } | Verdict::Delivered | Verdict::Gone(_) | Verdict::Refused(_) => {
                target.breaker.success(since_origin);
            }
        }
        target.probe = target.probe.filter(|_| target.breaker.is_open());
        if was_open && !target.breaker.is_open() {
            target.settled();
            tracing::info!(destination = &*target.name, "is back");
        }
    }

    fn is_void(&self, item: Item) -> bool {
        self.feeds[item.feed].life != item.life
    }

    /// Done for good, once it is committed.
    pub(super) fn finish(&mut self, item: Item) {
        self.feeds[item.feed].finish(item.part);
        self.not_failing(item);
        self.dirty = true;
    }

    fn again(&mut self, item: Item, record: &Batch, reason: &str, after: Option<Duration>, now: Instant) {
        let attempts = self.feeds[item.feed].entry(item.part).map_or(1, |entry| entry.attempts);
        let target = &self.targets[self.feeds[item.feed].target];
        match target.pause(attempts, self.rng.u64(..)) {
            Some(pause) => {
                let pause = retry_after(pause, after, target.options.retry_after_max);
                tracing::debug!(at = %self.feeds[item.feed].at, offset = %item.part.offset, attempts, reason, ?pause, "again");
                self.feeds[item.feed].delay(item.part, now + pause);
                self.failing(item, reason, now + pause);
            }
            None => self.refuse(item, record, format!("given up after {attempts} attempts: {reason}")),
        }
    }

    /// The receiver wants nothing any more. The item, like all others, waits for an operator.
    fn gone(&mut self, item: Item, reason: String, now: Instant) {
        let target = self.feeds[item.feed].target;
        self.targets[target].refused.inc();
        self.disable(target, reason);
        self.feeds[item.feed].delay(item.part, now);
    }

    fn disable(&mut self, target: usize, mut reason: String) {
        reason.truncate(reason.floor_char_boundary(REASON_KEPT));
        let target = &mut self.targets[target];
        tracing::error!(destination = &*target.name, reason, "disabled by its receiver");
        target.held = Some(Held::Disabled(reason));
        self.dirty = true;
    }

    fn refuse(&mut self, item: Item, record: &Batch, mut reason: String) {
        let feed = &mut self.feeds[item.feed];
        let target = &self.targets[feed.target];
        let lane = feed.at.partition;
        let mut policy = target.options.on_failure;
        if policy == OnFailure::DeadLetter
            && let Some(why) = self.shared.refuses_letters(lane)
        {
            reason = format!("{reason}; it cannot be dead-lettered: {why}");
            policy = OnFailure::Halt;
        }
        tracing::warn!(destination = &*target.name, %lane, offset = %item.part.offset, reason, ?policy, "refused");
        match policy {
            OnFailure::Halt => {
                feed.halt(item.part, reason);
                self.not_failing(item);
                self.dirty = true;
                return;
            }
            OnFailure::DeadLetter => {
                let letter = self.letters.entry(lane).or_default();
                for record in record {
                    letter.push(record.key, record.value, |h| {
                        h.put_all(record.headers);
                        h.put(Name::Destination, target.name.as_bytes());
                        h.put(Name::Error, error_json("push-refused", &reason).as_bytes());
                    });
                }
            }
            OnFailure::Skip => {}
        }
        self.finish(item);
    }

    pub(super) fn loaded(&mut self, loaded: Loaded) {
        let Loaded { item, batches } = loaded;
        self.targets[self.feeds[item.feed].target].in_flight -= 1;
        if self.is_void(item) {
            return;
        }
        let feed = &mut self.feeds[item.feed];
        feed.under_way -= 1;
        match batches {
            Ok(batches) => feed.keep_from(item.part.offset, &batches),
            Err(error) if is_passing(&error) => tracing::warn!(at = %feed.at, %error, "reading again"),
            Err(error) => {
                feed.lose(error.to_string());
                self.dirty = true;
            }
        }
        self.feeds[item.feed].delay(item.part, Instant::now());
    }

    pub(super) fn read(&mut self, read: Read) {
        let feed = &mut self.feeds[read.feed];
        if feed.life != read.life {
            return;
        }
        feed.reading = false;
        feed.reader = read.fetch.reader;
        match read.fetch.fetched {
            Ok(fetched) => {
                feed.admit(&fetched.batches, fetched.next);
                self.dirty |= feed.lost.is_some();
            }
            Err(error) if is_passing(&error) => tracing::warn!(at = %feed.at, %error, "reading again"),
            Err(error @ log::Error::Damaged(_)) => feed.meets_damage(error.to_string()),
            Err(error) => {
                feed.lose(error.to_string());
                self.dirty = true;
            }
        }
    }
}
