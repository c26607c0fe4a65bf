//! A pipeline's topics in memory, a processor that is told what to do, and eyes on both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use seriatim::log::memory::{Memory, Stored};
use seriatim::log::{
    Appending, Bounds, Cleanup, Error, Log, Membership, Reader, Topic, TopicPartition, TopicShape, Visibility,
};
use seriatim::record::cursor::{LaneCursor, OwnerCursor, encode};
use seriatim::record::{
    Batch, BatchBuilder, Name, Offset, Partition, ResultHeaders, Status, Timestamp, TopicId, TopicIds, check,
};
use seriatim::topics::Topics;
use seriatim::work::{self, Answer, Failure, Job, Options, Processor};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A call that the processor has had.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) lane: u32,
    pub(crate) offset: u64,
    pub(crate) attempt: u32,
    pub(crate) at: Instant,
}

type Script = dyn Fn(Job) -> BoxFuture<'static, Result<Answer, Failure>> + Send + Sync;

struct Scripted {
    script: Box<Script>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Processor for Scripted {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        let (id, lane, offset) = (job.id(), job.source.lane.0, job.source.offset.0);
        let call = Call { id, lane, offset, attempt: job.attempt, at: Instant::now() };
        self.calls.lock().expect("no holder panics").push(call);
        (self.script)(job)
    }
}

/// What the processor does with each job.
pub(crate) fn script(
    script: impl Fn(Job) -> BoxFuture<'static, Result<Answer, Failure>> + Send + Sync + 'static,
) -> Box<Script> {
    Box::new(script)
}

/// A lane whose owner has released everything below `frontier` and lets work go on below `limit`.
pub(crate) fn lane(frontier: u64, limit: u64) -> LaneCursor {
    LaneCursor { frontier, limit, ..LaneCursor::default() }
}

/// A result as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) offset: u64,
    pub(crate) status: Status,
    pub(crate) round: u32,
    pub(crate) check: u32,
    pub(crate) attempt: u32,
    /// The error's code.
    pub(crate) code: String,
    /// The error.
    pub(crate) error: serde_json::Value,
}

pub(crate) struct Rig {
    pub(crate) log: Memory,
    pub(crate) topics: Topics,
    picky: Arc<Picky>,
    processor: Arc<dyn Processor>,
    calls: Arc<Mutex<Vec<Call>>>,
}

/// A stage that runs.
pub(crate) struct Running {
    task: JoinHandle<Result<(), work::Error>>,
    drain: CancellationToken,
}

impl Running {
    /// Asks it to end, and waits until it has.
    pub(crate) async fn drain(self) {
        self.drain.cancel();
        let end = tokio::time::timeout(Duration::from_secs(120), self.task).await;
        end.expect("it drains in time").expect("it does not panic").expect("it ends well");
    }

    /// Drops it where it stands.
    pub(crate) fn crash(self) {
        self.task.abort();
    }
}

impl Rig {
    pub(crate) async fn new(lanes: u32, script: Box<Script>) -> Self {
        Self::seeded(1, lanes, script).await
    }

    pub(crate) async fn seeded(seed: u64, lanes: u32, script: Box<Script>) -> Self {
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let scripted = Arc::new(Scripted { script, calls: Arc::clone(&calls) });
        Self { calls, ..Self::with(seed, lanes, scripted).await }
    }

    /// With a processor of its own, whose calls are not seen.
    pub(crate) async fn with(seed: u64, lanes: u32, processor: Arc<dyn Processor>) -> Self {
        let log = Memory::new(seed);
        let topics = Topics::derive("t", &["default"], lanes, lanes.min(2));
        let shape = |partitions| TopicShape { partitions, cleanup: Cleanup::Delete };
        let all = [
            (topics.input.clone(), shape(lanes)),
            (topics.results.clone(), shape(lanes)),
            (topics.work.clone(), shape(topics.work_partitions)),
            (topics.cursors_resequence.clone(), shape(topics.control_partitions)),
        ];
        log.ensure(&all).await.expect("they do not exist yet");
        let picky = Arc::new(Picky { log: log.clone(), refuse_over: AtomicUsize::new(usize::MAX) });
        Self { log, topics, picky, processor, calls: Arc::default() }
    }

