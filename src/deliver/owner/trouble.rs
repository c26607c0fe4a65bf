//! What a destination waits for, noted in the cursor so that any process can tell.
//!
//! It changes with every attempt, and nobody needs it at once: it goes with the next commit, or with the
//! next beat where none is due.

use std::mem::discriminant;

use tokio::time::Instant;

use super::Owner;
use super::target::Target;
use super::tasks::Item;
use crate::record::push::{Held, REASON_KEPT, Retrying};
use crate::record::{Offset, Timestamp};

/// An item that was not acknowledged and is tried again.
pub(super) struct Trouble {
    feed: usize,
    offset: Offset,
    attempts: u32,
    error: String,
    since: Timestamp,
    next: Instant,
}

impl Target {
    /// Nothing is known to go wrong any more.
    pub(super) fn settled(&mut self) {
        self.is_told &= self.trouble.take().is_none();
    }
}

impl Owner {
    /// An item is tried again from `next` on. Of several, the one that was tried most is told.
    pub(super) fn failing(&mut self, item: Item, error: &str, next: Instant) {
        let attempts = self.feeds[item.feed].entry(item.part).map_or(1, |entry| entry.attempts.max(1));
        let target = &mut self.targets[self.feeds[item.feed].target];
        let known = target.trouble.take();
        let (same, other) = match known {
            Some(known) if known.is(item) => (Some(known.since), None),
            other => (None, other.filter(|other| other.attempts > attempts)),
        };
        let error = error[..error.floor_char_boundary(REASON_KEPT)].to_owned();
        let since = same.unwrap_or_else(|| self.shared.log.now());
        let (feed, offset) = (item.feed, item.part.offset);
        target.trouble = other.or(Some(Trouble { feed, offset, attempts, error, since, next }));
        target.is_told = false;
    }

    /// An item is done with, or waits for an operator. While the receiver is down it stands for the others.
    pub(super) fn not_failing(&mut self, item: Item) {
        let target = &mut self.targets[self.feeds[item.feed].target];
        if !target.breaker.is_open() && target.trouble.as_ref().is_some_and(|trouble| trouble.is(item)) {
            target.settled();
        }
    }

    /// Notes for each destination what holds it now.
    pub(super) fn tell_what_holds(&mut self, now: Instant) {
        for index in 0..self.targets.len() {
            let held = self.held(&self.targets[index], now);
            let target = &mut self.targets[index];
            target.is_told = true;
            match held {
                Some(held) => self.state.held.insert(target.name.to_string(), held),
                None => self.state.held.remove(&*target.name),
            };
        }
    }

    /// Whether the cursor does not tell what holds a destination.
    pub(super) fn has_news(&self, now: Instant) -> bool {
        self.targets.iter().any(|target| {
            let told = self.state.held.get(&*target.name).map(discriminant);
            !target.is_told || told != self.held(target, now).as_ref().map(discriminant)
        })
    }

    fn held(&self, target: &Target, now: Instant) -> Option<Held> {
        if target.held.is_some() {
            return target.held.clone();
        }
        if let Some(trouble) = &target.trouble {
            let next = target.not_before().map_or(trouble.next, |at| at.max(trouble.next));
            let wait = i64::try_from(next.saturating_duration_since(now).as_millis()).unwrap_or(i64::MAX);
            return Some(Held::Retrying(Retrying {
                lane: self.feeds[trouble.feed].at.partition.0,
                offset: trouble.offset.0,
                attempts: trouble.attempts,
                error: trouble.error.clone(),
                since: trouble.since.0,
                next: self.shared.log.now().0.saturating_add(wait),
                down: target.breaker.is_open(),
            }));
        }
        let waits = self.feeds[target.feeds.clone()].iter().any(super::Feed::has_items);
        target.paced_until(now).filter(|_| waits).map(|_| Held::Paced)
    }
}

impl Trouble {
    fn is(&self, item: Item) -> bool {
        (self.feed, self.offset) == (item.feed, item.part.offset)
    }
}
