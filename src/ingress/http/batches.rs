//! The routes of staggered batches.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::super::Service;
use super::super::auth::Principal;
use super::super::batches::{self, ItemsQuery, ListQuery};
use super::super::problem::{Code, Problem};
use super::super::quota::Meter;
use super::{path, query};

/// `/v1/batches` and what is below it.
pub(super) fn routes() -> Router<Service> {
    Router::new()
        .route("/v1/batches", get(list).post(start))
        .route("/v1/batches/{id}", get(status).patch(change))
        .route("/v1/batches/{id}/items", get(items))
        .route("/v1/batches/{id}/{verb}", post(steer))
}

async fn list(
    State(service): State<Service>,
    parameters: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    batches::list(&service, &query(parameters)?).await.map(Json)
}

async fn status(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Problem> {
    batches::status(&service, &path(id)?).await.map(Json)
}

async fn start(
    State(service): State<Service>,
    Extension(principal): Extension<Principal>,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
    request: Request,
) -> Response {
    let mut meter = Meter::new(service.quotas(), &principal);
    let answer = async {
        let parameters = query(parameters)?;
        let (parts, body) = request.into_parts();
        if is_ndjson(&parts.headers) {
            return batches::upload(&service, &principal, parameters, &parts.headers, body).await;
        }
        if let Some((name, _)) = parameters.first() {
            let detail =
                format!("{name} belongs into the JSON; the query is for uploads (Content-Type: application/x-ndjson)");
            return Err(Problem::new(Code::InvalidQuery, detail));
        }
        batches::start(&service, &principal, &parts.headers, body, &mut meter).await
    };
    let mut response = answer.await.unwrap_or_else(|problem: Problem| problem.counted().into_response());
    meter.show(response.headers_mut());
    response
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "application/x-ndjson" | "application/jsonl" | "application/ndjson")
}

async fn change(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    batches::change(&service, &path(id)?, &parts.headers, body).await
}

async fn steer(
    State(service): State<Service>,
    names: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Path((id, verb)) = names.map_err(|e| Problem::new(Code::NotFound, e.body_text()))?;
    let (parts, body) = request.into_parts();
    batches::steer(&service, &id, &verb, &parts.headers, body).await
}

async fn items(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
    parameters: Result<Query<ItemsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    batches::items(&service, &path(id)?, query(parameters)?).await
}
