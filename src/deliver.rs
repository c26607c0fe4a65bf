//! Deliver: pushes the ordered topics of the destinations to their receivers.
//!
//! Promised is **at least once, in order**, a repeat with [`Progress::Item`] being the item in doubt
//! only: one item of a sequence group is under way at a time, and the next one goes only after
//! the commit that holds the last one's acknowledgement. Every push carries a stable id, group,
//! sequence, done-below and epoch, with which a receiver makes it exactly once: it refuses an epoch
//! below the highest it has seen, and skips a sequence that is below the highest done-below or that
//! it has applied already.
//!
//! Ownership comes as the resequencer's does (see [`crate::takeover`]): the owner of control
//! partition g pushes lanes g, g+G, g+2G... of every destination. Its whole state is one cursor. After
//! any failed commit everything in memory is dropped and taken over again from the log.
//!
//! An owner that was frozen must not push what its successor has pushed already. So it pushes
//! only within half a session time-out of its last commit, and commits anew where that is over: a
//! fence that the log checks. What remains is a freeze between that check and the socket, which only
//! a receiver that looks at the epoch can close.
//!
//! A record without provenance, which a stranger wrote into an output topic, is pushed too: all
//! such records of a lane are one sequence group, and carry no sequence, group or source.

mod content;
mod feed;
mod guard;
mod http;
mod options;
mod owner;
mod push;
mod sign;
mod tcp;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use http::{BadOptions, Http};
pub use options::{Content, HttpOptions, OnFailure, Options, Order, Progress, Rate, Retry, Start};
pub use push::Push;
pub use sign::BadSecret;
pub use tcp::{PushAck, Tcp, TcpOptions};
pub use verdict::{Answer, Failure, FailureKind, Wish};

use crate::log::{Log, Topic, TopicPartition};
use crate::metrics::{self, Role};
use crate::record::Partition;
use crate::takeover::{self, Claim, Place, hold};
use crate::topics::Topics;
use owner::Owner;

/// Sends items to one receiver. Over HTTP it is [`Http`], over TCP [`Tcp`]; a simulation has its own.
pub trait Sender: Send + Sync + 'static {
    /// Makes one attempt. The caller bounds its time, and dropping the future gives the attempt
    /// up: the item may have arrived or not, and must not arrive later if that can be helped.
    ///
    /// # Errors
    ///
    /// [`Failure`] where no answer came. It says nothing about whether the item arrived.
    fn send(&self, push: Push) -> BoxFuture<'static, Result<Answer, Failure>>;

    /// As [`Sender::send`], of several items of one lane at once, those of a group in their order. Called
    /// only where an answer before has said that it [`takes`](Answer::takes) several.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    fn send_many(&self, pushes: Vec<Push>) -> BoxFuture<'static, Result<Answer, Failure>> {
        let detail = format!("{} items at once, which cannot be sent so", pushes.len());
        futures::future::ready(Err(Failure { kind: FailureKind::Configuration, detail })).boxed()
    }
}