    pub(crate) fn options() -> Options {
        Options::for_pipeline("t")
    }

    pub(crate) fn start(&self, member: &str) -> Running {
        self.start_with(member, Self::options())
    }

    pub(crate) fn start_with(&self, member: &str, options: Options) -> Running {
        let (drain, processor) = (CancellationToken::new(), Arc::clone(&self.processor));
        let log: Arc<dyn Log> = self.picky.clone();
        let stage = work::run(log, self.topics.clone(), options, processor, member.to_owned(), 7, drain.clone());
        Running { task: tokio::spawn(stage), drain }
    }

    /// The log refuses batches over so many bytes.
    pub(crate) fn refuse_over(&self, bytes: usize) {
        self.picky.refuse_over.store(bytes, Relaxed);
    }

    async fn append(&self, to: TopicPartition, batch: Batch) {
        loop {
            let appended = match self.log.append(&to, batch.clone()).await {
                Ok(appending) => appending.await,
                Err(error) => Err(error),
            };
            match appended {
                Ok(_) => return,
                Err(Error::Unavailable(_) | Error::Unknown(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Appends records to a lane, in one batch.
    pub(crate) async fn input(&self, lane: u32, count: u64) {
        let mut builder = BatchBuilder::default();
        (0..count).for_each(|n| builder.push(Some(b"key"), Some(n.to_string().as_bytes()), |_| {}));
        self.append(self.topics.input.partition(Partition(lane)), builder.finish()).await;
    }

    /// Appends records with these bodies to lane 0, as JSON, and lets all of them be worked on.
    pub(crate) async fn bodies(&self, bodies: &[&str]) {
        let mut builder = BatchBuilder::default();
        for body in bodies {
            builder.push(Some(b"key"), Some(body.as_bytes()), |h| h.put(Name::ContentType, b"application/json"));
        }
        self.append(self.topics.input.partition(Partition(0)), builder.finish()).await;
        self.cursor([(0, lane(0, 1000))]).await;
    }

    /// Publishes a cursor of each control partition that these lanes hang on.
    pub(crate) async fn cursor(&self, lanes: impl IntoIterator<Item = (u32, LaneCursor)>) {
        let now = self.log.identities(std::slice::from_ref(&self.topics.input)).await.expect("no faults");
        self.cursor_about(now, lanes).await;
    }

    /// As [`Rig::cursor`], of an owner that knows the input from before it was made anew, for the first time.
    pub(crate) async fn cursor_about_before(&self, lanes: impl IntoIterator<Item = (u32, LaneCursor)>) {
        let before = TopicIds::from([(self.topics.input.as_str().to_owned(), TopicId(0))]);
        self.cursor_about(before, lanes).await;
    }

    async fn cursor_about(&self, topics: TopicIds, lanes: impl IntoIterator<Item = (u32, LaneCursor)>) {
        let mut cursors: BTreeMap<Partition, OwnerCursor> = BTreeMap::new();
        for (number, lane) in lanes {
            let control = self.topics.control_of(Partition(number)).partition;
            let empty = || OwnerCursor { topics: topics.clone(), ..OwnerCursor::default() };
            cursors.entry(control).or_insert_with(empty).lanes.insert(number, lane);
        }
        for (control, cursor) in cursors {
            let mut builder = BatchBuilder::default();
            builder.push(Some(b"resequence"), Some(&encode(&cursor)), |_| {});
            self.append(self.topics.cursors_resequence.partition(control), builder.finish()).await;
        }
    }

    pub(crate) async fn append_result(&self, lane: u32, headers: ResultHeaders<'_>) {
        let mut builder = BatchBuilder::default();
        builder.push(None, None, |h| headers.encode(h));
        self.append(self.topics.results.partition(Partition(lane)), builder.finish()).await;
    }

    pub(crate) async fn append_work(&self, partition: u32, value: &[u8], headers: ResultHeaders<'_>) {
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(value), |h| headers.encode(h));
        self.append(self.topics.work.partition(Partition(partition)), builder.finish()).await;
    }

    /// The check of an input record.
    pub(crate) fn check(&self, lane: u32, offset: u64) -> u32 {
        let records = self.log.snapshot(&self.topics.input.partition(Partition(lane)));
        let record = records.iter().find(|record| record.offset == Offset(offset)).expect("there is such a record");
        check(&with_headers(record).iter().next().expect("it is one record"))
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no holder panics").clone()
    }

    /// The ids of the calls, in order.
    pub(crate) fn called(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.id).collect()
    }

    pub(crate) fn results(&self, lane: u32) -> Vec<Stored> {
        self.log.snapshot(&self.topics.results.partition(Partition(lane)))
    }

    /// The results of a lane, decoded.
    pub(crate) fn seen(&self, lane: u32) -> Vec<Seen> {
        self.results(lane).iter().map(seen).collect()
    }

    /// What became of the records of lane 0 in the end, in input order.
    pub(crate) fn ends(&self) -> Vec<(Seen, Stored)> {
        let results = self.results(0);
        let mut ends: Vec<_> = results.into_iter().map(|stored| (seen(&stored), stored)).collect();
        ends.retain(|(seen, _)| seen.status != Status::Retrying);
        ends.sort_by_key(|(seen, _)| seen.offset);
        ends
    }

    /// How many records of a lane have a result.
    pub(crate) fn answered(&self, lane: u32) -> usize {
        let resolved = self.seen(lane).into_iter().filter(|seen| seen.status != Status::Retrying);
        resolved.map(|seen| seen.offset).collect::<BTreeSet<_>>().len()
    }

    /// Waits until something holds; five minutes in vain are a failure.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let patience = Instant::now() + Duration::from_secs(300);
        while !holds() {
            assert!(Instant::now() < patience, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets everything happen that is going to happen soon.
    pub(crate) async fn idle(&self) {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

fn with_headers(record: &Stored) -> Batch {
    let mut builder = BatchBuilder::default();
    let base = (record.offset, record.timestamp);
    builder.push_at(base, base, record.key.as_deref(), record.value.as_deref(), |h| {
        record.headers.iter().for_each(|(name, value)| h.put_named(name, value));
    });
    builder.finish_at(record.offset, record.timestamp)
}

fn seen(result: &Stored) -> Seen {
    let batch = with_headers(result);
    let headers = ResultHeaders::decode(batch.iter().next().expect("it is one").headers).expect("it decodes");
    let error: serde_json::Value =
        headers.error.map(serde_json::from_slice).transpose().expect("JSON").unwrap_or_default();
    Seen {
        offset: headers.source.offset.0,
        status: headers.status.expect("it has a status"),
        round: headers.round.0,
        check: headers.check,
        attempt: headers.attempt.unwrap_or_default(),
        code: error["code"].as_str().unwrap_or_default().to_owned(),
        error,
    }
}

/// A log that refuses large batches of results.
#[derive(Debug)]
struct Picky {
    log: Memory,
    refuse_over: AtomicUsize,
}

impl Log for Picky {
    fn now(&self) -> Timestamp {
        self.log.now()
    }

    fn ensure<'a>(&'a self, topics: &'a [(Topic, TopicShape)]) -> BoxFuture<'a, Result<(), Error>> {
        self.log.ensure(topics)
    }

    fn shape<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Option<TopicShape>, Error>> {
        self.log.shape(topic)
    }

    fn identities<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<TopicIds, Error>> {
        self.log.identities(topics)
    }

    fn bounds<'a>(&'a self, of: &'a TopicPartition) -> BoxFuture<'a, Result<Bounds, Error>> {
        self.log.bounds(of)
    }

    fn append<'a>(&'a self, to: &'a TopicPartition, batch: Batch) -> BoxFuture<'a, Result<Appending, Error>> {
        if batch.frame().len() > self.refuse_over.load(Relaxed) {
            return ready(Err(Error::Rejected { at: to.clone(), reason: "too large".to_owned() })).boxed();
        }
        self.log.append(to, batch)
    }

    fn read<'a>(
        &'a self,
        of: &'a TopicPartition,
        from: Offset,
        visibility: Visibility,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, Error>> {
        self.log.read(of, from, visibility, max_bytes)
    }

    fn join<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [Topic],
        member: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Membership>, Error>> {
        self.log.join(group, topics, member)
    }
}
