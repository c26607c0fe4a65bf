//! Questions to the cluster: what topics are like, where partitions end. They block, so they are
//! asked on threads that may.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::consumer::Consumer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use super::bootstrap::Bootstrap;
use super::client::{Context, Properties};
use super::errors::{Meaning, code, meaning, of_question};
use super::native::{Consumer, Resource, may_write, partition_counts, settings, topic_ids};
use super::seen::Seen;
use crate::log::{Bounds, Cleanup, Error, Topic, TopicPartition, TopicShape};
use crate::record::{Offset, Partition, TopicId, TopicIds};

/// How long an answer is waited for: less than a session, so that who asks stays a member.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// As [`ANSWER`], for who has something better to do.
pub(super) const AT_ONCE: Duration = Duration::from_millis(500);

/// How long the markers of a commit are waited for, and how often they are looked for: they take
/// milliseconds, unless their broker goes just then.
const MARKERS: Duration = Duration::from_secs(2);
const MARKER: Duration = Duration::from_millis(2);

/// So many of librdkafka's own events are taken before each question; it has few.
const EVENTS: usize = 100;

/// A client for questions.
struct Asking {
    client: Consumer,
    bootstrap: Bootstrap,
}

impl Asking {
    fn new(properties: &Properties, isolation: &str) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { client: properties.asking(isolation)?, bootstrap: Bootstrap::new(properties) }))
    }

    /// Asks. Blocks for an answer.
    fn ask<T>(&self, question: impl FnOnce(&Consumer) -> Result<T, Code>) -> Result<T, Code> {
        take_events(&self.client);
        question(&self.client).inspect_err(|code| {
            if meaning(*code) == Meaning::Away {
                self.bootstrap.say_again(&self.client);
            }
        })
    }
}

/// Clients for questions.
pub(super) struct Asker {
    /// Its partitions end where open transactions begin.
    committed: Arc<Asking>,
    uncommitted: Arc<Asking>,
    pub(super) admin: AdminClient<Context>,
    pub(super) seen: Arc<Seen>,
}

impl Asker {
    pub(super) fn new(properties: &Properties, seen: Arc<Seen>) -> Result<Self, Error> {
        Ok(Self {
            seen,
            committed: Asking::new(properties, "read_committed")?,
            uncommitted: Asking::new(properties, "read_uncommitted")?,
            admin: properties.administering()?,
        })
    }

    /// Whether the cluster answers at all.
    pub(super) async fn greet(&self) -> Result<(), Error> {
        let client = Arc::clone(&self.committed);
        blocking(move || {
            let cluster = |client: &Consumer| client.client().fetch_cluster_id(ANSWER).ok_or(Code::OperationTimedOut);
            let found = client.ask(cluster).is_ok();
            found.then_some(()).ok_or_else(|| {
                Error::Unavailable("no Kafka broker answers; log.kafka says where they should be".to_owned())
            })
        })
        .await
    }

    pub(super) async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, Error> {
        let committed = self.seen.committed(of);
        let deadline = Instant::now() + MARKERS;
        loop {
            let bounds = self.bounds_now(of).await?;
            if bounds.stable_end >= committed || Instant::now() >= deadline {
                return Ok(bounds);
            }
            tokio::time::sleep(MARKER).await;
        }
    }

    /// Without waiting for what this process has committed.
    pub(super) async fn bounds_now(&self, of: &TopicPartition) -> Result<Bounds, Error> {
        let (committed, uncommitted) = (Arc::clone(&self.committed), Arc::clone(&self.uncommitted));
        let (seen, of) = (Arc::clone(&self.seen), of.clone());
        blocking(move || {
            let judge = |code| seen.judge(of_question, code, &of);
            // In this order: what is stable was written before.
            let bounds = watermarks(&committed, &of, ANSWER)
                .and_then(|(start, stable_end)| Ok((start, stable_end, watermarks(&uncommitted, &of, ANSWER)?.1)));
            let missing = bounds.as_ref().is_err_and(|code| meaning(*code) == Meaning::Missing);
            if missing {
                // That is noted; it changes nothing about this answer.
                drop(identities(&committed, &seen, &seen.topics()));
            }
            let (start, stable_end, end) = bounds.map_err(judge)?;
            Ok(Bounds { start, stable_end, end: end.max(stable_end) })
        })
        .await
    }

    /// Up to where a partition can be read, `None` where nobody answers at once; where its topic is gone
    /// nothing waits for its end. Blocks for a moment.
    pub(super) fn stable_end(&self, of: &TopicPartition) -> Option<Offset> {
        if self.seen.is_gone(&of.topic) {
            return Some(Offset(u64::MAX));
        }
        watermarks(&self.committed, of, AT_ONCE).ok().map(|(_, stable_end)| stable_end)
    }

    /// How many partitions there are, `None` where there is no such topic.
    pub(super) async fn partitions(&self, topic: &Topic) -> Result<Option<u32>, Error> {
        Ok(self.layout(topic).await?.map(|(partitions, _)| partitions))
    }

