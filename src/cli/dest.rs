//! `seriatim dest`: how destinations are pushed to, and orders about that.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Exit;
use super::client::Client;
use super::port::{Port, exit};
use crate::process::config::Config;
use crate::record::push::is_replay_id;

/// Show how destinations are pushed to; test, pause, resume and replay; end what holds one back
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim dest
  seriatim dest pause billing --reason 'they move house'
  seriatim dest resume billing --reason 'they are back'
  seriatim dest retry billing 0 --reason 'their bug is fixed'
  seriatim dest skip billing 0 4711 --reason 'a test order'
  seriatim dest test billing
  seriatim dest replay billing 0 --from 4000 --id restored --reason 'they restored a backup'")]
pub(super) struct Dest {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    port: Port,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// How far each destination is, and what holds it back
    List,
    /// Begin no further push to a destination
    Pause(Named),
    /// Go on after a pause, or after the receiver has disabled the destination
    Resume(Named),
    /// Push refused items again; all of the lane where none is named
    Retry(Items),
    /// Pass refused items over, for the record; all of the lane where none is named
    Skip(Items),
    /// End a halt by loss: go on with what the lane's topic still has
    Accept {
        /// The destination
        name: String,
        /// The lane
        lane: u32,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Push what was pushed before once more, from a sequence number on
    ///
    /// The items say that they are part of the replay, by its id in the header Seriatim-Replay. A receiver
    /// that acts exactly once passes over what it has applied, unless it takes part in that replay.
    Replay {
        /// The destination
        name: String,
        /// The lane
        lane: u32,
        /// The sequence number to begin with
        #[arg(long, value_name = "SEQUENCE")]
        from: u64,
        /// What receivers know the replay by; made up where it is not given
        #[arg(long, value_parser = replay_id)]
        id: Option<String>,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Send the receiver an item that is none, and say what it answers
    ///
    /// It is signed like any item and has the header Seriatim-Test, but no sequence number. Sent also while the
    /// destination is paused, disabled or taken for down.
    Test {
        /// The destination
        name: String,
        /// A file with the body, `-` for standard input; without it {"test":true}
        file: Option<PathBuf>,
        /// The media type of the body
        #[arg(long, value_name = "TYPE", requires = "file")]
        content_type: Option<String>,
    },
}

#[derive(Debug, Args)]
struct Named {
    /// The destination
    name: String,
    /// Why, for the record
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
struct Items {
    /// The destination
    name: String,
    /// The lane
    lane: u32,
    /// The items' offsets in the destination's topic
    offsets: Vec<u64>,
    /// Why, for the record
    #[arg(long)]
    reason: String,
}

impl Dest {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        self.port.call(config, async |client| self.ask(client).await)
    }

    async fn ask(&self, client: &Client) -> anyhow::Result<Exit> {
        let (name, verb, order) = match &self.verb {
            None | Some(Verb::List) => return self.list(client).await,
            Some(Verb::Pause(Named { name, reason })) => (name, "pause", json!({"reason": reason})),
            Some(Verb::Resume(Named { name, reason })) => (name, "resume", json!({"reason": reason})),
            Some(Verb::Retry(items)) => (&items.name, "retry", items.order()),
            Some(Verb::Skip(items)) => (&items.name, "skip", items.order()),
            Some(Verb::Accept { name, lane, reason }) => (name, "accept", json!({"lane": lane, "reason": reason})),
            Some(Verb::Replay { name, lane, from, id, reason }) => {
                (name, "replay", json!({"lane": lane, "from": from, "id": id, "reason": reason}))
            }
            Some(Verb::Test { name, file, content_type }) => {
                let body = file.as_deref().map(read_body).transpose()?.map(|body| BASE64_STANDARD.encode(body));
                (name, "test", json!({"bodyBase64": body, "contentType": content_type}))
            }
        };
        let path = super::shared::path(&["v1", "destinations", name, verb], &[]);
        let what = format!("{verb} {name}");
        let answer = self.port.order(client, &path, order, (&what, "who pushes"), outcome).await?;
        let refused = answer["test"]["taken"] == false;
        Ok(if refused { Exit::Failed } else { exit(&answer) })
    }

    async fn list(&self, client: &Client) -> anyhow::Result<Exit> {
        let answer: Value = client.get("/v1/destinations").await?;
        self.port.print(&answer, |answer| {
            let destinations = answer["destinations"].as_array().map(Vec::as_slice).unwrap_or_default();
            if destinations.is_empty() {
                return "nothing is pushed anywhere\n".to_owned();
            }
            destinations.iter().map(show).collect()
        })
    }
}

/// What came of an order that was executed.
fn outcome(answer: &Value) -> String {
    match (answer["test"]["taken"].as_bool(), answer["id"].as_str()) {
        (Some(taken), _) => {
            let what = if taken { "taken" } else { "not taken" };
            let said = answer["test"]["said"].as_str().unwrap_or_default().trim_end_matches([':', ' ']);
            format!("{what} after {} ms: {said}", answer["test"]["milliseconds"])
        }
        (None, Some(id)) => format!("begun; its id is {id}"),
        (None, None) => "done".to_owned(),
    }
}

impl Items {
    fn order(&self) -> Value {
        json!({"lane": self.lane, "offsets": self.offsets, "reason": self.reason})
    }
}

fn replay_id(text: &str) -> Result<String, &'static str> {
    if is_replay_id(text) { Ok(text.to_owned()) } else { Err("1 to 64 letters, digits, dots, underscores and hyphens") }
}

fn read_body(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut body)?;
        return Ok(body);
    }
    std::fs::read(file).with_context(|| file.display().to_string())
}

fn show(destination: &Value) -> String {
    let name = destination["name"].as_str().unwrap_or_default();
    let held = match (destination["held"]["paused"].as_str(), destination["held"]["disabled"].as_str()) {
        (Some(reason), _) if destination["held"]["partly"] == true => {
            format!(", paused in some lanes only, say it again: {reason}")
        }
        (Some(reason), _) => format!(", paused: {reason}"),
        (_, Some(reason)) => format!(", disabled by its receiver: {reason}"),
        _ => String::new(),
    };
    let mut text = format!("{name}{held}\n");
    for retrying in destination["retrying"].as_array().into_iter().flatten() {
        let (lane, offset, attempts) = (&retrying["lane"], &retrying["offset"], &retrying["attempts"]);
        let error = retrying["error"].as_str().unwrap_or_default().trim_end_matches([':', ' ']);
        let down = if retrying["down"] == true { ", taken for down" } else { "" };
        let _ = writeln!(text, "  lane {lane}: item {offset} was tried {attempts} times{down}: {error}");
    }
    for lane in destination["lanes"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  lane {}: pushed below {}, {} behind", lane["lane"], lane["position"], lane["lag"]);
        if let Some(id) = lane["replay"].as_str() {
            let _ = writeln!(text, "    pushes once more, as {id}");
        }
        if let Some(reason) = lane["haltedByLoss"].as_str() {
            let _ = writeln!(text, "    stands still: {reason}");
        }
        for (offset, reason) in lane["halted"].as_object().into_iter().flatten() {
            let _ = writeln!(text, "    {offset} was refused: {}", reason.as_str().unwrap_or_default());
        }
    }
    text
}
