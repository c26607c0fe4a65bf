//! `seriatim bench`: load, and how long it takes, on a pipeline of its own.

pub(super) mod figures;
mod ground;
pub(super) mod live;
pub(super) mod pipeline;
pub(super) mod task;
mod waiting;
mod worker;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::shared::{bar, out, unless_closed};
use super::{Exit, Failure};
use crate::process::config::{Config, Properties};
use figures::{Delays, Quantiles};
use pipeline::Plan;
use task::{Tail, Work};
use worker::Worker;

/// Measure a pipeline of its own: throughput, delay, and what order costs
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    before_help = "\
Examples:
  seriatim bench --messages 10000 --work 750ms --concurrency 1000 --worker http
  seriatim bench --messages 10000 --work 10ms --tail 0.01:1s --concurrency 100 --worker http --compare
  seriatim bench --messages 1000000 --size 100
  seriatim bench --rate 4/s --seconds 60 --work 750ms

The pipeline is on the log that the configuration names: with log.kafka on topics of its own in that
cluster, which are deleted afterwards, else in a temporary folder. Without --rate the messages wait
in the log before the roles start, and delays count from that start. With --rate they come over
HTTP, and delays count from their sending. docs/benchmarks.md says how to read the figures."
)]
pub(super) struct Bench {
    #[command(subcommand)]
    hidden: Option<Hidden>,
    /// How many messages wait
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "rate")]
    messages: u64,
    /// How long each is worked on; 0ms..5ms draws a time between the two for each
    #[arg(long, default_value = "0s", value_name = "TIME")]
    work: Work,
    /// A share that takes longer, SHARE:TIME
    #[arg(long, value_name = "SHARE:TIME")]
    tail: Option<Tail>,
    /// How many are worked on at once
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    concurrency: u32,
    /// How many are admitted and not yet released
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Who works: a process of its own over HTTP, or this one
    #[arg(long, value_enum, default_value = "echo")]
    worker: Who,
    /// The least size of a message, in bytes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    size: u32,
    /// Each message leaves when it is done, on the same machinery
    #[arg(long)]
    unordered: bool,
    /// Both, one after the other, and their ratio
    #[arg(long, conflicts_with = "unordered")]
    compare: bool,
    /// Messages that come instead of waiting, as in 4/s
    #[arg(long, value_parser = rate, value_name = "N/s")]
    rate: Option<f64>,
    /// For how long they come
    #[arg(long, default_value_t = 60, requires = "rate", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many have come out, second by second
    #[arg(long)]
    series: bool,
    /// An empty folder for the log, which stays; else a temporary one
    #[arg(long, value_name = "FOLDER", conflicts_with = "compare")]
    data: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// The worker that `--worker http` starts
    #[command(hide = true)]
    Worker {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Who {
    Http,
    Echo,
}

/// Messages per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    // Above this a tick of the runtime's clock, a millisecond, would have to carry several.
    let number = number.filter(|rate| (0.01..=1_000.0).contains(rate));
    number.ok_or_else(|| format!("\"{text}\" is no rate from 0.01/s to 1000/s, such as 4/s"))
}

/// What messages are like.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) work: Work,
    pub(super) tail: Option<Tail>,
    pub(super) size: usize,
    /// Where the log is, instead of a folder.
    pub(super) kafka: Option<Properties>,
    pub(super) data: Option<PathBuf>,
    pub(super) series: bool,
}

impl Load {
    /// The longest work of a message.
    pub(super) fn longest(&self) -> Duration {
        self.work.most().max(self.tail.map_or(Duration::ZERO, Tail::work))
    }

    /// Adds to the series where a second has passed.
    pub(super) fn note(&self, series: &mut Vec<(f64, u64)>, elapsed: Duration, count: u64) {
        let now = elapsed.as_secs_f64();
        if self.series && series.last().is_none_or(|(last, _)| now >= last + 1.0) {
            series.push((now, count));
        }
    }
}

/// The figures of one run; times in seconds, delays in milliseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    messages: u64,
    total_seconds: f64,
    /// The least that this concurrency could take for the work.
    ideal_seconds: Option<f64>,
    /// Of the total: until the first message was begun to be worked on.
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_seconds: Option<f64>,
    messages_per_second: f64,
    pub(super) delay: Option<Quantiles>,
    pub(super) in_order: bool,
    commits: u64,
    /// Of this process: log, owner and, where it works itself, the worker.
    peak_memory_kib: Option<u64>,
    /// Seconds, and messages out by then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    series: Vec<(f64, u64)>,
}

/// What was measured, before it is put into figures.
struct Measured {
    total: Duration,
    ideal: Option<Duration>,
    starting: Option<Duration>,
    delays: Delays,
    in_order: bool,
    commits: u64,
    peak_memory_kib: Option<u64>,
    series: Vec<(f64, u64)>,
}

