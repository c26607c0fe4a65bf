//! `seriatim why`: what something waits for, in one sentence, then a table.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use super::Exit;
use super::port::Port;
use super::shared::path;
use crate::process::config::Config;
use crate::record::Source;

/// Say what a lane, a message or a batch waits for
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim why
  seriatim why 0
  seriatim why 0-1234
  seriatim why invoices-2026-11")]
pub(super) struct Why {
    /// A lane's number, a message's id or a batch's; all lanes where not given
    #[arg(value_name = "LANE|ID|BATCH")]
    what: Option<String>,
    #[command(flatten)]
    port: Port,
}

impl Why {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        let call = match self.what.as_deref() {
            None => "/v1/why".to_owned(),
            Some(lane) if lane.bytes().all(|b| b.is_ascii_digit()) => format!("/v1/why?lane={lane}"),
            Some(id) if Source::from_id(id).is_some() => path(&["v1", "why"], &[("id", id)]),
            Some(batch) => path(&["v1", "why"], &[("batch", batch)]),
        };
        self.port.call(config, async |client| {
            let answer: Value = client.get(&call).await?;
            self.port.print(&answer, |answer| {
                let parts = answer["answers"].as_array().into_iter().flatten();
                let text = |part: &Value| {
                    format!("{}\n{}", part["sentence"].as_str().unwrap_or_default(), table(&part["messages"]))
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
