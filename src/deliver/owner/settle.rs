//! What becomes of an item after an attempt, and of what was read.

use std::time::Duration;

use tokio::time::Instant;

use super::super::options::OnFailure;
use super::super::verdict::{Verdict, judge};
use super::Owner;
use super::tasks::{Item, Loaded, Read, Sent, is_passing};
use crate::order::retry_after;
use crate::record::push::{Held, REASON_KEPT};
use crate::record::{Batch, Name, error_json};

impl Owner {
    pub(super) fn sent(&mut self, sent: Sent) {
        let Sent { item, record, outcome } = sent;
        let now = Instant::now();
        self.targets[self.feeds[item.feed].target].in_flight -= 1;
        let verdict = judge(&outcome, self.shared.log.now());
        self.feed_breaker(item, &verdict, now);
        if self.is_void(item) {
            return;
        }
        self.feeds[item.feed].under_way -= 1;
        let target = &self.targets[self.feeds[item.feed].target];
        match verdict {
            Verdict::Delivered => {
                target.acknowledged.inc();
                self.finish(item);
            }
            Verdict::Again { reason, after, down: _ } => {
                target.retried.inc();
                self.again(item, &record, &reason, after, now);
            }
            Verdict::Gone(reason) => self.gone(item, reason, now),
            Verdict::Refused(reason) => {
                target.refused.inc();
                self.refuse(item, &record, reason);
            }
        }
    }

    /// Every attempt tells of the receiver's health, whatever it tells of the item.
    fn feed_breaker(&mut self, item: Item, verdict: &Verdict, now: Instant) {
        let since_origin = self.since_origin(now);
        let target = &mut self.targets[self.feeds[item.feed].target];
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
            tracing::info!(destination = &*target.name, "is back");
        }
    }

    fn is_void(&self, item: Item) -> bool {
        self.feeds[item.feed].life != item.life
    }

    /// Done for good, once it is committed.
    pub(super) fn finish(&mut self, item: Item) {
        self.feeds[item.feed].finish(item.part);
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
            }
            None => self.refuse(item, record, format!("given up after {attempts} attempts: {reason}")),
        }
    }

    /// The receiver wants nothing any more. The item, like all others, waits for an operator.
    fn gone(&mut self, item: Item, mut reason: String, now: Instant) {
        reason.truncate(reason.floor_char_boundary(REASON_KEPT));
        let target = &mut self.targets[self.feeds[item.feed].target];
        tracing::error!(destination = &*target.name, reason, "disabled by its receiver");
        target.refused.inc();
        target.held = Some(Held::Disabled(reason));
        self.feeds[item.feed].delay(item.part, now);
        self.dirty = true;
    }

    fn refuse(&mut self, item: Item, record: &Batch, mut reason: String) {
        let feed = &mut self.feeds[item.feed];
        let target = &self.targets[feed.target];
        let lane = feed.at.partition;
        let mut policy = target.options.on_failure;
        if policy == OnFailure::DeadLetter
            && let Some(why) = self.shared.letters_refused.lock().expect("no holder panics").get(&lane)
        {
            reason = format!("{reason}; it cannot be dead-lettered: {why}");
            policy = OnFailure::Halt;
        }
        tracing::warn!(destination = &*target.name, %lane, offset = %item.part.offset, reason, ?policy, "refused");
        match policy {
            OnFailure::Halt => {
                feed.halt(item.part, reason);
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
            Ok(fetched) => feed.admit(&fetched.batches, fetched.next),
            Err(error) if is_passing(&error) => tracing::warn!(at = %feed.at, %error, "reading again"),
            Err(error) => {
                feed.lose(error.to_string());
                self.dirty = true;
            }
        }
    }
}
