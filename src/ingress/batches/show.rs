//! `GET /v1/batches` and `GET /v1/batches/{id}`: how batches are.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Service;
use super::super::problem::{Code, Problem};
use super::{board, known};
use crate::record::Partition;
use crate::record::batches::{BatchRecord, Completion, STATUSES, time};

/// How many of the items that wait for an operator are named.
const NAMED_BLOCKERS: usize = 100;

/// How many batches a list has where the query does not say.
const LISTED: usize = 100;

/// The query of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ListQuery {
    status: Option<String>,
    limit: Option<usize>,
}

/// One batch.
///
/// # Errors
///
/// [`Code::NotFound`].
pub(in super::super) async fn status(service: &Service, id: &str) -> Result<Value, Problem> {
    let record = known(service, id).await?;
    Ok(present(service, id, &record))
}

/// All batches that are known, the latest first.
///
/// # Errors
///
/// [`Code::InvalidQuery`] for a status that there is not, [`Code::LogUnavailable`] in a process that has
/// just begun.
pub(in super::super) async fn list(service: &Service, query: &ListQuery) -> Result<Value, Problem> {
    if let Some(status) = query.status.as_deref().filter(|status| !STATUSES.contains(status)) {
        let detail = format!("status={status:?} is none; it is one of {}", STATUSES.join(", "));
        return Err(Problem::new(Code::InvalidQuery, detail));
    }
    let mut all = Vec::new();
    for lane in (0..service.topics().lanes).map(Partition) {
        all.extend(board(service, lane).await?.all());
    }
    let wanted = |record: &BatchRecord| query.status.as_deref().is_none_or(|status| record.state.status() == status);
    all.retain(|(_, record)| wanted(record));
    all.sort_by(|(id, a), (other, b)| b.state.started_at.cmp(&a.state.started_at).then_with(|| id.cmp(other)));
    let shown = all.iter().take(query.limit.unwrap_or(LISTED)).map(|(id, record)| present(service, id, record));
    Ok(json!({ "batches": shown.collect::<Vec<_>>() }))
}

/// A batch as its resource shows it.
pub(super) fn present(service: &Service, id: &str, record: &BatchRecord) -> Value {
    let state = &record.state;
    let mut shown = json!({
        "id": id,
        "status": state.status(),
        "stalled": state.stalled,
        "mode": state.rules.mode,
        "window": state.rules.window,
        "onItemFailure": state.rules.on_failure,
        "counts": state.counts(),
        "startedAt": time(state.started_at),
        "lastProgressAt": time(state.progress_at),
        "endedAt": state.ended_at.map(time),
        "eta": state.eta(service.log().now().0).map(time),
        "blockedBy": state.held().take(NAMED_BLOCKERS).collect::<Vec<_>>(),
    });
    if state.rules.interval > 0 {
        shown["interval"] = json!(format!("{}ms", state.rules.interval));
    }
    if let Some(reason) = &state.reason {
        shown["reason"] = json!(reason);
    }
    match state.completion {
        Completion::None => {}
        Completion::Running(_) => shown["completion"] = json!("running"),
        Completion::Succeeded => shown["completion"] = json!("succeeded"),
        Completion::Failed => shown["completion"] = json!("failed"),
    }
    shown
}
