//! `GET /v1/outputs/{destination}` and `GET /v1/dead-letters`: up to now, or followed as they come.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::stream;
use serde::Deserialize;
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

use super::Service;
use super::envelope::known;
use super::problem::{Code, Problem};
use crate::log::{Error, Fetched, Reader, Topic, TopicPartition, Visibility};
use crate::observe::PATIENCE;
use crate::observe::outputs::{Position, position};
use crate::record::present::{DeadLetter, Output};
use crate::record::{Offset, OutputHeaders, Partition, Sequence, decimal};

/// Bytes of records read, and turned into one piece of the answer, at once.
const READ_BYTES: usize = 256 * 1024;

/// The query of the routes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    lane: Option<u32>,
    from: Option<From>,
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The outputs of a destination, counted by their sequence numbers.
    Outputs,
    /// Dead letters, counted by their offsets.
    DeadLetters,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum From {
    /// With this number.
    Sequence(u64),
    /// With what is yet to come.
    End,
}

impl TryFrom<String> for From {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let number = || decimal(&text).map(Self::Sequence).ok_or("from is a sequence number, or end");
        if text == "end" { Ok(Self::End) } else { number() }
    }
}

/// Answers with the outputs from a sequence number on, or from `end`: without `from`, or from 0, from the first
/// that is left; from another number that retention has removed, a problem that says so.
///
/// # Errors
///
/// [`Code::UnknownDestination`], [`Code::NotFound`] for a lane that does not exist,
/// [`Code::InvalidQuery`], [`Code::Removed`], and what the log answers.
pub(super) async fn outputs(
    service: &Service,
    destination: &str,
    query: &ReadQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let topic = service.topics().destinations.get(destination).ok_or_else(|| {
        Problem::new(Code::UnknownDestination, format!("{destination:?} is none; {}", known(service.topics())))
    })?;
    read(service, topic, Kind::Outputs, query, headers).await
}

/// Answers with the dead letters from an offset on, as [`outputs`] does with outputs.
///
/// # Errors
///
/// As [`outputs`].
pub(super) async fn dead_letters(
    service: &Service,
    query: &ReadQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    read(service, &service.topics().dead_letter, Kind::DeadLetters, query, headers).await
}

async fn read(
    service: &Service,
    topic: &Topic,
    kind: Kind,
    query: &ReadQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let follow = wants_events(headers);
    let resume = if follow { last_event(headers)? } else { None };
    let resumed = resume.and_then(|(lane, _)| lane);
    if query.lane.is_some() && resumed.is_some() && query.lane != resumed {
        return Err(Problem::new(Code::InvalidHeader, "Last-Event-ID is of another lane than the query asks for"));
    }
    let lane = lane(service, query.lane.or(resumed))?;
    let from = resume.map(|(_, sequence)| From::Sequence(sequence + 1)).or(query.from);
    let of = topic.partition(lane);
    let (at, from) = begin(service, kind, &of, from.unwrap_or(From::Sequence(0))).await?;
    let end = service.log().bounds(&of).await?.stable_end;
    let reader = service.log().read(&of, at, Visibility::Durable, READ_BYTES).await?;
    let outputs = Outputs { kind, reader, of, from, end: (!follow).then_some(end) };
    Ok(if follow {
        events(outputs, service.options().heartbeat, service.drain().clone())
    } else {
        let lines = stream::try_unfold(outputs, |mut outputs| async move {
            Ok::<_, Error>(outputs.next().await?.map(|lines| (lines, outputs)))
        });
        ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
    })
}

/// The offset to read from, and the lowest number to hand out.
async fn begin(service: &Service, kind: Kind, of: &TopicPartition, from: From) -> Result<(Offset, u64), Problem> {
    let bounds = service.log().bounds(of).await?;
    let From::Sequence(from) = from else { return Ok((bounds.stable_end, 0)) };
    let position = match kind {
        Kind::Outputs => position(&**service.log(), of, Sequence(from)).await?,
        Kind::DeadLetters if from < bounds.start.0 => Position::Removed(Sequence(bounds.start.0)),
        Kind::DeadLetters => Position::At(Offset(from).min(bounds.stable_end)),
    };
    match position {
        Position::At(at) => Ok((at, from)),
        Position::Removed(_) if from == 0 => Ok((bounds.start, 0)),
        Position::Removed(Sequence(first)) => {
            let detail = format!("retention has removed what came before {first}; ask from={first} on");
            Err(Problem::new(Code::Removed, detail).with("first", first))
        }
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|media| media.split(';').next().is_some_and(|m| m.trim() == "text/event-stream"))
}

