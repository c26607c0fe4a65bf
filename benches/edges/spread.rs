//! Delays, exactly, by nearest rank.

use std::fmt;
use std::time::Duration;

/// All that were measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Vec<Duration>);

impl Spread {
    pub(crate) fn of(mut delays: Vec<Duration>) -> Self {
        delays.sort_unstable();
        Self(delays)
    }

    /// All of several measurements together.
    pub(crate) fn all(several: Vec<Self>) -> Self {
        Self::of(several.into_iter().flat_map(|spread| spread.0).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The delay that so many of a hundred do not exceed.
    pub(crate) fn at(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.max(1) - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |percent| self.at(percent).as_secs_f64() * 1e3;
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms of {}", millis(50), millis(99), millis(100), self.len())
    }
}
