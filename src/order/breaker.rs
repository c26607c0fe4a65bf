//! Whether to call somebody who was not there the last time.

use std::time::Duration;

/// How a [`Breaker`] opens and waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it; 0 counts as 1.
    pub failures: u32,
    /// The first wait before a probe; doubled each time the probe fails.
    pub wait: Duration,
    /// The longest wait, asked for by `Retry-After` or grown to. Also how long an unanswered probe
    /// keeps others back at most.
    pub cap: Duration,
}

/// Whether a call may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Closed: go.
    Go,
    /// Go, alone, to see whether it works again; tell the breaker what came of it.
    Probe,
    /// Open: ask again at this time, or after the next [`Breaker::success`].
    Wait(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, doublings: u32 },
    Probing { until: Duration, doublings: u32 },
}

/// A circuit breaker. Pure: `now` is the time since an origin that the caller chose, and never
/// goes back. Count only what says that nobody can be reached (refused connections, DNS, TLS, 429,
/// 503), not what says that a message is bad.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: State::Closed { failures: 0 } }
    }

    /// Asks for a call. [`Pass::Probe`] goes to one caller at a time; if it never tells what came of it, the
    /// next is let through after the wait that applied.
    pub fn try_pass(&mut self, now: Duration) -> Pass {
        match self.state {
            State::Closed { .. } => Pass::Go,
            State::Open { until, .. } | State::Probing { until, .. } if now < until => Pass::Wait(until),
            State::Open { doublings, .. } | State::Probing { doublings, .. } => {
                self.state = State::Probing { until: now.saturating_add(self.wait(doublings)), doublings };
                Pass::Probe
            }
        }
    }

    /// A call came through. Closes the breaker, except before a probe was due: then it is the late
    /// answer to an old call, and the wait that was asked for stands.
    pub fn success(&mut self, now: Duration) {
        match self.state {
            State::Open { until, .. } if now < until => {}
            _ => self.state = State::Closed { failures: 0 },
        }
    }

    /// A call did not come through; `retry_after` is what the other side asked for. Late answers to
    /// old calls do not grow the wait of an open breaker.
    pub fn failure(&mut self, now: Duration, retry_after: Option<Duration>) {
        let asked = now.saturating_add(retry_after.unwrap_or_default().min(self.policy.cap));
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures >= self.policy.failures || retry_after.is_some() {
                    self.open(now, asked, 0);
                }
            }
            State::Open { until, .. } => *until = asked.max(*until),
            State::Probing { doublings, .. } => {
                let doublings = doublings.saturating_add(1);
                self.open(now, asked, doublings);
            }
        }
    }

    /// Whether calls are held back.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// While calls are held back: when the next probe may go, unless what is under way says more.
    #[must_use]
    pub const fn until(&self) -> Option<Duration> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } | State::Probing { until, .. } => Some(until),
        }
    }

    fn open(&mut self, now: Duration, asked: Duration, doublings: u32) {
        let until = now.saturating_add(self.wait(doublings)).max(asked);
        self.state = State::Open { until, doublings };
    }

    fn wait(&self, doublings: u32) -> Duration {
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.policy.wait.saturating_mul(factor).min(self.policy.cap)
    }
}