    /// How many partitions there are, and how many copies of the one that has fewest.
    pub(super) async fn layout(&self, topic: &Topic) -> Result<Option<(u32, u32)>, Error> {
        let (client, seen, topic) = (Arc::clone(&self.committed), Arc::clone(&self.seen), topic.clone());
        blocking(move || {
            let at = topic.partition(Partition(0));
            let judge = |code| seen.judge(of_question, code, &at);
            let metadata =
                |client: &Consumer| client.fetch_metadata(Some(topic.as_str()), ANSWER).map_err(|e| code(&e));
            let metadata = client.ask(metadata).map_err(judge)?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic.as_str()) else {
                return Ok(None);
            };
            match found.error().map(Code::from) {
                None | Some(Code::NoError) => {
                    let replicas = found.partitions().iter().map(|partition| partition.replicas().len()).min();
                    let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
                    let partitions = count(found.partitions().len());
                    seen.note_topic(&topic, partitions);
                    Ok(Some((partitions, count(replicas.unwrap_or(0)))))
                }
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Ok(None),
                Some(other) => Err(judge(other)),
            }
        })
        .await
    }

    /// How many partitions topics have, without those that do not exist or that this process may not look at; in one
    /// question.
    pub(super) async fn partition_counts(&self, topics: &[Topic]) -> Result<BTreeMap<Topic, u32>, Error> {
        let (client, topics) = (Arc::clone(&self.committed), topics.to_vec());
        blocking(move || {
            let Some(first) = topics.first() else { return Ok(BTreeMap::new()) };
            let judge = |code| of_question(code, &first.partition(Partition(0)));
            let names = names(&topics).map_err(|_| judge(Code::InvalidTopic))?;
            let found = client.ask(|client| partition_counts(client, &names, ANSWER));
            let found = found.inspect_err(|_| hear_of_another(&client.client, first)).map_err(judge)?;
            let count = |(name, count): (String, Result<usize, Code>)| {
                Some((Topic::from(name), u32::try_from(count.ok()?).unwrap_or(u32::MAX)))
            };
            Ok(found.into_iter().filter_map(count).collect())
        })
        .await
    }

    /// The ids that the cluster gave topics when they were made, without those that do not exist, or that this
    /// process may not look at. Brokers that are too old to have ids tell none.
    pub(super) async fn identities(&self, topics: &[Topic]) -> Result<TopicIds, Error> {
        let (client, seen, topics) = (Arc::clone(&self.committed), Arc::clone(&self.seen), topics.to_vec());
        blocking(move || identities(&client, &seen, &topics)).await
    }

    /// Which of these topics this process may not write to, or not any more; `None` where there is none, or
    /// nobody says so. Blocks for an answer.
    pub(super) fn unwritable(&self, topics: &[Topic]) -> Option<Topic> {
        let names = names(topics).ok()?;
        let rights = self.committed.ask(|client| may_write(client, &names, ANSWER)).ok()?;
        let refused = |right: &Result<bool, Code>| matches!(right, Ok(false) | Err(Code::TopicAuthorizationFailed));
        rights.into_iter().find(|(_, right)| refused(right)).map(|(name, _)| Topic::from(name))
    }

    /// Whether there is such a partition.
    pub(super) async fn exists(&self, of: &TopicPartition) -> Result<(), Error> {
        let partitions = self.partitions(&of.topic).await?.unwrap_or(0);
        let missing = || self.seen.judge(of_question, Code::UnknownTopicOrPartition, of);
        if of.partition.0 < partitions { Ok(()) } else { Err(missing()) }
    }

    /// What a topic is like; settings that are not given for it are the brokers'.
    pub(super) async fn shape(&self, topic: &Topic) -> Result<Option<TopicShape>, Error> {
        let Some(partitions) = self.partitions(topic).await? else { return Ok(None) };
        let settings = self.settings_of(topic).await?;
        let value = |name: &str| settings.get(name).map_or("", String::as_str);
        let cleanup = match (value("cleanup.policy"), value("retention.ms"), value("retention.bytes")) {
            (policy, ..) if policy.contains("compact") => Cleanup::Compact,
            (_, "-1", "-1") => Cleanup::Keep,
            _ => Cleanup::Delete,
        };
        Ok(Some(TopicShape { partitions, cleanup }))
    }

    /// How many copies of a partition the brokers make where nobody says how many; `None` where they do not tell.
    /// An error says so of `first`, which is to be created.
    pub(super) async fn default_replicas(&self, first: &Topic) -> Result<Option<u32>, Error> {
        let client = Arc::clone(&self.committed);
        let broker = blocking(move || {
            let metadata = client.ask(|client| client.fetch_metadata(None, ANSWER).map_err(|e| code(&e)));
            let metadata = metadata.map_err(|code| Error::Unavailable(code.to_string()))?;
            let broker = metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id);
            broker.ok_or_else(|| {
                Error::Unavailable("no Kafka broker answers; log.kafka says where they should be".to_owned())
            })
        })
        .await?;
        let settings = self.settings(Resource::Broker(broker), first).await?;
        Ok(settings.get("default.replication.factor").and_then(|factor| factor.parse().ok()))
    }

    /// All settings of a topic.
    pub(super) async fn settings_of(&self, topic: &Topic) -> Result<BTreeMap<String, String>, Error> {
        let name = CString::new(topic.as_str())
            .map_err(|_| self.seen.judge(of_question, Code::InvalidTopic, &topic.partition(Partition(0))))?;
        self.settings(Resource::Topic(name), topic).await
    }

    /// All settings of a topic or broker, for what concerns a topic.
    async fn settings(&self, of: Resource, about: &Topic) -> Result<BTreeMap<String, String>, Error> {
        let (client, seen, about) = (Arc::clone(&self.committed), Arc::clone(&self.seen), about.clone());
        blocking(move || {
            let found = client.ask(|client| settings(client, &of, ANSWER));
            let found = found.inspect_err(|_| hear_of_another(&client.client, &about));
            let of_settings = |code, at: &TopicPartition| match (code, of_question(code, at)) {
                (Code::TopicAuthorizationFailed, Error::Rejected { at, reason }) => {
                    Error::Rejected { at, reason: format!("its settings take DescribeConfigs on the topic: {reason}") }
                }
                (Code::ClusterAuthorizationFailed, Error::Rejected { at, reason }) => {
                    let what = "how many copies there would be takes DescribeConfigs on the cluster";
                    Error::Rejected { at, reason: format!("{what}: {reason}") }
                }
                (_, other) => other,
            };
            found.map_err(|code| seen.judge(of_settings, code, &about.partition(Partition(0))))
        })
        .await
    }
}

