//! What works on records: the trait, what it is given and what it answers.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::record::outputs::{self, OutputJson};
use crate::record::{Batch, Name, RecordRef, Source, Timestamp};

/// Works on one record at a time; many calls run at once, in any order.
///
/// A record may be worked on more than once, even concurrently: [`Job::id`] stays the same. The
/// future is dropped when the attempt's time-out passes or the process ends.
///
/// ```
/// use bytes::Bytes;
/// use futures::future::BoxFuture;
/// use seriatim::work::{Answer, Failure, Job, Output, Processor};
///
/// /// Looks a price up somewhere and puts it behind the body.
/// #[derive(Debug)]
/// struct Pricing;
///
/// impl Processor for Pricing {
///     fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
///         Box::pin(async move {
///             if job.body().is_empty() {
///                 return Err(Failure::fail("empty", "there is nothing to price"));
///             }
///             let priced = [job.body(), b" costs 3"].concat();
///             Ok(Answer::One(Output::new(Bytes::from(priced))))
///         })
///     }
/// }
/// ```
pub trait Processor: fmt::Debug + Send + Sync + 'static {
    /// Works on one record. A panic counts as a failure that may pass.
    ///
    /// # Errors
    ///
    /// A [`Failure`], whose class decides whether there is another attempt.
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>>;

    /// The answer, where it takes microseconds and waits for nothing: such a record then costs no
    /// task, no timer and no place among those being worked on. `None`, the default, sends the
    /// record to [`Processor::process`].
    fn at_once(&self, _job: &Job) -> Option<Result<Answer, Failure>> {
        None
    }
}

/// One attempt at one record. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where the message came in; see [`Job::id`].
    pub source: Source,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When the attempt is given up.
    pub deadline: Timestamp,
    record: Batch,
}

impl Job {
    /// A job of the one record in `record`.
    pub(super) fn new(source: Source, attempt: u32, deadline: Timestamp, record: Batch) -> Self {
        debug_assert_eq!(record.len(), 1, "a job has one record");
        Self { source, attempt, deadline, record }
    }

    fn record(&self) -> RecordRef<'_> {
        self.record.iter().next().expect("a job has one record")
    }

    /// The message's stable public id, `LANE-OFFSET`.
    #[must_use]
    pub fn id(&self) -> String {
        self.source.to_string()
    }

    /// The message's key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.record().key
    }

    /// The message's body; empty where the record has no value.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.record().value.unwrap_or_default()
    }

    /// The body without a copy. It keeps alive what it was read with.
    #[must_use]
    pub fn shared_body(&self) -> Bytes {
        self.record().value.map(|value| self.record.share(value)).unwrap_or_default()
    }

    /// The body's media type.
    #[must_use]
    pub fn content_type(&self) -> Option<&[u8]> {
        self.record().headers.get(Name::ContentType)
    }

    /// The content type without a copy.
    #[must_use]
    pub fn shared_content_type(&self) -> Option<Bytes> {
        self.content_type().map(|value| self.record.share(value))
    }

    /// The batch item that this message is, `ID:INDEX:ROUND`, where it is one.
    #[must_use]
    pub fn batch_item(&self) -> Option<&[u8]> {
        self.record().headers.get(Name::Batch)
    }

    /// The message's own headers in order: all but the content type and those that Seriatim adds.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        const DESTINATION: &[u8] = Name::Destination.as_str().as_bytes();
        self.record().headers.iter().filter(|(name, _)| {
            *name == DESTINATION || !(name.starts_with(b"seriatim-") || *name == Name::ContentType.as_str().as_bytes())
        })
    }
}

/// What an attempt gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is no output.
    Empty,
    /// There is one; it gets the message's key.
    One(Output),
    /// There are several: the JSON array of `application/vnd.seriatim.outputs+json`, as
    /// [`Answer::several`] and [`outputs::check`] make sure.
    Several(Bytes),
}

impl Answer {
    /// The answer that an array of outputs is: an empty one is no output.
    ///
    /// # Errors
    ///
    /// As [`outputs::check`].
    pub fn from_outputs_json(json: Bytes) -> Result<Self, outputs::Invalid> {
        Ok(if outputs::check(&json)?.is_empty() { Self::Empty } else { Self::Several(json) })
    }

    /// The answer of these outputs.
    ///
    /// # Errors
    ///
    /// As [`outputs::check`].
    pub fn several(several: &[OutputJson]) -> Result<Self, outputs::Invalid> {
        let json = serde_json::to_vec(several).map_err(|e| outputs::Invalid::Json(e.to_string()))?;
        Self::from_outputs_json(json.into())
    }
}

