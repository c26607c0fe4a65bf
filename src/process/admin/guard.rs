//! Who may call what changes something.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

/// Lets reading calls pass, and calls that change something if they bring the token or come from
/// this machine and not from a page in a browser.
#[derive(Clone)]
pub struct Guard(Option<Arc<str>>);

impl Guard {
    /// With the token that calls from elsewhere have to bring; without one, none may come from there.
    #[must_use]
    pub fn new(token: Option<String>) -> Self {
        Self(token.map(Into::into))
    }

    fn refusal(&self, peer: SocketAddr, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        if peer.ip().is_loopback() && is_local(headers) {
            return None;
        }
        let Some(token) = &self.0 else {
            return Some((
                StatusCode::FORBIDDEN,
                "only calls from this machine may change something; set admin.token_file",
            ));
        };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        // Compared in constant time, so that answers do not tell how much of a guess was right.
        let right = given.is_some_and(|given| given.ct_eq(token.as_bytes()).into());
        (!right).then_some((StatusCode::UNAUTHORIZED, "bring the admin token: Authorization: Bearer TOKEN"))
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

/// Whether a call over loopback was meant for loopback. A page of any site in a browser on this
/// machine can post to it, also under a name of its own that it makes point here.
fn is_local(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else { return true };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let is_loopback = name.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    let same_origin =
        text(header::ORIGIN).is_none_or(|origin| origin.split_once("://").is_some_and(|(_, at)| at == host));
    (is_loopback || name == "localhost") && same_origin
}

/// The middleware.
pub(super) async fn check(
    State(guard): State<Guard>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    match guard.refusal(peer, request.headers()).filter(|_| !reads) {
        None => next.run(request).await,
        Some((status, detail)) => {
            let problem = serde_json::json!({
                "type": "about:blank",
                "title": status.canonical_reason(),
                "status": status.as_u16(),
                "code": if status == StatusCode::FORBIDDEN { "forbidden" } else { "unauthorized" },
                "detail": detail,
                "retryable": false,
            });
            (status, [(header::CONTENT_TYPE, "application/problem+json")], problem.to_string()).into_response()
        }
    }
}
