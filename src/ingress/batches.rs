//! Staggered batches over HTTP: they are started, watched and steered here, and run by the owner of
//! their lane. What is asked for is a record on the log before it is answered.

mod items;
mod key;
mod show;
mod start;
mod steer;
mod upload;

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

pub(super) use items::{ItemsQuery, items};
pub(super) use show::{ListQuery, list, status};
pub(super) use start::start;
pub(super) use steer::{change, steer};
pub(super) use upload::upload;

use super::problem::{Code, Problem};
use super::{Service, single};
use crate::observe::batches::Board;
use crate::record::batches::{BatchRecord, Command};
use crate::record::{BatchBuilder, Name, Offset, Partition, partition_of_key};

/// How long an answer waits for the owner to have done what was asked. Without one it is answered
/// without its doing: the command is on the log and is executed when there is an owner.
const OWNER_PATIENCE: Duration = Duration::from_secs(5);

/// How long a process that has just begun may take to read the states there are.
const BOARD_PATIENCE: Duration = Duration::from_secs(10);

/// The lane of a batch.
fn lane_of(service: &Service, id: &str) -> Partition {
    partition_of_key(id.as_bytes(), service.topics().lanes)
}

/// The board of a lane, up to date as of the call.
async fn board(service: &Service, lane: Partition) -> Result<&Board, Problem> {
    let board = service.board(lane);
    if board.ready(BOARD_PATIENCE).await {
        Ok(board)
    } else {
        Err(Problem::new(Code::LogUnavailable, "the states of the batches are still being read; try again"))
    }
}

/// The batch, or that there is none.
async fn known(service: &Service, id: &str) -> Result<std::sync::Arc<BatchRecord>, Problem> {
    let board = board(service, lane_of(service, id)).await?;
    board.get(id).ok_or_else(|| Problem::new(Code::NotFound, format!("there is no batch {id:?}")))
}

/// Makes a command durable; where it stands.
async fn write(service: &Service, lane: Partition, command: &Command) -> Result<Offset, Problem> {
    let mut builder = BatchBuilder::default();
    builder.push(Some(command.id().as_bytes()), Some(&command.encode()), |to| {
        to.put(Name::ContentType, b"application/json");
    });
    let to = service.topics().batches.partition(lane);
    let written = async { service.log().append(&to, builder.finish()).await?.await };
    let offsets = timeout(service.options().append_timeout, written).await.map_err(|_| single::timed_out())??;
    offsets.get(0).ok_or_else(|| {
        Problem::new(Code::OutcomeUnknown, "the log acknowledged the command without saying where it is")
    })
}

/// 202 with the batch as it is now.
fn accepted(id: &str, body: &Value) -> Response {
    let mut response = (StatusCode::ACCEPTED, axum::Json(body)).into_response();
    if let Ok(location) = HeaderValue::try_from(format!("/v1/batches/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The answer of the first attempt, to a retry.
fn replayed(id: &str, body: &Value) -> Response {
    let mut response = accepted(id, body);
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

/// A batch whose start is on the log and not executed yet.
fn not_begun(id: &str) -> Value {
    json!({"id": id, "status": "accepted"})
}
