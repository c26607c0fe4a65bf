//! A pipeline for measuring and showing: configuration, process, ordered output.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::log::embedded::Embedded;
use crate::log::{Log as _, Reader, Visibility};
use crate::process::config::Config;
use crate::process::{Process, Role};
use crate::record::{Batch, BatchBuilder, Offset, Partition};

/// The only lane.
const LANE: Partition = Partition(0);
/// Messages that go to the log at once while it is filled.
const FILL: usize = 1000;

/// What a pipeline is to be like.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Setup {
    /// Where its log and its configuration go.
    pub(in crate::cli) folder: PathBuf,
    /// The line of `[work]` that names the worker.
    pub(in crate::cli) work: String,
    pub(in crate::cli) concurrency: u32,
    /// `order.by`.
    pub(in crate::cli) order: String,
}

/// A running pipeline.
pub(in crate::cli) struct Pipeline {
    pub(in crate::cli) process: Process,
    pub(in crate::cli) config: Config,
}

impl Setup {
    /// The configuration, from a file in the folder, as anyone's.
    pub(in crate::cli) fn config(&self) -> anyhow::Result<Config> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        let Self { folder, work, concurrency, order } = self;
        let data = toml::Value::String(folder.join("log").display().to_string());
        let text = format!(
            "[log]\nembedded = {data}\n[ingress]\nhttp = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [work]\n{work}\nconcurrency = {concurrency}\ntimeout = \"5m\"\n[order]\nby = \"{order}\"\n"
        );
        let file = folder.join("seriatim.toml");
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Config::load(Some(&file))?)
    }

    /// Puts messages into the log before anything runs. Gives the time that took.
    pub(in crate::cli) async fn fill(&self, messages: u64, body: impl Fn(u64) -> String) -> anyhow::Result<Duration> {
        let config = self.config()?;
        let (folder, topics) = (self.folder.join("log"), config.topics());
        let log = tokio::task::spawn_blocking(move || Embedded::open(folder, Default::default())).await??;
        log.ensure(&topics.shapes()).await?;
        let input = topics.input.partition(LANE);
        let start = tokio::time::Instant::now();
        let mut last = None;
        for first in (0..messages).step_by(FILL) {
            let mut builder = BatchBuilder::default();
            for number in first..messages.min(first + FILL as u64) {
                builder.push(None, Some(body(number).as_bytes()), |_| {});
            }
            last = Some(log.append(&input, builder.finish()).await?);
        }
        if let Some(last) = last {
            last.await?;
        }
        Ok(start.elapsed())
    }

    pub(in crate::cli) async fn start(&self) -> anyhow::Result<Pipeline> {
        let config = self.config()?;
        let process = Process::start(&config, &Role::needed(&config)).await?;
        Ok(Pipeline { process, config })
    }
}

impl Pipeline {
    /// The ordered output from its beginning, as it becomes durable.
    pub(in crate::cli) async fn output(&self) -> anyhow::Result<Box<dyn Reader>> {
        let output = self.config.topics().destinations["default"].partition(LANE);
        Ok(self.process.log().read(&output, Offset::ZERO, Visibility::Durable, 1 << 20).await?)
    }

    /// Where messages are sent to.
    pub(in crate::cli) fn messages_url(&self) -> anyhow::Result<String> {
        let address = self.process.data_address().context("the pipeline takes no messages in")?;
        Ok(format!("http://{address}/v1/messages"))
    }

    /// Ends it in order.
    pub(in crate::cli) async fn end(self) -> anyhow::Result<()> {
        Ok(self.process.drain().await?)
    }
}

/// Hands every value of the next batches to `see`. Waits for some.
pub(in crate::cli) async fn read(reader: &mut dyn Reader, mut see: impl FnMut(&[u8])) -> anyhow::Result<()> {
    for record in reader.next().await?.batches.iter().flat_map(Batch::iter) {
        see(record.value.unwrap_or_default());
    }
    Ok(())
}
