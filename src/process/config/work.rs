//! Section `work`.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{HttpUrl, Span};

/// Who works on records, and how patiently. At most one of the four processors is given; `echo`
/// where none is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Work {
    /// A worker that is called over HTTP.
    pub http: Option<HttpWorker>,
    /// A program that is started and talked to over its standard input and output.
    pub exec: Option<ExecWorker>,
    /// A jq filter over JSON bodies.
    pub jq: Option<String>,
    /// One of the processors that come along.
    pub builtin: Option<Builtin>,
    /// Records being worked on at once, in this process.
    pub concurrency: NonZeroU32,
    /// The time of one attempt.
    pub timeout: Span,
    /// How long a record that others wait for may go without a result before it is sent out again.
    pub deadline: Span,
    /// Whether records are spread over the work topic, so that one lane is worked on by many
    /// processes; else a process reads the lanes that the group assigns to it.
    pub fan_out: bool,
    /// What follows a failed attempt.
    pub retry: Retry,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            http: None,
            exec: None,
            jq: None,
            builtin: None,
            // Work is waiting on something else most of the time; a record in progress costs its body and a timer.
            concurrency: NonZeroU32::new(1000).expect("1000 is not 0"),
            timeout: Span::from_secs(30),
            deadline: Span::from_secs(600),
            fan_out: false,
            retry: Retry::default(),
        }
    }
}

impl Work {
    pub(super) fn hide(&mut self) {
        if let Some(http) = &mut self.http {
            http.url = http.url.hidden();
        }
    }
}

/// A worker that is called over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpWorker {
    /// Where records are posted to.
    pub url: HttpUrl,
}

/// A program that works on records, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecWorker {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// How many of it run.
    #[serde(default = "one")]
    pub processes: NonZeroU32,
}

const fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// A processor that comes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    /// The output is the input.
    Echo,
    /// As `echo`, after this time.
    Sleep(Span),
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all; the record fails with the last one.
    pub attempts: NonZeroU32,
    /// The pause after the first one; it doubles from one to the next.
    pub backoff: Span,
    /// The longest pause.
    pub cap: Span,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: NonZeroU32::new(5).expect("5 is not 0"),
            backoff: Span::from_millis(200),
            cap: Span::from_secs(30),
        }
    }
}
