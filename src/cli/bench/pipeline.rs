//! A pipeline in this process, on a log of its own, and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::scratch::Scratch;
use crate::log::{Reader, Visibility};
use crate::process::config::Config;
use crate::process::{Process, Role, Roles};
use crate::record::{Offset, OutputHeaders, Partition};
use crate::work::Processor;

/// Bytes of outputs read at once.
const READ_BYTES: usize = 1 << 20;

/// How long the roles may take to begin.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What a pipeline is like.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Plan {
    pub(in crate::cli) concurrency: u32,
    pub(in crate::cli) window: u32,
    pub(in crate::cli) unordered: bool,
    /// The URL of an HTTP worker, instead of one in this process.
    pub(in crate::cli) worker: Option<String>,
}

impl Plan {
    /// The configuration of a pipeline in this folder, on ports of its own.
    pub(in crate::cli) fn config(&self, scratch: &Scratch) -> anyhow::Result<Config> {
        let Self { concurrency, window, unordered, worker } = self;
        let by = if *unordered { "none" } else { "lane" };
        let worker = match worker {
            Some(url) => format!("http = {{ url = '{url}' }}"),
            None => "builtin = 'echo'".to_owned(),
        };
        let text = format!(
            "log.embedded = {}\ningress.http = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'\n\
             [work]\n{worker}\nconcurrency = {concurrency}\n[order]\nby = '{by}'\nwindow = {window}\n",
            scratch.toml()
        );
        Ok(Config::parse(&text, [])?)
    }
}

/// Starts it and waits until its roles have begun.
pub(in crate::cli) async fn start(
    config: &Config,
    ingress: bool,
    processor: Option<Arc<dyn Processor>>,
) -> anyhow::Result<Process> {
    let mut roles = Roles::from([Role::Work, Role::Resequence]);
    if ingress {
        roles.insert(Role::Ingress);
    }
    let process = match processor {
        Some(processor) => Process::start_with(config, &roles, processor).await?,
        None => Process::start(config, &roles).await?,
    };
    let ready = async {
        while !process.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, ready).await.context("the roles did not begin in time")?;
    Ok(process)
}

/// The ordered outputs as a reader outside of the pipeline sees them: durable ones.
pub(in crate::cli) struct Outputs {
    reader: Box<dyn Reader>,
    last: Option<Offset>,
    /// Every message left after all that came before it.
    pub(in crate::cli) in_order: bool,
}

impl Outputs {
    pub(in crate::cli) async fn open(process: &Process) -> anyhow::Result<Self> {
        let topic = process.topics().destinations.get("default").context("there is always a default destination")?;
        let of = topic.partition(Partition(0));
        let reader = process.log().read(&of, Offset::ZERO, Visibility::Durable, READ_BYTES).await?;
        Ok(Self { reader, last: None, in_order: true })
    }

    /// Waits for the next outputs and shows their bodies. Cancel-safe.
    pub(in crate::cli) async fn next(&mut self, mut see: impl FnMut(&[u8])) -> anyhow::Result<()> {
        let fetched = self.reader.next().await?;
        for record in fetched.batches.iter().flatten() {
            let Some(headers) = OutputHeaders::decode(record.headers) else { continue };
            self.in_order &= self.last.is_none_or(|last| last < headers.source.offset);
            self.last = Some(headers.source.offset);
            see(record.value.unwrap_or_default());
        }
        Ok(())
    }
}

/// How many commits the owner has made.
pub(in crate::cli) async fn commits(process: &Process) -> anyhow::Result<u64> {
    let of = process.topics().cursors_resequence.partition(Partition(0));
    Ok(process.log().bounds(&of).await?.stable_end.0)
}
