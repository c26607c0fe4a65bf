//! The engines, and words that make the cases short.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, select_all};
use seriatim::log::embedded::{Embedded, Options, Retention};
use seriatim::log::kafka::{Kafka, Options as KafkaOptions};
use seriatim::log::memory::{Delay, Faults, Memory};
use seriatim::log::{
    Append, Barrier, Cleanup, Error, Event, Log, Membership, Reader, SESSION_TIMEOUT, Topic, TopicPartition,
    TopicShape, Visibility, Writer,
};
use seriatim::record::{Batch, BatchBuilder, Offset, Partition};

use tokio::task::JoinSet;

use crate::kafka_cluster::{Cluster, patient_session};

/// Enough for the slowest engine; a case that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much a reader asks for where it does not matter.
pub(crate) const BYTES: usize = 1 << 20;

type Remove = Box<dyn Fn(TopicPartition, Offset) -> BoxFuture<'static, ()> + Send + Sync>;

/// A log to be tested, fresh or at least under a prefix of its own.
pub(crate) struct Fixture {
    pub(crate) log: Arc<dyn Log>,
    /// Whether members that do not listen are replaced, and those that do not let go overruled.
    pub(crate) notices_silence: bool,
    prefix: String,
    remove: Remove,
    _folder: Option<tempfile::TempDir>,
}

pub(crate) fn memory() -> Fixture {
    of_memory(&Memory::new(1))
}

pub(crate) fn memory_with_holes() -> Fixture {
    let log = Memory::new(2);
    let delay = Delay { chance: 0.3, range: Duration::ZERO..Duration::from_millis(50) };
    log.set_faults(Faults {
        append_delay: delay.clone(),
        acknowledge_delay: delay.clone(),
        commit_delay: delay.clone(),
        read_delay: delay,
        regrouped: 0.3,
        hole: 0.3,
        hole_size: 5,
        markers: true,
        ..Faults::default()
    });
    of_memory(&log)
}

fn of_memory(log: &Memory) -> Fixture {
    let removing = log.clone();
    let remove = move |of: TopicPartition, offset| {
        removing.delete_below(&of, offset).expect("it exists");
        futures::future::ready(()).boxed()
    };
    Fixture {
        log: Arc::new(log.clone()),
        notices_silence: true,
        prefix: "conformance".to_owned(),
        remove: Box::new(remove),
        _folder: None,
    }
}

pub(crate) fn embedded() -> Fixture {
    of_embedded(Options::default())
}

pub(crate) fn embedded_without_memory() -> Fixture {
    of_embedded(Options { cache: 0, ..Options::default() })
}

fn of_embedded(options: Options) -> Fixture {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = Embedded::open(folder.path(), options).expect("the folder is new");
    let removing = log.clone();
    let remove = move |of: TopicPartition, offset| {
        let log = removing.clone();
        async move {
            let everything = Retention { bytes: Some(0), ..Retention::default() };
            log.retain(&BTreeMap::from([(of, offset)]), everything).await.expect("it exists");
        }
        .boxed()
    };
    Fixture {
        log: Arc::new(log),
        notices_silence: false,
        prefix: "conformance".to_owned(),
        remove: Box::new(remove),
        _folder: Some(folder),
    }
}

pub(crate) fn kafka() -> Fixture {
    static CASES: AtomicUsize = AtomicUsize::new(0);
    let mut properties = Cluster::shared().properties();
    properties.extend([patient_session()]);
    let log = Kafka::new(KafkaOptions { properties: properties.clone(), ..KafkaOptions::default() });
    let log = log.expect("the properties are right");
    let remove = move |of: TopicPartition, offset: Offset| delete_records(properties.clone(), of, offset).boxed();
    Fixture {
        log: Arc::new(log),
        notices_silence: true,
        prefix: format!("conformance-{}", CASES.fetch_add(1, Ordering::Relaxed)),
        remove: Box::new(remove),
        _folder: None,
    }
}

