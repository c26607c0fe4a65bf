//! `GET /v1/verify?destination=`: the audit, by the process that has the log open.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::audit::{Report, Scope, audit};
use crate::ingress::{Code, Problem};
use crate::log::Log;
use crate::topics::Topics;

/// The route. An audit reads whole logs, so that one runs at a time.
pub fn router(log: Arc<dyn Log>, topics: Arc<Topics>) -> Router {
    let auditor = Auditor { log, topics, turn: Arc::new(Semaphore::new(1)) };
    Router::new().route("/v1/verify", get(verify)).with_state(auditor)
}

#[derive(Clone)]
struct Auditor {
    log: Arc<dyn Log>,
    topics: Arc<Topics>,
    turn: Arc<Semaphore>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct What {
    destination: Option<String>,
}

async fn verify(
    State(auditor): State<Auditor>,
    what: Result<Query<What>, QueryRejection>,
) -> Result<Json<Report>, Problem> {
    let Query(What { destination }) = what.map_err(|e| Problem::new(Code::InvalidQuery, e.body_text()))?;
    if let Some(name) = destination.as_deref().filter(|name| !auditor.topics.destinations.contains_key(*name)) {
        return Err(Problem::new(Code::UnknownDestination, format!("there is no destination `{name}`")));
    }
    let busy = || Problem::new(Code::Overloaded, "an audit is under way; one runs at a time");
    let _turn = auditor.turn.try_acquire().map_err(|_| busy())?;
    let scope = Scope { topics: &auditor.topics, destination: destination.as_deref() };
    Ok(Json(audit(&*auditor.log, scope, &mut |_, _| {}).await?))
}
