//! A log in Apache Kafka, for more than one machine.
//!
//! Every kind of work has clients and threads of its own, because librdkafka's calls block: plain
//! appends share one idempotent producer (`append`), readers share a few consumers that are
//! assigned partitions by hand (`fetcher`), each membership is a consumer of its group that
//! fetches nothing (`member`), and each claim is a transactional producer (`writer`). What crosses to
//! a stage is bounded on its way.
//!
//! A cursor is a record, so the group's stored positions are used by workers alone; `about` says which topic
//! they are about. Two members of a group that claim the same partition number are told apart by the
//! transactional id `<group>.<number>`: the one that was initialised last counts. `claim` says what precedes it.
//!
//! What Kafka does otherwise than the other engines: a header's name ends at its first zero byte,
//! and what a reader may see does not depend on its [`Visibility`], since nothing is acknowledged
//! before it is as durable as the cluster makes it.

mod about;
mod append;
mod asker;
mod bootstrap;
mod claim;
mod client;
mod errors;
mod feed;
mod fetcher;
mod lines;
mod member;
mod native;
mod reader;
mod seat;
mod seen;
mod settle;
mod standing;
mod topics;
mod turns;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

pub use self::topics::{Creation, Inspected};

use self::append::Appender;
use self::asker::{Asker, blocking};
use self::client::Properties;
use self::fetcher::Fetchers;
use self::reader::KafkaReader;
use self::seat::{KafkaSeat, Place};
use self::seen::Seen;
use super::{Appending, Bounds, Error, Log, Membership, Reader, Topic, TopicPartition, TopicShape, Visibility};
use crate::record::{Batch, Offset, Partition, Timestamp, TopicIds};

/// The assignor of groups that only this program joins: who stays keeps what it has.
const OWN_ASSIGNOR: &str = "cooperative-sticky";

/// That of groups which clients in other languages join, who have this one, too.
const COMMON_ASSIGNOR: &str = "roundrobin";

/// The property that says where to find the first broker.
const SERVERS: &str = "bootstrap.servers";

/// How to come to the cluster.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Properties of librdkafka, `bootstrap.servers` at least. Those that decide what this engine
    /// promises (offsets, isolation, idempotence, group and transactional ids) are not to be set.
    pub properties: BTreeMap<String, String>,
    /// Groups that workers in other languages join, too; they share out by `roundrobin`.
    pub shared_groups: BTreeSet<String>,
}

/// The handle of a log in Kafka. Clones share its clients, which close in the background when the
/// last of them and of its readers is dropped; writers and memberships have clients of their own.
#[derive(Clone)]
pub struct Kafka(Arc<Shared>);

struct Shared {
    properties: Properties,
    shared_groups: BTreeSet<String>,
    asker: Arc<Asker>,
    seen: Arc<Seen>,
    appender: Appender,
    fetchers: Fetchers,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.0.properties.0.get(SERVERS).map_or("", String::as_str);
        write!(f, "Kafka({servers})")
    }
}

impl Kafka {
    /// Makes the clients and greets the cluster, for 5 s at most.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] naming the property, where one is unknown, wrong, not to be set or contradicts another, which
    /// is told before any broker is asked; [`Error::Unavailable`] where no broker answers.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let log = Self::new(options)?;
        let properties = log.0.properties.clone();
        // Those that ask take other ones than those that read, join and write, which are made much later.
        blocking(move || properties.agree()).await?;
        if let Some(reason) = advice(&log.0.properties.0) {
            tracing::warn!("log.kafka: {reason}");
        }
        log.0.asker.greet().await?;
        // Its producer gets its number from the brokers meanwhile, which the first append waits for.
        log.0.appender.prepare()?;
        Ok(log)
    }

    /// As [`Kafka::connect`], without asking whether anybody is there.
    ///
    /// # Errors
    ///
    /// As [`Kafka::connect`], for properties.
    pub fn new(options: Options) -> Result<Self, Error> {
        if let Some(Refusal { property, reason }) = refusals(&options.properties).first() {
            return Err(Error::Damaged(format!("log.kafka.{property}: {reason}")));
        }
        let properties = Properties(options.properties);
        let seen = Arc::new(Seen::default());
        Ok(Self(Arc::new(Shared {
            asker: Arc::new(Asker::new(&properties, Arc::clone(&seen))?),
            appender: Appender::new(properties.clone(), Arc::clone(&seen)),
            seen,
            fetchers: Fetchers::new(properties.clone()),
            shared_groups: options.shared_groups,
            properties,
        })))
    }

    /// What a topic is like in all its settings, `None` where there is none of this name.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where nobody answers or may not tell.
    pub async fn inspect(&self, topic: &Topic) -> Result<Option<Inspected>, Error> {
        topics::inspect(&self.0.asker, topic).await
    }

    /// How many partitions topics have, without those that do not exist or may not be looked at. One question,
    /// however many they are.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where nobody answers.
    pub async fn partitions(&self, topics: &[Topic]) -> Result<BTreeMap<Topic, u32>, Error> {
        self.0.asker.partition_counts(topics).await
    }

    /// Creates topics and waits, for 20 s at most, until they can be used. One that exists already
    /// stays as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] where the brokers refuse, [`Error::Damaged`] where one exists with
    /// another number of partitions.
    pub async fn create(&self, topics: &[Creation]) -> Result<(), Error> {
        topics::create(&self.0.asker, topics).await
    }

    /// Deletes topics with all that is in them; one that does not exist is passed over. Brokers may
    /// show them for a moment longer.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] where the brokers refuse, [`Error::Unavailable`] where they do not answer
    /// within 20 s. The topics named before may be gone then.
    pub async fn delete(&self, topics: &[Topic]) -> Result<(), Error> {
        topics::delete(&self.0.asker, topics).await
    }
}

