//! Calls to the ports of a running process, with errors that say what to do.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::{Exit, Failure};
use crate::process::config::{Address, Config};

/// How long connecting may take: a port of a process that is there answers within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Talks to one port. Cheap to clone; connections are shared.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

impl Client {
    /// A client of the admin port at `url`, or where the configuration has it, with the admin
    /// token if the configuration names its file.
    ///
    /// # Errors
    ///
    /// Where the URL is none or the token cannot be read.
    pub fn admin(url: Option<&str>, config: &Config) -> Result<Self, Failure> {
        let token = config.admin.token_file.as_deref().map(crate::process::secret::read).transpose();
        let token = token.map_err(|error| Failure::new(Exit::BadConfig, format!("admin.token_file: {error}")))?;
        Self::new(url, &config.admin.listen, token)
    }

    /// A client of the data port at `url`, or where the configuration has it.
    ///
    /// # Errors
    ///
    /// Where the URL is none.
    pub fn data(url: Option<&str>, config: &Config, token: Option<String>) -> Result<Self, Failure> {
        Self::new(url, &config.ingress.http, token)
    }

    fn new(url: Option<&str>, address: &Address, token: Option<String>) -> Result<Self, Failure> {
        let text = url.map_or_else(|| format!("http://{}", reachable(address)), str::to_owned);
        let base = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let usage = || Failure::new(Exit::Usage, format!("\"{text}\" is no URL of a port; write http://HOST:PORT"));
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let http = http.map_err(|error| Failure::new(Exit::Failed, format!("no HTTP client: {error}")))?;
        Ok(Self { http, base: base.ok_or_else(usage)?, token })
    }

    /// Where it talks to.
    #[must_use]
    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// A call to a path with its query, such as `/v1/lanes?lane=3`, to be filled and given to
    /// [`Client::send`]. It has no time-out but that of connecting, so that streams can be followed.
    ///
    /// # Panics
    ///
    /// If `path` is no path, which those in the code are.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.base.join(path).expect("a path can be joined to a URL of a host");
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Makes the call; any answer but a success is an error that says why.
    ///
    /// # Errors
    ///
    /// With the exit code that fits the answer.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        success(request.send().await.map_err(|error| self.unreachable(&error))?).await
    }

    /// Gets JSON from a path.
    ///
    /// # Errors
    ///
    /// As [`Client::send`]; also where the answer is not what it should be.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.send(self.request(Method::GET, path)).await?;
        response.json().await.map_err(|error| {
            let reason = format!("{}{path} answered something unexpected, is it a seriatim? {error}", self.base);
            Failure::new(Exit::Failed, reason)
        })
    }

    /// What to tell of a call that nobody answered.
    pub(super) fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            return Failure::new(Exit::TimedOut, format!("{} did not answer in time", self.base));
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let what = if error.is_connect() { "nothing answers at" } else { "the call failed:" };
        let reason =
            format!("{what} {} ({cause}); is `seriatim run` running there? --url names another place", self.base);
        Failure::new(Exit::Failed, reason)
    }
}

/// An address to listen at as one to call: who listens everywhere is here, too.
fn reachable(address: &Address) -> String {
    match address.as_str().rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => address.to_string(),
    }
}

/// Any answer but a success is an error that says why.
///
/// # Errors
///
/// With the exit code that fits the answer.
pub(super) async fn success(response: Response) -> Result<Response, Failure> {
    if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
}

/// The failure that an answer tells of, from its problem document where it has one.
async fn refusal(response: Response) -> Failure {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let part = |name: &str| problem[name].as_str().filter(|text| !text.is_empty());
    let message = match (part("title"), part("detail")) {
        (_, Some(detail)) => detail.to_owned(),
        (Some(title), None) => title.to_owned(),
        (None, None) => format!("the answer was {status}"),
    };
    Failure::new(exit_of(status, part("code")), message)
}

fn exit_of(status: StatusCode, code: Option<&str>) -> Exit {
    match status {
        // What was asked for is what the command line said.
        _ if matches!(code, Some("invalid-batch" | "invalid-query" | "invalid-header")) => Exit::Usage,
        StatusCode::NOT_FOUND | StatusCode::GONE => Exit::NotFound,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Exit::Conflict,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Exit::TimedOut,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use serde_json::{Value, json};

    use super::*;

    async fn serve(router: Router) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(async { axum::serve(listener, router).await });
        client(&url)
    }

    fn client(url: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::data(Some(url), &Config::default(), None).expect("a URL")
    }

    #[tokio::test]
    async fn problems_become_messages_and_exit_codes() {
        let problem = json!({ "title": "Not Found", "detail": "there is no lane 9" }).to_string();
        let client = serve(
            Router::new()
                .route("/good", get(async || json!({ "a": 1 }).to_string()))
                .route("/lane", get(async || (StatusCode::NOT_FOUND, problem)))
                .route("/batch", get(async || (StatusCode::UNPROCESSABLE_ENTITY, r#"{"code":"invalid-batch"}"#)))
                .route("/bare", get(async || StatusCode::CONFLICT)),
        )
        .await;
        assert_eq!(client.get::<Value>("/good").await.expect("it is JSON"), json!({ "a": 1 }));
        let failure = client.get::<Value>("/lane").await.expect_err("it is a problem");
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::NotFound, "there is no lane 9"));
        let failure = client.get::<Value>("/batch").await.expect_err("it is a problem");
        assert_eq!(failure.exit, Exit::Usage);
        let failure = client.get::<Value>("/bare").await.expect_err("it is an error");
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Conflict, "the answer was 409 Conflict"));
    }

    #[tokio::test]
    async fn nobody_there_says_what_to_do() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        drop(listener);
        let failure = client(&url).get::<Value>("/").await.expect_err("nobody listens");
        assert!(failure.message.contains("nothing answers at http://127.0.0.1:"), "{}", failure.message);
        assert!(failure.message.contains("seriatim run"), "{}", failure.message);
    }

    #[test]
    fn what_listens_everywhere_is_called_here() {
        for (listen, call) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("localhost:3", "localhost:3")] {
            let address = Address::try_from(listen.to_owned()).expect(listen);
            assert_eq!(reachable(&address), call);
        }
        let failure = Client::data(Some("localhost"), &Config::default(), None).expect_err("no URL");
        assert_eq!(failure.exit, Exit::Usage);
    }
}
