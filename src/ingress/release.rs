//! `?wait`: the answer when the message is released.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::{Duration, Instant, timeout_at};

use super::Service;
use super::problem::{Code, Problem};
use super::single::{self, Accepted};
use super::standstill;
use super::waiters::{Guest, Woken};
use crate::log::Error;
use crate::observe::{ledger, outputs};
use crate::record::ledger::Outcome;
use crate::record::outputs::OUTPUTS;
use crate::record::present::Output;
use crate::record::{Batch, Name, Offset, Sequence, Source};

/// Reads a `wait` parameter: `30s`, `500ms`, or seconds.
///
/// # Errors
///
/// [`Code::InvalidQuery`] where it is no time, or longer than `max`.
pub(super) fn wait_of(text: &str, max: Duration) -> Result<Duration, Problem> {
    let seconds = text.parse().map(Duration::from_secs).ok();
    let wait = seconds.or_else(|| humantime::parse_duration(text).ok()).ok_or_else(|| {
        Problem::new(Code::InvalidQuery, format!("wait={text} is no time; write for instance wait=30s"))
    })?;
    if wait > max {
        let max = humantime::format_duration(max);
        return Err(Problem::new(Code::InvalidQuery, format!("wait={text} is longer than {max}, the longest")));
    }
    Ok(wait)
}

/// Answers once the message is released, or stands still for an operator, or `until` has come, or the
/// process drains.
pub(super) async fn answer(service: &Service, guest: Guest, accepted: Accepted, until: Instant) -> Response {
    let outcome = async {
        tokio::select! {
            biased;
            outcome = timeout_at(until, outcome(service, &guest, accepted)) => outcome.unwrap_or(Ok(None)),
            () = service.drain().cancelled() => Ok(None),
            problem = standstill::noticed(service, accepted.source) => Err(placed(problem, accepted.source)),
        }
    };
    let answered = match outcome.await {
        Ok(Some((source, outcome))) => released(service, source, outcome).await,
        Ok(None) => Err(not_yet(accepted.source)),
        Err(problem) => Err(problem.with("id", accepted.source.to_string())),
    };
    let mut response = answered.unwrap_or_else(Problem::into_response);
    single::place(response.headers_mut(), accepted.source, accepted.replayed);
    response
}

fn not_yet(source: Source) -> Problem {
    let detail = "the message is durable and will be worked on; ask for its state by its id";
    placed(Problem::new(Code::NotReleasedYet, detail), source)
}

fn placed(problem: Problem, source: Source) -> Problem {
    problem.with("id", source.to_string()).with("lane", source.lane.0).with("offset", source.offset.0)
}

/// What became of the message: of the original, where it is a duplicate.
async fn outcome(service: &Service, guest: &Guest, accepted: Accepted) -> Result<Option<(Source, Outcome)>, Problem> {
    let mut source = accepted.source;
    let mut new = !accepted.replayed;
    loop {
        match final_outcome(service, guest, source, new).await? {
            // A duplicate names a lower offset, so this ends.
            Outcome::Duplicate(of) if of < source.offset.0 => {
                source = Source { lane: source.lane, offset: Offset(of) };
                new = false;
            }
            outcome => return Ok(Some((source, outcome))),
        }
    }
}

async fn final_outcome(service: &Service, guest: &Guest, source: Source, mut new: bool) -> Result<Outcome, Problem> {
    loop {
        let (woken, look_first) = guest.register(source.offset.0, new).await;
        new = false;
        let mut in_parts = false;
        if look_first {
            match look_up(service, source).await? {
                ledger::Found::Released(outcome) => return Ok(outcome),
                ledger::Found::Pending(partly) => in_parts = !partly.is_empty(),
                ledger::Found::Absent { .. } => return Err(forgotten()),
            }
        }
        match woken.await {
            Ok(Woken::Outcome(outcome)) if !in_parts => return Ok(outcome),
            // What has left of it earlier does not stand in the release that woke us.
            Ok(_) => match look_up(service, source).await? {
                ledger::Found::Released(outcome) => return Ok(outcome),
                _ => return Err(forgotten()),
            },
            // The ledger's reader failed, and is being opened anew.
            Err(_) => {}
        }
    }
}

async fn look_up(service: &Service, source: Source) -> Result<ledger::Found, Error> {
    ledger::find(&**service.log(), service.topics(), source).await
}

fn forgotten() -> Problem {
    Problem::new(Code::Removed, "what became of the message is not known any more")
}

async fn released(service: &Service, source: Source, outcome: Outcome) -> Result<Response, Problem> {
    let failed = |what: &'static str, error: String| {
        let error = RawValue::from_string(error.clone())
            .ok()
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or(serde_json::Value::String(error));
        Problem::new(Code::MessageFailed, format!("the message {source} {what}"))
            .with("id", source.to_string())
            .with("error", error)
    };
    match outcome {
        Outcome::Sent(sent) | Outcome::Partly(sent) => sent_answer(service, source, sent).await,
        Outcome::Empty => Ok(StatusCode::NO_CONTENT.into_response()),
        Outcome::DeadLettered(error) => Err(failed("was put on the dead-letter topic", error)),
        Outcome::Skipped(error) => Err(failed("was skipped", error)),
        Outcome::Duplicate(of) => Err(failed("repeats itself", format!("\"{of}\""))),
    }
}

async fn sent_answer(service: &Service, source: Source, sent: Vec<(String, u64)>) -> Result<Response, Problem> {
    let mut found = Vec::with_capacity(sent.len());
    for (destination, sequence) in sent {
        let gone = || Problem::new(Code::Removed, format!("output {sequence} of {destination} is not there any more"));
        let topic = service.topics().destinations.get(&destination).ok_or_else(gone)?;
        let of = topic.partition(source.lane);
        let batch = outputs::get(&**service.log(), &of, Sequence(sequence)).await?.ok_or_else(gone)?;
        found.push((destination, batch));
    }
    Ok(match found.as_slice() {
        [] => StatusCode::NO_CONTENT.into_response(),
        [(_, batch)] => one(batch),
        several => {
            let outputs: Vec<_> = several
                .iter()
                .filter_map(|(destination, batch)| {
                    Some(Output { destination: Some(destination), place: None, record: batch.iter().next()? })
                })
                .collect();
            let body = serde_json::to_vec(&outputs).expect("plain data always serializes");
            ([(header::CONTENT_TYPE, OUTPUTS)], body).into_response()
        }
    })
}

fn one(batch: &Batch) -> Response {
    let Some(record) = batch.iter().next() else { return StatusCode::NO_CONTENT.into_response() };
    let body = record.value.map_or_else(Bytes::new, |value| batch.share(value));
    let mut response = Body::from(body).into_response();
    let content_type = record.headers.get(Name::ContentType).and_then(|value| HeaderValue::from_bytes(value).ok());
    let fallback = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type.unwrap_or(fallback));
    response
}
