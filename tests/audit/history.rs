//! Logs as real pipelines write them, to be copied with one damage each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use seriatim::log::memory::{Memory, Stored};
use seriatim::log::{Log, TopicPartition};
use seriatim::record::{BatchBuilder, Name, Partition};
use seriatim::resequence::{self, OnFailure, Options, Scope};
use seriatim::topics::Topics;
use seriatim::work::{self, Answer, Failure, Job, Output, Processor};
use tokio_util::sync::CancellationToken;

/// The records of every partition.
pub(crate) type Logs = BTreeMap<TopicPartition, Vec<Stored>>;

/// What a pipeline has written.
pub(crate) struct History {
    pub(crate) topics: Topics,
    pub(crate) logs: Logs,
}

impl History {
    pub(crate) fn output(&self, destination: &str) -> TopicPartition {
        self.topics.destinations[destination].partition(Partition(0))
    }

    /// A log that holds these records, at the moment at which the input was sent: the check of a
    /// record covers its timestamp.
    pub(crate) async fn restored(&self, logs: &Logs) -> Memory {
        let log = Memory::new(1);
        log.ensure(&self.topics.shapes()).await.expect("an empty log takes every shape");
        for (of, records) in logs {
            let mut builder = BatchBuilder::default();
            for record in records {
                builder.push(record.key.as_deref(), record.value.as_deref(), |to| {
                    record.headers.iter().for_each(|(name, value)| to.put_named(name, value));
                });
            }
            if !builder.is_empty() {
                log.append(of, builder.finish()).await.expect("it is taken").await.expect("it is durable");
            }
        }
        log
    }
}

/// Takes as many milliseconds as the body's first word says; the second word says how it ends.
#[derive(Debug)]
struct Worker;

impl Processor for Worker {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            let body = String::from_utf8_lossy(job.body()).into_owned();
            let mut words = body.split(' ');
            let millis = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            match words.next() {
                Some("fail") => Err(Failure::fail("told-to", "the body says so")),
                Some("empty") => Ok(Answer::Empty),
                _ => Ok(Answer::One(Output::new(job.shared_body()))),
            }
        }
        .boxed()
    }
}

struct Message {
    key: Option<&'static str>,
    id: Option<String>,
    destination: Option<&'static str>,
    body: String,
}

fn plain(body: String) -> Message {
    Message { key: None, id: None, destination: None, body }
}

struct Pipeline {
    log: Memory,
    topics: Topics,
    options: Options,
}

impl Pipeline {
    async fn new(destinations: &[&str], options: Options, messages: impl IntoIterator<Item = Message>) -> Self {
        let log = Memory::new(1);
        let topics = Topics::derive("t", destinations, 1, 1);
        log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
        let mut builder = BatchBuilder::default();
        for message in messages {
            builder.push(message.key.map(str::as_bytes), Some(message.body.as_bytes()), |to| {
                if let Some(id) = &message.id {
                    to.put(Name::Id, id.as_bytes());
                }
                if let Some(destination) = message.destination {
                    to.put(Name::Destination, destination.as_bytes());
                }
            });
        }
        let input = topics.input.partition(Partition(0));
        log.append(&input, builder.finish()).await.expect("accepted").await.expect("durable");
        Self { log, topics, options }
    }

    /// Runs both roles for so long, then crashes.
    async fn run(&self, millis: u64) {
        let log: Arc<dyn Log> = Arc::new(self.log.clone());
        let (stop, topics) = (CancellationToken::new(), self.topics.clone());
        let options = self.options.clone();
        let owner = resequence::run(log.clone(), topics.clone(), options, "t.resequence", "owner", 1, stop.clone());
        let work_options = work::Options::for_pipeline("t");
        let worker = work::run(log, topics, work_options, Arc::new(Worker), "worker".to_owned(), 2, stop);
        let both = futures::future::join(owner, worker);
        let ended = tokio::time::timeout(Duration::from_millis(millis), both).await;
        assert!(ended.is_err(), "the roles ended: {ended:?}");
    }

    fn history(self) -> History {
        let shapes = self.topics.shapes().into_iter();
        let partitions = shapes.flat_map(|(topic, shape)| topic.partitions(shape.partitions).collect::<Vec<_>>());
        let logs = partitions.map(|of| (of.clone(), self.log.snapshot(&of))).collect();
        History { topics: self.topics, logs }
    }
}

fn lane_messages() -> impl Iterator<Item = Message> {
    (0..300u64).map(|i| {
        let millis = i * 7919 % 400;
        let word = match i % 15 {
            3 => "empty",
            7 => "fail",
            _ => "",
        };
        // Every fifteenth repeats the one before it.
        let id = match i % 15 {
            10 | 11 => Some(format!("p/{}", i / 15)),
            _ => None,
        };
        let body = if i % 15 == 11 { format!("{} ", (i - 1) * 7919 % 400) } else { format!("{millis} {word}") };
        Message { id, ..plain(body) }
    })
}

/// Everything in one order, with repeats, failures and messages without output, and two crashes.
pub(crate) async fn by_lane() -> History {
    let options = Options { on_failure: OnFailure::DeadLetter, window: 40, ..Options::default() };
    let pipeline = Pipeline::new(&["default"], options, lane_messages()).await;
    for millis in [700, 650, 60_000] {
        pipeline.run(millis).await;
    }
    pipeline.history()
}

/// Keys, of which one is stuck in the end; the others have passed it.
pub(crate) async fn by_key() -> History {
    let messages = (0..100u64).map(|i| {
        let (key, millis) = match i {
            30 => ("a", 100_000_000),
            _ => (["a", "b", "c"][usize::try_from(i % 3).expect("below 3")], i * 7919 % 400),
        };
        Message { key: Some(key), ..plain(format!("{millis} ")) }
    });
    let options = Options { by: Scope::Key, ..Options::default() };
    let pipeline = Pipeline::new(&["default"], options, messages).await;
    for millis in [100, 150, 20_000] {
        pipeline.run(millis).await;
    }
    pipeline.history()
}

/// Messages for two destinations, each with an order of its own.
pub(crate) async fn by_destination() -> History {
    let messages = (0..60u64).map(|i| Message {
        destination: Some(["a", "b", "a, b"][usize::try_from(i % 3).expect("below 3")]),
        ..plain(format!("{} ", i * 7919 % 400))
    });
    let options = Options { by: Scope::Destination, ..Options::default() };
    let pipeline = Pipeline::new(&["a", "b", "default"], options, messages).await;
    for millis in [200, 20_000] {
        pipeline.run(millis).await;
    }
    pipeline.history()
}

/// Looks at a pipeline while it runs, many times.
pub(crate) async fn audited_while_running(mut look: impl AsyncFnMut(&dyn Log, &Topics)) {
    let options = Options { on_failure: OnFailure::DeadLetter, window: 40, ..Options::default() };
    let pipeline = Pipeline::new(&["default"], options, lane_messages()).await;
    let looking = async {
        for _ in 0..200 {
            look(&pipeline.log, &pipeline.topics).await;
            tokio::time::sleep(Duration::from_millis(13)).await;
        }
    };
    futures::future::join(pipeline.run(10_000), looking).await;
}
