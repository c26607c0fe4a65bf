//! `seriatim bench`: load, and how long it takes, on a pipeline of its own or on one that runs.

pub(super) mod figures;
mod generator;
mod ground;
pub(super) mod live;
pub(super) mod pipeline;
mod report;
pub(super) mod task;
mod waiting;
mod worker;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;
use serde::Serialize;

use super::client::Client;
use super::shared::{bar, out, unless_closed};
use super::{Exit, Failure};
use crate::process::config::{Config, DEFAULT_DESTINATION, Properties};
use generator::Generator;
pub(super) use live::Standing;
use pipeline::Plan;
use report::Figures;
use task::{Tail, Work};
use worker::Worker;

/// Enough for thousands of messages a second that are acknowledged in milliseconds; what is slower takes few.
pub(super) const CONNECTIONS: u32 = 64;

/// Measure throughput, delay, and what order costs, of a pipeline of its own or of one that runs
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    before_help = "\
Examples:
  seriatim bench --messages 10000 --work 750ms --concurrency 1000 --worker http
  seriatim bench --messages 10000 --work 10ms --tail 0.01:1s --concurrency 100 --worker http --compare
  seriatim bench --messages 1000000 --size 100
  seriatim bench --rate 4/s --seconds 60 --work 750ms
  seriatim bench --url http://10.0.0.7:8080 --rate 2000/s --seconds 60 --series

The pipeline is on the log that the configuration names: with log.kafka on topics of its own in that
cluster, which are deleted afterwards, else in a temporary folder. Without --rate the messages wait
in the log before the roles start, and delays count from that start. With --rate they come over
HTTP, and delays count from when they are due. With --url they come over HTTP into a pipeline that
runs, at a --rate or each as soon as a connection is free, and its outputs are followed.
docs/benchmarks.md says how to read the figures.

Exit codes: 0 all came out in order, 6 some were refused, 5 some did not come out in time,
1 not in order."
)]
pub(super) struct Bench {
    #[command(subcommand)]
    worker_only: Option<Only>,
    /// How many messages wait; with --url, how many are sent
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
    /// How it stood, second by second
    #[arg(long)]
    series: bool,
    /// An empty folder for the log, which stays; else a temporary one
    #[arg(long, value_name = "FOLDER", conflicts_with = "compare")]
    data: Option<PathBuf>,
    /// Requests under way at once, with --rate or --url
    #[arg(long, default_value_t = CONNECTIONS, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    #[command(flatten)]
    running: Running,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// What only a pipeline of its own can be told.
const OF_ITS_OWN: [&str; 6] = ["concurrency", "window", "worker", "unordered", "compare", "data"];

/// What only a pipeline that runs needs to be told.
#[derive(Debug, Args)]
struct Running {
    /// The data port of a pipeline that runs
    #[arg(long, value_name = "URL", conflicts_with_all = OF_ITS_OWN)]
    url: Option<String>,
    /// Whose outputs are waited for
    #[arg(long, default_value = DEFAULT_DESTINATION, requires = "url", value_name = "NAME")]
    destination: String,
    /// Give messages so many keys in turn; order is checked within each
    #[arg(long, default_value_t = 0, requires = "url", value_name = "N")]
    keys: u32,
    /// How long nothing may come out before the rest is taken for missing
    #[arg(long, default_value = "30s", requires = "url", value_name = "TIME", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// A bearer token that the data port knows
    #[arg(long, env = "SERIATIM_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Only {
    /// A worker over HTTP that takes as long as each message of a bench says
    Worker {
        /// Where it listens
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
    // Above this it is not a pipeline that is measured but how fast one program makes requests.
    let number = number.filter(|rate| (0.01..=100_000.0).contains(rate));
    number.ok_or_else(|| format!("\"{text}\" is no rate from 0.01/s to 100000/s, such as 4/s"))
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
}

/// When messages come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many, each as soon as a connection is free.
    Count(u64),
    /// Whether connections are free or not.
    Rate { per_second: f64, seconds: u64 },
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no load has 2^53 messages, and none a negative number"
)]
impl Pace {
    /// How many come in all.
    fn total(self) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Rate { per_second, seconds } => (per_second * seconds as f64).ceil() as u64,
        }
    }

    /// When this one comes, from the beginning.
    fn due(self, number: u64) -> Duration {
        match self {
            Self::Count(_) => Duration::ZERO,
            Self::Rate { per_second, .. } => Duration::from_secs_f64(number as f64 / per_second),
        }
    }

    /// How many were due by then.
    fn by(self, elapsed: Duration) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Rate { per_second, .. } => self.total().min((elapsed.as_secs_f64() * per_second) as u64 + 1),
        }
    }
}

