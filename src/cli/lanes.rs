//! `seriatim lanes`: how the lanes are, and verbs for messages that hold them back.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use base64::Engine as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::port::{Port, exit};
use super::{Exit, Failure};
use crate::process::config::Config;

/// Show the state of lanes; retry, skip or replace messages that hold one back
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim lanes
  seriatim lanes show 0
  seriatim lanes retry 0 41 42 --reason 'the price service is back'
  seriatim lanes skip 0 --all --reason 'test data'
  seriatim lanes replace 0 41 --body corrected.json --content-type application/json --reason 'bad price'
  seriatim lanes accept 0 --yes --reason 'restored without the last hour'")]
pub(super) struct Lanes {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    port: Port,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// How lanes are; one, with its messages, where a number is given
    Show { lane: Option<u32> },
    /// Have messages worked on again
    Retry(Which),
    /// Pass the places of messages over, for the record
    Skip(Which),
    /// Send a file instead of a message's result
    Replace {
        #[command(flatten)]
        which: Which,
        /// The file to send
        #[arg(long, value_name = "FILE")]
        body: PathBuf,
        /// Its media type
        #[arg(long, value_name = "TYPE")]
        content_type: Option<String>,
    },
    /// End a halt by loss: says what is lost, and goes on with what there is
    Accept {
        lane: u32,
        /// Why, for the record
        #[arg(long)]
        reason: String,
        /// Do it, after having read what is lost
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The lane
    lane: u32,
    /// The messages' offsets
    #[arg(required_unless_present = "all")]
    offsets: Vec<u64>,
    /// All messages of the lane that are halted
    #[arg(long, conflicts_with = "offsets")]
    all: bool,
    /// Why, for the record
    #[arg(long)]
    reason: String,
}

impl Lanes {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        self.port.call(config, async |client| self.ask(client, config.ingress.max_body.get()).await)
    }

    /// `limit` is the largest body of a message, in bytes.
    async fn ask(&self, client: &Client, limit: u64) -> anyhow::Result<Exit> {
        match &self.verb {
            None | Some(Verb::Show { lane: None }) => {
                let answer: Value = client.get("/v1/lanes").await?;
                self.port.print(&answer, |answer| {
                    let topics = answer["topics"].as_array().into_iter().flatten();
                    let topics = topics.map(|problem| format!("{}\n", problem.as_str().unwrap_or_default()));
                    topics.chain(answer["lanes"].as_array().into_iter().flatten().map(show)).collect()
                })
            }
            Some(Verb::Show { lane: Some(lane) }) => {
                let answer: Value = client.get(&format!("/v1/lanes/{lane}")).await?;
                self.port.print(&answer, |lane| show(lane) + &super::why::table(&lane["messages"]))
            }
            Some(Verb::Retry(which)) => self.act(client, "retry", which.lane, which.order()).await,
            Some(Verb::Skip(which)) => self.act(client, "skip", which.lane, which.order()).await,
            Some(Verb::Replace { which, body, content_type }) => {
                let bytes = std::fs::read(body).with_context(|| format!("cannot read {}", body.display()))?;
                // A process may close the connection in the middle of what is far too large for it.
                anyhow::ensure!(
                    !self.port.is_configured() || bytes.len() as u64 <= limit,
                    "{} has {} bytes, more than ingress.max_body, {limit}",
                    body.display(),
                    bytes.len()
                );
                let mut order = which.order();
                order["bodyBase64"] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
                order["contentType"] = json!(content_type);
                self.act(client, "replace", which.lane, order).await
            }
            Some(Verb::Accept { lane, reason, yes }) => self.accept(client, *lane, reason, *yes).await,
        }
    }

    async fn accept(&self, client: &Client, lane: u32, reason: &str, yes: bool) -> anyhow::Result<Exit> {
        let state: Value = client.get(&format!("/v1/lanes/{lane}")).await?;
        let Some(lost) = state["haltedByLoss"].as_str() else {
            return Err(Failure::new(Exit::Conflict, format!("lane {lane} has lost nothing")).into());
        };
        eprintln!("lane {lane} stands still: {lost}");
        if !yes {
            let hint = "what is gone stays gone; say --yes to go on with what there is".to_owned();
            return Err(Failure::new(Exit::Usage, hint).into());
        }
        self.act(client, "accept", lane, json!({"reason": reason})).await
    }

    async fn act(&self, client: &Client, verb: &str, lane: u32, order: Value) -> anyhow::Result<Exit> {
        let path = format!("/v1/lanes/{lane}/{verb}");
        let how = |answer: &Value| format!("{} messages of lane {lane}, done", answer["targets"]);
        Ok(exit(&self.port.order(client, &path, order, (verb, "the lane's owner"), how).await?))
    }
}

impl Which {
    fn order(&self) -> Value {
        json!({"offsets": self.offsets, "all": self.all, "reason": self.reason})
    }
}

fn show(lane: &Value) -> String {
    if let Some(problem) = lane["problem"].as_str() {
        return format!("lane {}: {problem}\n", lane["lane"]);
    }
    let order = lane["order"].as_str().map_or_else(String::new, |order| format!(", order by {order}"));
    let mut text = format!("lane {}{order}\n", lane["lane"]);
    for (label, key) in [
        ("behind the input", "lag"),
        ("in progress", "inProgress"),
        ("ready", "ready"),
        ("frontier", "frontier"),
        ("input ends at", "inputEnd"),
        ("workers' limit", "limit"),
    ] {
        if !lane[key].is_null() {
            let _ = writeln!(text, "  {label:<18}{}", lane[key]);
        }
    }
    if let Some(reason) = lane["haltedByLoss"].as_str() {
        let _ = writeln!(text, "  stands still      {reason}");
    }
    if let Some(damage) = lane["damage"].as_str() {
        let _ = writeln!(text, "  damage ahead      {damage}");
    }
    let halted = lane["haltedMessages"].as_array().map_or(0, Vec::len);
    if halted > 0 {
        let _ = writeln!(text, "  halted messages   {halted}: see `seriatim why {}`", lane["lane"]);
    }
    text
}
