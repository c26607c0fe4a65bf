//! `POST /v1/batches` with NDJSON: items of any number, streamed to the log and never held.
//!
//! Items go to `batch-items` under a token of this upload's own; only when the last one is durable
//! is the start written that names them. Whatever ends the upload before that leaves it void: no
//! batch begins, and what was written is passed over and goes with the retention.

use std::collections::VecDeque;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::super::auth::Principal;
use super::super::decode::{self, Pieces};
use super::super::lines::{Line, Lines};
use super::super::problem::{Code, Problem};
use super::super::results::check_json;
use super::super::upload::{Pace, next_frame};
use super::super::{Service, body, single};
use super::key::{self, Key};
use super::{lane_of, start};
use crate::log::{Appending, TopicPartition};
use crate::record::batches::{StartProcessing, Upload};
use crate::record::{BatchBuilder, BatchItem, Name, Offset, Round};

/// Appends on their way: enough to keep the log busy while the body comes in.
const ON_THE_WAY: usize = 4;

/// What becomes of a line that is no item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnBadLine {
    /// The upload is void.
    #[default]
    Refuse,
    /// The line is left out; the answer says how many were, and which came first.
    Skip,
}

/// Starts a batch of the lines of the body. The query says what a start says in JSON: numbers,
/// truth values and objects as in JSON, everything else as text; and `onBadLine`, and `expect`, the
/// number of items without which the upload is void. Each item counts for the sender's quota; the body
/// is read no faster.
///
/// A retry under the same `Idempotency-Key` gets the batch of the first attempt, once all of it was
/// read and found to be the same; none of it is written again.
///
/// # Errors
///
/// [`Code::InvalidQuery`], [`Code::InvalidBatch`], [`Code::InvalidHeader`], [`Code::BatchExists`],
/// [`Code::KeyReused`], [`Code::InvalidBody`] with the line, and what the log answers. Then nothing was
/// started.
pub(in super::super) async fn upload(
    service: &Service,
    principal: &Principal,
    query: Vec<(String, String)>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = Key::read(headers, principal)?;
    let mut content = Sha256::new();
    for (name, value) in &query {
        content.update(serde_json::json!([name, value]).to_string());
    }
    let body = decode::pieces(headers, body, service.options(), service.bodies())?;
    let Asked { mut start, on_bad_line, expect } = asked(query)?;
    let token = format!("upload-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    start::name(&mut start, key.as_ref())?;
    // Checked before anything is written, with one item, for all of it but their number.
    start.upload = Some(Upload { token: token.clone(), first: 0, count: 1 });
    let there = start::check(service, &start).await?;
    if there.as_ref().is_some_and(|there| !key.as_ref().is_some_and(|key| key.is_of(there))) {
        return Err(key::exists(&start.id));
    }
    let to = service.topics().batch_items.partition(lane_of(service, &start.id));
    let mut items = Uploading::new(service, principal, to, token.clone(), on_bad_line);
    items.content = content;
    items.is_there = there.is_some();
    if let Err(problem) = items.take_all(body).await {
        return Err(problem.with("outcome", "void"));
    }
    start.request = key.map(|key| key.request(items.content.clone()));
    if let Some(there) = there {
        return start::again(service, &start, &there);
    }
    let (count, first) = (items.count, items.first.unwrap_or_default());
    if expect.is_some_and(|expected| expected != count) {
        let detail = format!("{count} items came, and not the {} expected; nothing was started", expect.unwrap_or(0));
        return Err(Problem::new(Code::InvalidBody, detail).with("outcome", "void"));
    }
    if count == 0 {
        return Err(Problem::new(Code::InvalidBatch, "a batch needs at least one item").with("outcome", "void"));
    }
    start.upload = Some(Upload { token, first: first.0, count });
    let mut response = start::begin(service, start).await?;
    if items.bad > 0 {
        let note = format!("{} lines left out; the first: {}", items.bad, items.first_bad);
        if let Ok(note) = note.try_into() {
            response.headers_mut().insert("seriatim-bad-lines", note);
        }
    }
    Ok(response)
}

struct Asked {
    start: StartProcessing,
    on_bad_line: OnBadLine,
    expect: Option<u64>,
}

fn asked(query: Vec<(String, String)>) -> Result<Asked, Problem> {
    let mut members = Map::new();
    for (name, text) in query {
        let parsed = serde_json::from_str(&text).ok().filter(|_| name != "id");
        members.insert(name, parsed.unwrap_or(Value::String(text)));
    }
    let invalid = |error: serde_json::Error| Problem::new(Code::InvalidQuery, error.to_string());
    let on_bad_line = members.remove("onBadLine").map(serde_json::from_value).transpose().map_err(invalid)?;
    let expect = members.remove("expect").map(serde_json::from_value).transpose().map_err(invalid)?;
    for name in ["count", "items", "template", "upload", "request"] {
        if members.contains_key(name) {
            return Err(Problem::new(Code::InvalidQuery, format!("{name} makes no sense where items are uploaded")));
        }
    }
    // Parts of a start that are kept as they came can only be read from text.
    let text = Value::Object(members).to_string();
    let start = serde_json::from_str(&text).map_err(invalid)?;
    Ok(Asked { start, on_bad_line: on_bad_line.unwrap_or_default(), expect })
}

/// Items on their way to the log.
struct Uploading<'a> {
    service: &'a Service,
    principal: &'a Principal,
    to: TopicPartition,
    token: String,
    on_bad_line: OnBadLine,
    builder: BatchBuilder,
    on_the_way: VecDeque<Appending>,
    /// Items that were taken, and where the first of them stands.
    count: u64,
    first: Option<Offset>,
    /// Lines that were seen, blank ones not counted.
    lines: u64,
    bad: u64,
    first_bad: String,
    /// All that was asked, so far.
    content: Sha256,
    /// Its batch was started before: the body is read to be compared.
    is_there: bool,
}