/// As [`Asker::identities`]. Blocks for an answer, and notes which topics are there.
fn identities(client: &Asking, seen: &Seen, topics: &[Topic]) -> Result<TopicIds, Error> {
    let Some(first) = topics.first() else { return Ok(TopicIds::new()) };
    let judge = |code, topic: &Topic| seen.judge(of_question, code, &topic.partition(Partition(0)));
    let names = names(topics).map_err(|topic| judge(Code::InvalidTopic, topic))?;
    let (mut ids, mut there, mut missing) = (TopicIds::new(), Vec::new(), Vec::new());
    let found = client.ask(|client| topic_ids(client, &names, ANSWER));
    let found = found.inspect_err(|_| hear_of_another(&client.client, first));
    for (name, id) in found.map_err(|code| judge(code, first))? {
        let topic = Topic::from(name.as_str());
        match id {
            // Whoever needs one that it may not look at is told so.
            Err(Code::TopicAuthorizationFailed) => {}
            Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => missing.push(topic),
            Err(code) => return Err(judge(code, &topic)),
            Ok(id) => {
                if id != 0 {
                    seen.note_identity(&topic, TopicId(id));
                    ids.insert(name, TopicId(id));
                }
                there.push(topic);
            }
        }
    }
    seen.note_answer(&there, &missing);
    Ok(ids)
}

fn watermarks(client: &Asking, of: &TopicPartition, patience: Duration) -> Result<(Offset, Offset), Code> {
    let number = i32::try_from(of.partition.0).map_err(|_| Code::UnknownPartition)?;
    let (low, high) =
        client.ask(|client| client.fetch_watermarks(of.topic.as_str(), number, patience).map_err(|e| code(&e)))?;
    let offset = |raw| u64::try_from(raw).map(Offset).map_err(|_| Code::OffsetNotAvailable);
    Ok((offset(low)?, offset(high)?))
}

/// Names for a question, which is refused where it has one twice. An error is a topic that can have no such name.
fn names(topics: &[Topic]) -> Result<Vec<CString>, &Topic> {
    let names: BTreeSet<_> =
        topics.iter().map(|of| CString::new(of.as_str()).map_err(|_| of)).collect::<Result<_, _>>()?;
    Ok(names.into_iter().collect())
}

/// What is asked about topics by librdkafka's administrative calls is asked of one broker, which the client was told is
/// the controller; one that is frozen is asked again and again, until the client hears of another.
pub(super) fn hear_of_another(client: &Consumer, topic: &Topic) {
    let told = client.fetch_metadata(Some(topic.as_str()), AT_ONCE);
    if let Err(error) = told {
        tracing::debug!(%error, "nobody says who the controller is");
    }
}

/// Nobody polls these clients otherwise, and their events would pile up.
fn take_events(client: &Consumer) {
    for _ in 0..EVENTS {
        if client.poll(Duration::ZERO).is_none() {
            return;
        }
    }
}

/// Does what blocks where it may. A caller that is dropped does not stop it.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(call).await;
    done.unwrap_or_else(|e| Err(Error::Unknown(format!("a call to Kafka was cut off: {e}"))))
}
