//! `seriatim batch`: staggered batches, started, watched and steered.

mod show;
mod submit;
mod watch;

use std::collections::BTreeSet;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use super::client::Client;
use super::shared::{path, runtime, unless_closed};
use super::{Exit, Failure};
use crate::process::config::Config;
use crate::record::batches::{ItemStatus, STATUSES};
use submit::Submit;
use watch::Watch;

/// Start, watch and steer staggered batches of work
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim batch submit --count 987 --template '{\"kind\":\"invoice\"}' --id invoices --watch
  seriatim batch submit orders.ndjson --window 50 --on-item-failure hold
  seriatim batch watch invoices
  seriatim batch items invoices --status failed
  seriatim batch retry invoices 17 18
  seriatim batch set invoices --window 20
  seriatim batch cancel invoices --reason 'wrong month'

Exit codes of watch, and of submit --watch: 0 every item succeeded, 6 completed and some did not, 1 failed
or cancelled, 3 no such batch, 5 --timeout has passed. Of retry and discard: 4 none of the items named is
held, 6 some of them are not.")]
pub(super) struct Batch {
    #[command(subcommand)]
    verb: Verb,
    /// The data port, if it is not where the configuration says
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// A bearer token that the data port knows
    #[arg(long, global = true, env = "SERIATIM_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Print as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a batch: of a file's JSON lines, or of a count and a template
    Submit(Box<Submit>),
    /// How a batch is
    Status { id: String },
    /// Follow a batch to its end
    Watch(Watch),
    /// Generate no more items until resumed; those that are out finish
    Pause { id: String },
    /// Go on
    Resume { id: String },
    /// Generate no more items, and end when those that are out have finished
    Cancel {
        id: String,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Do items that are held once more
    Retry(Which),
    /// Give items that are held up
    Discard(Which),
    /// Change how a batch runs
    Set(Set),
    /// The batches there are
    List {
        /// Only those that are so
        #[arg(long, value_parser = PossibleValuesParser::new(STATUSES))]
        status: Option<String>,
    },
    /// How items ended, in index order, a JSON object a line
    Items {
        id: String,
        /// The first index
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many indices
        #[arg(long)]
        limit: Option<u64>,
        /// Only those that ended so
        #[arg(long, value_parser = PossibleValuesParser::new(ItemStatus::ALL.map(ItemStatus::as_str)))]
        status: Option<String>,
        /// With what came of them
        #[arg(long)]
        bodies: bool,
    },
}

#[derive(Debug, Args)]
struct Which {
    id: String,
    /// The items' indices; all that are held where none is given
    items: Vec<u64>,
}

#[derive(Debug, Args)]
struct Set {
    id: String,
    /// Items that are out at once; in mode paced, items an interval
    #[arg(long, value_parser = submit::window())]
    window: Option<u64>,
    /// The interval of mode paced
    #[arg(long, value_name = "TIME", value_parser = submit::time)]
    interval: Option<String>,
    /// How many items may fail
    #[arg(long, value_name = "COUNT")]
    tolerated_failure_count: Option<u64>,
    /// The same as a share of all
    #[arg(long, value_name = "PERCENT", value_parser = submit::percent)]
    tolerated_failure_percentage: Option<f64>,
}

impl Batch {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        let client = Client::data(self.url.as_deref(), config, self.token.clone())?;
        unless_closed(runtime()?.block_on(self.call(&client)))
    }

    async fn call(&self, client: &Client) -> anyhow::Result<Exit> {
        match &self.verb {
            Verb::Submit(submit) => submit.submit(client, self.json).await,
            Verb::Status { id } => {
                let batch: Value = client.get(&path(&["v1", "batches", id], &[])).await?;
                show::print(&batch, self.json)
            }
            Verb::Watch(watch) => watch.watch(client, self.json).await,
            Verb::Pause { id } => self.post(client, id, "pause", None).await,
            Verb::Resume { id } => self.post(client, id, "resume", None).await,
            Verb::Cancel { id, reason } => {
                self.post(client, id, "cancel", reason.as_ref().map(|reason| json!({ "reason": reason }))).await
            }
            Verb::Retry(which) => self.act(client, which, "retry").await,
            Verb::Discard(which) => self.act(client, which, "discard").await,
            Verb::Set(set) => self.set(client, set).await,
            Verb::List { status } => {
                let query: Vec<_> = status.as_deref().map(|status| ("status", status)).into_iter().collect();
                let batches: Value = client.get(&path(&["v1", "batches"], &query)).await?;
                show::list(&batches, self.json)
            }
            Verb::Items { id, from, limit, status, bodies } => {
                items(client, id, *from, *limit, status.as_deref(), *bodies).await
            }
        }
    }