/// A property that a configuration may not set as it does, or has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub property: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// All that is wrong with single properties, in the order of their names: unknown, of a value that librdkafka does not
/// take, not to be set, or missing. What they have to agree on among each other is not looked at. Makes no client.
#[must_use]
pub fn refusals(properties: &BTreeMap<String, String>) -> Vec<Refusal> {
    let refusal = |property: &str, reason| Refusal { property: property.to_owned(), reason };
    let given = properties.iter().filter_map(|(key, value)| Some(refusal(key, client::objection(key, value)?)));
    let missing = (!properties.contains_key(SERVERS))
        .then(|| refusal(SERVERS, "is missing: give the brokers' addresses, separated by commas".to_owned()));
    given.chain(missing).collect()
}

/// What a configuration may say, and somebody should know the consequence of; `None` where there is none.
#[must_use]
pub fn advice(properties: &BTreeMap<String, String>) -> Option<String> {
    let own = crate::log::SESSION_TIMEOUT.as_millis().to_string();
    let given = properties.get("session.timeout.ms").filter(|given| **given != own)?;
    Some(format!(
        "session.timeout.ms is {given}, not {own}: a longer one delays take-overs of processes that died, a shorter one \
         takes partitions from those that live"
    ))
}

impl Log for Kafka {
    fn now(&self) -> Timestamp {
        Timestamp::system()
    }

    fn ensure<'a>(&'a self, topics: &'a [(Topic, TopicShape)]) -> BoxFuture<'a, Result<(), Error>> {
        topics::ensure(&self.0.asker, topics).boxed()
    }

    fn shape<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Option<TopicShape>, Error>> {
        self.0.asker.shape(topic).boxed()
    }

    fn identities<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<TopicIds, Error>> {
        self.0.asker.identities(topics).boxed()
    }

    fn is_gone(&self, topic: &Topic) -> bool {
        self.0.seen.is_gone(topic)
    }

    fn bounds<'a>(&'a self, of: &'a TopicPartition) -> BoxFuture<'a, Result<Bounds, Error>> {
        self.0.asker.bounds(of).boxed()
    }

    fn append<'a>(&'a self, to: &'a TopicPartition, batch: Batch) -> BoxFuture<'a, Result<Appending, Error>> {
        self.0.appender.append(to, batch).boxed()
    }

    fn read<'a>(
        &'a self,
        of: &'a TopicPartition,
        from: Offset,
        _: Visibility,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, Error>> {
        async move {
            // A partition that does not exist would be waited for.
            self.0.asker.exists(of).await?;
            let reader = KafkaReader::new(Arc::clone(&self.0), of.clone(), from, max_bytes);
            Ok(Box::new(reader) as Box<dyn Reader>)
        }
        .boxed()
    }

    fn join<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [Topic],
        member: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Membership>, Error>> {
        async move {
            for topic in topics {
                self.0.asker.exists(&topic.partition(Partition(0))).await?;
            }
            let assignor = if self.0.shared_groups.contains(group) { COMMON_ASSIGNOR } else { OWN_ASSIGNOR };
            let place = Place { group, topics, member, assignor };
            let seat = KafkaSeat::join(&self.0.properties, &self.0.asker, place)?;
            Ok(Box::new(seat) as Box<dyn Membership>)
        }
        .boxed()
    }
}
