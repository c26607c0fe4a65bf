//! `seriatim verify`: whether the logs hold what was promised.

use clap::Args;
use reqwest::Url;

use super::client::Client;
use super::shared::{bar, out, path, runtime, unless_closed};
use super::{Exit, Failure};
use crate::audit::{Report, Scope, audit};
use crate::log::Log;
use crate::log::embedded::OpenError;
use crate::process::config::Config;
use crate::process::{Engine, Error, telemetry};
use crate::topics::Topics;

/// Audit the logs: order and contiguity of outputs, loss and repetition of messages, cursors
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim verify
  seriatim verify billing
  seriatim verify --url http://10.0.0.7:8090 --json

Exit code 0: clean, with counts. 1: one line for each finding, on standard output. The log is read
from the folder; where `seriatim run` has it open, that process is asked over its admin port.
No record is changed; opening the folder finishes what a crash has left, as `seriatim run` does.")]
pub(super) struct Verify {
    /// Look at the topic of this destination only
    destination: Option<String>,
    /// The admin port of a running process, instead of the one in the configuration or the folder
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print findings and counts as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        let report = runtime()?.block_on(self.report(config))?;
        unless_closed(self.print(&report))
    }

    fn print(&self, report: &Report) -> anyhow::Result<Exit> {
        if self.json {
            out(serde_json::to_string_pretty(report)? + "\n")?;
        } else {
            let mut text: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
            if report.more > 0 {
                text.push_str(&format!("and {} more\n", report.more));
            }
            out(text + &report.to_string())?;
        }
        Ok(if report.is_clean() { Exit::Ok } else { Exit::Failed })
    }

    async fn report(&self, config: &Config) -> anyhow::Result<Report> {
        if self.url.is_some() {
            return self.ask(config).await;
        }
        let folder = config.log.folder().filter(|folder| !folder.exists());
        if let Some(folder) = folder {
            let reason = format!("there is no log in {}; --config or --url names another place", folder.display());
            return Err(Failure::new(Exit::NotFound, reason).into());
        }
        // What is found wrong at opening is told there.
        telemetry::start(config.process.log);
        match Engine::open(config).await {
            Ok(engine) => self.read(&*engine.log(), config.topics()).await,
            Err(Error::Open(OpenError::InUse { .. })) => self.ask(config).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the process that has the log open.
    async fn ask(&self, config: &Config) -> anyhow::Result<Report> {
        let client = Client::admin(self.url.as_deref(), config)?;
        let query: Vec<_> = self.destination.as_deref().map(|name| ("destination", name)).into_iter().collect();
        eprintln!("asking {}", place(client.base()));
        Ok(client.get(&path(&["v1", "verify"], &query)).await?)
    }

    async fn read(&self, log: &dyn Log, mut topics: Topics) -> anyhow::Result<Report> {
        if let Some(name) = &self.destination
            && !topics.destinations.contains_key(name)
        {
            let known: Vec<&str> = topics.destinations.keys().map(String::as_str).collect();
            let reason = format!("there is no destination `{name}`; there are: {}", known.join(", "));
            return Err(Failure::new(Exit::NotFound, reason).into());
        }
        keep_existing(log, &mut topics).await?;
        let bar = bar(Some(0), "auditing {wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left");
        let scope = Scope { topics: &topics, destination: self.destination.as_deref() };
        let mut progress = |read, total| {
            bar.set_length(total);
            bar.set_position(read);
        };
        let report = audit(log, scope, &mut progress).await?;
        bar.finish_and_clear();
        Ok(report)
    }
}

/// Takes away destinations that no process has yet made a topic for.
async fn keep_existing(log: &dyn Log, topics: &mut Topics) -> anyhow::Result<()> {
    let Some(shape) = log.shape(&topics.input).await? else {
        let reason = format!("the log has no topic {}: is `name` in the configuration right?", topics.input);
        return Err(Failure::new(Exit::NotFound, reason).into());
    };
    if shape.partitions != topics.lanes {
        let (found, wanted) = (shape.partitions, topics.lanes);
        let reason = format!(
            "the log has {found} lanes, log.partitions says {wanted}: put {found} back where it was changed; where \
             somebody has added partitions to {}, `seriatim topics plan` says what to do",
            topics.input
        );
        return Err(Failure::new(Exit::BadConfig, reason).into());
    }
    for (name, topic) in topics.destinations.clone() {
        if log.shape(&topic).await?.is_none() {
            topics.destinations.remove(&name);
        }
    }
    Ok(())
}

/// A URL as people write it.
fn place(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}