    async fn post(&self, client: &Client, id: &str, verb: &str, body: Option<Value>) -> anyhow::Result<Exit> {
        show::print(&self.ask(client, id, verb, body).await?, self.json)
    }

    async fn ask(&self, client: &Client, id: &str, verb: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = client.request(Method::POST, &path(&["v1", "batches", id, verb], &[]));
        if let Some(body) = body {
            request = request.json(&body);
        }
        Ok(client.send(request).await?.json().await?)
    }

    /// Retries or discards, and says where that met other than what was named.
    async fn act(&self, client: &Client, which: &Which, verb: &str) -> anyhow::Result<Exit> {
        let batch = self.ask(client, &which.id, verb, which.body()).await?;
        show::print(&batch, self.json)?;
        let Some(applied) = batch["applied"].as_u64() else {
            eprintln!("seriatim: no owner has done it yet; it is on the log, and will be done");
            return Ok(Exit::Ok);
        };
        let named: BTreeSet<u64> = which.items.iter().copied().collect();
        let missed = (named.len() as u64).saturating_sub(applied);
        match (applied, missed) {
            (0, 0) => eprintln!("seriatim: no item of {} is held: nothing to {verb}", which.id),
            (_, 0) => eprintln!("seriatim: {verb}: {applied} items"),
            (0, _) => {
                let message = format!("none of these items of {} is held: nothing to {verb}", which.id);
                return Err(Failure::new(Exit::Conflict, message).into());
            }
            (_, _) => {
                let message = format!("{verb}: {applied} items; {missed} of those named are not held");
                return Err(Failure::new(Exit::PartlyFailed, message).into());
            }
        }
        Ok(Exit::Ok)
    }

    async fn set(&self, client: &Client, set: &Set) -> anyhow::Result<Exit> {
        let mut change = Map::new();
        let mut put = |name: &str, value: Option<Value>| change.extend(value.map(|value| (name.to_owned(), value)));
        put("window", set.window.map(Value::from));
        put("interval", set.interval.clone().map(Value::from));
        put("toleratedFailureCount", set.tolerated_failure_count.map(Value::from));
        put("toleratedFailurePercentage", set.tolerated_failure_percentage.map(Value::from));
        if change.is_empty() {
            return Err(Failure::new(Exit::Usage, "say what to change, as in --window 20").into());
        }
        let request = client.request(Method::PATCH, &path(&["v1", "batches", &set.id], &[])).json(&change);
        let batch: Value = client.send(request).await?.json().await?;
        show::print(&batch, self.json)
    }
}

impl Which {
    fn body(&self) -> Option<Value> {
        (!self.items.is_empty()).then(|| json!({ "items": self.items }))
    }
}

async fn items(
    client: &Client,
    id: &str,
    from: u64,
    limit: Option<u64>,
    status: Option<&str>,
    bodies: bool,
) -> anyhow::Result<Exit> {
    let (from, limit) = (from.to_string(), limit.map(|limit| limit.to_string()));
    let mut query = vec![("from", from.as_str())];
    query.extend(limit.as_deref().map(|limit| ("limit", limit)));
    query.extend(status.map(|status| ("status", status)));
    if bodies {
        query.push(("bodies", "true"));
    }
    let request = client.request(Method::GET, &path(&["v1", "batches", id, "items"], &query));
    let mut answer = client.send(request).await?;
    let mut stdout = tokio::io::stdout();
    while let Some(piece) = answer.chunk().await? {
        stdout.write_all(&piece).await?;
    }
    stdout.flush().await?;
    Ok(Exit::Ok)
}
