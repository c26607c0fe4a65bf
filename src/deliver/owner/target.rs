//! One destination, as one owner sees it.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use tokio::time::Instant;

use super::super::{Destination, Options, Sender};
use super::trouble::Trouble;
use crate::metrics::{self, Push};
use crate::order::{Backoff, Breaker, BreakerPolicy, Pace};
use crate::record::Offset;
use crate::record::push::{Held, TestItem};

/// Failures in a row after which a destination is taken for down and only probed: more than one
/// item's bad luck, few enough that a receiver in trouble is left alone within seconds.
const BREAKER_FAILURES: u32 = 5;

pub(super) struct Target {
    pub(super) name: Arc<str>,
    pub(super) options: Options,
    pub(super) sender: Arc<dyn Sender>,
    pub(super) breaker: Breaker,
    /// Why nothing is pushed here at present.
    pub(super) held: Option<Held>,
    /// Pushes and loads under way.
    pub(super) in_flight: usize,
    /// What the receiver asked for, in a `Retry-After`.
    pub(super) asked: Option<Instant>,
    /// When the breaker is to be asked again.
    pub(super) probe: Option<Instant>,
    /// How many items at once it takes, by its last answer.
    pub(super) takes: usize,
    /// What keeps to its rate, and when the next item may go by that.
    pace: Option<Pace>,
    paced: Option<Instant>,
    /// What goes wrong, and whether a cursor tells of it as it is now.
    pub(super) trouble: Option<Trouble>,
    pub(super) is_told: bool,
    /// Test items to be sent, with their orders.
    pub(super) tests: VecDeque<(Offset, TestItem)>,
    /// Its feeds' indices, and which of them comes first the next time.
    pub(super) feeds: Range<usize>,
    pub(super) turn: usize,
    pub(super) acknowledged: IntCounter,
    pub(super) retried: IntCounter,
    pub(super) refused: IntCounter,
}

impl Target {
    /// One of `owners` that share what there is of it.
    pub(super) fn new(
        name: Arc<str>,
        of: &Destination,
        held: Option<Held>,
        feeds: Range<usize>,
        owners: NonZeroU32,
    ) -> Self {
        let (options, retry) = (of.options.clone(), of.options.retry);
        let policy = BreakerPolicy { failures: BREAKER_FAILURES, wait: retry.backoff, cap: retry.cap };
        Self {
            sender: of.sender.clone(),
            breaker: Breaker::new(policy),
            held,
            in_flight: 0,
            asked: None,
            probe: None,
            takes: 1,
            pace: options.rate.map(|rate| Pace::new(rate.items, rate.per.saturating_mul(owners.get()))),
            paced: None,
            trouble: None,
            is_told: true,
            tests: VecDeque::new(),
            turn: feeds.start,
            feeds,
            acknowledged: metrics::pushes(&name, Push::Acknowledged),
            retried: metrics::pushes(&name, Push::Retried),
            refused: metrics::pushes(&name, Push::Refused),
            name,
            options,
        }
    }

    /// Before when nothing is pushed here.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.asked.max(self.probe).max(self.paced)
    }

    /// When a pause for the rate's sake ends, of which no item tells.
    pub(super) fn paced_until(&self, now: Instant) -> Option<Instant> {
        self.paced.filter(|paced| *paced > now).and(self.not_before())
    }

    /// So many items go now, `since` the origin.
    pub(super) fn count_on_pace(&mut self, origin: Instant, since: Duration, items: u32) {
        if let Some(pace) = &mut self.pace {
            pace.take(since, items);
            self.paced = Some(origin + pace.not_before());
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.held.is_none() && self.has_connection()
    }

    /// Whether one more may be under way.
    pub(super) fn has_connection(&self) -> bool {
        self.in_flight < self.options.concurrency.get()
    }

    /// How many items may go in one request.
    pub(super) fn batch(&self) -> usize {
        self.options.batch.get().min(self.takes)
    }

    /// The pause after `attempt` attempts at an item, `None` where no further one is to be made.
    pub(super) fn pause(&self, attempt: u32, entropy: u64) -> Option<Duration> {
        let retry = self.options.retry;
        let attempts = retry.attempts.map_or(u32::MAX, u32::from);
        // The schedule is at its cap long before the counter is at its end.
        let attempt = if retry.attempts.is_none() { attempt.min(u32::MAX - 1) } else { attempt };
        Backoff { base: retry.backoff, cap: retry.cap, attempts }.delay(attempt, entropy)
    }
}
