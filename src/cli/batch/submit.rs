//! `seriatim batch submit`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::RangedU64ValueParser;
use clap::{Args, value_parser};
use indicatif::ProgressBar;
use reqwest::{Body, Method, header};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::io::AsyncRead;
use tokio_util::io::{InspectReader, ReaderStream};

use super::super::client::Client;
use super::super::shared::{bar, path};
use super::super::{Exit, Failure};
use super::show;
use super::watch::Watch;
use crate::record::batches::StartProcessing;

#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The items, a JSON value a line; or - for standard input
    #[arg(required_unless_present = "count", conflicts_with_all = ["count", "template"])]
    file: Option<PathBuf>,
    /// How many items to make from the template
    #[arg(long, value_parser = value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// What each of them is, JSON
    #[arg(long, value_name = "JSON", requires = "count")]
    template: Option<String>,
    /// The batch's id; one is made up without it
    #[arg(long)]
    id: Option<String>,
    /// When items go out
    #[arg(long, value_parser = ["window", "barrier", "paced"])]
    mode: Option<String>,
    /// Items that are out at once; in mode paced, items an interval
    #[arg(long, value_parser = window())]
    window: Option<u64>,
    /// The interval of mode paced, such as 1s
    #[arg(long, value_name = "TIME", value_parser = time)]
    interval: Option<String>,
    /// Items leave in index order among themselves
    #[arg(long)]
    ordered: bool,
    /// What becomes of the batch when more items fail than are tolerated
    #[arg(long, value_name = "POLICY", value_parser = ["continue", "stop", "hold"])]
    on_item_failure: Option<String>,
    /// How many items may fail
    #[arg(long, value_name = "COUNT")]
    tolerated_failure_count: Option<u64>,
    /// The same as a share of all
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    tolerated_failure_percentage: Option<f64>,
    /// How long an item may take
    #[arg(long, value_name = "TIME", value_parser = time)]
    item_timeout: Option<String>,
    /// How long the batch may take
    #[arg(long, value_name = "TIME", value_parser = time)]
    deadline: Option<String>,
    /// Ask for a final work item with this, JSON
    #[arg(long, value_name = "JSON")]
    completion: Option<String>,
    /// What becomes of a line that is no JSON: refuse the upload, or skip the line
    #[arg(long, value_name = "POLICY", requires = "file", value_parser = ["refuse", "skip"])]
    on_bad_line: Option<String>,
    /// How many items there have to be: with another number nothing is started
    #[arg(long, value_name = "COUNT", requires = "file", value_parser = value_parser!(u64).range(1..))]
    expect: Option<u64>,
    /// Follow it to its end
    #[arg(long)]
    watch: bool,
    /// Follow it no longer than this; the batch goes on
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

/// What a window may be.
pub(super) fn window() -> RangedU64ValueParser {
    value_parser!(u64).range(1..=u64::from(StartProcessing::LARGEST_WINDOW))
}

/// A time as the contract writes it, which is sent as it is.
pub(super) fn time(text: &str) -> Result<String, humantime::DurationError> {
    humantime::parse_duration(text).map(|_| text.to_owned())
}

/// A share of all items.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=100.0).contains(share));
    share.ok_or_else(|| "it has to be 0 to 100".to_owned())
}

impl Submit {
    pub(super) async fn submit(&self, client: &Client, json: bool) -> anyhow::Result<Exit> {
        let batch: Value = match &self.file {
            Some(file) => self.upload(client, file).await?,
            None => self.start(client).await?,
        };
        if !self.watch {
            return show::print(&batch, json);
        }
        let id = show::word(&batch, "id").to_owned();
        eprintln!("batch {id}");
        Watch { id, timeout: self.timeout }.watch(client, json).await
    }

