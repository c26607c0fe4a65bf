//! `seriatim tail`: the ordered outputs of a destination, with where they come from.

mod events;

use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use reqwest::{Method, Response, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::codec::{AnyDelimiterCodec, FramedRead};
use tokio_util::io::StreamReader;

use super::client::Client;
use super::shared::{out, path, runtime, unless_closed};
use super::{Exit, Failure};
use crate::process::config::{Config, DEFAULT_DESTINATION};
use events::Events;

/// The longest line taken from a process: its largest output, twice as base64, and its headers.
const MAX_LINE: usize = 64 << 20;

/// The pause before a broken stream is asked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// How often in a row it is asked for in vain before giving up: half a minute.
const ATTEMPTS: u32 = 60;

/// Print the ordered outputs of a destination, with where they come from
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim tail
  seriatim tail billing --follow
  seriatim tail --from end --follow --json | jq .body
  seriatim tail --lane 3 --from 1200

Prints SEQUENCE, SOURCE (the message's id), KEY and BODY, separated by tabs. With --follow it waits
for more, over restarts of the process too, until Ctrl-C.")]
pub(super) struct Tail {
    /// The destination
    #[arg(default_value = DEFAULT_DESTINATION)]
    destination: String,
    /// Where to begin: `beginning`, `end`, or a sequence number
    #[arg(long, default_value = "beginning", value_name = "WHERE", value_parser = from)]
    from: From,
    /// The lane; needed where there are several, for each has an order of its own
    #[arg(long, value_name = "N")]
    lane: Option<u32>,
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
    /// Print one JSON object a line, as GET /v1/outputs gives them
    #[arg(long)]
    json: bool,
    /// The data port of a running process
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A bearer token that the data port knows
    #[arg(long, env = "SERIATIM_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Beginning,
    End,
    Sequence(u64),
}

fn from(text: &str) -> Result<From, String> {
    match text {
        "beginning" => Ok(From::Beginning),
        "end" => Ok(From::End),
        number => number.parse().map(From::Sequence).map_err(|_| "write beginning, end or a number".to_owned()),
    }
}

/// What is shown of an output.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output<'a> {
    sequence: u64,
    source: Source,
    key: Option<String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    body_base64: Option<String>,
}

#[derive(Deserialize)]
struct Source {
    lane: u32,
    offset: u64,
}

impl Tail {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        let client = Client::data(self.url.as_deref(), config, self.token.clone())?;
        unless_closed(runtime()?.block_on(async {
            tokio::select! {
                biased;
                ended = tokio::signal::ctrl_c() => ended.map(|()| Exit::Ok).map_err(anyhow::Error::from),
                done = self.print(&client) => done.map(|()| Exit::Ok),
            }
        }))
    }

    async fn print(&self, client: &Client) -> anyhow::Result<()> {
        if self.follow {
            return self.follow(client).await;
        }
        let response = client.send(client.request(Method::GET, &self.path())).await?;
        let mut lines = lines(response);
        while let Some(line) = lines.next().await {
            self.show(&line?)?;
        }
        Ok(())
    }

    fn path(&self) -> String {
        let lane = self.lane.map(|lane| lane.to_string());
        let from = match self.from {
            From::Beginning => None,
            From::End => Some("end".to_owned()),
            From::Sequence(number) => Some(number.to_string()),
        };
        let query: Vec<(&str, &str)> = [("lane", &lane), ("from", &from)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
            .collect();
        path(&["v1", "outputs", &self.destination], &query)
    }

    /// Follows, and takes the thread up again where a stream broke. What is refused stays so.
    async fn follow(&self, client: &Client) -> anyhow::Result<()> {
        let (mut last, mut failures) = (None::<String>, 0);
        loop {
            match self.events(client, &mut last).await {
                Ok(0) => failures += 1,
                Ok(_) => failures = 0,
                // Nothing was ever read: the port, the destination or the token is wrong.
                Err(Broken::Refused(failure)) if last.is_none() || failure.exit == Exit::NotFound => {
                    return Err(failure.into());
                }
                Err(Broken::Refused(failure)) if failures >= ATTEMPTS => return Err(failure.into()),
                Err(Broken::Refused(_)) => failures += 1,
                Err(Broken::Output(error)) => return Err(error),
            }
            if failures > ATTEMPTS {
                return Err(Failure::new(Exit::TimedOut, format!("{} ends every stream", client.base())).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One stream to its end: how many events came.
    async fn events(&self, client: &Client, last: &mut Option<String>) -> Result<u64, Broken> {
        let mut request = client.request(Method::GET, &self.path()).header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last {
            request = request.header("last-event-id", id.as_str());
        }
        let mut lines = lines(client.send(request).await.map_err(Broken::Refused)?);
        let (mut events, mut count) = (Events::default(), 0);
        // A stream that breaks is asked for again, whatever broke it.
        while let Some(Ok(line)) = lines.next().await {
            if let Some(event) = events.line(&line) {
                self.show(&event.data).map_err(Broken::Output)?;
                *last = event.id.or(last.take());
                count += 1;
            }
        }
        Ok(count)
    }

    fn show(&self, json: &[u8]) -> anyhow::Result<()> {
        if self.json {
            return Ok(out([json, b"\n"].concat())?);
        }
        let output: Output<'_> = serde_json::from_slice(json)?;
        let Source { lane, offset } = output.source;
        let body = match (output.body, output.body_base64) {
            (Some(body), _) => serde_json::from_str::<String>(body.get()).unwrap_or_else(|_| body.get().to_owned()),
            (None, base64) => base64.unwrap_or_default(),
        };
        let key = output.key.as_deref().unwrap_or("-");
        Ok(out(format!("{}\t{lane}-{offset}\t{key}\t{body}\n", output.sequence))?)
    }
}

/// Why a stream ended early.
enum Broken {
    /// The process refused or was not there.
    Refused(Failure),
    /// What came could not be shown.
    Output(anyhow::Error),
}

type Lines = futures::stream::BoxStream<'static, anyhow::Result<bytes::Bytes>>;

/// The lines of an answer, without their ends; blank ones too.
fn lines(response: Response) -> Lines {
    let body = response.bytes_stream().map(|piece| piece.map_err(std::io::Error::other));
    let codec = AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), Vec::new(), MAX_LINE);
    FramedRead::new(StreamReader::new(body), codec).map(|line| Ok(line?)).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_begin_are_words_or_numbers() {
        assert_eq!(from("end"), Ok(From::End));
        assert_eq!(from("12"), Ok(From::Sequence(12)));
        assert!(from("-1").is_err() && from("start").is_err());
    }
}
