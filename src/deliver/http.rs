//! Pushing over HTTP.

use std::error::Error as _;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, Url};

use super::content::{Posted, posted, posted_many};
use super::guard::{self, Blocked, Lookup, PublicOnly};
use super::options::{Content, HttpOptions};
use super::sign::{BadSecret, Secrets, signature};
use super::verdict::{Answer, Failure, FailureKind, Wish};
use super::{Push, Sender};
use crate::record::Timestamp;

/// How much of an answer's body is read: enough for what went wrong, and too little to hurt.
const BODY_READ: usize = 4 << 10;

/// How long the rest of a success is waited for, only so that the connection can be used again.
const BODY_WAIT: Duration = Duration::from_millis(250);

/// Connections that idle for longer are closed, before the receiver's side closes them in the
/// moment of a push; common servers wait for 60 s and more.
const IDLE: Duration = Duration::from_secs(20);

/// Why a destination cannot be pushed to as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOptions {
    /// The URL.
    #[error("http.url: {0}")]
    Url(String),
    /// The address, or how it is to be spoken to.
    #[error("tcp.address: {0}")]
    Address(String),
    /// The secrets.
    #[error("http.secret_file: {0}")]
    Secret(#[from] BadSecret),
    /// The HTTP client, or TLS, cannot be set up.
    #[error("the client cannot be set up: {0}")]
    Client(String),
}

/// Pushes to one receiver, over connections of its own. Speaks HTTP/1.1 only: there an attempt
/// that is given up takes its connection with it, so that it cannot arrive behind its successor.
#[derive(Debug)]
pub struct Http {
    client: Client,
    url: Url,
    content: Content,
    secrets: Secrets,
}

impl Http {
    /// A sender for these options, with at most `connections` idle connections kept.
    ///
    /// # Errors
    ///
    /// [`BadOptions`] says what to change.
    pub fn new(options: &HttpOptions, connections: usize) -> Result<Self, BadOptions> {
        Self::with_lookup(options, connections, guard::system_lookup())
    }

    fn with_lookup(options: &HttpOptions, connections: usize, lookup: Lookup) -> Result<Self, BadOptions> {
        // An error says that the process has a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = checked_url(options)?;
        let mut client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would dial for us and see to none of our checks.
            .no_proxy()
            .referer(false)
            .http1_only()
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(connections)
            .pool_idle_timeout(IDLE);
        if !options.allow_private {
            client = client.https_only(true).dns_resolver(PublicOnly(lookup));
        }
        let client = client.build().map_err(|error| BadOptions::Client(error.to_string()))?;
        Ok(Self { client, url, content: options.content, secrets: Secrets::read(options.secret_files.clone())? })
    }
}

fn checked_url(options: &HttpOptions) -> Result<Url, BadOptions> {
    let bad = |reason: String| BadOptions::Url(reason);
    let url = Url::parse(&options.url).map_err(|error| bad(error.to_string()))?;
    match url.scheme() {
        "https" => {}
        "http" if options.allow_private => {}
        "http" => return Err(bad("plain http is for private receivers: use https or set allow_private".to_owned())),
        other => return Err(bad(format!("{other} is not spoken here: use https"))),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad(
            "holds a user name or password, which would end up in logs: sign with a secret file".to_owned()
        ));
    }
    if !options.allow_private {
        guard::check_host(&url).map_err(|blocked| bad(blocked.to_string()))?;
    }
    Ok(url)
}

impl Sender for Http {
    fn send(&self, push: Push) -> BoxFuture<'static, Result<Answer, Failure>> {
        self.post(posted(self.content, &push), push.id(), push.timestamp, push.protocol_headers())
    }

    fn send_many(&self, pushes: Vec<Push>) -> BoxFuture<'static, Result<Answer, Failure>> {
        let timestamp = pushes.first().map_or(Timestamp(0), |first| first.timestamp);
        let (id, headers) = (Push::id_of_many(&pushes), Push::headers_of_many(&pushes));
        self.post(posted_many(self.content, &pushes), id, timestamp, headers)
    }
}

impl Http {
    fn post(
        &self,
        posted: Posted,
        id: String,
        timestamp: Timestamp,
        protocol: Vec<(&'static str, String)>,
    ) -> BoxFuture<'static, Result<Answer, Failure>> {
        let mut headers = own_headers(&posted);
        let seconds = timestamp.0.div_euclid(1000);
        let secrets = self.secrets.current();
        let signed = (!secrets.is_empty()).then(|| signature(&secrets, &id, seconds, &posted.body));
        let webhook =
            [("webhook-id", Some(id)), ("webhook-timestamp", Some(seconds.to_string())), ("webhook-signature", signed)];
        let webhook = webhook.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in protocol.into_iter().chain(webhook) {
            // Names of destinations come from the config and are ASCII; so is all the rest.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let request = self.client.post(self.url.clone()).headers(headers).body(posted.body);
        async move {
            let response = request.send().await.map_err(|error| failure(&error))?;
            Ok(answer(response).await)
        }
        .boxed()
    }
}

fn own_headers(posted: &Posted) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &posted.headers {
        // What HTTP cannot carry stays in the topic; an item is not lost for a strange header.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let content_type = posted.content_type.as_ref().and_then(|value| HeaderValue::from_bytes(value).ok());
    headers.insert(CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("seriatim/", env!("CARGO_PKG_VERSION"))));
    headers
}