/// As an operator does, or retention.
async fn delete_records(properties: BTreeMap<String, String>, of: TopicPartition, offset: Offset) {
    use rdkafka::admin::{AdminClient, AdminOptions};
    use rdkafka::client::DefaultClientContext;
    let config: rdkafka::ClientConfig = properties.into_iter().collect();
    let admin: AdminClient<DefaultClientContext> = config.create().expect("the properties are right");
    let mut list = rdkafka::TopicPartitionList::new();
    let number = i32::try_from(of.partition.0).expect("it is small");
    let offset = rdkafka::Offset::Offset(i64::try_from(offset.0).expect("it is small"));
    list.add_partition_offset(of.topic.as_str(), number, offset).expect("it is a valid offset");
    admin.delete_records(&list, &AdminOptions::new()).await.expect("the records are there");
}

impl Fixture {
    /// A topic of this case.
    pub(crate) async fn topic(&self, name: &str, partitions: u32) -> Topic {
        self.topic_of(name, partitions, Cleanup::Delete).await
    }

    pub(crate) async fn topic_of(&self, name: &str, partitions: u32, cleanup: Cleanup) -> Topic {
        let topic = self.name(name);
        let shape = TopicShape { partitions, cleanup };
        soon(self.log.ensure(&[(topic.clone(), shape)])).await.expect("it can be made");
        topic
    }

    /// The name of a topic of this case.
    pub(crate) fn name(&self, name: &str) -> Topic {
        Topic::from(format!("{}.{name}", self.prefix))
    }

    /// The only partition of a new topic.
    pub(crate) async fn partition(&self) -> TopicPartition {
        self.topic("only", 1).await.partition(Partition(0))
    }

    /// A name for a group of this case.
    pub(crate) fn group(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Removes all or most of what is below `offset`, and nothing else.
    pub(crate) async fn remove_below(&self, of: &TopicPartition, offset: Offset) {
        soon((self.remove)(of.clone(), offset)).await;
    }

    pub(crate) async fn append(&self, to: &TopicPartition, values: &[&str]) -> Vec<Offset> {
        self.append_batch(to, batch(values)).await
    }

    pub(crate) async fn append_batch(&self, to: &TopicPartition, batch: Batch) -> Vec<Offset> {
        let appending = soon(self.log.append(to, batch)).await.expect("there is room");
        soon(appending).await.expect("it is written").iter().collect()
    }

    pub(crate) async fn reader(&self, of: &TopicPartition, from: Offset) -> Box<dyn Reader> {
        soon(self.log.read(of, from, Visibility::Durable, BYTES)).await.expect("it exists")
    }

    /// Everything from `from` to the stable end.
    pub(crate) async fn read_from(&self, of: &TopicPartition, from: Offset) -> Vec<(Offset, String)> {
        let end = soon(self.log.bounds(of)).await.expect("it exists").stable_end;
        let mut reader = self.reader(of, from).await;
        let mut found = Vec::new();
        while reader.position() < end {
            found.extend(fetch(&mut reader).await);
        }
        found
    }

    pub(crate) async fn read_all(&self, of: &TopicPartition) -> Vec<(Offset, String)> {
        self.read_from(of, Offset::ZERO).await
    }

    pub(crate) async fn values(&self, of: &TopicPartition) -> Vec<String> {
        self.read_all(of).await.into_iter().map(|(_, value)| value).collect()
    }

    pub(crate) async fn join(&self, group: &str, topics: &[&Topic]) -> Member {
        let topics: Vec<_> = topics.iter().map(|topic| (*topic).clone()).collect();
        let seat = soon(self.log.join(&self.group(group), &topics, "member")).await.expect("the topics exist");
        Member { seat, held: BTreeSet::new(), lost: Vec::new(), barriers: Vec::new(), keep_barriers: false }
    }

    /// A member that holds the partition, and its writer.
    pub(crate) async fn writer(&self, group: &str, partition: &TopicPartition) -> (Member, Box<dyn Writer>) {
        let mut member = self.join(group, &[&partition.topic]).await;
        settle(&mut [&mut member], |m| m[0].held.contains(partition)).await;
        let writer = member.claim(partition).await;
        (member, writer)
    }

    /// As [`Self::writer`], of a member that has nothing else to do: it listens until what is returned
    /// with the writer is dropped, however long the case takes.
    pub(crate) async fn sole_writer(&self, group: &str, partition: &TopicPartition) -> (JoinSet<()>, Box<dyn Writer>) {
        let (mut member, writer) = self.writer(group, partition).await;
        let mut listening = JoinSet::new();
        listening.spawn(async move { while member.seat.next().await.is_ok() {} });
        (listening, writer)
    }
}

/// A member of a group that keeps account of what it holds.
pub(crate) struct Member {
    pub(crate) seat: Box<dyn Membership>,
    pub(crate) held: BTreeSet<TopicPartition>,
    pub(crate) lost: Vec<TopicPartition>,
    pub(crate) barriers: Vec<Barrier>,
    /// Whether barriers are kept rather than dropped at once.
    pub(crate) keep_barriers: bool,
}

impl Member {
    pub(crate) async fn step(&mut self) {
        let event = self.seat.next().await.expect("it is a member");
        self.note(event);
    }

