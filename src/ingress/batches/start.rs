//! `POST /v1/batches` with JSON: a count with a template, or a list of items.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;

use super::super::problem::{Code, Problem};
use super::super::{Service, body};
use super::show::present;
use super::{OWNER_PATIENCE, accepted, board, lane_of, not_begun, write};
use crate::record::batches::{Command, Defaults, StartProcessing, is_id};

/// Starts the batch that the body describes.
///
/// # Errors
///
/// [`Code::InvalidBody`], [`Code::InvalidBatch`], [`Code::BatchExists`], those of reading a body, and
/// what the log answers.
pub(in super::super) async fn start(service: &Service, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    let held = body::read(headers, body, service.options(), service.bodies()).await?;
    let mut start: StartProcessing = serde_json::from_slice(&held.bytes)
        .map_err(|error| Problem::new(Code::InvalidBody, format!("the body is no start of a batch: {error}")))?;
    if start.upload.is_some() {
        let detail = "an upload is sent as NDJSON, with Content-Type: application/x-ndjson";
        return Err(Problem::new(Code::InvalidBatch, detail));
    }
    name(&mut start);
    check(service, &start).await?;
    begin(service, start).await
}

/// Gives a batch without an id one that nobody has.
pub(super) fn name(start: &mut StartProcessing) {
    if start.id.is_empty() {
        start.id = format!("batch-{:016x}", fastrand::u64(..));
    }
}

/// Whether the batch may be started, before any of it is written.
pub(super) async fn check(service: &Service, start: &StartProcessing) -> Result<(), Problem> {
    if !is_id(&start.id) {
        return Err(Problem::new(Code::InvalidBatch, crate::record::batches::Refused::Id.to_string()));
    }
    rules(service, start)?;
    if board(service, lane_of(service, &start.id)).await?.get(&start.id).is_some() {
        return Err(exists(&start.id));
    }
    Ok(())
}

fn rules(service: &Service, start: &StartProcessing) -> Result<(), Problem> {
    let lanes = service.options().lanes.clone().unwrap_or_default();
    let defaults = Defaults { window: lanes.batch_window, stall_after: lanes.deadline };
    let refused = |reason: crate::record::batches::Refused| Problem::new(Code::InvalidBatch, reason.to_string());
    start.rules(defaults).map(drop).map_err(refused)
}

/// Writes the start, and answers once the owner has taken it, or with what is known by then.
pub(super) async fn begin(service: &Service, start: StartProcessing) -> Result<Response, Problem> {
    let (id, lane) = (start.id.clone(), lane_of(service, &start.id));
    let written = write(service, lane, &Command::Start(Box::new(start))).await?;
    let Some(record) = service.board(lane).wait_for(&id, OWNER_PATIENCE, |_| true).await else {
        return Ok(accepted(&id, &not_begun(&id)));
    };
    if record.start != written.0 {
        // Somebody else's start of the same id was there before.
        return Err(exists(&id));
    }
    Ok(accepted(&id, &present(service, &id, &record)))
}

fn exists(id: &str) -> Problem {
    Problem::new(
        Code::BatchExists,
        format!("there is a batch {id:?} already; see /v1/batches/{id}, or take another id"),
    )
}