impl Measured {
    /// Of so many messages.
    fn figures(self, messages: u64) -> Figures {
        let Self { total, ideal, starting, delays, in_order, commits, peak_memory_kib, series } = self;
        Figures {
            messages,
            total_seconds: total.as_secs_f64(),
            ideal_seconds: ideal.filter(|ideal| !ideal.is_zero()).map(|ideal| ideal.as_secs_f64()),
            starting_seconds: starting.map(|starting| starting.as_secs_f64()),
            messages_per_second: per_second(messages, total.as_secs_f64()),
            delay: delays.quantiles(),
            in_order,
            commits,
            peak_memory_kib,
            series,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate is shown in four digits")]
fn per_second(messages: u64, seconds: f64) -> f64 {
    messages as f64 / seconds
}

impl Figures {
    /// How many came out.
    pub(super) const fn messages(&self) -> u64 {
        self.messages
    }

    fn text(&self, name: &str) -> String {
        let mut text = format!("{name}\n  messages   {} in {:.3} s", self.messages, self.total_seconds);
        if let Some(ideal) = self.ideal_seconds {
            let over = (self.total_seconds / ideal - 1.0) * 100.0;
            write!(text, ", {over:.1} % over the ideal {ideal:.3} s").expect("a String takes everything");
        }
        write!(text, "\n  rate       {:.0}/s\n", self.messages_per_second).expect("a String takes everything");
        if let Some(starting) = self.starting_seconds {
            let working = self.total_seconds - starting;
            let rate = per_second(self.messages, working);
            writeln!(
                text,
                "  starting   {starting:.3} s until the first was begun, {working:.3} s from then: {rate:.0}/s"
            )
            .expect("a String takes everything");
        }
        if let Some(Quantiles { p50, p99, p999, max }) = self.delay {
            writeln!(text, "  delay      p50 {p50:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms, max {max:.1} ms")
                .expect("a String takes everything");
        }
        let order = if self.in_order { "in order of arrival" } else { "not in order of arrival" };
        write!(text, "  outputs    {order}\n  commits    {}\n", self.commits).expect("a String takes everything");
        if let Some(kib) = self.peak_memory_kib {
            writeln!(text, "  memory     {} MiB at most", kib / 1024).expect("a String takes everything");
        }
        for (second, count) in &self.series {
            writeln!(text, "  {second:9.1} s  {count}").expect("a String takes everything");
        }
        text
    }
}

/// All that is printed.
#[derive(Debug, Serialize)]
struct Results {
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unordered: Option<Figures>,
    /// The ordered run's total time over the unordered one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

impl Bench {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        if let Some(Hidden::Worker { listen }) = &self.hidden {
            return worker::serve(listen);
        }
        if self.data.is_some() && config.log.kafka.is_some() {
            let reason = "--data is a folder for the embedded log, but the configuration has the log in Kafka";
            return Err(Failure::new(Exit::Usage, reason).into());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let results = runtime.block_on(self.measure(config.log.kafka.as_ref()));
        runtime.shutdown_background();
        let results = results?;
        let ordered = results.ordered.as_ref().is_none_or(|figures| figures.in_order);
        unless_closed(self.print(&results))?;
        Ok(if ordered { Exit::Ok } else { Exit::Failed })
    }

    async fn measure(&self, kafka: Option<&Properties>) -> anyhow::Result<Results> {
        let worker = if self.worker == Who::Http { Some(Worker::start().await?) } else { None };
        let url = worker.as_ref().map(|worker| worker.url.clone());
        let ordered = if self.unordered { None } else { Some(self.one(false, url.clone(), kafka).await?) };
        let unordered = if self.unordered || self.compare { Some(self.one(true, url, kafka).await?) } else { None };
        let ratio = ordered.as_ref().zip(unordered.as_ref()).map(|(a, b)| a.total_seconds / b.total_seconds);
        Ok(Results { ordered, unordered, ratio })
    }

    async fn one(
        &self,
        unordered: bool,
        worker: Option<String>,
        kafka: Option<&Properties>,
    ) -> anyhow::Result<Figures> {
        let load = Load {
            work: self.work,
            tail: self.tail,
            size: self.size as usize,
            kafka: kafka.cloned(),
            data: self.data.clone(),
            series: self.series,
        };
        let plan = Plan { concurrency: self.concurrency, window: self.window, unordered, worker };
        let name = if unordered { "unordered" } else { "ordered" };
        let Some(rate) = self.rate else {
            let bar = bar(Some(self.messages), "{msg} {wide_bar} {human_pos}/{human_len}, {per_sec}");
            bar.set_message(name);
            let figures = waiting::run(&load, self.messages, &plan, &bar).await;
            bar.finish_and_clear();
            return figures;
        };
        let bar = bar(None, "{spinner} {msg}");
        let mut tell = |now: &live::Standing| {
            bar.set_message(format!("{name}: {} sent, {} out, {:.0?} behind", now.sent, now.released, now.delay));
        };
        let ended = live::run(&load, (rate, self.seconds), &plan, &mut tell).await?;
        bar.finish_and_clear();
        anyhow::ensure!(ended.audit.is_clean(), "the audit after it found: {:?}", ended.audit.findings);
        Ok(ended.figures)
    }

    fn print(&self, results: &Results) -> anyhow::Result<Exit> {
        if self.json {
            out(serde_json::to_string_pretty(results)? + "\n")?;
            return Ok(Exit::Ok);
        }
        let mut text = String::new();
        for (name, figures) in [("ordered", &results.ordered), ("unordered", &results.unordered)] {
            text.extend(figures.iter().map(|figures| figures.text(name)));
        }
        if let Some(ratio) = results.ratio {
            writeln!(text, "ordered takes {ratio:.3} times as long as unordered")?;
        }
        out(text)?;
        Ok(Exit::Ok)
    }
}
