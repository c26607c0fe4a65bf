//! Section `destinations`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Address, HttpUrl, OnFailure, Quota, Span, TopicName};
use crate::deliver::PushAck;
use crate::framing::Framing;

/// Where outputs go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Destination {
    /// Its ordered topic; derives from the pipeline's name where it is not given.
    pub topic: Option<TopicName>,
    /// Who gets them sent; nobody where it is not given, and the topic is all there is.
    pub push: Option<Push>,
}

impl Destination {
    pub(super) fn hide(&mut self) {
        if let Some(http) = self.push.as_mut().and_then(|push| push.http.as_mut()) {
            http.url = http.url.hidden();
        }
    }
}

/// How outputs are sent to a receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// A receiver that is called over HTTP.
    #[serde(default)]
    pub http: Option<HttpPush>,
    /// Or one that gets frames over TCP.
    #[serde(default)]
    pub tcp: Option<TcpPush>,
    /// What has to leave in order among itself.
    #[serde(default)]
    pub order: PushOrder,
    /// No more items than this, evenly spaced.
    #[serde(default)]
    pub rate: Option<Quota>,
    /// When the next item of a group goes.
    #[serde(default)]
    pub progress: Progress,
    /// Where a destination without a position begins.
    #[serde(default)]
    pub start: Start,
    /// What becomes of an item that the receiver refuses for good.
    #[serde(default)]
    pub on_failure: PushFailure,
    /// The pauses between attempts at the same item.
    #[serde(default)]
    pub retry: PushRetry,
}

/// Same choice as for records that failed.
pub type PushFailure = OnFailure;

/// A receiver that is called over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpPush {
    /// Where items are posted to.
    pub url: HttpUrl,
    /// A file with the secrets that sign, a line each, in the form `whsec_...` of Standard
    /// Webhooks; unsigned where it is not given.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The form of what is posted.
    #[serde(default)]
    pub content: Content,
    /// How many sequence groups may have an item under way at once, per control partition.
    #[serde(default = "push_concurrency")]
    pub concurrency: NonZeroU32,
    /// How many items at most go in one request, where the receiver agrees.
    #[serde(default = "push_batch")]
    pub batch: NonZeroU32,
    /// Whether private and link-local addresses may be called.
    #[serde(default)]
    pub allow_private: bool,
    /// The time of one attempt.
    #[serde(default = "push_timeout")]
    pub timeout: Span,
}

const fn push_timeout() -> Span {
    // What the Standard Webhooks guide gives receivers at least.
    Span::from_secs(15)
}

const fn push_concurrency() -> NonZeroU32 {
    // Keeps a receiver of 100 ms busy with 640 items a second.
    NonZeroU32::new(64).expect("64 is not 0")
}

const fn push_batch() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// The form in which an item is posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// The body byte by byte.
    #[default]
    Raw,
    /// A CloudEvent in binary mode.
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// A CloudEvent in structured mode.
    #[serde(rename = "cloudevents-structured")]
    CloudEventsStructured,
}

/// What has to leave in order among itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushOrder {
    /// The sequence groups that `order.by` has made.
    #[default]
    Group,
    /// All items of a lane.
    Lane,
    /// Items with the same key.
    Key,
    /// Nothing.
    None,
}

/// A receiver that gets frames over TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpPush {
    /// Where it listens.
    pub address: Address,
    /// How messages are told apart.
    pub framing: Framing,
    /// How it acknowledges.
    #[serde(default = "push_ack")]
    pub ack: PushAck,
    /// Whether TLS is spoken.
    #[serde(default)]
    pub tls: bool,
    /// Whether private and link-local addresses may be called, and without TLS.
    #[serde(default)]
    pub allow_private: bool,
    /// The time of one attempt, the answer included.
    #[serde(default = "push_timeout")]
    pub timeout: Span,
    /// How many connections there are at once, per control partition; a message has one for itself
    /// until it is acknowledged.
    #[serde(default = "push_connections")]
    pub connections: NonZeroU32,
}

const fn push_ack() -> PushAck {
    PushAck::Answer
}

const fn push_connections() -> NonZeroU32 {
    // Many receivers of frames take no second connection.
    NonZeroU32::MIN
}

/// When the next item of a group goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// When the acknowledgement of the last one is committed: only that one can ever be repeated.
    #[default]
    Item,
    /// When the acknowledgement of the last one is there, its commit gathered with others: faster,
    /// and a crash repeats all that were not committed.
    Batch,
}

/// Where a destination without a position begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the oldest item that its topic has.
    #[default]
    Beginning,
    /// With the first item after it was set up.
    End,
}

/// The pauses between attempts at the same item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushRetry {
    /// The pause after the first attempt; it doubles from one to the next.
    pub backoff: Span,
    /// The longest pause, unless the receiver asks for more.
    pub cap: Span,
    /// The most of a receiver's `Retry-After` that is honoured.
    pub retry_after_max: Span,
    /// Attempts after which `on_failure` decides; without end where it is not given.
    pub attempts: Option<NonZeroU32>,
}

impl Default for PushRetry {
    fn default() -> Self {
        Self {
            backoff: Span::from_millis(500),
            cap: Span::from_secs(300),
            retry_after_max: Span::from_secs(3600),
            attempts: None,
        }
    }
}
