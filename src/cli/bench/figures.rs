//! Figures: delays, and what a process has taken.

use std::time::Duration;

use serde::Serialize;

/// Delays, every one of them kept, four bytes each: quantiles are exact.
#[derive(Debug, Default)]
pub(in crate::cli) struct Delays(Vec<u32>);

impl Delays {
    /// Adds one; what is longer than 71 minutes counts as that.
    pub(in crate::cli) fn add(&mut self, delay: Duration) {
        self.0.push(u32::try_from(delay.as_micros()).unwrap_or(u32::MAX));
    }

    /// `None` where there is none.
    pub(in crate::cli) fn quantiles(mut self) -> Option<Quantiles> {
        self.0.sort_unstable();
        let last = self.0.len().checked_sub(1)?;
        // Nearest rank, in thousandths: the lowest that so many are not above.
        let at = |thousandths: usize| {
            let rank = (self.0.len() * thousandths).div_ceil(1_000).saturating_sub(1).min(last);
            f64::from(self.0[rank]) / 1_000.0
        };
        Some(Quantiles { p50: at(500), p99: at(990), p999: at(999), max: at(1_000) })
    }
}

/// Delays in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(in crate::cli) struct Quantiles {
    pub(in crate::cli) p50: f64,
    pub(in crate::cli) p99: f64,
    pub(in crate::cli) p999: f64,
    pub(in crate::cli) max: f64,
}

/// Lets the peak of memory be counted from now on, where the system can.
pub(in crate::cli) fn reset_peak() {
    // Where this is not allowed the peak of the whole process is told, which is never too low.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory this process has had, in KiB; `None` where the system does not say.
pub(in crate::cli) fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut delays = Delays::default();
        (1..=1_000).rev().for_each(|ms| delays.add(Duration::from_millis(ms)));
        let expected = Quantiles { p50: 500.0, p99: 990.0, p999: 999.0, max: 1_000.0 };
        assert_eq!(delays.quantiles(), Some(expected));
        assert_eq!(Delays::default().quantiles(), None);
    }
}
