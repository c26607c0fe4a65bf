//! How much may be sent to a processor: everything, a little, or one probe.

use std::time::Duration;

use tokio::time::Instant;

use crate::order::{Breaker, BreakerPolicy, Pass};

/// The first refusal shuts the gate: the others under way will say the same. A probe is one
/// record, so that a worker which is back may be found soon; one that asks to be left alone for
/// longer than the cap is probed all the same.
const POLICY: BreakerPolicy =
    BreakerPolicy { failures: 1, wait: Duration::from_millis(200), cap: Duration::from_secs(30) };

/// Lets records through while the worker can be reached, and one probe at a time while not.
///
/// After an outage the number at once begins at half of what it was, or at one after a probe that
/// failed, and grows by one with every answer, so that a worker that has just come back is not overrun.
#[derive(Debug)]
pub(super) struct Gate {
    most: usize,
    allowed: usize,
    breaker: Breaker,
    /// A probe is under way: what others say who were under way before it is old.
    probing: bool,
    /// The breaker counts time from here.
    origin: Instant,
}

impl Gate {
    /// Lets `most` records through at once.
    pub(super) fn new(most: usize, now: Instant) -> Self {
        Self { most, allowed: most, breaker: Breaker::new(POLICY), probing: false, origin: now }
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    /// How many more may begin while `running` are at it.
    pub(super) fn room(&self, now: Instant, running: usize) -> usize {
        match self.breaker.until() {
            None => self.allowed.saturating_sub(running),
            Some(until) => usize::from(until <= self.since(now)),
        }
    }

    /// One begins, for which there is room.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let probe = self.breaker.try_pass(self.since(now)) == Pass::Probe;
        self.probing |= probe;
        probe
    }

    /// The worker has answered, well or not.
    pub(super) fn reached(&mut self, now: Instant) {
        if self.is_shut() {
            tracing::info!("the worker is back");
        }
        self.breaker.success(self.since(now));
        self.probing &= self.is_shut();
        self.allowed = self.most.min(self.allowed + 1);
    }

    /// The worker was not reached, or has no room.
    pub(super) fn unreachable(&mut self, probe: bool, retry_after: Option<Duration>, now: Instant) {
        if self.probing && !probe {
            return;
        }
        self.probing = false;
        if probe {
            self.allowed = 1;
        } else if !self.is_shut() {
            self.allowed = (self.allowed / 2).max(1);
        }
        self.breaker.failure(self.since(now), retry_after);
    }

    /// Whether the worker is taken for unreachable.
    pub(super) const fn is_shut(&self) -> bool {
        self.breaker.is_open()
    }

    /// When the next probe may begin.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.breaker.until().map(|until| self.origin + until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_until_it_is_answered_then_ever_more() {
        let start = Instant::now();
        let mut gate = Gate::new(100, start);
        assert_eq!(gate.room(start, 60), 40);
        assert!(!gate.begin(start));
        gate.unreachable(false, Some(Duration::from_secs(3)), start);
        let mut now = start + Duration::from_millis(2_999);
        assert_eq!((gate.room(now, 0), gate.is_shut()), (0, true));
        // Others that fail meanwhile neither count nor shorten it.
        gate.unreachable(false, None, now);
        now = start + Duration::from_secs(3);
        assert_eq!((gate.room(now, 50), gate.probe_at()), (1, Some(now)));
        assert!(gate.begin(now));
        assert_eq!(gate.room(now, 1), 0);
        gate.reached(now);
        assert_eq!((gate.room(now, 1), gate.is_shut()), (50, false));
        gate.reached(now);
        assert_eq!(gate.room(now, 0), 52);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failed_probe_the_first_answer_lets_two_through() {
        let start = Instant::now();
        let mut gate = Gate::new(100, start);
        gate.unreachable(false, None, start);
        let now = gate.probe_at().expect("it is shut");
        assert!(gate.begin(now));
        gate.unreachable(true, None, now);
        let now = gate.probe_at().expect("it is shut");
        assert!(gate.begin(now));
        gate.reached(now);
        assert_eq!(gate.room(now, 0), 2);
    }
}
