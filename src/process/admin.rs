//! The admin port, on a thread and a runtime of its own, so that health and metrics answer even
//! while the roles' runtime has no time to spare.

mod guard;
mod page;
pub mod verify;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use guard::Guard;

use super::readiness::Readiness;
use crate::metrics;

/// Says why the process takes nothing in just now, if so. Called for each question after readiness,
/// on the admin port's own thread.
pub type Refusal = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A running admin server. Dropping it ends it.
#[derive(Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves health, metrics and what `more` adds on the listener, until it is dropped.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread or no runtime.
    pub fn start(
        listener: TcpListener,
        readiness: Readiness,
        refusal: Refusal,
        guard: Guard,
        more: Router,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let end = CancellationToken::new();
        let app = router(readiness, refusal, guard, more).into_make_service_with_connect_info::<SocketAddr>();
        let ended = end.clone();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                biased;
                () = ended.cancelled() => Ok(()),
                served = axum::serve(listener, app) => served,
            }
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::error!(%error, "the admin port has ended");
            }
            // What a handler has started and left behind must not hold the end up.
            runtime.shutdown_background();
        })?;
        Ok(Self { address, end, thread: Some(thread) })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            // It has logged why, if it ended in a panic.
            let _ = thread.join();
        }
    }
}

fn router(readiness: Readiness, refusal: Refusal, guard: Guard, more: Router) -> Router {
    let ready = move || async move {
        let waits_for = if readiness.is_ready() { refusal() } else { Some("starting".to_owned()) };
        match waits_for {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    };
    let metrics = || async { ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render()).into_response() };
    Router::new()
        .route("/", get(page::page))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(more)
        .fallback(not_found)
        .layer(axum::middleware::from_fn_with_state(guard, guard::check))
}

/// Whoever asks here for messages or outputs has taken one port for the other.
async fn not_found(uri: Uri) -> impl IntoResponse {
    let status = StatusCode::NOT_FOUND;
    let what = "this is the admin port; messages, outputs and uploads are at the data port, ingress.http";
    let detail = format!("there is no {}: {what}", uri.path());
    let body = json!({"type": "about:blank", "title": "Not Found", "status": status.as_u16(), "detail": detail});
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::ConnectInfo;
    use axum::http::Request;
    use axum::routing::post;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, String) {
        let response = router.clone().oneshot(request).await.expect("routers do not fail");
        let status = response.status();
        let body = response.into_body().collect().await.expect("the body is in memory").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    fn request(method: &str, path: &str, peer: &str, headers: &[(&str, &str)]) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost:8090");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer: SocketAddr = peer.parse().expect("an address");
        request.extension(ConnectInfo(peer)).body(Body::empty()).expect("a request")
    }

    fn app(token: Option<&str>) -> (Router, super::super::readiness::Latch) {
        let (readiness, latch) = Readiness::new();
        let more = Router::new().route("/v1/act", post(async || "done"));
        (router(readiness, Arc::new(|| None), Guard::new(token.map(str::to_owned)), more), latch)
    }

    const HERE: &str = "127.0.0.1:1234";
    const THERE: &str = "192.0.2.1:1234";

    #[tokio::test]
    async fn while_nothing_is_taken_in_it_is_not_ready_and_says_why() {
        let (readiness, latch) = Readiness::new();
        drop(latch);
        let full = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let is_full = full.clone();
        let refusal = move || is_full.load(std::sync::atomic::Ordering::Relaxed).then(|| "disk nearly full".to_owned());
        let router = router(readiness, Arc::new(refusal), Guard::new(None), Router::new());
        let ready = || request("GET", "/readyz", HERE, &[]);
        let unready = (StatusCode::SERVICE_UNAVAILABLE, "disk nearly full\n".to_owned());
        assert_eq!(ask(&router, ready()).await, unready);
        full.store(false, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(ask(&router, ready()).await, (StatusCode::OK, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn health_and_metrics_answer_anyone() {
        let (app, latch) = app(None);
        assert_eq!(ask(&app, request("GET", "/livez", THERE, &[])).await.0, StatusCode::OK);
        assert_eq!(ask(&app, request("GET", "/readyz", THERE, &[])).await.0, StatusCode::SERVICE_UNAVAILABLE);
        drop(latch);
        assert_eq!(ask(&app, request("GET", "/readyz", THERE, &[])).await.0, StatusCode::OK);
        let (status, text) = ask(&app, request("GET", "/v1/outputs/default", THERE, &[])).await;
        assert!(status == StatusCode::NOT_FOUND && text.contains("data port"), "{text}");
        let (status, text) = ask(&app, request("GET", "/metrics", THERE, &[])).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn acting_needs_the_token_or_this_machine() {
        let (app, _latch) = app(Some("hush"));
        let act = |peer, headers: &[(&str, &str)]| {
            let request = request("POST", "/v1/act", peer, headers);
            let app = app.clone();
            async move { ask(&app, request).await.0 }
        };
        assert_eq!(act(HERE, &[]).await, StatusCode::OK);
        assert_eq!(act(THERE, &[]).await, StatusCode::UNAUTHORIZED);
        assert_eq!(act(THERE, &[("authorization", "Bearer wrong")]).await, StatusCode::UNAUTHORIZED);
        assert_eq!(act(THERE, &[("authorization", "Bearer hush")]).await, StatusCode::OK);
        // A page in a browser on this machine is not this machine's user.
        assert_eq!(act(HERE, &[("origin", "https://evil.example")]).await, StatusCode::UNAUTHORIZED);
        assert_eq!(act(HERE, &[("origin", "http://localhost:8090")]).await, StatusCode::OK);
    }

    #[tokio::test]
    async fn without_a_token_nobody_else_may_act() {
        let (app, _latch) = app(None);
        let refused = ask(&app, request("POST", "/v1/act", THERE, &[("authorization", "Bearer ")])).await;
        assert_eq!(refused.0, StatusCode::FORBIDDEN);
        assert!(refused.1.contains("admin.token_file"), "{}", refused.1);
        let mut rebound = request("POST", "/v1/act", HERE, &[]);
        rebound.headers_mut().insert("host", "evil.example".parse().expect("a host"));
        assert_eq!(ask(&app, rebound).await.0, StatusCode::FORBIDDEN);
    }
}