/// A destination with its receiver.
#[derive(Clone)]
pub struct Destination {
    /// How it is pushed to.
    pub options: Options,
    /// Who does it.
    pub sender: Arc<dyn Sender>,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Destination {
    /// A destination that is pushed to over HTTP.
    ///
    /// # Errors
    ///
    /// [`BadOptions`] says what to change.
    pub fn http(options: Options) -> Result<Self, BadOptions> {
        let sender = Arc::new(Http::new(&options.http, options.concurrency.get())?);
        Ok(Self { options, sender })
    }

    /// A destination that is pushed to over TCP. What `options` say of HTTP means nothing for it.
    ///
    /// # Errors
    ///
    /// [`BadOptions`] says what to change.
    pub fn tcp(receiver: &TcpOptions, options: Options) -> Result<Self, BadOptions> {
        let sender = Arc::new(Tcp::new(receiver)?);
        Ok(Self { options, sender })
    }
}

/// Why delivering ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A destination that is to be pushed to and has no topic.
    #[error("destination {0} has no topic")]
    NoTopic(String),
    /// Two destinations on one topic, whose positions could not be told apart.
    #[error("two destinations are on topic {0}")]
    SharedTopic(Topic),
    /// The options of a destination.
    #[error("destination {name}: {reason}")]
    Options {
        /// Which.
        name: String,
        /// What is wrong.
        reason: BadOptions,
    },
    /// Taking over, or the log below it.
    #[error(transparent)]
    TakeOver(#[from] takeover::Error),
}

/// Pushes to `destinations`, by name, over HTTP, for the control partitions that `group` assigns to
/// this process, until `drain` is cancelled: then no push is begun any more, those under way are
/// finished and committed, and the rest is left to others.
///
/// Dropping the future at any point is a crash: what was under way is pushed again by the next owner.
///
/// # Errors
///
/// Bad options at once; later only what taking over again does not mend.
pub async fn run(
    log: Arc<dyn Log>,
    topics: Topics,
    destinations: BTreeMap<String, Options>,
    group: &str,
    member: &str,
    seed: u64,
    drain: CancellationToken,
) -> Result<(), Error> {
    let over_http = |(name, options): (String, Options)| match Destination::http(options) {
        Ok(destination) => Ok((name, destination)),
        Err(reason) => Err(Error::Options { name, reason }),
    };
    let destinations = destinations.into_iter().map(over_http).collect::<Result<_, _>>()?;
    run_with(log, topics, destinations, group, member, seed, drain).await
}

/// As [`run`], with senders of the caller's.
///
/// # Errors
///
/// As [`run`].
pub async fn run_with(
    log: Arc<dyn Log>,
    topics: Topics,
    destinations: BTreeMap<String, Destination>,
    group: &str,
    member: &str,
    seed: u64,
    drain: CancellationToken,
) -> Result<(), Error> {
    let control = topics.control.clone();
    let shared = Arc::new(Shared::new(log.clone(), topics, destinations, seed)?);
    let place = Place { log: &*log, group, control: &control, member, role: Role::Deliver, seed };
    Ok(hold(place, &drain, |claim| own(shared.clone(), claim)).await?)
}

/// What all owners of this process share.
struct Shared {
    log: Arc<dyn Log>,
    topics: Topics,
    destinations: Vec<(Arc<str>, Topic, Destination)>,
    seed: u64,
    /// Lanes whose dead-letter partition refused a letter, with the reason: what is refused there
    /// halts its group instead. Forgotten with the process.
    letters_refused: Mutex<BTreeMap<Partition, String>>,
}

impl Shared {
    fn new(
        log: Arc<dyn Log>,
        topics: Topics,
        destinations: BTreeMap<String, Destination>,
        seed: u64,
    ) -> Result<Self, Error> {
        let mut used = BTreeSet::new();
        let mut found = Vec::new();
        for (name, destination) in destinations {
            let topic = topics.destinations.get(&name).ok_or_else(|| Error::NoTopic(name.clone()))?.clone();
            if !used.insert(topic.clone()) {
                return Err(Error::SharedTopic(topic));
            }
            found.push((name.into(), topic, destination));
        }
        Ok(Self { log, topics, destinations: found, seed, letters_refused: Mutex::default() })
    }

    /// Why a lane's dead-letter partition takes no letters, if it does not.
    fn refuses_letters(&self, lane: Partition) -> Option<String> {
        let topic = &self.topics.dead_letter;
        let gone = self.log.is_gone(topic).then(|| format!("{topic} was deleted and is not there"));
        gone.or_else(|| self.letters_refused.lock().expect("no holder panics").get(&lane).cloned())
    }

    fn letters_are_refused(&self, lane: Partition, reason: String) {
        self.letters_refused.lock().expect("no holder panics").insert(lane, reason);
    }

    /// Moves the gauges of every destination in every lane of a control partition.
    fn show_all(&self, control: &TopicPartition, show: impl Fn(&metrics::Destination)) {
        for (name, ..) in &self.destinations {
            self.topics.lanes_of(control.partition).for_each(|lane| show(&metrics::destination(name, lane)));
        }
    }

    /// Takes them out.
    fn forget_all(&self, control: &TopicPartition) {
        for (name, ..) in &self.destinations {
            self.topics.lanes_of(control.partition).for_each(|lane| metrics::forget_destination(name, lane));
        }
    }
}

/// One ownership of one control partition.
async fn own(shared: Arc<Shared>, claim: Claim) -> Result<(), takeover::Error> {
    let (stop, control) = (claim.stop.clone(), claim.control.clone());
    match stop.run_until_cancelled(Owner::take_over(shared.clone(), claim)).await {
        None => {
            shared.forget_all(&control);
            Ok(())
        }
        Some(owner) => owner?.run(&stop).await,
    }
}
