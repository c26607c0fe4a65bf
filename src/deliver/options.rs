//! How a destination is pushed to.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

/// How one destination is pushed to. [`Options::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The receiver, where it is called over HTTP.
    pub http: HttpOptions,
    /// The time of one attempt, from dialling to the answer. Default: 15 s, as the Standard
    /// Webhooks guide has it.
    pub timeout: Duration,
    /// When the next item of a sequence group goes. Default: [`Progress::Item`].
    pub progress: Progress,
    /// What becomes of an item that the receiver refuses for good. Default: [`OnFailure::Halt`].
    pub on_failure: OnFailure,
    /// Where a topic without a position begins. Default: [`Start::Beginning`].
    pub start: Start,
    /// The pauses between attempts at one item.
    pub retry: Retry,
    /// The most of a receiver's `Retry-After` that is honoured. Default: 1 h.
    pub retry_after_max: Duration,
    /// What has to leave in order among itself. Default: [`Order::Group`].
    pub order: Order,
    /// No more items than this in this time, evenly spaced, in all: each control partition has its share of
    /// it. Default: as many as the receiver takes.
    pub rate: Option<Rate>,
    /// How many sequence groups may have an item under way at once, per control partition.
    /// Default: 64, which keeps a receiver of 100 ms busy with 640 items/s.
    pub concurrency: NonZeroUsize,
    /// How many items at most go in one request, where the receiver agrees: until it has said so, each goes
    /// alone. Of a group they are those that come next, in order. Default: 1.
    pub batch: NonZeroUsize,
    /// How many items of a lane may be read and not yet done. Default: 10,000, as many as keep
    /// others going while one group waits for its receiver.
    pub window: u64,
    /// How many bytes of items of a lane are held in memory; what waits beyond that is read
    /// again in its turn. One more read of 1 MiB may go over it. Default: 8 MiB.
    pub memory: usize,
}

impl Options {
    /// The defaults, for a receiver at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            http: HttpOptions {
                url: url.into(),
                secret_files: Vec::new(),
                allow_private: false,
                connect_timeout: Duration::from_secs(5),
                content: Content::default(),
            },
            timeout: Duration::from_secs(15),
            progress: Progress::default(),
            on_failure: OnFailure::default(),
            start: Start::default(),
            retry: Retry::default(),
            retry_after_max: Duration::from_secs(3600),
            order: Order::default(),
            rate: None,
            concurrency: const { NonZeroUsize::new(64).expect("64 is not 0") },
            batch: NonZeroUsize::MIN,
            window: 10_000,
            memory: 8 << 20,
        }
    }
}

/// A receiver that is called over HTTP.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Where items are posted to: `https`, or `http` too where private addresses are allowed.
    pub url: String,
    /// Files with the secrets that sign, `whsec_...` of Standard Webhooks, one a line, the newest
    /// first; each of them signs. Read again while running. Unsigned where there is no file.
    pub secret_files: Vec<PathBuf>,
    /// Whether loopback, private, link-local and other addresses that are not of the public
    /// internet may be dialled, and plain `http` be spoken. Default: no.
    pub allow_private: bool,
    /// The part of it for dialling and TLS. Default: 5 s.
    pub connect_timeout: Duration,
    /// The form of what is posted. Default: [`Content::Raw`].
    pub content: Content,
}

/// The form in which an item is posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// The body byte by byte, with its media type and its own headers.
    #[default]
    Raw,
    /// A CloudEvent in binary mode: the same body, with the attributes as `ce-` headers. Those that the
    /// item has are kept, the rest are made.
    CloudEvents,
    /// A CloudEvent in structured mode: one JSON object with attributes and data.
    CloudEventsStructured,
}

/// What has to leave in order among itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The sequence groups that the pipeline has ordered by.
    #[default]
    Group,
    /// All items of a lane.
    Lane,
    /// Items with the same key; those without one among themselves.
    Key,
    /// Nothing: each item goes as soon as there is room.
    None,
}

/// So many items in this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub items: NonZeroU32,
    /// In which time. Above zero.
    pub per: Duration,
}

/// When the next item of a sequence group goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// When the commit of the last one's acknowledgement is durable: only the item in doubt can
    /// ever be repeated.
    #[default]
    Item,
    /// As soon as the last one is acknowledged: a crash repeats all that was not committed yet.
    Batch,
}

/// What becomes of an item that the receiver refuses for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It holds its sequence group until an operator acts. Other groups go on.
    #[default]
    Halt,
    /// It is written to the dead-letter topic, in the commit that counts it as done.
    DeadLetter,
    /// It counts as done.
    Skip,
}

/// Where a topic that was never pushed before begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record it has.
    #[default]
    Beginning,
    /// With the first record after the destination was set up.
    End,
}

/// The pauses between attempts at one item: exponential, with jitter on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first pause. Default: 500 ms.
    pub backoff: Duration,
    /// The longest pause. Default: 5 min; an ordered group waits behind its head, so the hours of
    /// unordered webhooks would be wrong here.
    pub cap: Duration,
    /// Attempts after which [`OnFailure`] decides. Default: none, so that a receiver that is down
    /// for a day loses nothing and gets everything in order.
    pub attempts: Option<NonZeroU32>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { backoff: Duration::from_millis(500), cap: Duration::from_secs(300), attempts: None }
    }
}
