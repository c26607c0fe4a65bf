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
use std::time::Duration;

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

/// How long a file is kept ready for a process that takes none of it for now, such as one whose disk is full.
const PATIENCE: Duration = Duration::from_secs(60);

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
            return self.upload(client, lines, tally).await;
        }
        single::Requests { client, send: self, media: &media }.lines(&mut lines, tally).await
    }

    /// Uploads the lines. Where the process takes no more for now, the rest of a file is sent again after the
    /// pause that it asks for, until it has taken nothing for [`PATIENCE`].
    async fn upload(&self, client: &Client, mut lines: Lines, tally: &mut Tally) -> anyhow::Result<()> {
        let (mut begun, mut waited) = (None, Duration::ZERO);
        while let Some(stopped) = upload::upload(client, self, (lines, begun), tally).await? {
            let from = stopped.line();
            if begun.replace(from).is_some_and(|before| before < from) {
                waited = Duration::ZERO;
            }
            let pause = stopped.pause().filter(|_| waited < PATIENCE && self.file != Path::new("-"));
            let Some(pause) = pause else {
                let reason = stopped.reason();
                let told = format!("line {from}: {reason}; nothing from there on was accepted; {}", self.rest(from));
                tally.add_all(stopped.entries(), &told)?;
                return Ok(());
            };
            if waited.is_zero() {
                let (left, reason) = (humantime::format_duration(PATIENCE), stopped.reason());
                tally.warn(&format!("line {from}: {reason}; trying again, for up to {left}"));
            }
            tokio::time::sleep(pause).await;
            waited += pause;
            let (file, _) = self.open().await?;
            lines = Lines::open(file, tally.rewound()).await?;
            lines.pass(from).await?;
        }
        Ok(())
    }

    /// How to send what is left.
    fn rest(&self, from: u64) -> String {
        match self.file.to_str().filter(|file| *file != "-") {
            Some(file) => format!("later: tail -n +{from} '{file}' | seriatim send -, with the same options"),
            None => format!("later: send what begins with line {from} again"),
        }
    }
}

type Input = Box<dyn AsyncRead + std::marker::Send + Unpin>;

/// Counts bytes read.
fn advance(bar: &ProgressBar, bytes: usize) {
    bar.inc(bytes as u64);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse as _;
    use axum::routing::post;
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        send: Send,
    }

    /// Refuses the whole once, then takes one message and refuses the others for now, then takes all.
    async fn reluctant(bodies: Arc<Mutex<Vec<String>>>) -> Client {
        let answer = move |body: String| async move {
            let mut bodies = bodies.lock().expect("no test panics with it");
            bodies.push(body.clone());
            let count = body.lines().count();
            let later = |index| {
                format!(
                    r#"{{"index":{index},"status":503,"problem":{{"code":"full","detail":"full","retryable":true}}}}"#
                )
            };
            let taken = |index| format!(r#"{{"index":{index},"status":202,"id":"0-{index}"}}"#);
            match bodies.len() {
                1 => {
                    let problem = r#"{"title":"full","detail":"the disk is nearly full"}"#;
                    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "0")], problem).into_response()
                }
                2 => (0..count)
                    .map(|i| if i == 0 { taken(i) } else { later(i) } + "\n")
                    .collect::<String>()
                    .into_response(),
                _ => (0..count).map(|i| taken(i) + "\n").collect::<String>().into_response(),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(async { axum::serve(listener, axum::Router::new().route("/v1/messages", post(answer))).await });
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::data(Some(&url), &Config::default(), None).expect("a URL")
    }

    #[tokio::test]
    async fn a_file_goes_on_where_it_was_refused_and_nothing_is_sent_twice() {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let client = reluctant(bodies.clone()).await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("lines.ndjson");
        std::fs::write(&file, "{\"n\":1}\n\n{\"n\":2}\n{\"n\":3}\n").expect("a file");
        let send = Line::parse_from(["send", file.to_str().expect("it is UTF-8")]).send;
        let mut tally = Tally::new(false, ProgressBar::hidden());
        let (input, _) = send.open().await.expect("it is there");
        let lines = Lines::open(input, ProgressBar::hidden()).await.expect("it can be read");
        send.upload(&client, lines, &mut tally).await.expect("it is taken at last");
        assert!(tally.summary().starts_with("3 accepted"), "{}", tally.summary());
        let all = "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n";
        assert_eq!(*bodies.lock().expect("no test panics with it"), [all, all, &all[8..]]);
    }
}
