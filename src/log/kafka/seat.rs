//! A place in a group.

use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::oneshot;

use super::about::{about, beside};
use super::asker::{ANSWER, Asker, blocking};
use super::bootstrap::Bootstrap;
use super::claim::{Claimed, claim};
use super::client::Properties;
use super::errors::{code, of_group, of_question};
use super::member::Serving;
use super::native::{Consumer, Polled, stored_beside};
use super::standing::Standing;
use super::writer::KafkaWriter;
use crate::log::{Error, Event, Membership, SESSION_TIMEOUT, Topic, TopicPartition, Writer};
use crate::record::{Offset, TopicId};

/// A listener that waits says so often: three chances within the session.
const LISTENING: Duration = Duration::from_secs(SESSION_TIMEOUT.as_secs() / 3);

/// How long leaving may take; after that the session ends by itself.
const LEAVING: Duration = Duration::from_secs(5);

/// See [`Membership`].
pub(super) struct KafkaSeat {
    client: Weak<Polled<Consumer>>,
    standing: Arc<Standing>,
    properties: Properties,
    asker: Arc<Asker>,
    /// The thread leaves when it is dropped.
    leave: mpsc::SyncSender<()>,
    left: oneshot::Receiver<()>,
}

/// Which group to join, and how.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) group: &'a str,
    pub(super) topics: &'a [Topic],
    pub(super) member: &'a str,
    pub(super) assignor: &'a str,
}

impl KafkaSeat {
    pub(super) fn join(properties: &Properties, asker: &Arc<Asker>, place: Place<'_>) -> Result<Self, Error> {
        let client = properties.joining(place.group, place.member, place.assignor)?;
        let standing = Arc::new(Standing::new(place.group));
        let (leave, leaving) = mpsc::sync_channel(1);
        let (gone, left) = oneshot::channel();
        let bootstrap = Bootstrap::new(properties);
        let client = Serving::start(client, bootstrap, Arc::clone(&standing), place.topics, leaving, gone)?;
        Ok(Self { client, standing, properties: properties.clone(), asker: Arc::clone(asker), leave, left })
    }

    async fn event(&self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.standing.next() {
                return event;
            }
            self.standing.wait(LISTENING).await;
        }
    }

    /// Claims on a thread that may block, and stays a listener meanwhile.
    async fn claim(&self, partition: &TopicPartition) -> Result<Box<dyn Writer>, Error> {
        self.standing.check(partition)?;
        let claimed = Claimed::capture(partition, &self.client, &self.standing, &self.asker, &self.properties)?;
        let standing = Arc::clone(&self.standing);
        let claiming = blocking(move || {
            let _under_way = standing.claiming();
            let producer = claim(&claimed)?;
            KafkaWriter::start(claimed, producer)
        });
        tokio::pin!(claiming);
        loop {
            self.standing.hear();
            if let Ok(claimed) = tokio::time::timeout(LISTENING, &mut claiming).await {
                return claimed.map(|writer| Box::new(writer) as Box<dyn Writer>);
            }
        }
    }

    /// What the group has stored last, and which topic that is about, where it is said.
    async fn stored(&self, of: &TopicPartition) -> Result<(Option<Offset>, Option<TopicId>), Error> {
        let (client, seen, of) = (self.client()?, Arc::clone(&self.asker.seen), of.clone());
        blocking(move || {
            let mut list = TopicPartitionList::with_capacity(1);
            let number = i32::try_from(of.partition.0).unwrap_or(i32::MAX);
            list.add_partition(of.topic.as_str(), number);
            let found = client.client.committed_offsets(list, ANSWER);
            let found = found.map_err(|e| seen.judge(of_question, code(&e), &of))?;
            let stored = found.find_partition(of.topic.as_str(), number).and_then(|found| found.offset().to_raw());
            // Below 0 there is none.
            let stored = stored.and_then(|offset| u64::try_from(offset).ok()).map(Offset);
            Ok((stored, about(stored_beside(&found))))
        })
        .await
    }

    fn client(&self) -> Result<Arc<Polled<Consumer>>, Error> {
        let gone = || Error::Fenced(format!("the member has left group {}", self.standing.group));
        self.client.upgrade().ok_or_else(gone)
    }
}

impl Membership for KafkaSeat {
    fn next(&mut self) -> BoxFuture<'_, Result<Event, Error>> {
        self.event().boxed()
    }

    fn claim<'a>(&'a mut self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Box<dyn Writer>, Error>> {
        Self::claim(self, partition).boxed()
    }

    fn committed<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Option<Offset>, Error>> {
        async move {
            let (stored, about) = self.stored(partition).await?;
            let topic = &partition.topic;
            let now = self.asker.identities(std::slice::from_ref(topic)).await?.remove(topic.as_str());
            self.standing.tell(partition, now);
            if about.is_some() && now.is_some() && about != now {
                let (group, stored) = (&self.standing.group, stored.unwrap_or_default());
                tracing::warn!(%partition, group, %stored, "the group's position is not used: it is about a topic before");
                return Ok(None);
            }
            Ok(stored)
        }
        .boxed()
    }

    fn commit<'a>(&'a self, positions: &'a [(TopicPartition, Offset)]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let Some((first, _)) = positions.first() else { return Ok(()) };
            let told = |of: &TopicPartition| self.standing.about(of);
            let about = positions.iter().map(|(of, _)| told(of)).collect::<Result<Vec<_>, _>>()?;
            let (said, bare) = (to_store(positions, &about), to_store(positions, &[]));
            let (client, standing, first) = (self.client()?, Arc::clone(&self.standing), first.clone());
            blocking(move || {
                let stored = client.client.commit(&said, CommitMode::Sync).or_else(|e| match code(&e) {
                    // As `offset.metadata.max.bytes` has it: better a position than none.
                    Code::OffsetMetadataTooLarge => client.client.commit(&bare, CommitMode::Sync),
                    _ => Err(e),
                });
                stored.map_err(|e| of_group(code(&e), &first, standing.check(&first).is_ok()))
            })
            .await
        }
        .boxed()
    }

    fn leave(self: Box<Self>) -> BoxFuture<'static, ()> {
        let Self { client, leave, left, .. } = *self;
        async move {
            drop(leave);
            if let Some(client) = client.upgrade() {
                client.wake();
            }
            // Also where the thread is gone already.
            let _: Result<_, _> = tokio::time::timeout(LEAVING, left).await;
        }
        .boxed()
    }
}

/// Positions to be stored, each with what it is about, as far as that is given.
fn to_store(positions: &[(TopicPartition, Offset)], about: &[Option<TopicId>]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (index, (partition, offset)) in positions.iter().enumerate() {
        let number = i32::try_from(partition.partition.0).unwrap_or(i32::MAX);
        let mut element = list.add_partition(partition.topic.as_str(), number);
        let offset = rdkafka::Offset::Offset(i64::try_from(offset.0).unwrap_or(i64::MAX));
        element.set_offset(offset).expect("an absolute offset is valid");
        if let Some(id) = about.get(index).copied().flatten() {
            element.set_metadata(beside(id));
        }
    }
    list
}
