//! `seriatim tail`: the ordered outputs of a destination, or dead letters, with where they come from.

use clap::Args;
use futures::StreamExt as _;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Exit;
use super::client::Client;
use super::shared::{closed, out, runtime, unless_closed};
use super::stream::{Follow, MAX_OUTPUT, dead_letters, lines, outputs};
use crate::process::config::{Config, DEFAULT_DESTINATION};

/// Print the ordered outputs of a destination, or dead letters, with where they come from
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim tail
  seriatim tail billing --follow
  seriatim tail --from end --follow --json | jq .body
  seriatim tail --lane 3 --from 1200
  seriatim tail --dead-letters

Prints SEQUENCE, SOURCE (the message's id), KEY and BODY, separated by tabs; of dead letters OFFSET (in
their topic), SOURCE, KEY, ERROR and BODY. With --follow it waits
for more, over restarts of the process too, until Ctrl-C or until nobody reads what it prints.")]
pub(super) struct Tail {
    /// The destination
    #[arg(default_value = DEFAULT_DESTINATION)]
    destination: String,
    /// What failed for good instead: messages, and outputs that a receiver refused
    #[arg(long, conflicts_with = "destination")]
    dead_letters: bool,
    /// Where to begin: `beginning`, `end`, or a sequence number, of dead letters an offset
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

/// What is shown of an output, or of a dead letter.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output<'a> {
    sequence: Option<u64>,
    offset: Option<u64>,
    source: Option<Source>,
    error: Option<serde_json::Value>,
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
                () = closed(std::io::stdout()) => Ok(Exit::Ok),
                done = self.print(&client) => done.map(|()| Exit::Ok),
            }
        }))
    }

    async fn print(&self, client: &Client) -> anyhow::Result<()> {
        let from = match self.from {
            From::Beginning => None,
            From::End => Some("end".to_owned()),
            From::Sequence(number) => Some(number.to_string()),
        };
        let path = match self.dead_letters {
            true => dead_letters(self.lane, from.as_deref()),
            false => outputs(&self.destination, self.lane, from.as_deref()),
        };
        if self.follow {
            let mut events = Follow::open(client.clone(), path).await?;
            loop {
                self.show(&events.next().await?)?;
            }
        }
        let mut lines = lines(client.send(client.request(Method::GET, &path)).await?, MAX_OUTPUT);
        while let Some(line) = lines.next().await {
            self.show(&line?)?;
        }
        Ok(())
    }

    fn show(&self, json: &[u8]) -> anyhow::Result<()> {
        if self.json {
            return Ok(out([json, b"\n"].concat())?);
        }
        let output: Output<'_> = serde_json::from_slice(json)?;
        let source = output.source.map_or_else(|| "-".to_owned(), |Source { lane, offset }| format!("{lane}-{offset}"));
        let error = output.error.as_ref().map(|error| format!("{}\t", reason(error))).unwrap_or_default();
        let number = output.sequence.or(output.offset).unwrap_or_default();
        let body = match (output.body, output.body_base64) {
            (Some(body), _) => serde_json::from_str::<String>(body.get()).unwrap_or_else(|_| body.get().to_owned()),
            (None, base64) => base64.unwrap_or_default(),
        };
        let key = output.key.as_deref().unwrap_or("-");
        Ok(out(format!("{number}\t{source}\t{key}\t{error}{body}\n"))?)
    }
}

/// An error in words, if it has the usual form.
fn reason(error: &serde_json::Value) -> String {
    match (error["code"].as_str(), error["detail"].as_str()) {
        (Some(code), Some(detail)) => format!("{code}: {}", detail.replace(['\t', '\n', '\r'], " ")),
        _ => error.to_string(),
    }
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