/// Reads what is worth knowing of a response. Never fails: the status has come.
async fn answer(mut response: Response) -> Answer {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let number = |name| response.headers().get(name).and_then(|value| value.to_str().ok()?.parse().ok());
    let (takes, applied) = (number("seriatim-accept-items"), number("seriatim-applied"));
    let wish = response.headers().get("webhook-delivery").and_then(|value| match value.as_bytes() {
        b"disable" => Some(Wish::Disable),
        b"abort-message" => Some(Wish::Abort),
        _ => None,
    });
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(BODY_READ - body.len())]);
            if body.len() == BODY_READ {
                break;
            }
        }
    };
    // The status counts, whether or not a body comes.
    let _ = tokio::time::timeout(BODY_WAIT, read).await;
    let detail = if status.is_success() { String::new() } else { printable(&body) };
    Answer { status: status.as_u16(), retry_after, detail, wish, takes, applied }
}

/// Text for logs and cursors: no control characters, which could forge lines.
fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn failure(error: &reqwest::Error) -> Failure {
    let mut detail = error.to_string();
    let (mut blocked, mut dns) = (false, false);
    let mut source = error.source();
    while let Some(cause) = source {
        blocked |= cause.is::<Blocked>();
        let text = cause.to_string();
        dns |= text.starts_with("dns error") || text.contains("failed to lookup address");
        if !detail.contains(&text) {
            detail = format!("{detail}: {text}");
        }
        source = cause.source();
    }
    let kind = match () {
        () if blocked => FailureKind::Blocked,
        () if dns => FailureKind::Dns,
        () if error.is_timeout() => FailureKind::Timeout,
        () => FailureKind::Connection,
    };
    Failure { kind, detail: printable(detail.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::deliver::{Options, Push};
    use crate::record::{BatchBuilder, Epoch, Offset, Partition};

    fn push() -> Push {
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(b"body"), |_| {});
        Push {
            destination: "a".into(),
            lane: Partition(0),
            offset: Offset(0),
            epoch: Epoch(1),
            done_below: None,
            provenance: None,
            timestamp: Timestamp(0),
            attempt: 1,
            replay: None,
            test: false,
            record: builder.finish(),
        }
    }

    /// Names resolve to these addresses, all with the port of a listener that must not be dialled.
    async fn dial(addresses: &[&str]) -> (Failure, usize) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let dialled = Arc::new(AtomicUsize::new(0));
        let count = dialled.clone();
        let accept = async move {
            loop {
                let accepted = listener.accept().await;
                count.fetch_add(usize::from(accepted.is_ok()), Ordering::Relaxed);
            }
        };
        let found: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 0)).collect();
        let lookup: Lookup = Arc::new(move |_| {
            let found = found.clone();
            Box::pin(async move { Ok(found) })
        });
        let options = Options::new(format!("https://receiver.example:{port}/"));
        let http = Http::with_lookup(&options.http, 1, lookup).expect("a fine URL");
        let failure = tokio::select! {
            biased;
            outcome = http.send(push()) => outcome.expect_err("nobody may answer"),
            () = accept => unreachable!("it accepts for ever"),
        };
        (failure, dialled.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_dialled() {
        for private in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "64:ff9b::7f00:1", "10.0.0.1"] {
            let (failure, dialled) = dial(&[private]).await;
            assert_eq!((failure.kind, dialled), (FailureKind::Blocked, 0), "{private}: {failure}");
        }
        let (failure, _) = dial(&["127.0.0.1", "::1"]).await;
        assert_eq!(failure.kind, FailureKind::Blocked, "{failure}");
        assert!(failure.detail.contains("allow_private"), "{failure}");
    }

    #[tokio::test]
    async fn urls_that_cannot_be_safe_are_refused_with_what_to_do() {
        for (url, word) in [
            ("http://receiver.example/", "use https"),
            ("ftp://receiver.example/", "use https"),
            ("https://user:secret@receiver.example/", "secret file"),
            ("https://127.0.0.1/", "allow_private"),
            ("https://[::ffff:10.0.0.1]/", "allow_private"),
            ("https://0x7f000001/", "allow_private"),
            ("nonsense", "url"),
        ] {
            let error = Http::new(&Options::new(url).http, 1).expect_err(url).to_string();
            assert!(error.contains(word) && !error.contains("secret@"), "{url}: {error}");
        }
        assert!(Http::new(&Options::new("https://receiver.example/hook").http, 1).is_ok());
    }

    #[test]
    fn what_receivers_say_cannot_forge_lines_in_logs() {
        assert_eq!(printable(b"bad\nINFO all fine\x1b[2J\xff"), "bad INFO all fine [2J\u{fffd}");
    }
}
