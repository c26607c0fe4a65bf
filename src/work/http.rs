//! Work by HTTP: one `POST` an attempt.
//!
//! The request has the message's body, content type and headers, and `Seriatim-Lane`, `-Offset`,
//! `-Id` (`LANE-OFFSET`), `-Key` (percent-encoded where it is not visible ASCII), `-Attempt`,
//! `-Deadline` (RFC 3339) and, for items of a batch, `-Batch`. The response means:
//!
//! | Response | Means |
//! |---|---|
//! | 200 | the output, for the destinations in `Seriatim-Destination`; several as [`crate::record::outputs`] |
//! | 204 | no output |
//! | 429, 503, no connection, no such name, no TLS | nobody there: wait (`Retry-After`), probe, use up no attempt |
//! | 408, 425, other 5xx, no answer in time, a broken answer | another attempt |
//! | everything else | a failure at once; its body is kept as `problem` |

mod answer;
mod request;

use std::error::Error as _;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::{Client, Request, Url};

use super::processor::{Answer, Failure, Job, Processor};

/// A worker that does not take a connection within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Below the 5 s after which Node.js closes an idle connection, so that requests rarely meet one
/// that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How to reach the worker.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to post to; `http` or `https`.
    pub url: String,
    /// As many connections are kept open; as many as records are worked on at once.
    pub connections: usize,
    /// The largest answer that is read, in bytes.
    pub max_output: usize,
}

/// Why there can be no HTTP worker of this kind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none, or not of a kind that can be posted to.
    #[error("work.http.url {url:?} is not usable: {reason}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// TLS or the resolver could not be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

/// Posts each record to a URL.
#[derive(Debug)]
pub struct Http {
    client: Client,
    url: Url,
    max_output: usize,
}

impl Http {
    /// A worker at a URL. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error`], where the URL or this machine's TLS set-up does not allow it.
    pub fn new(options: Options) -> Result<Self, Error> {
        let Options { url, connections, max_output } = options;
        let refused = |reason: String| Error::Url { url: url.clone(), reason };
        let parsed = Url::parse(&url).map_err(|e| refused(e.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(refused(format!("the scheme is {:?}, it has to be http or https", parsed.scheme())));
        }
        // An error says that another part of the process has installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(connections)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("seriatim/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::Client(chain(&e)))?;
        Ok(Self { client, url: parsed, max_output })
    }

    async fn post(&self, job: Job) -> Result<Answer, Failure> {
        let mut request = Request::new(reqwest::Method::POST, self.url.clone());
        *request.headers_mut() = request::headers(&job);
        *request.body_mut() = Some(job.shared_body().into());
        let response = self.client.execute(request).await.map_err(|e| broken(&e))?;
        answer::read(response, self.max_output).await
    }
}

impl Processor for Http {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(self.post(job))
    }
}

/// Refused connections, names that do not resolve and failed handshakes all fail to connect:
/// there is no worker. Anything later may be the record's fault, so it counts as an attempt.
fn broken(error: &reqwest::Error) -> Failure {
    let detail = chain(error);
    if error.is_connect() {
        Failure::unreachable(detail, None)
    } else {
        Failure::retry("worker-broken", format_args!("the worker did not answer in full: {detail}"))
    }
}

/// An error with its causes: reqwest's own words do not name them. Without the URL, which may
/// hold a password.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    if let Some(url) = error.url() {
        text = text.replace(&format!(" for url ({url})"), "");
    }
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
