//! `seriatim why`: what something waits for, in one sentence, then a table.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use super::Exit;
use super::port::Port;
use super::shared::path;
use crate::process::config::Config;

/// Say what a lane, a message, a destination or a batch waits for
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim why
  seriatim why 0
  seriatim why 0-1234
  seriatim why billing
  seriatim why invoices-2026-11")]
pub(super) struct Why {
    /// A lane's number, a message's id or, where there is one lane only, its offset; the name of a destination or
    /// of a batch. All lanes, and the destinations in trouble, where not given
    #[arg(value_name = "LANE|OFFSET|ID|DEST|BATCH")]
    what: Option<String>,
    #[command(flatten)]
    port: Port,
}

impl Why {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        let of: Vec<_> = self.what.as_deref().map(|what| ("of", what)).into_iter().collect();
        let call = path(&["v1", "why"], &of);
        self.port.call(config, async |client| {
            let answer: Value = client.get(&call).await?;
            self.port.print(&answer, |answer| {
                let parts = answer["answers"].as_array().into_iter().flatten();
                let text = |part: &Value| {
                    let below = format!("{}{}", table(&part["messages"]), lanes(&part["destination"]));
                    format!("{}\n{below}", part["sentence"].as_str().unwrap_or_default())
                };
                parts.map(text).collect()
            })
        })
    }
}

/// The messages as a table, nothing where there are none.
pub(super) fn table(messages: &Value) -> String {
    let Some(messages) = messages.as_array().filter(|messages| !messages.is_empty()) else { return String::new() };
    let mut text = format!("  {:<14}{:<10}{:>9}  {:<12}{}\n", "message", "state", "age s", "waits for", "last error");
    for message in messages {
        let field = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        let error = if message["error"].is_null() { String::new() } else { message["error"].to_string() };
        let age = message["ageSeconds"].as_f64().unwrap_or_default();
        let _ =
            writeln!(text, "  {:<14}{:<10}{age:>9.1}  {:<12}{error}", field("id"), field("state"), field("waitsFor"));
    }
    text
}

/// How far a destination is pushed in each lane, as a table.
fn lanes(destination: &Value) -> String {
    let Some(lanes) = destination["lanes"].as_array().filter(|lanes| !lanes.is_empty()) else { return String::new() };
    let mut text = format!("  {:<8}{:>14}{:>10}{:>9}\n", "lane", "pushed below", "behind", "halted");
    for lane in lanes {
        let halted = lane["halted"].as_object().map_or(0, serde_json::Map::len);
        let number = |name: &str| lane[name].as_u64().unwrap_or_default();
        let (lane, position, lag) = (number("lane"), number("position"), number("lag"));
        let _ = writeln!(text, "  {lane:<8}{position:>14}{lag:>10}{halted:>9}");
    }
    text
}
