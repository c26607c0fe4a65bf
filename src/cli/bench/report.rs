//! The figures of a run, as they are printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::super::Exit;
use super::figures::{Delays, Quantiles};

/// The figures of one run; times in seconds, delays in milliseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Figures {
    /// That came out.
    pub(in crate::cli) messages: u64,
    pub(super) total_seconds: f64,
    /// The least that this concurrency could take for the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    ideal_seconds: Option<f64>,
    /// Of the total: until the first message was begun to be worked on.
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_seconds: Option<f64>,
    messages_per_second: f64,
    pub(in crate::cli) delay: Option<Quantiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledgement: Option<Quantiles>,
    /// From the acknowledgement to the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    after_acknowledgement: Option<Quantiles>,
    pub(in crate::cli) in_order: bool,
    /// Accepted, and not come out in time.
    missing: u64,
    /// Not accepted, by the answer.
    refused: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commits: Option<u64>,
    /// Of this process: log, owner and, where it works itself, the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_kib: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    series: Vec<Second>,
}

/// How it stood at some time: counts up to then, delays since the entry before.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Second {
    pub(super) seconds: f64,
    pub(super) out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accepted: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delay: Option<Quantiles>,
}

/// What was measured, before it is put into figures.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) messages: u64,
    pub(super) total: Duration,
    pub(super) ideal: Option<Duration>,
    pub(super) starting: Option<Duration>,
    pub(super) delays: Delays,
    pub(super) acknowledgements: Delays,
    pub(super) after: Delays,
    pub(super) in_order: bool,
    pub(super) missing: u64,
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) commits: Option<u64>,
    pub(super) peak_memory_kib: Option<u64>,
    pub(super) series: Vec<Second>,
}

impl From<Measured> for Figures {
    fn from(measured: Measured) -> Self {
        let total_seconds = measured.total.as_secs_f64();
        Self {
            messages: measured.messages,
            total_seconds,
            ideal_seconds: measured.ideal.filter(|ideal| !ideal.is_zero()).map(|ideal| ideal.as_secs_f64()),
            starting_seconds: measured.starting.map(|starting| starting.as_secs_f64()),
            messages_per_second: per_second(measured.messages, total_seconds),
            delay: measured.delays.quantiles(),
            acknowledgement: measured.acknowledgements.quantiles(),
            after_acknowledgement: measured.after.quantiles(),
            in_order: measured.in_order,
            missing: measured.missing,
            refused: measured.refused,
            commits: measured.commits,
            peak_memory_kib: measured.peak_memory_kib,
            series: measured.series,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate is shown in four digits")]
fn per_second(messages: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { messages as f64 / seconds } else { 0.0 }
}

impl Figures {
    /// How a verb ends that measured this and asked for order.
    pub(super) fn exit(&self) -> Exit {
        match (self.in_order, self.missing, self.refused.is_empty()) {
            (false, ..) => Exit::Failed,
            (true, 1.., _) => Exit::TimedOut,
            (true, 0, false) => Exit::PartlyFailed,
            (true, 0, true) => Exit::Ok,
        }
    }

    pub(super) fn text(&self, name: &str) -> String {
        let mut text = String::new();
        self.write(name, &mut text).expect("a String takes everything");
        text
    }

    fn write(&self, name: &str, to: &mut String) -> std::fmt::Result {
        write!(to, "{name}\n  messages   {} in {:.3} s", self.messages, self.total_seconds)?;
        if let Some(ideal) = self.ideal_seconds {
            let over = (self.total_seconds / ideal - 1.0) * 100.0;
            write!(to, ", {over:.1} % over the ideal {ideal:.3} s")?;
        }
        write!(to, "\n  rate       {:.0}/s\n", self.messages_per_second)?;
        if let Some(starting) = self.starting_seconds {
            let working = self.total_seconds - starting;
            let rate = per_second(self.messages, working);
            writeln!(
                to,
                "  starting   {starting:.3} s until the first was begun, {working:.3} s from then: {rate:.0}/s"
            )?;
        }
        let delays =
            [("delay", self.delay), ("accepted", self.acknowledgement), ("from then", self.after_acknowledgement)];
        for (label, quantiles) in delays {
            if let Some(Quantiles { p50, p99, p999, max }) = quantiles {
                writeln!(to, "  {label:<9}  p50 {p50:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms, max {max:.1} ms")?;
            }
        }
        let order = if self.in_order { "in order of arrival" } else { "not in order of arrival" };
        writeln!(to, "  outputs    {order}")?;
        if self.missing > 0 {
            writeln!(to, "  missing    {} were accepted and have not come out", self.missing)?;
        }
        for (why, count) in &self.refused {
            writeln!(to, "  refused    {count}: {why}")?;
        }
        if let Some(commits) = self.commits {
            writeln!(to, "  commits    {commits}")?;
        }
        if let Some(kib) = self.peak_memory_kib {
            writeln!(to, "  memory     {} MiB at most", kib / 1024)?;
        }
        self.series.iter().try_for_each(|second| second.write(to))
    }
}

impl Second {
    fn write(&self, to: &mut String) -> std::fmt::Result {
        write!(to, "  {:9.1} s  {} out", self.seconds, self.out)?;
        for (count, what) in [(self.accepted, "accepted"), (self.refused, "refused")] {
            if let Some(count) = count {
                write!(to, ", {count} {what}")?;
            }
        }
        if let Some(Quantiles { p50, p99, .. }) = self.delay {
            write!(to, "; delay p50 {p50:.1} ms, p99 {p99:.1} ms")?;
        }
        writeln!(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_that_happened_is_the_exit_code() {
        let exit = |in_order, missing, refused: &[(&str, u64)]| {
            let refused = refused.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect();
            Figures::from(Measured { in_order, missing, refused, ..Measured::default() }).exit()
        };
        assert_eq!(exit(true, 0, &[]), Exit::Ok);
        assert_eq!(exit(true, 0, &[("429 overloaded", 3)]), Exit::PartlyFailed);
        assert_eq!(exit(true, 2, &[("429 overloaded", 3)]), Exit::TimedOut);
        assert_eq!(exit(false, 2, &[]), Exit::Failed);
    }
}
