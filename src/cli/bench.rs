//! `seriatim bench`: how fast messages get through, and how long each takes, in order.
//!
//! A pipeline of its own in a temporary folder, on the embedded log, every commit durable. Either
//! all messages wait already when it starts, or they come in at a rate.

mod load;
mod measure;
mod pipeline;
mod worker;

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Exit;
pub(super) use measure::{Latencies, seconds};
pub(super) use pipeline::{Pipeline, Setup, read};
pub(super) use worker::BenchWorker;

/// Measure throughput and ordered latency of a pipeline in a temporary folder
#[derive(Clone, Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim bench
  seriatim bench --messages 10000 --work 750ms --concurrency 1000
  seriatim bench --messages 10000 --work 10ms --tail 0.01:1s --concurrency 100 --compare
  seriatim bench --messages 1000000 --work 0ms --worker builtin
  seriatim bench --rate 4 --seconds 60 --work 750ms")]
pub(super) struct Bench {
    /// How many messages wait at the start
    #[arg(long, default_value_t = 10_000, conflicts_with = "rate")]
    messages: u64,
    /// How long each is worked on; 0ms hands it on as it is
    #[arg(long, default_value = "10ms", value_parser = humantime::parse_duration)]
    work: Duration,
    /// Some take longer: FRACTION:DURATION, such as 0.01:1s
    #[arg(long, value_name = "FRACTION:DURATION")]
    tail: Option<Tail>,
    /// Bytes of a message, at least 32
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(32..=1_000_000))]
    size: u32,
    /// Records being worked on at once
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,
    /// Who works: a process of its own that is called over HTTP, or this process itself
    #[arg(long, value_enum, default_value_t = WorkerKind::Http)]
    worker: WorkerKind,
    /// Run it unordered as well, the same way, and give the ratio
    #[arg(long)]
    compare: bool,
    /// Messages a second, sent over HTTP, instead of messages that wait
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// How long to send
    #[arg(long, default_value_t = 60, requires = "rate")]
    seconds: u64,
    /// The folder for the log; a temporary one where not given
    #[arg(long, value_name = "FOLDER")]
    data: Option<std::path::PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Who works on the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WorkerKind {
    /// A real worker in a process of its own.
    Http,
    /// The pipeline's own process.
    Builtin,
}

/// A share of the messages that takes longer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tail {
    fraction: f64,
    work: Duration,
}

impl FromStr for Tail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (fraction, work) = text.split_once(':').ok_or("write FRACTION:DURATION, such as 0.01:1s")?;
        let fraction: f64 = fraction.parse().map_err(|_| format!("{fraction:?} is no fraction"))?;
        if !(0.0..=1.0).contains(&fraction) {
            return Err(format!("{fraction} is not between 0 and 1"));
        }
        Ok(Self { fraction, work: humantime::parse_duration(work).map_err(|e| e.to_string())? })
    }
}

impl Bench {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let report = runtime.block_on(self.report())?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", measure::text(&report));
        }
        Ok(Exit::Ok)
    }

    async fn report(&self) -> anyhow::Result<Value> {
        let worker = match self.worker {
            WorkerKind::Http => Some(worker::Spawned::start().await?),
            WorkerKind::Builtin => None,
        };
        let url = worker.as_ref().map(|worker| worker.url.as_str());
        let mut report = json!({"ordered": self.once(url, "lane").await?});
        if self.compare {
            report["unordered"] = self.once(url, "none").await?;
            let time = |run: &str| report[run]["seconds"].as_f64().unwrap_or(f64::NAN);
            report["ratio"] = json!(time("ordered") / time("unordered"));
        }
        report["peakRssMiB"] = json!(measure::peak_rss_mib());
        Ok(report)
    }

    async fn once(&self, worker: Option<&str>, order: &str) -> anyhow::Result<Value> {
        let temporary = tempfile::tempdir().context("no temporary folder")?;
        let folder = self.data.as_deref().map_or(temporary.path(), Path::new).join(format!("bench-{order}"));
        let work = match worker {
            Some(url) => format!("http = {{ url = \"{url}\" }}"),
            None if self.work.is_zero() => "builtin = \"echo\"".to_owned(),
            None => format!("builtin = {{ sleep = \"{}\" }}", humantime::format_duration(self.work)),
        };
        let setup = pipeline::Setup { folder, work, concurrency: self.concurrency, order: order.to_owned() };
        match self.rate {
            Some(rate) => load::at_rate(self, setup, rate).await,
            None => load::waiting(self, setup).await,
        }
    }

    /// How long a message is worked on; which ones take long follows from their number alone.
    fn work_of(&self, number: u64) -> Duration {
        // Knuth's multiplicative hash scatters consecutive numbers evenly over 32 bits.
        let scattered = number.wrapping_mul(2_654_435_761) & 0xffff_ffff;
        match self.tail {
            Some(tail) if (scattered as f64) < tail.fraction * 4_294_967_296.0 => tail.work,
            _ => self.work,
        }
    }

    /// `MICROSECONDS NUMBER xxx...`
    fn body(&self, number: u64) -> String {
        let head = format!("{} {number} ", self.work_of(number).as_micros());
        format!("{head:x<width$}", width = self.size as usize)
    }
}

/// The number in a message's body.
fn number_of(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body).ok()?.split(' ').nth(1)?.parse().ok()
}
