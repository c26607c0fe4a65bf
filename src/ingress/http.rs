//! The routes of the data port.

mod batches;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::time::Instant;

use super::auth::{self, Principal};
use super::envelope::{Envelope, Idempotency};
use super::problem::{Code, Problem};
use super::quota::Meter;
use super::read::{self, ReadQuery};
use super::{Service, body, event, many, openapi, release, single, state};
use crate::record::Partition;

/// The connection that a request came on.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The lane of its messages without a key.
    pub lane: Partition,
    /// Whom the client's certificate names, where it showed one.
    pub certified: Option<Principal>,
}

/// All routes. Requests that come without a [`Connection`] among their extensions, as in tests
/// without a socket, count as coming on a connection of lane 0.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/v1/messages", post(post_messages))
        .route("/v1/messages/{id}", get(get_message))
        .route("/v1/outputs/{destination}", get(get_outputs))
        .route("/v1/dead-letters", get(get_dead_letters))
        .merge(batches::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(service.clone(), authenticate))
        // Behind the layer, so that nobody is asked who they are: what the calls are is no secret.
        .route("/openapi.json", get(openapi::description).fallback(method_not_allowed))
        .with_state(service)
}

async fn authenticate(State(service): State<Service>, mut request: Request, next: Next) -> Response {
    let certified = request.extensions().get().and_then(|connection: &Connection| connection.certified.as_ref());
    match auth::authenticate(service.options().tokens.as_ref(), certified, request.headers()) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(problem) => problem.counted().into_response(),
    }
}

async fn not_found(uri: Uri) -> Problem {
    let what = "this is the data port; what operators ask for is at the admin port";
    Problem::new(Code::NotFound, format!("there is no {}: {what}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{} cannot be called with {method}", uri.path()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PostQuery {
    wait: Option<String>,
}

/// The query, or what is wrong with it.
fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|e| Problem::new(Code::InvalidQuery, e.body_text()))
}

async fn post_messages(
    State(service): State<Service>,
    Extension(principal): Extension<Principal>,
    parameters: Result<Query<PostQuery>, QueryRejection>,
    request: Request,
) -> Response {
    let mut meter = Meter::new(service.quotas(), &principal);
    let answer = async {
        let PostQuery { wait } = query(parameters)?;
        receive(service.clone(), &principal, wait, request, &mut meter).await
    };
    let mut response = answer.await.unwrap_or_else(|problem: Problem| problem.counted().into_response());
    meter.show(response.headers_mut());
    response
}

async fn get_message(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    state::state(&service, &path(id)?).await.map(Json)
}

async fn get_outputs(
    State(service): State<Service>,
    destination: Result<Path<String>, PathRejection>,
    parameters: Result<Query<ReadQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read::outputs(&service, &path(destination)?, &query(parameters)?, &headers).await
}

async fn get_dead_letters(
    State(service): State<Service>,
    parameters: Result<Query<ReadQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read::dead_letters(&service, &query(parameters)?, &headers).await
}

/// The part of the path that names something.
fn path(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    path.map(|Path(name)| name).map_err(|e| Problem::new(Code::NotFound, e.body_text()))
}

async fn receive(
    service: Service,
    principal: &Principal,
    wait: Option<String>,
    request: Request,
    meter: &mut Meter<'_>,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let envelope = Envelope::read(&parts.headers, principal, service.topics())?;
    let connection = parts.extensions.get().map_or(Partition(0), |connection: &Connection| connection.lane);
    let lane = envelope.lane(service.topics().lanes).map_or(connection, Partition);
    match envelope.essence().as_deref() {
        Some("application/x-ndjson" | "application/jsonl" | "application/ndjson") => {
            for_many(&envelope, wait.as_deref())?;
            many::ndjson(service, envelope, lane, &parts.headers, body, principal).await
        }
        Some("application/cloudevents-batch+json") => {
            for_many(&envelope, wait.as_deref())?;
            many::events(&service, envelope, lane, &parts.headers, body, meter).await
        }
        _ => {
            meter.take(1)?;
            receive_one(&service, &envelope, lane, wait.as_deref(), &parts.headers, body).await
        }
    }
}

async fn receive_one(
    service: &Service,
    envelope: &Envelope,
    lane: Partition,
    wait: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wait = wait.map(|wait| release::wait_of(wait, service.options().max_wait)).transpose()?;
    let held = body::read(headers, body, service.options(), service.bodies()).await?;
    if envelope.essence().as_deref() == Some("application/cloudevents+json") {
        let text = std::str::from_utf8(&held.bytes).unwrap_or_default();
        event::fault(text).map_or(Ok(()), |detail| Err(Problem::new(Code::InvalidBody, detail)))?;
    }
    let Some(wait) = wait else {
        return Ok(single::accepted(single::write(service, envelope, lane, &held.bytes).await?));
    };
    let until = Instant::now() + wait;
    let guest = service.waiters(lane).guest();
    let accepted = single::write(service, envelope, lane, &held.bytes).await?;
    drop(held);
    Ok(release::answer(service, guest, accepted, until).await)
}

/// An idempotency key of many has to leave room for the number of each, and nobody waits for many.
fn for_many(envelope: &Envelope, wait: Option<&str>) -> Result<(), Problem> {
    if wait.is_some() {
        return Err(Problem::new(Code::InvalidQuery, "wait is for a single message, not for many"));
    }
    envelope.idempotency.as_ref().map_or(Ok(()), Idempotency::check_entries)
}
