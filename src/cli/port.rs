//! What verbs share that ask or act through the admin port.

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::Exit;
use super::client::Client;
use super::shared::{out, runtime, unless_closed};
use crate::process::config::Config;

/// Where the admin port is, and how its answers are shown.
#[derive(Debug, Args)]
pub(super) struct Port {
    /// The admin port, if it is not where the configuration says
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Print as JSON
    #[arg(long, global = true)]
    json: bool,
}

impl Port {
    /// Whether the port is that of the configuration, so that what it says holds for the process there.
    pub(super) const fn is_configured(&self) -> bool {
        self.url.is_none()
    }

    /// Runs a call of the port to its end.
    pub(super) fn call(
        &self,
        config: &Config,
        call: impl AsyncFnOnce(&Client) -> anyhow::Result<Exit>,
    ) -> anyhow::Result<Exit> {
        let client = Client::admin(self.url.as_deref(), config)?;
        unless_closed(runtime()?.block_on(call(&client)))
    }

    /// Gives an order, on the record of whoever asks, and prints what came of it. `how` says it in a
    /// few words, where it was executed; `late` says who has not done that yet.
    pub(super) async fn order(
        &self,
        client: &Client,
        path: &str,
        mut order: Value,
        (what, late): (&str, &str),
        how: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<Value> {
        order["by"] = std::env::var("USER").unwrap_or_else(|_| "operator".to_owned()).into();
        let answer: Value = client.send(client.request(Method::POST, path).json(&order)).await?.json().await?;
        self.print(&answer, |answer| {
            let how = if is_executed(answer) { how(answer) } else { format!("written down; {late} has not acted yet") };
            format!("{what}: {how}\n")
        })?;
        Ok(answer)
    }

    /// Prints an answer, as JSON where that was asked for.
    pub(super) fn print(&self, answer: &Value, text: impl FnOnce(&Value) -> String) -> anyhow::Result<Exit> {
        let text = if self.json { serde_json::to_string_pretty(answer)? + "\n" } else { text(answer) };
        out(text)?;
        Ok(Exit::Ok)
    }
}

/// How a verb ends whose order this answers.
pub(super) fn exit(answer: &Value) -> Exit {
    if is_executed(answer) { Exit::Ok } else { Exit::TimedOut }
}

fn is_executed(answer: &Value) -> bool {
    answer["executed"] == true
}
