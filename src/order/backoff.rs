//! When to try again.

use std::time::Duration;

/// Exponential waits between the attempts at one thing.
///
/// Jitter is added to a floor and never takes from it, as `linkerd-exp-backoff` in linkerd2-proxy
/// does: the first retry never comes before `base`. Why jitter at all: Marc Brooker, "Exponential
/// Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The least wait after the first attempt; what exceeds two thirds of `cap` does not count.
    pub base: Duration,
    /// The longest wait, jitter included.
    pub cap: Duration,
    /// How many attempts there are in all.
    pub attempts: u32,
}

impl Backoff {
    /// How long to wait after `attempt` attempts (1: after the first), or `None` when there is no
    /// further one; no wait before the first. `entropy` is 64 random bits. The floor doubles from
    /// `base` with each attempt up to two thirds of `cap`; up to half of the floor is added.
    #[must_use]
    pub fn delay(&self, attempt: u32, entropy: u64) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let Some(doublings) = attempt.checked_sub(1) else { return Some(Duration::ZERO) };
        // Room for the jitter stays below the cap, or all that wait the longest would wait alike.
        let highest = self.cap - self.cap / 3;
        let floor = 1_u32.checked_shl(doublings).map_or(highest, |n| self.base.saturating_mul(n).min(highest));
        Some(floor + fraction(floor / 2, entropy))
    }
}

/// The wait that a `Retry-After` asks for, honoured up to `cap`, or the schedule's if that is longer.
#[must_use]
pub fn retry_after(schedule: Duration, hint: Option<Duration>, cap: Duration) -> Duration {
    schedule.max(hint.unwrap_or_default().min(cap))
}

/// `duration` times `entropy` / 2^64.
fn fraction(duration: Duration, entropy: u64) -> Duration {
    // A duration has less than 2^94 ns; the upper 32 bits of entropy are spread enough.
    let nanos = (duration.as_nanos() * u128::from(entropy >> 32)) >> 32;
    Duration::from_nanos_u128(nanos)
}
