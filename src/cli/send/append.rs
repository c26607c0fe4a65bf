//! Straight into the embedded log, while no process has it open.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Send;
use super::input::{Form, Lines};
use super::tally::{Entry, TOO_LARGE, Tally};
use crate::log::{Appending, Error, Log, TopicPartition};
use crate::process::Engine;
use crate::process::config::Config;
use crate::record::{BatchBuilder, Name, Partition, Source, partition_of_key};

/// Bytes of one batch.
const BATCH_BYTES: usize = 1 << 20;

/// Batches on their way to the disk, so that gathering one and syncing others overlap.
const ON_THE_WAY: usize = 8;

/// Appends every line; JSON lines have to be JSON, as at the data port.
pub(super) async fn lines(
    config: &Config,
    send: &Send,
    media: String,
    lines: &mut Lines,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let json = lines.form() == Form::Json && send.content_type.is_none();
    let mut appender = Appender::open(config, send, media).await?;
    while let Some((number, line)) = lines.message(tally).await? {
        if json && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&line) {
            tally.add(Entry::refused(number, 400, "invalid-body", format!("it is not JSON: {error}")))?;
            continue;
        }
        appender.add(number, &line, tally).await?;
    }
    appender.finish(tally).await
}

/// Gathers messages into batches and waits for them to be durable.
pub(super) struct Appender<'a> {
    log: Arc<dyn Log>,
    to: TopicPartition,
    send: &'a Send,
    media: String,
    max_body: usize,
    builder: BatchBuilder,
    /// The lines in the builder.
    numbers: Vec<u64>,
    on_the_way: VecDeque<(Vec<u64>, Appending)>,
}

impl<'a> Appender<'a> {
    /// Opens the log and makes its topics, as a process would.
    pub(super) async fn open(config: &Config, send: &'a Send, media: String) -> anyhow::Result<Self> {
        let engine = Engine::open(config).await?;
        let topics = config.topics();
        engine.ensure(&topics).await?;
        let lane = send.key.as_ref().map_or(Partition(0), |key| partition_of_key(key.as_bytes(), topics.lanes));
        Ok(Self {
            log: engine.log(),
            to: topics.input.partition(lane),
            send,
            media,
            max_body: config.ingress.max_body.in_memory(),
            builder: BatchBuilder::default(),
            numbers: Vec::new(),
            on_the_way: VecDeque::new(),
        })
    }

    pub(super) async fn add(&mut self, number: u64, body: &[u8], tally: &mut Tally) -> anyhow::Result<()> {
        if body.len() > self.max_body {
            let reason = format!("{} bytes are more than ingress.max_body, {}", body.len(), self.max_body);
            return Ok(tally.add(Entry::refused(number, 413, TOO_LARGE, reason))?);
        }
        self.builder.push(self.send.key.as_deref().map(str::as_bytes), Some(body), |to| {
            to.put(Name::ContentType, self.media.as_bytes());
            if let Some(destination) = &self.send.destination {
                to.put(Name::Destination, destination.as_bytes());
            }
        });
        self.numbers.push(number);
        if self.builder.size() >= BATCH_BYTES {
            self.flush().await?;
            while self.on_the_way.len() > ON_THE_WAY {
                self.settle(tally).await?;
            }
        }
        Ok(())
    }

    /// Waits until everything is durable.
    pub(super) async fn finish(mut self, tally: &mut Tally) -> anyhow::Result<()> {
        self.flush().await?;
        while !self.on_the_way.is_empty() {
            self.settle(tally).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        if !self.builder.is_empty() {
            let appending = self.log.append(&self.to, self.builder.finish()).await?;
            self.on_the_way.push_back((std::mem::take(&mut self.numbers), appending));
        }
        Ok(())
    }

    async fn settle(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        let Some((numbers, appending)) = self.on_the_way.pop_front() else { return Ok(()) };
        match appending.await {
            Ok(offsets) => {
                for (number, offset) in numbers.into_iter().zip(offsets.iter()) {
                    let source = Source { lane: self.to.partition, offset };
                    tally.add(Entry::accepted(number, source.to_string()))?;
                }
            }
            Err(error) => {
                let unknown = matches!(error, Error::Unknown(_));
                for number in numbers {
                    tally.add(match unknown {
                        true => Entry::unanswered(number, error.to_string()),
                        false => Entry::refused(number, 503, "log-unavailable", error.to_string()),
                    })?;
                }
            }
        }
        Ok(())
    }
}
