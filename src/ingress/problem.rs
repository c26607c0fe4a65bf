//! Refusals as RFC 9457 problems: one table of stable codes, one way to answer them.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::log::Error;
use crate::metrics;

/// What was wrong. The text of a code never changes; clients may rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A query parameter is unknown or not what it should be.
    InvalidQuery,
    /// A request header is not what it should be.
    InvalidHeader,
    /// The body is not what its content type says, or broke off.
    InvalidBody,
    /// No or no known bearer token.
    Unauthorized,
    /// No such route, message or lane.
    NotFound,
    /// No such destination.
    UnknownDestination,
    /// It was there, and retention has removed it.
    Removed,
    /// The route does not know this method.
    MethodNotAllowed,
    /// The client was too slow.
    RequestTimeout,
    /// A request with this idempotency key is being written.
    KeyInFlight,
    /// The message is larger than `ingress.max_body`.
    BodyTooLarge,
    /// A content encoding or type that is not taken.
    UnsupportedMedia,
    /// The idempotency key came with another body before.
    KeyReused,
    /// The log refused the message itself.
    Rejected,
    /// Working on the message failed.
    MessageFailed,
    /// A batch cannot be as it is asked for.
    InvalidBatch,
    /// The id of a batch is taken.
    BatchExists,
    /// As many batches run in its lane as may.
    TooManyBatches,
    /// The batch has ended, and nothing can be asked of it.
    BatchEnded,
    /// Too much is being received or written already.
    Overloaded,
    /// The sender has sent as many messages as it may in this time.
    QuotaExceeded,
    /// The log cannot take anything now.
    LogUnavailable,
    /// The process is on its way out.
    Draining,
    /// The log is damaged; an operator has to look.
    LogDamaged,
    /// Perhaps written, perhaps not.
    OutcomeUnknown,
    /// Written, but not released within the time that the client wanted to wait.
    NotReleasedYet,
}

/// One row of the table: code, status, title, and whether the same request may succeed later.
type Row = (&'static str, StatusCode, &'static str, bool);

impl Code {
    /// All of them, by status.
    pub const ALL: [Self; 26] = [
        Self::InvalidQuery,
        Self::InvalidHeader,
        Self::InvalidBody,
        Self::Unauthorized,
        Self::NotFound,
        Self::UnknownDestination,
        Self::Removed,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::KeyInFlight,
        Self::BatchExists,
        Self::BatchEnded,
        Self::BodyTooLarge,
        Self::UnsupportedMedia,
        Self::KeyReused,
        Self::Rejected,
        Self::MessageFailed,
        Self::InvalidBatch,
        Self::QuotaExceeded,
        Self::LogDamaged,
        Self::Overloaded,
        Self::TooManyBatches,
        Self::LogUnavailable,
        Self::Draining,
        Self::OutcomeUnknown,
        Self::NotReleasedYet,
    ];

    const fn row(self) -> Row {
        match self {
            Self::InvalidQuery => ("invalid-query", StatusCode::BAD_REQUEST, "The query is not valid", false),
            Self::InvalidHeader => ("invalid-header", StatusCode::BAD_REQUEST, "A header is not valid", false),
            Self::InvalidBody => ("invalid-body", StatusCode::BAD_REQUEST, "The body is not valid", false),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "A known bearer token is needed", false),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing", false),
            Self::UnknownDestination => {
                ("unknown-destination", StatusCode::NOT_FOUND, "There is no such destination", false)
            }
            Self::Removed => ("removed", StatusCode::NOT_FOUND, "Retention has removed it", false),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The route does not know this method", false)
            }
            Self::RequestTimeout => {
                ("request-timeout", StatusCode::REQUEST_TIMEOUT, "The request came too slowly", true)
            }
            Self::KeyInFlight => {
                ("key-in-flight", StatusCode::CONFLICT, "A request is outstanding for this Idempotency-Key", true)
            }
            Self::BodyTooLarge => ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "The message is too large", false),
            Self::UnsupportedMedia => {
                ("unsupported-media", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The encoding is not supported", false)
            }
            Self::KeyReused => {
                ("key-reused", StatusCode::UNPROCESSABLE_ENTITY, "Idempotency-Key is already used", false)
            }
            Self::Rejected => ("rejected", StatusCode::UNPROCESSABLE_ENTITY, "The log refused the message", false),
            Self::MessageFailed => {
                ("message-failed", StatusCode::UNPROCESSABLE_ENTITY, "Working on the message failed", false)
            }
            Self::InvalidBatch => {
                ("invalid-batch", StatusCode::UNPROCESSABLE_ENTITY, "There can be no such batch", false)
            }
            Self::BatchExists => ("batch-exists", StatusCode::CONFLICT, "The id is taken", false),
            Self::BatchEnded => ("batch-ended", StatusCode::CONFLICT, "The batch has ended", false),
            Self::QuotaExceeded => ("quota-exceeded", StatusCode::TOO_MANY_REQUESTS, "The quota is used up", true),
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too much is under way", true),
            Self::TooManyBatches => {
                ("too-many-batches", StatusCode::SERVICE_UNAVAILABLE, "Too many batches run in its lane", true)
            }
            Self::LogUnavailable => {
                ("log-unavailable", StatusCode::SERVICE_UNAVAILABLE, "The log takes nothing now", true)
            }
            Self::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE, "This process is stopping", true),
            Self::LogDamaged => ("log-damaged", StatusCode::INTERNAL_SERVER_ERROR, "The log is damaged", false),
            Self::OutcomeUnknown => {
                ("outcome-unknown", StatusCode::GATEWAY_TIMEOUT, "It is not known whether it was written", true)
            }
            Self::NotReleasedYet => {
                ("not-released-yet", StatusCode::GATEWAY_TIMEOUT, "Accepted, but not released yet", false)
            }
        }
    }

    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    /// Seconds after which a client should try again.
    const fn retry_after(self) -> Option<&'static str> {
        match self {
            // One second: queues turn over many times in it, and an append under way has its answer.
            Self::KeyInFlight | Self::Overloaded | Self::LogUnavailable | Self::Draining => Some("1"),
            // A batch takes its time, so that places come free by and by.
            Self::TooManyBatches => Some("10"),
            _ => None,
        }
    }

    const fn type_uri(self) -> Option<&'static str> {
        match self {
            Self::QuotaExceeded => Some("https://iana.org/assignments/http-problem-types#quota-exceeded"),
            Self::Overloaded | Self::TooManyBatches | Self::LogUnavailable | Self::Draining => {
                Some("https://iana.org/assignments/http-problem-types#temporary-reduced-capacity")
            }
            _ => None,
        }
    }
}

