//! `seriatim demo`: messages that come faster than one at a time could work them off.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;

use super::Exit;
use super::bench::figures::Quantiles;
use super::bench::live::{self, Ended, Standing};
use super::bench::pipeline::Plan;
use super::bench::{CONNECTIONS, Load, Pace, rate};
use super::shared::{bar, is_live, out, unless_closed};

/// How often a line is written where nothing that moves can be shown.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// See it work: messages faster than one at a time could go, each leaving in order and on time
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim demo
  seriatim demo --seconds 10
  seriatim demo --rate 40/s --work 2s

Needs no configuration and no server: the log is in a temporary folder, the messages come over real
HTTP, the worker waits. Ctrl-C ends it with the summary so far.")]
pub(super) struct Demo {
    /// How many messages come
    #[arg(long, default_value = "4/s", value_parser = rate, value_name = "N/s")]
    rate: f64,
    /// How long each is worked on
    #[arg(long, default_value = "750ms", value_parser = humantime::parse_duration)]
    work: Duration,
    /// For how long they come
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many are worked on at once
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    concurrency: u32,
    /// An empty folder for the log, which stays; else a temporary one
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// The summary.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    sent: u64,
    released: u64,
    work_ms: f64,
    /// From sending to being readable in the ordered output, in milliseconds.
    delay: Option<Quantiles>,
    /// How far behind a queue that is worked off one at a time would be, in seconds.
    one_at_a_time_seconds: f64,
    in_order: bool,
    findings: u64,
}

impl Demo {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let ended = runtime.block_on(self.watch());
        runtime.shutdown_background();
        let summary = self.summary(&ended?);
        unless_closed(self.print(&summary).map(|()| Exit::Ok))?;
        Ok(if summary.in_order && summary.findings == 0 { Exit::Ok } else { Exit::Failed })
    }

    async fn watch(&self) -> anyhow::Result<Ended> {
        let (rate, work) = (self.rate, humantime::format_duration(self.work));
        eprintln!("{rate} messages a second, each worked on for {work}, for {} s", self.seconds);
        let data = self.data.clone();
        let load = Load { work: self.work.into(), tail: None, size: 0, kafka: None, data, series: false };
        let plan = Plan { concurrency: self.concurrency, window: 10_000, unordered: false, worker: None };
        let bar = bar(Some(self.seconds), "{wide_bar} {pos}/{len} s\n{msg}");
        let mut lines = Duration::ZERO;
        let pace = Pace::Rate { per_second: self.rate, seconds: self.seconds };
        let mut tell = |now: &Standing| self.tell(now, &bar, &mut lines);
        let ended = live::run(&load, (pace, CONNECTIONS), &plan, &mut tell).await;
        bar.finish_and_clear();
        ended
    }

    fn tell(&self, now: &Standing, bar: &ProgressBar, next_line: &mut Duration) {
        let Standing { elapsed, sent, working, ready, released, delay } = *now;
        let behind = self.one_at_a_time(sent, elapsed);
        let line = format!(
            "sent {sent}, in progress {working}, ready {ready}, released {released}; \
             delay {} ms, one at a time {behind:.1} s",
            delay.as_millis()
        );
        if is_live() {
            bar.set_position(elapsed.as_secs().min(self.seconds));
            bar.set_message(line);
        } else if elapsed >= *next_line {
            eprintln!("{:3} s  {line}", elapsed.as_secs());
            *next_line = elapsed + LINE_EVERY;
        }
    }

    /// The work that one worker would still have before it, in seconds.
    #[allow(clippy::cast_precision_loss, reason = "no demo sends 2^53 messages")]
    fn one_at_a_time(&self, sent: u64, elapsed: Duration) -> f64 {
        (sent as f64).mul_add(self.work.as_secs_f64(), -elapsed.as_secs_f64()).max(0.0)
    }

    #[allow(clippy::cast_precision_loss, reason = "no demo sends 2^53 messages")]
    fn summary(&self, ended: &Ended) -> Summary {
        let sending = Duration::from_secs_f64(ended.accepted as f64 / self.rate);
        Summary {
            sent: ended.accepted,
            released: ended.figures.messages,
            work_ms: self.work.as_secs_f64() * 1_000.0,
            delay: ended.figures.delay,
            one_at_a_time_seconds: self.one_at_a_time(ended.accepted, sending),
            in_order: ended.figures.in_order,
            findings: ended.audit.count(),
        }
    }

    fn print(&self, summary: &Summary) -> anyhow::Result<()> {
        if self.json {
            return Ok(out(serde_json::to_string_pretty(summary)? + "\n")?);
        }
        let Summary { sent, released, work_ms, one_at_a_time_seconds: behind, .. } = summary;
        let mut text = format!("{sent} messages sent, {released} released\n");
        if let Some(Quantiles { p50, p99, max, .. }) = summary.delay {
            let over = p50 - work_ms;
            text += &format!("delay            p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms\n");
            text += &format!("work             {work_ms:.1} ms; {over:.1} ms of the p50 are everything else\n");
        }
        text += &format!("one at a time    {behind:.1} s behind by now\n");
        text += &match (summary.in_order, summary.findings, sent.saturating_sub(*released)) {
            (true, 0, 0) => "order            verified: every message once, in the order of arrival\n".to_owned(),
            (true, 0, left) => {
                format!("order            verified so far; {left} were on their way when it was ended\n")
            }
            _ => {
                "order            NOT as promised; run `seriatim demo --data FOLDER` and `seriatim verify`\n".to_owned()
            }
        };
        text += "\nNext: `seriatim run`, then `seriatim send FILE` and `seriatim tail --follow`.\n";
        Ok(out(text)?)
    }
}
