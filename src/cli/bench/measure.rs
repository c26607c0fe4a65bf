//! Figures: latencies, memory, and how they are printed.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// Collects how long each message took.
#[derive(Debug, Default)]
pub(in crate::cli) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(in crate::cli) fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// The latency that this share of the messages did not exceed; zero where there were none.
    pub(in crate::cli) fn quantile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an index below the length
        let index = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(index.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(super) fn json(mut self) -> Value {
        let millis = |latency: Duration| (seconds(latency) * 1e6).round() / 1e3;
        json!({
            "p50Ms": millis(self.quantile(0.5)),
            "p99Ms": millis(self.quantile(0.99)),
            "p999Ms": millis(self.quantile(0.999)),
            "maxMs": millis(self.quantile(1.0)),
        })
    }
}

pub(in crate::cli) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// The most memory that this process has had, in MiB; `None` where the system does not tell.
pub(super) fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().split(' ').next()?.parse::<u64>().ok()? / 1024)
}

/// The report for people.
pub(super) fn text(report: &Value) -> String {
    let mut text = String::new();
    for run in ["ordered", "unordered"] {
        let Some(figures) = report.get(run) else { continue };
        let number = |name: &str| figures[name].as_f64();
        let latency = |name: &str| figures["latency"][name].as_f64().unwrap_or_default();
        let _ = writeln!(text, "{run}");
        let total = number("seconds").unwrap_or_default();
        let _ = write!(text, "  {} messages in {total:.2} s", figures["messages"]);
        if let Some(ideal) = number("idealSeconds").filter(|ideal| *ideal > 0.0) {
            let _ = write!(text, " ({:.3} of the ideal {ideal:.2} s)", total / ideal);
        }
        let _ = writeln!(text, ", {:.0} a second", number("perSecond").unwrap_or_default());
        let (p50, p99, p999, max) = (latency("p50Ms"), latency("p99Ms"), latency("p999Ms"), latency("maxMs"));
        let _ = writeln!(text, "  latency p50 {p50:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms, max {max:.1} ms");
        if let Some(work) = number("workSeconds").map(|work| work * 1e3) {
            let (p50, p99) = (p50 - work, p99 - work);
            let _ = writeln!(text, "  above the work's {work:.0} ms: p50 {p50:.1} ms, p99 {p99:.1} ms");
        }
    }
    if let Some(ratio) = report["ratio"].as_f64() {
        let _ = writeln!(text, "ordered took {ratio:.3} times as long as unordered");
    }
    if let Some(rss) = report["peakRssMiB"].as_u64() {
        let _ = writeln!(text, "peak memory of the pipeline's process: {rss} MiB");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_latencies() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), Duration::ZERO);
        (1..=100).rev().for_each(|ms| latencies.add(Duration::from_millis(ms)));
        let quantiles = [0.5, 0.99, 1.0].map(|share| latencies.quantile(share).as_millis());
        assert_eq!(quantiles, [50, 99, 100]);
    }
}
