//! What an attempt's outcome means.

use std::time::{Duration, UNIX_EPOCH};

use crate::record::Timestamp;

/// What a receiver answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `Retry-After` header as it came.
    pub retry_after: Option<String>,
    /// The first part of the body of an answer that is no success, for operators.
    pub detail: String,
    /// What else the receiver asks for.
    pub wish: Option<Wish>,
    /// How many items it takes at once from now on; one where it does not say.
    pub takes: Option<usize>,
    /// How many of the items that it got, from the first on, it has applied: all of them, or none, by the
    /// status, where it does not say.
    pub applied: Option<usize>,
}

/// What a receiver asks for beside its status, in the header `webhook-delivery`, whatever the status is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `disable`: nothing more, until an operator resumes. The item itself is judged by the status.
    Disable,
    /// `abort-message`: this item never again. A success is none the less one.
    Abort,
}

impl Answer {
    /// The status, and what the body says beside it.
    #[must_use]
    pub fn said(&self) -> String {
        let (status, detail) = (self.status, self.detail.trim());
        if detail.is_empty() { format!("status {status}") } else { format!("status {status}: {detail}") }
    }

    /// An answer without anything special.
    #[must_use]
    pub const fn new(status: u16, detail: String) -> Self {
        Self { status, retry_after: None, detail, wish: None, takes: None, applied: None }
    }
}

/// Why there is no answer. The item may have arrived nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, for operators.
    pub detail: String,
}

/// Kinds of failure, as operators see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No answer in time.
    Timeout,
    /// No connection, or it broke.
    Connection,
    /// The name did not resolve.
    Dns,
    /// The address is private and private ones are not allowed. Nothing was dialled.
    Blocked,
    /// The destination cannot be called as it is configured: its secrets cannot be read.
    Configuration,
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Dns => "dns",
            Self::Blocked => "ssrf_blocked",
            Self::Configuration => "configuration",
        })
    }
}

/// What to do about an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is acknowledged.
    Delivered,
    /// The same item again, later.
    Again {
        /// For operators.
        reason: String,
        /// What the receiver asked for.
        after: Option<Duration>,
        /// The destination as a whole is down or busy, rather than this item in trouble.
        down: bool,
    },
    /// The receiver wants nothing any more.
    Gone(String),
    /// This item is refused for good.
    Refused(String),
}

/// Judges an attempt by its status: 2xx delivered; 410 gone; 3xx (never followed), 408, 409, 425,
/// 429 and 5xx again; every other status refused. What the receiver wishes goes before its status, but
/// for a success.
pub(super) fn judge(outcome: &Result<Answer, Failure>, now: Timestamp) -> Verdict {
    let answer = match outcome {
        Ok(answer) => answer,
        Err(failure) => return Verdict::Again { reason: failure.to_string(), after: None, down: true },
    };
    let reason = answer.said();
    match answer.status {
        200..=299 => Verdict::Delivered,
        _ if answer.wish == Some(Wish::Disable) => Verdict::Gone(reason),
        _ if answer.wish == Some(Wish::Abort) => Verdict::Refused(reason),
        410 => Verdict::Gone(reason),
        300..=399 | 408 | 409 | 425 | 429 | 500..=599 => Verdict::Again {
            reason,
            after: answer.retry_after.as_deref().and_then(|value| retry_after(value, now)),
            down: !matches!(answer.status, 409 | 425),
        },
        _ => Verdict::Refused(reason),
    }
}

/// The time that a `Retry-After` header names, in seconds or as an HTTP date; `None` where it is
/// neither, or over.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let at = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    at.checked_sub(Duration::from_millis(u64::try_from(now.0).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT

    fn judged(status: u16, retry_after: Option<&str>) -> Verdict {
        let retry_after = retry_after.map(str::to_owned);
        judge(&Ok(Answer { retry_after, ..Answer::new(status, String::new()) }), NOW)
    }

    #[test]
    fn every_status_has_its_verdict() {
        for status in 100..=999 {
            let again = matches!(status, 300..=399 | 408 | 409 | 425 | 429 | 500..=599);
            match judged(status, None) {
                Verdict::Delivered => assert!((200..300).contains(&status), "{status}"),
                Verdict::Again { .. } => assert!(again, "{status}"),
                Verdict::Gone(_) => assert_eq!(status, 410),
                Verdict::Refused(_) => assert!(!again && status != 410 && !(200..300).contains(&status), "{status}"),
            }
        }
    }

    #[test]
    fn a_receiver_may_want_an_item_or_all_of_them_never_again() {
        for (status, wish, expected) in [
            (204, Wish::Disable, Verdict::Delivered),
            (204, Wish::Abort, Verdict::Delivered),
            (503, Wish::Disable, Verdict::Gone("status 503".to_owned())),
            (503, Wish::Abort, Verdict::Refused("status 503".to_owned())),
        ] {
            let answer = Answer { wish: Some(wish), ..Answer::new(status, String::new()) };
            assert_eq!(judge(&Ok(answer), NOW), expected, "{status} {wish:?}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_nonsense_is_ignored() {
        for (value, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", Some(120)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", None),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("99999999999999999999999", None),
            ("soon", None),
        ] {
            let Verdict::Again { after, .. } = judged(503, Some(value)) else { panic!("503 is tried again") };
            assert_eq!(after, expected.map(Duration::from_secs), "{value:?}");
        }
    }
}