impl<'a> Uploading<'a> {
    fn new(
        service: &'a Service,
        principal: &'a Principal,
        to: TopicPartition,
        token: String,
        on_bad_line: OnBadLine,
    ) -> Self {
        Self {
            service,
            principal,
            to,
            token,
            on_bad_line,
            builder: BatchBuilder::default(),
            on_the_way: VecDeque::new(),
            count: 0,
            first: None,
            lines: 0,
            bad: 0,
            first_bad: String::new(),
            content: Sha256::new(),
            is_there: false,
        }
    }

    /// Takes the body to its end, and returns once all of it is durable.
    async fn take_all(&mut self, body: Pieces) -> Result<(), Problem> {
        let options = self.service.options();
        let mut lines = Lines::new(options.max_body);
        let (mut body, mut pace) = (Some(body), Pace::new());
        loop {
            if self.service.drain().is_cancelled() {
                return Err(Problem::new(Code::Draining, "the process is stopping; send the upload again"));
            }
            let frame = next_frame(&mut body, pace.deadline(&lines, options)).await?;
            pace.came(frame.as_deref().unwrap_or_default(), &lines);
            self.content.update(frame.as_deref().unwrap_or_default());
            let mut found = Ok(());
            let mut line = |line: Line<'_>| {
                if found.is_ok() {
                    found = self.line(&line);
                }
            };
            match &frame {
                Some(frame) => lines.feed(frame, &mut line),
                None => lines.finish(&mut line),
            }
            if let Err(problem) = found {
                if let Some(rest) = body.take() {
                    body::linger(rest).await;
                }
                return Err(problem);
            }
            let is_last = frame.is_none();
            let began = Instant::now();
            self.keep_to_quota().await;
            self.send(if is_last { 0 } else { ON_THE_WAY }).await?;
            pace.rest(began.elapsed());
            if is_last {
                return Ok(());
            }
        }
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), Problem> {
        self.lines += 1;
        let checked = match line {
            Line::TooLong => Err("it is longer than ingress.max_body".to_owned()),
            Line::Whole(line) => check_json(line).map(|()| line),
        };
        match checked {
            Ok(line) => {
                let item = BatchItem { id: &self.token, index: self.count, round: Round(0) };
                self.builder.push(Some(self.token.as_bytes()), Some(line), |to| {
                    to.put_display(Name::Batch, format_args!("{item}"));
                });
                self.count += 1;
                Ok(())
            }
            Err(reason) if self.on_bad_line == OnBadLine::Skip => {
                if self.bad == 0 {
                    self.first_bad = format!("line {}: {reason}", self.lines);
                }
                self.bad += 1;
                Ok(())
            }
            Err(reason) => {
                let detail =
                    format!("line {}: {reason}; nothing was started (onBadLine=skip leaves it out)", self.lines);
                Err(Problem::new(Code::InvalidBody, detail).with("line", self.lines))
            }
        }
    }

    /// Waits until the sender may send what is gathered, or until the process drains.
    async fn keep_to_quota(&mut self) {
        let count = u32::try_from(self.builder.len()).unwrap_or(u32::MAX);
        let quota = self.service.keep_to_quota(self.principal, count);
        // Where it drains, the next look at that ends the upload.
        let _ = self.service.drain().run_until_cancelled(quota).await;
    }

    /// Appends what was gathered, and waits until no more than `most` appends are on their way.
    async fn send(&mut self, most: usize) -> Result<(), Problem> {
        let patience = self.service.options().append_timeout;
        if !self.builder.is_empty() {
            let batch = self.builder.finish();
            if self.is_there {
                return Ok(());
            }
            let placed = timeout(patience, self.service.log().append(&self.to, batch)).await;
            self.on_the_way.push_back(placed.map_err(|_| single::timed_out())??);
        }
        while self.on_the_way.len() > most {
            let Some(oldest) = self.on_the_way.pop_front() else { break };
            let offsets = timeout(patience, oldest).await.map_err(|_| single::timed_out())??;
            self.first = self.first.or_else(|| offsets.get(0));
        }
        Ok(())
    }
}
