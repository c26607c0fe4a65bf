//! Creating topics.

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

/// As many replicas as the brokers have for a default.
const DEFAULT_REPLICATION: i32 = -1;

/// Creates the topics that are missing and waits until they can be used.
pub(super) async fn ensure(asker: &Asker, topics: &[(Topic, TopicShape)]) -> Result<(), Error> {
    let mut missing = Vec::new();
    for (topic, shape) in topics {
        match asker.partitions(topic).await? {
            Some(found) if found != shape.partitions => return Err(otherwise(topic, found, shape.partitions)),
            Some(_) => {}
            None => missing.push((topic, shape)),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let new: Vec<NewTopic<'_>> = missing.iter().map(|(topic, shape)| new_topic(topic, shape)).collect();
    let options = AdminOptions::new().request_timeout(Some(SETTLING)).operation_timeout(Some(SETTLING));
    let made = asker.admin.create_topics(&new, &options).await;
    let at = missing[0].0.partition(Partition(0));
    for outcome in made.map_err(|e| of_question(code(&e), &at))? {
        match outcome {
            // Another process may have been faster.
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(of_question(code, &Topic::from(topic).partition(Partition(0)))),
        }
    }
    for (topic, shape) in missing {
        settle(asker, topic, shape.partitions).await?;
    }
    Ok(())
}

fn new_topic<'a>(topic: &'a Topic, shape: &TopicShape) -> NewTopic<'a> {
    let partitions = i32::try_from(shape.partitions).unwrap_or(i32::MAX);
    let new = NewTopic::new(topic.as_str(), partitions, TopicReplication::Fixed(DEFAULT_REPLICATION));
    // The log's clock stamps records, whoever writes them: retention and overdue clocks rely on it.
    let new = new.set("message.timestamp.type", "LogAppendTime").set("unclean.leader.election.enable", "false");
    match shape.cleanup {
        Cleanup::Delete => new.set("cleanup.policy", "delete"),
        Cleanup::Compact => new.set("cleanup.policy", "compact"),
        Cleanup::Keep => new.set("cleanup.policy", "delete").set("retention.ms", "-1").set("retention.bytes", "-1"),
    }
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