/// Lane and sequence number of the last event that the client has seen: `LANE:SEQUENCE`.
fn last_event(headers: &HeaderMap) -> Result<Option<(Option<u32>, u64)>, Problem> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| match text.split_once(':') {
        Some((lane, sequence)) => Some((Some(decimal(lane)?), decimal(sequence)?)),
        None => Some((None, decimal(text)?)),
    });
    parsed
        .filter(|(_, sequence)| *sequence < u64::MAX)
        .map(Some)
        .ok_or_else(|| Problem::new(Code::InvalidHeader, "Last-Event-ID is not LANE:SEQUENCE, as the events have it"))
}

fn lane(service: &Service, asked: Option<u32>) -> Result<Partition, Problem> {
    match (asked, service.topics().lanes) {
        (None, 1) => Ok(Partition(0)),
        (None, lanes) => {
            let detail = format!("say which lane: there are {lanes}, each with its own order, from lane=0 on");
            Err(Problem::new(Code::InvalidQuery, detail))
        }
        (Some(lane), lanes) if lane < lanes => Ok(Partition(lane)),
        (Some(lane), lanes) => {
            Err(Problem::new(Code::NotFound, format!("there is no lane {lane}; the last one is {}", lanes - 1)))
        }
    }
}

/// Outputs, or dead letters, being read.
struct Outputs {
    kind: Kind,
    reader: Box<dyn Reader>,
    of: TopicPartition,
    from: u64,
    /// Where to stop; `None` follows.
    end: Option<Offset>,
}

impl Outputs {
    /// The next lines, `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.end.is_some_and(|end| self.reader.position() < end) {
            let fetched = timeout(PATIENCE, self.reader.next()).await;
            let fetched = fetched.map_err(|_| Error::Unavailable(format!("{} cannot be read", self.of)))??;
            // A client that downloads slowly keeps nobody waiting who reads the same partition.
            self.reader.rest();
            let mut lines = BytesMut::new();
            self.each(&fetched, |_, json| {
                lines.extend_from_slice(json);
                lines.extend_from_slice(b"\n");
            });
            if !lines.is_empty() {
                return Ok(Some(lines.freeze()));
            }
        }
        Ok(None)
    }

    /// Waits for the next events.
    async fn follow(&mut self) -> Result<Bytes, Error> {
        let mut events = BytesMut::new();
        while events.is_empty() {
            let fetched = self.reader.next().await?;
            self.reader.rest();
            let lane = self.of.partition;
            self.each(&fetched, |number, json| {
                events.extend_from_slice(format!("id: {lane}:{number}\ndata: ").as_bytes());
                events.extend_from_slice(json);
                events.extend_from_slice(b"\n\n");
            });
        }
        Ok(events.freeze())
    }

    /// Hands out each as JSON, with its number. Records without provenance are no outputs of this pipeline.
    fn each(&self, fetched: &Fetched, mut out: impl FnMut(u64, &[u8])) {
        let lane = self.of.partition;
        for record in fetched.batches.iter().flatten() {
            if self.end.is_some_and(|end| record.offset >= end) {
                break;
            }
            let shown = match self.kind {
                Kind::DeadLetters => Some((record.offset.0, serde_json::to_vec(&DeadLetter { lane, record }))),
                Kind::Outputs => OutputHeaders::decode(record.headers).map(|headers| {
                    let output = Output { destination: None, place: Some((lane, headers)), record };
                    (headers.sequence.0, serde_json::to_vec(&output))
                }),
            };
            if let Some((number, json)) = shown.filter(|(number, _)| *number >= self.from) {
                out(number, &json.expect("plain data always serializes"));
            }
        }
    }
}

/// An event stream that lives until the client leaves, the log fails or the process drains; the
/// client then comes again with the last id it has seen.
fn events(outputs: Outputs, heartbeat: Duration, drain: CancellationToken) -> Response {
    let opening = Some(Bytes::from_static(b": seriatim\n\n"));
    let events = stream::try_unfold((outputs, drain, opening), move |(mut outputs, drain, opening)| async move {
        let event = match opening {
            Some(opening) => opening,
            None => tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(None),
                event = timeout(heartbeat, outputs.follow()) => match event {
                    Ok(event) => event?,
                    Err(_) => Bytes::from_static(b":\n\n"),
                },
            },
        };
        Ok::<_, Error>(Some((event, (outputs, drain, None))))
    });
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
