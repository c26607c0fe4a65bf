//! How much may be sent to a processor: everything, a little, or one probe.

use std::time::Duration;

use tokio::time::Instant;

/// The first and the longest pause between two probes. A probe is one record, so that a worker
/// which is back may be found soon.
const PROBE_FIRST: Duration = Duration::from_millis(200);
const PROBE_CAP: Duration = Duration::from_secs(5);

/// A worker that asks to be left alone for longer is probed all the same.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(300);

/// Lets records through while the worker can be reached, and one probe at a time while not.
///
/// After an outage the number at once begins at half of what it was, and grows by one with every
/// answer, so that a worker that has just come back is not overrun.
#[derive(Debug)]
pub(super) struct Gate {
    most: usize,
    allowed: usize,
    state: State,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing goes through before that.
    ShutUntil(Instant),
    /// One record is on its way.
    Probing,
}

impl Gate {
    /// Lets `most` records through at once.
    pub(super) const fn new(most: usize) -> Self {
        Self { most, allowed: most, state: State::Open, failures: 0 }
    }

    /// How many more may begin while `running` are at it.
    pub(super) fn room(&self, now: Instant, running: usize) -> usize {
        match self.state {
            State::Open => self.allowed.saturating_sub(running),
            State::ShutUntil(until) if until <= now => 1,
            State::ShutUntil(_) | State::Probing => 0,
        }
    }

    /// One begins; whether it is the probe.
    pub(super) const fn begin(&mut self) -> bool {
        let probe = matches!(self.state, State::ShutUntil(_));
        if probe {
            self.state = State::Probing;
        }
        probe
    }

    /// The worker has answered, well or not.
    pub(super) fn reached(&mut self, probe: bool) {
        if probe {
            (self.state, self.failures) = (State::Open, 0);
        }
        self.allowed = self.most.min(self.allowed + 1);
    }

    /// The worker was not reached, or has no room.
    pub(super) fn unreachable(
        &mut self,
        probe: bool,
        retry_after: Option<Duration>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_CAP);
        if !probe && self.state != State::Open {
            // One of those under way when it went away: at most it knows better for how long.
            if let State::ShutUntil(until) = &mut self.state {
                *until = (*until).max(now + asked);
            }
            return;
        }
        let grown = PROBE_FIRST.saturating_mul(1 << self.failures.min(16)).min(PROBE_CAP);
        let pause = grown.mul_f64(rng.f64().mul_add(0.5, 0.5)).max(asked);
        self.failures = self.failures.saturating_add(1);
        self.allowed = if probe { 1 } else { (self.allowed / 2).max(1) };
        self.state = State::ShutUntil(now + pause);
    }

    /// Whether the worker is taken for unreachable.
    pub(super) fn is_shut(&self) -> bool {
        self.state != State::Open
    }

    /// When the next probe may begin.
    pub(super) const fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::ShutUntil(until) => Some(until),
            State::Open | State::Probing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_until_it_is_answered_then_ever_more() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut gate = Gate::new(100);
        let start = Instant::now();
        assert_eq!(gate.room(start, 60), 40);
        assert!(!gate.begin());
        gate.unreachable(false, Some(Duration::from_secs(3)), start, &mut rng);
        let mut now = start + Duration::from_millis(2_999);
        assert_eq!((gate.room(now, 0), gate.is_shut()), (0, true));
        // Others that fail meanwhile neither count nor shorten it.
        gate.unreachable(false, None, now, &mut rng);
        now = start + Duration::from_secs(3);
        assert_eq!(gate.room(now, 50), 1);
        assert!(gate.begin());
        assert_eq!(gate.room(now, 1), 0);
        gate.reached(true);
        assert_eq!((gate.room(now, 1), gate.is_shut()), (50, false));
        gate.reached(false);
        assert_eq!(gate.room(now, 0), 52);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_their_cap_and_a_long_wish_is_cut() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut gate = Gate::new(8);
        let now = Instant::now();
        let mut pauses = Vec::new();
        let mut probe = false;
        for _ in 0..40 {
            gate.unreachable(probe, None, now, &mut rng);
            pauses.push(gate.probe_at().expect("it is shut") - now);
            probe = gate.begin();
            assert!(probe);
        }
        assert!(pauses[0] >= PROBE_FIRST / 2 && pauses[0] <= PROBE_FIRST, "{:?}", pauses[0]);
        assert!(pauses[10..].iter().all(|pause| (PROBE_CAP / 2..=PROBE_CAP).contains(pause)), "{pauses:?}");
        gate.unreachable(true, Some(Duration::from_secs(86_400)), now, &mut rng);
        assert_eq!(gate.probe_at(), Some(now + RETRY_AFTER_CAP));
    }
}