/// One output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The bytes that reach the destination.
    pub body: Bytes,
    /// Their media type.
    pub content_type: Option<Bytes>,
    /// The destinations, separated by `, `. `None`: those named on the message, else the default.
    pub destinations: Option<String>,
    /// Further headers. Names that start with `seriatim-` are refused.
    pub headers: Vec<(Bytes, Bytes)>,
}

impl Output {
    /// An output of these bytes and nothing else.
    #[must_use]
    pub fn new(body: Bytes) -> Self {
        Self { body, ..Self::default() }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A short word for programs, such as `timeout`.
    pub code: Cow<'static, str>,
    /// A sentence for people.
    pub detail: String,
    /// What follows from it.
    pub class: Class,
    /// What the worker itself said, a problem body for instance. Kept up to 16 KiB.
    pub problem: Option<Bytes>,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may pass: another attempt, as long as there are any left.
    Retry,
    /// It will not pass: the result is a failure at once.
    Fail,
    /// The worker could not be reached or has no room. Nothing is sent but one probe at a time
    /// until it is back; no attempt is used up.
    Unreachable {
        /// How long the worker asked to be left alone.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// A failure that may pass.
    pub fn retry(code: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self::new(code, detail, Class::Retry)
    }

    /// A failure that will not pass.
    pub fn fail(code: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self::new(code, detail, Class::Fail)
    }

    /// The worker is not there, or has no room.
    pub fn unreachable(detail: impl fmt::Display, retry_after: Option<Duration>) -> Self {
        Self::new("worker-unreachable", detail, Class::Unreachable { retry_after })
    }

    fn new(code: impl Into<Cow<'static, str>>, detail: impl fmt::Display, class: Class) -> Self {
        Self { code: code.into(), detail: detail.to_string(), class, problem: None }
    }

    /// The JSON of a `seriatim-error` header: `code`, `detail`, `retryable`, `attempts` and, where
    /// the worker said something, `problem`.
    #[must_use]
    pub fn to_json(&self, attempts: u32) -> String {
        let mut error = serde_json::json!({
            "code": clip(&self.code, DETAIL_BYTES),
            "detail": clip(&self.detail, DETAIL_BYTES),
            "retryable": self.class != Class::Fail,
            "attempts": attempts,
        });
        if let Some(problem) = &self.problem {
            error["problem"] = match serde_json::from_slice(problem) {
                Ok(json) if problem.len() <= PROBLEM_BYTES => json,
                _ => clip(&String::from_utf8_lossy(problem), PROBLEM_BYTES).into(),
            };
        }
        error.to_string()
    }
}

/// Details are for people: nobody reads more.
const DETAIL_BYTES: usize = 2 * 1024;

/// The part of a worker's problem body that is kept; it travels in a header of each record about it.
pub(super) const PROBLEM_BYTES: usize = 16 * 1024;

fn clip(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Offset, Partition};

    #[test]
    fn a_job_shows_the_message_and_hides_what_is_internal() {
        let mut builder = BatchBuilder::default();
        builder.push(Some(b"k"), Some(b"body"), |h| {
            h.put(Name::ContentType, b"text/plain");
            h.put(Name::Check, b"1");
            h.put(Name::Id, b"somebody/key");
            h.put(Name::Destination, b"a, b");
            h.put(Name::TraceParent, b"00-1-2-01");
            h.put_named(b"x-other", b"1");
        });
        let job = Job::new(Source::from((Partition(1), Offset(2))), 1, Timestamp(0), builder.finish());
        assert_eq!((job.id(), job.key(), job.body()), ("1-2".to_owned(), Some(&b"k"[..]), &b"body"[..]));
        assert_eq!(job.shared_content_type(), Some(Bytes::from_static(b"text/plain")));
        let headers: Vec<_> = job.headers().map(|(name, _)| name).collect();
        assert_eq!(headers, [&b"seriatim-destination"[..], b"traceparent", b"x-other"]);
    }

    #[test]
    fn errors_are_bounded_json() {
        let mut failure = Failure::fail("c", "ä".repeat(DETAIL_BYTES));
        failure.problem = Some(Bytes::from(vec![b'x'; 3 * PROBLEM_BYTES]));
        let json = failure.to_json(3);
        assert!(json.len() < DETAIL_BYTES + PROBLEM_BYTES + 100);
        let parsed: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!((&parsed["retryable"], &parsed["attempts"]), (&false.into(), &3.into()));
        failure.problem = Some(Bytes::from_static(b"{\"title\":\"no\"}"));
        assert!(failure.to_json(1).contains(r#""problem":{"title":"no"}"#));
    }
}