/// A refusal, to be answered as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    more: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// A problem with what the client should know: what, where, and what to do.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let (status, detail, more) = (code.status(), detail.into(), serde_json::Map::new());
        let problem = Self { code, status, detail, retry_after: None, more };
        if code == Code::OutcomeUnknown { problem.with("outcome", "unknown") } else { problem }
    }

    /// The same with one more member.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<serde_json::Value>) -> Self {
        self.more.insert(member.to_owned(), value.into());
        self
    }

    /// The same with the time after which to try again, where the code's own is not it.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same with another status than its code usually has.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client should know.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Counts a message that was refused so.
    #[must_use]
    pub fn counted(self) -> Self {
        metrics::ingress_refused(self.code.as_str()).inc();
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Unavailable(_) | Error::Fenced(_) => Code::LogUnavailable,
            Error::Rejected { .. } => Code::Rejected,
            Error::Unknown(_) => Code::OutcomeUnknown,
            Error::Lost { .. } => Code::Removed,
            Error::Damaged(_) => Code::LogDamaged,
        };
        Self::new(code, error.to_string())
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let (code, _, title, retryable) = self.code.row();
        let mut map = to.serialize_map(None)?;
        match self.code.type_uri() {
            Some(uri) => map.serialize_entry("type", uri)?,
            None => map.serialize_entry("type", &format_args!("urn:seriatim:problem:{code}"))?,
        }
        map.serialize_entry("title", title)?;
        map.serialize_entry("status", &self.status.as_u16())?;
        map.serialize_entry("detail", &self.detail)?;
        map.serialize_entry("code", code)?;
        map.serialize_entry("retryable", &retryable)?;
        for (member, value) in &self.more {
            map.serialize_entry(member, value)?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("plain data always serializes");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, super::quota::seconds(wait).into());
        } else if let Some(seconds) = self.code.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if self.code == Code::UnsupportedMedia {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    const PREFACE: &str = r#"<!-- Written by `make docs`. -->

# Problems

What the data port refuses, it answers as `application/problem+json` (RFC 9457):

```json
{"type": "urn:seriatim:problem:key-reused", "title": "Idempotency-Key is already used", "status": 422,
 "detail": "this key came with another body before; send the same body, or another key",
 "code": "key-reused", "retryable": false}
```

Programs decide by `code`, which never changes its meaning; `detail` is for people. `retryable` says whether the same
request may succeed later. The entries of a 207 hold problems of the same form. A head that is no HTTP, or too large,
is answered 400 or 431 without a body. A message for a destination that there is not is 422, its `code`
`unknown-destination`.

| `code` | Status | Means | Retry |
|---|---|---|---|
"#;

    /// The table of all codes in Markdown, as it is kept in `docs/problems.md`.
    fn reference() -> String {
        let mut page = String::from(PREFACE);
        for code in Code::ALL {
            let (name, status, title, retryable) = code.row();
            let told = code.retry_after().is_some() || code == Code::QuotaExceeded;
            let retry = match (retryable, told) {
                (false, _) => "no",
                (true, false) => "yes",
                (true, true) => "yes, after `Retry-After`",
            };
            writeln!(page, "| `{name}` | {} | {title} | {retry} |", status.as_u16())
                .expect("a String takes everything");
        }
        page
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/problems.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, reference()).expect("docs/ can be written");
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == reference(), "docs/problems.md is out of date: run make docs");
    }

    #[test]
    fn codes_are_told_apart_by_their_text() {
        let texts: BTreeSet<_> = Code::ALL.into_iter().map(Code::as_str).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.is_sorted_by_key(|code| code.status().as_u16()));
    }
}
