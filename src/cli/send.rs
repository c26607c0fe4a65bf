//! `seriatim send`: messages from a file or standard input into the pipeline.
//!
//! Three ways in, chosen by what is sent. JSON lines go as one NDJSON upload, streamed both ways.
//! Other lines, and whatever has an id, go one request after the other: the order of the lines is
//! the order in the lane, and HTTP promises none to requests that run side by side. With `--log`
//! batches are appended to the embedded log itself.

mod append;
mod input;
mod single;
mod tally;
mod upload;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Exit;
use super::client::Client;
use super::shared::{bar, runtime, unless_closed};
use crate::process::config::Config;
use input::{Form, Lines};
use tally::Tally;

/// Send messages: lines, JSON lines, or a whole file as one
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim send orders.ndjson
  tail -f app.log | seriatim send -
  seriatim send --whole --id invoice-4711 invoice.pdf
  seriatim send --key customer-17 --to http://10.0.0.7:8080 orders.ndjson
  seriatim send --log orders.ndjson

A line is a message; blank lines are none. Lines of JSON objects or arrays go as one streamed
upload, which is the fast way; other lines one after the other, each with its answer, as does
whatever has an --id. The order of the lines is kept either way, within a lane.

With --id the message, or the Nth line as ID-N, is sent under that idempotency key, so that the same
command can be repeated after any failure and adds nothing twice.

Exit codes: 0 all accepted, 6 some refused, 1 all refused, 5 unknown for some whether they were.")]
pub(super) struct Send {
    /// The file, or - for standard input
    file: PathBuf,
    /// The key of the messages: equal keys go to the same lane
    #[arg(long)]
    key: Option<String>,
    /// The idempotency key; for lines, ID-1, ID-2 and so on
    #[arg(long, conflicts_with = "log")]
    id: Option<String>,
    /// The data port of a running process
    #[arg(long, value_name = "URL", conflicts_with = "log")]
    to: Option<String>,
    /// Where the outputs go, unless the worker says; several separated by commas
    #[arg(long, value_name = "NAMES")]
    destination: Option<String>,
    /// The media type; text/plain for lines, and what the file's name says with --whole
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Send the file as one message
    #[arg(long)]
    whole: bool,
    /// Append to the embedded log itself; no process may have it open
    #[arg(long)]
    log: bool,
    /// Print an entry for each message as JSON, one a line
    #[arg(long)]
    json: bool,
    /// A bearer token that the data port knows
    #[arg(long, env = "SERIATIM_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

impl Send {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        let client = Client::data(self.to.as_deref(), config, self.token.clone())?;
        unless_closed(runtime()?.block_on(self.send(&client, config)))
    }

    async fn send(&self, client: &Client, config: &Config) -> anyhow::Result<Exit> {
        let (file, length) = self.open().await?;
        let bar = match length {
            Some(_) => bar(length, "sending {wide_bar} {decimal_bytes}/{decimal_total_bytes}, {eta} left"),
            None => bar(None, "sending {spinner} {decimal_bytes}, {decimal_bytes_per_sec}"),
        };
        let mut tally = Tally::new(self.json, bar.clone());
        if self.whole {
            self.send_whole(client, config, file, &mut tally).await?;
        } else {
            self.send_lines(client, config, Lines::open(file, bar.clone()).await?, &mut tally).await?;
        }
        bar.finish_and_clear();
        tally.finish()
    }

    /// The input, and how long it is where that is known.
    async fn open(&self) -> anyhow::Result<(Input, Option<u64>)> {
        if self.file == Path::new("-") {
            return Ok((Box::new(tokio::io::stdin()), None));
        }
        let open = || format!("{} cannot be read", self.file.display());
        let file = tokio::fs::File::open(&self.file).await.with_context(open)?;
        let data = file.metadata().await.with_context(open)?;
        Ok((Box::new(file), data.is_file().then_some(data.len())))
    }

    async fn send_whole(
        &self,
        client: &Client,
        config: &Config,
        mut file: Input,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let mut body = Vec::new();
        let limit = config.ingress.max_body.get();
        // What is larger is refused here where the process is ours, and by the process otherwise.
        let most = if self.to.is_some() { u64::MAX } else { limit.saturating_add(1) };
        (&mut file).take(most).read_to_end(&mut body).await?;
        anyhow::ensure!(
            self.to.is_some() || body.len() as u64 <= limit,
            "it is larger than ingress.max_body, {limit} bytes"
        );
        let media = self.content_type.clone().unwrap_or_else(|| input::media_of(&self.file).to_owned());
        if self.log {
            let mut appender = append::Appender::open(config, self, media).await?;
            appender.add(1, &body, tally).await?;
            return appender.finish(tally).await;
        }
        let id = self.id.clone();
        single::Requests { client, send: self, media: &media }.send(1, id, body.into(), tally).await.map(drop)
    }

    async fn send_lines(
        &self,
        client: &Client,
        config: &Config,
        mut lines: Lines,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let media = self.content_type.clone().unwrap_or_else(|| lines.form().media().to_owned());
        if self.log {
            return append::lines(config, self, media, &mut lines, tally).await;
        }
        if lines.form() == Form::Json && self.id.is_none() && self.content_type.is_none() {
            return upload::upload(client, self, lines, tally).await;
        }
        single::Requests { client, send: self, media: &media }.lines(&mut lines, tally).await
    }
}

type Input = Box<dyn AsyncRead + std::marker::Send + Unpin>;

/// Counts bytes read.
fn advance(bar: &ProgressBar, bytes: usize) {
    bar.inc(bytes as u64);
}
