//! The admin port, on a thread and a runtime of its own, so that health and metrics answer even
//! while the roles' runtime has no time to spare.

mod guard;
mod page;
pub mod verify;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub use guard::Guard;

use super::readiness::Readiness;
use crate::metrics;

/// Says why the process takes nothing in just now, if so. Called for each question after readiness,
/// on the admin port's own thread.
pub type Refusal = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What stands on the log, and so comes after the port.
struct Opened {
    refusal: Refusal,
    more: Router,
}

/// A running admin server. Dropping it ends it.
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    opened: Arc<OnceLock<Opened>>,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves health and metrics on the listener, until it is dropped. The process is not ready, and waits for its log,
    /// until [`Admin::open`].
    ///
    /// # Errors
    ///
    /// Where the system gives no thread or no runtime.
    pub fn start(listener: TcpListener, readiness: Readiness, guard: Guard) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, opened) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let app = router(readiness, opened.clone(), guard).into_make_service_with_connect_info::<SocketAddr>();
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
        Ok(Self { address, opened, end, thread: Some(thread) })
    }

    /// Serves what `more` adds, too, now that the log is open. To be called once; later calls change nothing.
    pub fn open(&self, refusal: Refusal, more: Router) {
        let _ = self.opened.set(Opened { refusal, more: more.fallback(not_found) });
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("address", &self.address).finish_non_exhaustive()
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

fn router(readiness: Readiness, opened: Arc<OnceLock<Opened>>, guard: Guard) -> Router {
    let later = opened.clone();
    let ready = move || async move {
        let waits_for = match opened.get() {
            None => Some(WAITING.to_owned()),
            Some(_) if !readiness.is_ready() => Some("starting".to_owned()),
            Some(opened) => (opened.refusal)(),
        };
        match waits_for {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    };
    let more = async move |request: Request| match later.get() {
        Some(Opened { more, .. }) => more.clone().oneshot(request).await.into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, WAITING),
    };
    let metrics = || async { ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render()).into_response() };
    Router::new()
        .route("/", get(page::page))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(more)
        .layer(axum::middleware::from_fn_with_state(guard, guard::check))
}

/// Why nothing can be asked for or done yet.
const WAITING: &str = "waiting for the log";

/// Whoever asks here for messages or outputs has taken one port for the other.
async fn not_found(request: Request) -> Response {
    let what = "this is the admin port; messages, outputs and uploads are at the data port, ingress.http";
    problem(StatusCode::NOT_FOUND, &format!("there is no {}: {what}", request.uri().path()))
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
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
        (router(readiness, opened(|| None, more), Guard::new(token.map(str::to_owned))), latch)
    }

    fn opened(refusal: impl Fn() -> Option<String> + Send + Sync + 'static, more: Router) -> Arc<OnceLock<Opened>> {
        let opened = OnceLock::new();
        assert!(opened.set(Opened { refusal: Arc::new(refusal), more: more.fallback(not_found) }).is_ok());
        Arc::new(opened)
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
        let router = router(readiness, opened(refusal, Router::new()), Guard::new(None));
        let ready = || request("GET", "/readyz", HERE, &[]);
        let unready = (StatusCode::SERVICE_UNAVAILABLE, "disk nearly full\n".to_owned());
        assert_eq!(ask(&router, ready()).await, unready);
        full.store(false, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(ask(&router, ready()).await, (StatusCode::OK, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn without_a_log_it_lives_and_says_what_it_waits_for() {
        let (readiness, _latch) = Readiness::new();
        let router = router(readiness, Arc::default(), Guard::new(None));
        let get = async |path| ask(&router, request("GET", path, HERE, &[])).await;
        assert_eq!(get("/livez").await.0, StatusCode::OK);
        assert_eq!(get("/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, "waiting for the log\n".to_owned()));
        let (status, text) = get("/v1/lanes").await;
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && text.contains("waiting for the log"), "{text}");
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
