//! A pipeline in this process, on a log of its own, and what comes out of it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::ground::Ground;
use crate::log::{Reader, Visibility};
use crate::metrics;
use crate::process::config::Config;
use crate::process::{Process, Role, Roles};
use crate::record::{Offset, OutputHeaders, Partition};
use crate::work::builtin::Echo;
use crate::work::http::{self, Http};
use crate::work::{Answer, Failure, Job, Processor};

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
    /// The configuration of a pipeline on this ground, on ports of its own.
    pub(super) fn config(&self, ground: &Ground) -> anyhow::Result<Config> {
        let Self { concurrency, window, unordered, .. } = self;
        let by = if *unordered { "none" } else { "lane" };
        let text = format!(
            "ingress.http = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'\n\
             work.concurrency = {concurrency}\norder = {{ by = '{by}', window = {window} }}\n"
        );
        let mut config = Config::parse(&text, [])?;
        ground.take(&mut config);
        Ok(config)
    }

    /// The HTTP worker, else `own`.
    pub(super) fn processor(&self, config: &Config, own: Arc<dyn Processor>) -> anyhow::Result<Arc<dyn Processor>> {
        let Some(url) = &self.worker else { return Ok(own) };
        let (url, connections) = (url.clone(), self.concurrency as usize);
        let max_output = config.ingress.max_body.in_memory();
        Ok(Arc::new(Http::new(http::Options { url, connections, max_output })?))
    }
}

/// Starts it and waits until its roles have begun.
pub(super) async fn start(config: &Config, ingress: bool, processor: Arc<dyn Processor>) -> anyhow::Result<Process> {
    let mut roles = Roles::from([Role::Work, Role::Resequence]);
    if ingress {
        roles.insert(Role::Ingress);
    }
    let process = Process::start_with(config, &roles, processor).await?;
    let ready = async {
        while !process.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, ready).await.context("the roles did not begin in time")?;
    Ok(process)
}

/// A worker that notes when it was first given work.
#[derive(Debug)]
pub(super) struct Noted {
    worker: Arc<dyn Processor>,
    begun: OnceLock<Instant>,
}

impl Noted {
    pub(super) fn new(worker: Arc<dyn Processor>) -> Self {
        Self { worker, begun: OnceLock::new() }
    }

    /// When the first message was begun.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.begun.get().copied()
    }

    fn note(&self) {
        self.begun.get_or_init(Instant::now);
    }
}

impl Processor for Noted {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        self.note();
        self.worker.process(job)
    }

    fn at_once(&self, job: &Job) -> Option<Result<Answer, Failure>> {
        self.note();
        self.worker.at_once(job)
    }
}

/// A worker that answers at once with what it was given.
pub(super) fn echo() -> Arc<dyn Processor> {
    Arc::new(Echo)
}

/// The ordered outputs as a reader outside of the pipeline sees them: durable ones.
pub(super) struct Outputs {
    reader: Box<dyn Reader>,
    last: Option<Offset>,
    /// Every message left after all that came before it.
    pub(super) in_order: bool,
}

impl Outputs {
    pub(super) async fn open(process: &Process) -> anyhow::Result<Self> {
        let topic = process.topics().destinations.get("default").context("there is always a default destination")?;
        let of = topic.partition(Partition(0));
        let reader = process.log().read(&of, Offset::ZERO, Visibility::Durable, READ_BYTES).await?;
        Ok(Self { reader, last: None, in_order: true })
    }

    /// Waits for the next outputs and shows their bodies. Cancel-safe.
    pub(super) async fn next(&mut self, mut see: impl FnMut(&[u8])) -> anyhow::Result<()> {
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

/// How many commits the owners of this process have made until now.
pub(super) fn commits() -> u64 {
    metrics::owner(metrics::Role::Resequence).commit_seconds.get_sample_count()
}
