//! The description of the data port's calls, as it is kept in `docs/openapi.json`.

use axum::http::header;
use axum::response::IntoResponse;

pub(super) async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/vnd.oai.openapi+json;version=3.1")], include_str!("../../docs/openapi.json"))
}
