//! `POST /v1/batches` with JSON: a count with a template, or a list of items.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use sha2::{Digest as _, Sha256};

use super::super::auth::Principal;
use super::super::problem::{Code, Problem};
use super::super::quota::Meter;
use super::super::{Service, body};
use super::key::{self, Key};
use super::show::present;
use super::{OWNER_PATIENCE, accepted, board, lane_of, not_begun, replayed, write};
use crate::record::batches::{BatchRecord, Command, Defaults, MOST_RUNNING, Refused, StartProcessing, is_id};

/// Starts the batch that the body describes; a retry under the same `Idempotency-Key` gets that batch.
/// Of the sender's quota it takes what it brings: the items of a list, else one.
///
/// # Errors
///
/// [`Code::InvalidBody`], [`Code::InvalidBatch`], [`Code::InvalidHeader`], [`Code::BatchExists`],
/// [`Code::TooManyBatches`], [`Code::KeyReused`], [`Code::QuotaExceeded`], those of reading a body, and
/// what the log answers.
pub(in super::super) async fn start(
    service: &Service,
    principal: &Principal,
    headers: &HeaderMap,
    body: Body,
    meter: &mut Meter<'_>,
) -> Result<Response, Problem> {
    let key = Key::read(headers, principal)?;
    let held = body::read(headers, body, service.options(), service.bodies()).await?;
    let parsed = serde_json::from_slice::<StartProcessing>(&held.bytes);
    let items = parsed.as_ref().ok().and_then(|start| start.items.as_ref()).map_or(1, Vec::len);
    meter.take(items.max(1))?;
    let mut start =
        parsed.map_err(|error| Problem::new(Code::InvalidBody, format!("the body is no start of a batch: {error}")))?;
    if start.upload.is_some() {
        let detail = "an upload is sent as NDJSON, with Content-Type: application/x-ndjson";
        return Err(Problem::new(Code::InvalidBatch, detail));
    }
    name(&mut start, key.as_ref())?;
    start.request = key.map(|key| key.request(Sha256::new_with_prefix(&held.bytes)));
    match check(service, &start).await? {
        None => begin(service, start).await,
        Some(there) => again(service, &start, &there),
    }
}

/// Gives a batch without an id that of its key, or one that nobody has.
pub(super) fn name(start: &mut StartProcessing, key: Option<&Key>) -> Result<(), Problem> {
    if start.request.is_some() {
        return Err(Problem::new(Code::InvalidBatch, Refused::Request.to_string()));
    }
    if start.id.is_empty() {
        start.id = key.map_or_else(|| format!("batch-{:016x}", fastrand::u64(..)), Key::name);
    }
    Ok(())
}

/// Whether the batch may be started, before any of it is written; and the one that has its id, if any.
/// Several that are asked for at once may all find the last place free: the owner fails those that it has none for.
pub(super) async fn check(service: &Service, start: &StartProcessing) -> Result<Option<Arc<BatchRecord>>, Problem> {
    if !is_id(&start.id) {
        return Err(Problem::new(Code::InvalidBatch, Refused::Id.to_string()));
    }
    let lanes = service.options().lanes.clone().unwrap_or_default();
    let defaults = Defaults { window: lanes.batch_window, stall_after: lanes.deadline };
    let refused = |reason: Refused| Problem::new(Code::InvalidBatch, reason.to_string());
    start.rules(defaults).map_err(refused)?;
    let board = board(service, lane_of(service, &start.id)).await?;
    let there = board.get(&start.id);
    if there.is_none() && board.running() >= MOST_RUNNING {
        let detail = format!("{MOST_RUNNING} batches run in its lane; start it once one of them has ended");
        return Err(Problem::new(Code::TooManyBatches, detail));
    }
    Ok(there)
}

/// Answers a request whose batch is there, if it is its own.
pub(super) fn again(service: &Service, start: &StartProcessing, there: &BatchRecord) -> Result<Response, Problem> {
    key::same(&start.id, there, start.request.as_ref())?;
    Ok(replayed(&start.id, &present(service, &start.id, there)))
}

/// Writes the start, and answers once the owner has taken it, or with what is known by then.
pub(super) async fn begin(service: &Service, start: StartProcessing) -> Result<Response, Problem> {
    let (id, lane) = (start.id.clone(), lane_of(service, &start.id));
    let command = Command::Start(Box::new(start));
    let written = write(service, lane, &command).await?;
    let Some(record) = service.board(lane).wait_for(&id, OWNER_PATIENCE, |_| true).await else {
        return Ok(accepted(&id, &not_begun(&id)));
    };
    match &command {
        // Another start of the same id was there before.
        Command::Start(start) if record.start != written.0 => again(service, start, &record),
        _ => Ok(accepted(&id, &present(service, &id, &record))),
    }
}
