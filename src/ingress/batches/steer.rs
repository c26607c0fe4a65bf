//! `PATCH /v1/batches/{id}` and `POST /v1/batches/{id}/VERB`: what is asked of a batch that runs.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::super::problem::{Code, Problem};
use super::super::{Service, body};
use super::show::present;
use super::{OWNER_PATIENCE, accepted, known, lane_of, write};
use crate::record::batches::{Change, Command, Selection};

/// The most items that one call names, so that its record stays far below a topic's limit.
const MOST_NAMED: usize = 10_000;

/// What the body of a verb may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    reason: Option<String>,
    items: Option<Vec<u64>>,
}

/// Does a verb.
///
/// # Errors
///
/// [`Code::NotFound`] for a batch or a verb that there is not, [`Code::BatchEnded`],
/// [`Code::InvalidBody`], and what the log answers.
pub(in super::super) async fn steer(
    service: &Service,
    id: &str,
    verb: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let held = body::read(headers, body, service.options(), service.bodies()).await?;
    let asked: Asked = if held.bytes.is_empty() { Asked::default() } else { parse(&held.bytes)? };
    let takes = |items: bool, reason: bool| {
        if asked.items.is_some() && !items || asked.reason.is_some() && !reason {
            return Err(Problem::new(Code::InvalidBody, format!("{verb} takes neither of these from a body")));
        }
        Ok(())
    };
    let named = id.to_owned();
    let command = match verb {
        "cancel" => takes(false, true).map(|()| Command::Cancel { id: named, reason: asked.reason.clone() })?,
        "pause" => takes(false, false).map(|()| Command::Pause { id: named })?,
        "resume" => takes(false, false).map(|()| Command::Resume { id: named })?,
        "retry" => takes(true, false).map(|()| Command::Retry { id: named, which: which(&asked) })?,
        "discard" => takes(true, false).map(|()| Command::Discard { id: named, which: which(&asked) })?,
        _ => {
            let detail = format!("{verb:?} is nothing that a batch does: cancel, pause, resume, retry or discard");
            return Err(Problem::new(Code::NotFound, detail));
        }
    };
    if asked.items.as_ref().is_some_and(|items| items.len() > MOST_NAMED) {
        return Err(Problem::new(Code::InvalidBody, format!("name at most {MOST_NAMED} items, or all by naming none")));
    }
    ask(service, &command).await
}

/// Changes the rules of a batch that runs.
///
/// # Errors
///
/// As [`steer`], and [`Code::InvalidBatch`] for rules that cannot be.
pub(in super::super) async fn change(
    service: &Service,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let held = body::read(headers, body, service.options(), service.bodies()).await?;
    let change: Change = parse(&held.bytes)?;
    let record = known(service, id).await?;
    change.apply(&record.state.rules).map_err(|refused| Problem::new(Code::InvalidBatch, refused.to_string()))?;
    ask(service, &Command::Change { id: id.to_owned(), change }).await
}

fn which(asked: &Asked) -> Selection {
    asked.items.clone().into()
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::new(Code::InvalidBody, error.to_string()))
}

/// Writes the command, and answers with the batch once the owner has executed it, or as it is by then;
/// after a retry or discard that is executed, also to how many items it applied.
async fn ask(service: &Service, command: &Command) -> Result<Response, Problem> {
    let id = command.id();
    let before = known(service, id).await?;
    if before.state.has_ended() {
        let detail = format!("batch {id:?} has ended: it is {}", before.state.status());
        return Err(Problem::new(Code::BatchEnded, detail).with("batchStatus", json!(before.state.status())));
    }
    let lane = lane_of(service, id);
    let written = write(service, lane, command).await?;
    let after = service.board(lane).wait_for(id, OWNER_PATIENCE, |record| record.commanded >= written.0).await;
    let record = after.unwrap_or(before);
    let mut shown = present(service, id, &record);
    if let Some(items) = record.applied.get(&written.0) {
        shown["applied"] = json!(items);
    }
    Ok(accepted(id, &shown))
}
