//! A place in a group.

use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer as _};
use tokio::sync::oneshot;

use super::asker::{ANSWER, Asker, blocking};
use super::bootstrap::Bootstrap;
use super::claim::{Claimed, claim};
use super::client::Properties;
use super::errors::{code, of_group, of_question};
use super::member::Serving;
use super::native::{Consumer, Polled};
use super::standing::Standing;
use super::writer::KafkaWriter;
use crate::log::{Error, Event, Membership, SESSION_TIMEOUT, Topic, TopicPartition, Writer};
use crate::record::Offset;

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
            let (client, seen, of) = (self.client()?, Arc::clone(&self.asker.seen), partition.clone());
            blocking(move || {
                let mut list = TopicPartitionList::with_capacity(1);
                let number = i32::try_from(of.partition.0).unwrap_or(i32::MAX);
                list.add_partition(of.topic.as_str(), number);
                let found = client.client.committed_offsets(list, ANSWER);
                let found = found.map_err(|e| seen.judge(of_question, code(&e), &of))?;
                let stored = found.find_partition(of.topic.as_str(), number).and_then(|found| found.offset().to_raw());
                // Below 0 there is none.
                Ok(stored.and_then(|offset| u64::try_from(offset).ok()).map(Offset))
            })
            .await
        }
        .boxed()
    }

    fn commit<'a>(&'a self, positions: &'a [(TopicPartition, Offset)]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let Some((first, _)) = positions.first() else { return Ok(()) };
            let mut list = TopicPartitionList::with_capacity(positions.len());
            for (partition, offset) in positions {
                self.standing.check(partition)?;
                let number = i32::try_from(partition.partition.0).unwrap_or(i32::MAX);
                let mut element = list.add_partition(partition.topic.as_str(), number);
                let offset = rdkafka::Offset::Offset(i64::try_from(offset.0).unwrap_or(i64::MAX));
                element.set_offset(offset).expect("an absolute offset is valid");
            }
            let (client, standing, first) = (self.client()?, Arc::clone(&self.standing), first.clone());
            blocking(move || {
                let stored = client.client.commit(&list, CommitMode::Sync);
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
