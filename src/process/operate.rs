//! What operators ask of the admin port: how the lanes are, what something waits for, and verbs.
//!
//! Any process answers, from the logs. `GET /v1/lanes`, `GET /v1/lanes/{lane}`,
//! `GET /v1/batches`, `GET /v1/destinations`, `GET /v1/why?of=`, or `lane=`, `id=`,
//! `destination=`, `batch=`;
//! `POST /v1/lanes/{lane}/{retry|skip|replace|accept}`,
//! `POST /v1/destinations/{name}/{pause|resume|retry|skip|accept|replay|test}`.

mod batches;
mod destinations;
mod lanes;
mod orders;
mod verbs;
mod why;

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use super::layout::Layout;
use crate::log::{self, Log};
use crate::observe::live::{self, Live};
use crate::record::Partition;
use crate::resequence;
use crate::topics::Topics;

/// What the handlers look at.
#[derive(Clone)]
pub struct Operate {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The pipeline's topics.
    pub topics: Topics,
    /// How its lanes are ordered.
    pub options: resequence::Options,
    /// What is wrong with the topics' partitions.
    pub layout: Layout,
}

impl std::fmt::Debug for Operate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operate").field("topics", &self.topics).finish_non_exhaustive()
    }
}

/// The routes, for the admin port.
pub fn router(operate: Operate) -> Router {
    Router::new()
        .route("/v1/lanes", get(lanes::all))
        .route("/v1/lanes/{lane}", get(lanes::one))
        .route("/v1/lanes/{lane}/{verb}", post(verbs::execute).layer(verbs::body_limit(&operate.options)))
        .route("/v1/why", get(why::why))
        .with_state(operate.clone())
        .merge(destinations::router(operate.clone()))
        .merge(batches::router(operate))
}

impl Operate {
    async fn look(&self, lane: Partition) -> Result<Looked, Refusal> {
        if lane.0 >= self.topics.lanes {
            return Err(self.no_lane(&lane.to_string(), "numbered from 0"));
        }
        match live::lane(&*self.log, &self.topics, &self.options, lane).await? {
            Some(live) => Ok(Looked::Live(Box::new(live))),
            None => match live::lost_cursor(&*self.log, &self.topics, lane).await? {
                Some(lost) => Ok(Looked::Lost(lost)),
                None => {
                    let detail = format!("lane {lane} has had no owner yet: is a resequencer running?");
                    Err(Refusal::not_found(detail))
                }
            },
        }
    }

    /// Somebody who adds partitions to the input may take them for lanes.
    fn no_lane(&self, of: &str, hint: &str) -> Refusal {
        let more: String = self.layout.problems().iter().map(|problem| format!("; {problem}")).collect();
        Refusal::not_found(format!("there is no lane {of}; there are {}, {hint}{more}", self.topics.lanes))
    }

    /// A lane that has its cursor.
    async fn live(&self, lane: Partition) -> Result<Live, Refusal> {
        match self.look(lane).await? {
            Looked::Live(live) => Ok(*live),
            Looked::Lost(lost) => Err(Refusal { status: StatusCode::CONFLICT, detail: lost }),
        }
    }
}

/// How a lane was found.
enum Looked {
    Live(Box<Live>),
    /// Without its cursor, and what that means.
    Lost(String),
}

/// An answer that says why not, as a problem document.
struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    fn not_found(detail: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, detail }
    }

    fn bad(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail: detail.into() }
    }
}

impl From<log::Error> for Refusal {
    fn from(error: log::Error) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, detail: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or_default();
        let body =
            json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}
