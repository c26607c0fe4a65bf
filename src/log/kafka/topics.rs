//! Topics: what they are like, and creating them.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::{Instant, sleep};

use super::asker::{ANSWER, Asker};
use super::errors::{code, of_question};
use crate::log::{Cleanup, Error, Topic, TopicShape};
use crate::record::Partition;

/// How long the leaders of new partitions are waited for, and how often they are looked for.
const SETTLING: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

/// As many copies as the brokers make by default.
const DEFAULT_REPLICATION: i32 = -1;

/// With fewer in-sync copies than this setting says nothing is written, so it cannot be above
/// their number.
const IN_SYNC: &str = "min.insync.replicas";

/// A topic that is to be made.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Its name.
    pub topic: Topic,
    /// How many partitions it has.
    pub partitions: u32,
    /// Settings, by Kafka's names. `min.insync.replicas` is lowered to the number of copies where the brokers tell it.
    pub settings: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// How many partitions it has.
    pub partitions: u32,
    /// Copies of each partition, of the one that has fewest.
    pub replicas: u32,
    /// Its settings, the brokers' defaults included.
    pub settings: BTreeMap<String, String>,
}

pub(super) async fn inspect(asker: &Asker, topic: &Topic) -> Result<Option<Inspected>, Error> {
    let Some((partitions, replicas)) = asker.layout(topic).await? else { return Ok(None) };
    let settings = asker.settings_of(topic).await?;
    Ok(Some(Inspected { partitions, replicas, settings }))
}

/// Creates the topics that are missing and waits until they can be used.
pub(super) async fn ensure(asker: &Asker, topics: &[(Topic, TopicShape)]) -> Result<(), Error> {
    let mut missing = Vec::new();
    for (topic, shape) in topics {
        match asker.partitions(topic).await? {
            Some(found) if found != shape.partitions => return Err(otherwise(topic, found, shape.partitions)),
            Some(_) => {}
            None => {
                let (topic, partitions) = (topic.clone(), shape.partitions);
                missing.push(Creation { topic, partitions, settings: of_cleanup(shape.cleanup) });
            }
        }
    }
    create(asker, &missing).await
}

fn of_cleanup(cleanup: Cleanup) -> BTreeMap<String, String> {
    let (policy, kept) = match cleanup {
        Cleanup::Delete => ("delete", None),
        Cleanup::Compact => ("compact", None),
        Cleanup::Keep => ("delete", Some("-1")),
    };
    let kept = ["retention.ms", "retention.bytes"].into_iter().filter_map(|name| Some((name, kept?)));
    let settings = [("cleanup.policy", policy), ("message.timestamp.type", "LogAppendTime")].into_iter().chain(kept);
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Creates topics, which may have been created by others in the meantime, and waits until they can
/// be used.
pub(super) async fn create(asker: &Asker, topics: &[Creation]) -> Result<(), Error> {
    let Some(first) = topics.first() else { return Ok(()) };
    let at = first.topic.partition(Partition(0));
    // Who may not know is told so: it would be lowered, or nothing could be written.
    let replicas = match topics.iter().any(|topic| topic.settings.contains_key(IN_SYNC)) {
        true => asker.default_replicas(&first.topic).await?.map(|replicas| replicas.to_string()),
        false => None,
    };
    let new: Vec<NewTopic<'_>> = topics.iter().map(|topic| new_topic(topic, replicas.as_deref())).collect();
    let options = AdminOptions::new().request_timeout(Some(SETTLING)).operation_timeout(Some(SETTLING));
    let made = asker.admin.create_topics(&new, &options).await;
    for outcome in made.map_err(|e| of_question(code(&e), &at))? {
        match outcome {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(of_question(code, &Topic::from(topic).partition(Partition(0)))),
        }
    }
    for Creation { topic, partitions, .. } in topics {
        settle(asker, topic, *partitions).await?;
    }
    Ok(())
}

/// Deletes topics, some of which may not exist.
pub(super) async fn delete(asker: &Asker, topics: &[Topic]) -> Result<(), Error> {
    let Some(first) = topics.first() else { return Ok(()) };
    let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    let options = AdminOptions::new().request_timeout(Some(SETTLING)).operation_timeout(Some(SETTLING));
    let gone = asker.admin.delete_topics(&names, &options).await;
    for outcome in gone.map_err(|e| of_question(code(&e), &first.partition(Partition(0))))? {
        match outcome {
            Ok(_) | Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {}
            Err((topic, code)) => return Err(of_question(code, &Topic::from(topic).partition(Partition(0)))),
        }
    }
    Ok(())
}

/// With as many copies as the brokers make by default, where it is known how many those are.
fn new_topic<'a>(creation: &'a Creation, replicas: Option<&'a str>) -> NewTopic<'a> {
    let partitions = i32::try_from(creation.partitions).unwrap_or(i32::MAX);
    let mut new = NewTopic::new(creation.topic.as_str(), partitions, TopicReplication::Fixed(DEFAULT_REPLICATION));
    for (name, value) in &creation.settings {
        let number = |text: &str| text.parse::<u32>().ok();
        let fewer = replicas.filter(|copies| name == IN_SYNC && number(copies) < number(value));
        new = new.set(name, fewer.unwrap_or(value));
    }
    new
}

/// Waits until every partition has a leader that answers.
async fn settle(asker: &Asker, topic: &Topic, partitions: u32) -> Result<(), Error> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let mut result = match asker.partitions(topic).await {
            Ok(Some(found)) if found != partitions => return Err(otherwise(topic, found, partitions)),
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::Unavailable(format!("topic {topic} was created and is not there yet"))),
            Err(error) => Err(error),
        };
        for partition in topic.partitions(partitions) {
            if result.is_ok() {
                result = asker.bounds(&partition).await.map(drop);
            }
        }
        if result.is_ok() || Instant::now() + ANSWER.min(LOOK) >= deadline {
            return result;
        }
        sleep(LOOK).await;
    }
}

fn otherwise(topic: &Topic, found: u32, wanted: u32) -> Error {
    Error::Damaged(format!("topic {topic} has {found} partitions, not {wanted}"))
}