/// All that is printed.
#[derive(Debug, Default, Serialize)]
struct Results {
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unordered: Option<Figures>,
    /// The ordered run's total time over the unordered one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// Of the pipeline that runs at --url.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Figures>,
}

impl Bench {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        if let Some(Only::Worker { listen }) = &self.worker_only {
            return worker::serve(listen);
        }
        if self.data.is_some() && config.log.kafka.is_some() {
            let reason = "--data is a folder for the embedded log, but the configuration has the log in Kafka";
            return Err(Failure::new(Exit::Usage, reason).into());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let results = runtime.block_on(self.measure(config));
        runtime.shutdown_background();
        let results = results?;
        unless_closed(self.print(&results))?;
        let ended = results.running.as_ref().or(results.ordered.as_ref()).map(Figures::exit);
        Ok(ended.unwrap_or(Exit::Ok))
    }

    async fn measure(&self, config: &Config) -> anyhow::Result<Results> {
        if self.running.url.is_some() {
            return Ok(Results { running: Some(self.running(config).await?), ..Results::default() });
        }
        let kafka = config.log.kafka.as_ref();
        let worker = if self.worker == Who::Http { Some(Worker::start().await?) } else { None };
        let url = worker.as_ref().map(|worker| worker.url.clone());
        let ordered = if self.unordered { None } else { Some(self.one(false, url.clone(), kafka).await?) };
        let unordered = if self.unordered || self.compare { Some(self.one(true, url, kafka).await?) } else { None };
        let ratio = ordered.as_ref().zip(unordered.as_ref()).map(|(a, b)| a.total_seconds / b.total_seconds);
        Ok(Results { ordered, unordered, ratio, running: None })
    }

    fn load(&self, kafka: Option<&Properties>) -> Load {
        let (work, tail, size, series) = (self.work, self.tail, self.size as usize, self.series);
        Load { work, tail, size, kafka: kafka.cloned(), data: self.data.clone(), series }
    }

    fn pace(&self) -> Pace {
        let seconds = self.seconds;
        self.rate.map_or(Pace::Count(self.messages), |per_second| Pace::Rate { per_second, seconds })
    }

    async fn running(&self, config: &Config) -> anyhow::Result<Figures> {
        let Running { url, destination, keys, patience, token } = &self.running;
        let client = Client::data(url.as_deref(), config, token.clone())?;
        let (load, pace, connections) = (self.load(None), self.pace(), self.connections);
        let (keys, patience) = (*keys, *patience + load.longest());
        let generator = Generator { client, destination, load: &load, pace, connections, keys, patience };
        let bar = bar(None, "{spinner} {msg}");
        let generated = generator.run(&mut |now| tell(&bar, "", now)).await;
        bar.finish_and_clear();
        Ok(report::Measured::from(generated?).into())
    }

    async fn one(
        &self,
        unordered: bool,
        worker: Option<String>,
        kafka: Option<&Properties>,
    ) -> anyhow::Result<Figures> {
        let load = self.load(kafka);
        let plan = Plan { concurrency: self.concurrency, window: self.window, unordered, worker };
        let name = if unordered { "unordered" } else { "ordered" };
        if self.rate.is_none() {
            let bar = bar(Some(self.messages), "{msg} {wide_bar} {human_pos}/{human_len}, {per_sec}");
            bar.set_message(name);
            let figures = waiting::run(&load, self.messages, &plan, &bar).await;
            bar.finish_and_clear();
            return figures;
        }
        let bar = bar(None, "{spinner} {msg}");
        let at = (self.pace(), self.connections);
        let ended = live::run(&load, at, &plan, &mut |now| tell(&bar, name, now)).await;
        bar.finish_and_clear();
        let ended = ended?;
        anyhow::ensure!(ended.audit.is_clean(), "the audit after it found: {:?}", ended.audit.findings);
        Ok(ended.figures)
    }

    fn print(&self, results: &Results) -> anyhow::Result<Exit> {
        if self.json {
            out(serde_json::to_string_pretty(results)? + "\n")?;
            return Ok(Exit::Ok);
        }
        let mut text = String::new();
        let runs = [("ordered", &results.ordered), ("unordered", &results.unordered), ("running", &results.running)];
        for (name, figures) in runs {
            text.extend(figures.iter().map(|figures| figures.text(name)));
        }
        if let Some(ratio) = results.ratio {
            writeln!(text, "ordered takes {ratio:.3} times as long as unordered")?;
        }
        out(text)?;
        Ok(Exit::Ok)
    }
}

fn tell(bar: &ProgressBar, name: &str, now: &Standing) {
    bar.set_message(format!("{name} {} sent, {} out, {:.0?} behind", now.sent, now.released, now.delay));
}