    pub(crate) fn note(&mut self, event: Event) {
        match event {
            Event::Assigned(partitions) => {
                for partition in partitions {
                    assert!(self.held.insert(partition.clone()), "{partition} was assigned twice");
                }
            }
            Event::Revoked(partitions, barrier) => {
                for partition in &partitions {
                    assert!(self.held.remove(partition), "{partition} was revoked but not held");
                }
                self.barriers.extend(self.keep_barriers.then_some(barrier));
            }
            Event::Lost(partitions) => {
                for partition in partitions {
                    self.held.remove(&partition);
                    self.lost.push(partition);
                }
            }
        }
    }

    /// What `future` gives, which must not take for ever; listens meanwhile.
    pub(crate) async fn busy<T>(&mut self, future: impl Future<Output = T>) -> T {
        let listen = async {
            loop {
                self.step().await;
            }
        };
        tokio::select! {
            biased;
            done = soon(future) => done,
            () = listen => unreachable!("it listens for ever"),
        }
    }

    pub(crate) async fn claim(&mut self, partition: &TopicPartition) -> Box<dyn Writer> {
        let claim = async {
            loop {
                match self.seat.claim(partition).await {
                    Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                    decided => return decided,
                }
            }
        };
        soon(claim).await.expect("it is assigned")
    }
}

/// Lets all members listen until `done` holds.
pub(crate) async fn settle(members: &mut [&mut Member], done: impl Fn(&[&mut Member]) -> bool) {
    let settled = async {
        while !done(members) {
            select_all(members.iter_mut().map(|member| member.step().boxed())).await;
        }
    };
    soon(settled).await;
}

/// Lets all members listen for a while.
pub(crate) async fn listen(members: &mut [&mut Member], time: Duration) {
    let forever = async {
        loop {
            select_all(members.iter_mut().map(|member| member.step().boxed())).await;
        }
    };
    let _: Result<(), _> = tokio::time::timeout(time, forever).await;
}

/// What `future` gives, which must not take for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Asserts that nothing comes, for a time that shows it.
pub(crate) async fn never<T>(future: impl Future<Output = T>) {
    assert!(tokio::time::timeout(Duration::from_millis(300), future).await.is_err(), "nothing should come");
}

/// Longer than an engine takes to notice that a member is gone.
pub(crate) fn session() -> Duration {
    SESSION_TIMEOUT + Duration::from_secs(2)
}

pub(crate) fn batch(values: &[&str]) -> Batch {
    keyed("key", values)
}

pub(crate) fn keyed(key: &str, values: &[&str]) -> Batch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(Some(key.as_bytes()), Some(value.as_bytes()), |_| {});
    }
    builder.finish()
}

pub(crate) fn to(partition: &TopicPartition, values: &[&str]) -> Append {
    Append { to: partition.clone(), batch: batch(values) }
}

/// What a reader finds next, holes passed over as nothing.
pub(crate) async fn fetch(reader: &mut Box<dyn Reader>) -> Vec<(Offset, String)> {
    let fetched = soon(reader.next()).await.expect("nothing was removed");
    let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap_or_default().to_vec()).expect("it is text");
    fetched.batches.iter().flatten().map(|record| (record.offset, text(record.value))).collect()
}

/// Reads on until there are so many records.
pub(crate) async fn fetch_many(reader: &mut Box<dyn Reader>, count: usize) -> Vec<(Offset, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        found.extend(fetch(reader).await);
    }
    found
}