    async fn start(&self, client: &Client) -> anyhow::Result<Value> {
        let mut members = self.members();
        members.extend(self.count.map(|count| ("count".to_owned(), Value::from(count))));
        let mut start = Value::Object(members).to_string();
        // Put in as they are: a template's numbers are not to change their form on the way.
        for (name, text) in [("template", &self.template), ("completion", &self.completion)] {
            if let Some(text) = text {
                let json = check_json(name, text)?;
                start.truncate(start.len() - 1);
                start = format!(r#"{start},"{name}":{json}}}"#);
            }
        }
        let request = client.request(Method::POST, "/v1/batches").header(header::CONTENT_TYPE, "application/json");
        Ok(client.send(request.body(start)).await?.json().await?)
    }

    async fn upload(&self, client: &Client, file: &Path) -> anyhow::Result<Value> {
        let mut query: Vec<(String, String)> = Vec::new();
        for (name, value) in self.members() {
            query.push((name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        }
        if let Some(completion) = &self.completion {
            query.push(("completion".to_owned(), check_json("completion", completion)?.to_owned()));
        }
        query.extend(self.on_bad_line.clone().map(|policy| ("onBadLine".to_owned(), policy)));
        query.extend(self.expect.map(|count| ("expect".to_owned(), count.to_string())));
        let query: Vec<(&str, &str)> = query.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let (body, bar) = open(file).await?;
        let request = client.request(Method::POST, &path(&["v1", "batches"], &query));
        let request = request.header(header::CONTENT_TYPE, "application/x-ndjson").body(body);
        let answer = client.send(request).await;
        bar.finish_and_clear();
        let answer = answer?;
        if let Some(note) = answer.headers().get("seriatim-bad-lines").and_then(|note| note.to_str().ok()) {
            eprintln!("seriatim: {note}");
        }
        Ok(answer.json().await?)
    }

    /// What a start says in JSON and in an upload's query alike.
    fn members(&self) -> Map<String, Value> {
        let mut members = Map::new();
        let mut put = |name: &str, value: Option<Value>| members.extend(value.map(|value| (name.to_owned(), value)));
        put("id", self.id.clone().map(Value::from));
        put("mode", self.mode.clone().map(Value::from));
        put("window", self.window.map(Value::from));
        put("interval", self.interval.clone().map(Value::from));
        put("ordered", self.ordered.then(|| Value::from(true)));
        put("onItemFailure", self.on_item_failure.clone().map(Value::from));
        put("toleratedFailureCount", self.tolerated_failure_count.map(Value::from));
        put("toleratedFailurePercentage", self.tolerated_failure_percentage.map(Value::from));
        put("itemTimeout", self.item_timeout.clone().map(Value::from));
        put("deadline", self.deadline.clone().map(Value::from));
        members
    }
}

fn check_json<'a>(name: &str, text: &'a str) -> Result<&'a str, Failure> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(json) => Ok(json.get()),
        Err(error) => Err(Failure::new(Exit::Usage, format!("--{name} is no JSON: {error}"))),
    }
}

/// The file as a body, with a bar that goes with it.
async fn open(file: &Path) -> anyhow::Result<(Body, ProgressBar)> {
    if file == Path::new("-") {
        let bar = bar(None, "uploading {spinner} {decimal_bytes}, {decimal_bytes_per_sec}");
        return Ok((body(tokio::io::stdin(), &bar), bar));
    }
    let opened = tokio::fs::File::open(file).await.with_context(|| format!("{} cannot be read", file.display()))?;
    let length = opened.metadata().await?.len();
    let bar = bar(Some(length), "uploading {wide_bar} {decimal_bytes}/{decimal_total_bytes}, {eta} left");
    Ok((body(opened, &bar), bar))
}

fn body(reader: impl AsyncRead + Send + 'static, bar: &ProgressBar) -> Body {
    let bar = bar.clone();
    Body::wrap_stream(ReaderStream::new(InspectReader::new(reader, move |bytes| bar.inc(bytes.len() as u64))))
}
