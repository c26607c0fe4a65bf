//! Words that make the cases short.

use std::collections::BTreeMap;
use std::time::Duration;

use seriatim::log::kafka::{Kafka, Options};
use seriatim::log::{
    Append, Cleanup, Error, Event, Log, Membership, Topic, TopicPartition, TopicShape, Visibility, Writer,
};
use seriatim::record::{Batch, BatchBuilder, Offset, Partition};

use tokio::task::JoinSet;

use crate::kafka_cluster::{Cluster, patient_session};

/// Enough for a broker that starts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn connect(mut properties: BTreeMap<String, String>) -> Result<Kafka, Error> {
    properties.extend([patient_session()]);
    Kafka::connect(Options { properties, ..Options::default() }).await
}

/// A log, and a partition in it of a topic of this name.
pub(crate) async fn log_on(cluster: &Cluster, name: &str) -> (Kafka, Place) {
    let log = connect(cluster.properties()).await.expect("the broker is there");
    let place = Place::new(&log, name).await;
    (log, place)
}

/// The only partition of a topic.
pub(crate) struct Place(pub(crate) TopicPartition);

impl Place {
    pub(crate) async fn new(log: &Kafka, name: &str) -> Self {
        let topic = Topic::from(name);
        let shape = TopicShape { partitions: 1, cleanup: Cleanup::Delete };
        log.ensure(&[(topic.clone(), shape)]).await.expect("it can be made");
        Self(topic.partition(Partition(0)))
    }

    pub(crate) async fn sibling(&self, log: &Kafka, name: &str) -> Self {
        Self::new(log, &format!("{}.{name}", self.0.topic)).await
    }

    pub(crate) async fn append(&self, log: &Kafka, values: &[&str]) {
        log.append(&self.0, batch(values)).await.expect("there is room").await.expect("it is written");
    }

    /// A member of a group that holds this partition.
    pub(crate) async fn member(&self, log: &Kafka, group: &str) -> Box<dyn Membership> {
        let joined = log.join(group, std::slice::from_ref(&self.0.topic), "member").await;
        let mut member = joined.expect("the topic exists");
        let assigned = tokio::time::timeout(PATIENCE, member.next()).await.expect("it does not take long");
        assert!(
            matches!(&assigned, Ok(Event::Assigned(held)) if held == std::slice::from_ref(&self.0)),
            "{assigned:?}"
        );
        member
    }

    /// Waits until a member is told that it has lost the partition, and then that it is assigned.
    pub(crate) async fn lost(&self, member: &mut dyn Membership) {
        let mut next = async || tokio::time::timeout(PATIENCE, member.next()).await.expect("it is looked at");
        let (lost, assigned) = (next().await, next().await);
        let ours = |of: &[TopicPartition]| of == std::slice::from_ref(&self.0);
        assert!(matches!(&lost, Ok(Event::Lost(of)) if ours(of)), "{lost:?}");
        assert!(matches!(&assigned, Ok(Event::Assigned(of)) if ours(of)), "{assigned:?}");
    }

    /// Waits until a topic that was deleted is there no more.
    pub(crate) async fn is_gone(&self, log: &Kafka) {
        let is_there = async || {
            let topics = log.identities(std::slice::from_ref(&self.0.topic)).await;
            topics.expect("the broker is there").contains_key(self.0.topic.as_str())
        };
        let gone = async {
            while is_there().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("it was deleted");
    }

    /// A member of a group that holds this partition, and its writer.
    pub(crate) async fn writer(&self, log: &Kafka, group: &str) -> (Box<dyn Membership>, Box<dyn Writer>) {
        let mut member = self.member(log, group).await;
        let writer = claim(&mut *member, &self.0).await.expect("it is assigned");
        (member, writer)
    }

    /// As [`Self::writer`], of a member that has nothing else to do: it listens until what is returned
    /// with the writer is dropped, however long the case takes.
    pub(crate) async fn sole_writer(&self, log: &Kafka, group: &str) -> (JoinSet<()>, Box<dyn Writer>) {
        let (mut member, writer) = self.writer(log, group).await;
        let mut listening = JoinSet::new();
        listening.spawn(async move { while member.next().await.is_ok() {} });
        (listening, writer)
    }

    /// Waits until the stable end has come to `end`.
    pub(crate) async fn stable(&self, log: &Kafka, end: u64) {
        let reached = async {
            while log.bounds(&self.0).await.expect("it exists").stable_end < Offset(end) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("nothing holds it up");
    }

    /// All that is stable.
    pub(crate) async fn values(&self, log: &Kafka) -> Vec<String> {
        let read = async {
            let end = log.bounds(&self.0).await.expect("it exists").stable_end;
            let mut reader = log.read(&self.0, Offset::ZERO, Visibility::Durable, 1 << 20).await.expect("it exists");
            let mut values = Vec::new();
            while reader.position() < end {
                let fetched = reader.next().await.expect("nothing was removed");
                let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                values.extend(fetched.batches.iter().flatten().map(|record| text(record.value)));
            }
            values
        };
        tokio::time::timeout(PATIENCE, read).await.expect("it does not take long")
    }
}

/// Claims, as often as it takes.
pub(crate) async fn claim(member: &mut dyn Membership, partition: &TopicPartition) -> Option<Box<dyn Writer>> {
    loop {
        match member.claim(partition).await {
            Ok(writer) => return Some(writer),
            Err(Error::Fenced(_)) => {
                // Lost with the broker; it comes back when the group has formed anew.
                let _: Result<_, _> = tokio::time::timeout(Duration::from_millis(200), member.next()).await;
            }
            Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(other) => panic!("{other}"),
        }
    }
}

pub(crate) fn batch(values: &[&str]) -> Batch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(Some(b"key"), Some(value.as_bytes()), |_| {});
    }
    builder.finish()
}

pub(crate) fn to(partition: &TopicPartition, values: &[&str]) -> Append {
    Append { to: partition.clone(), batch: batch(values) }
}
