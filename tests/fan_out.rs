//! One ordered lane, worked on by several work stages through the work topic.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use seriatim::log::embedded::{self, Embedded};
use seriatim::log::memory::Memory;
use seriatim::log::{Log, Visibility};
use seriatim::record::{BatchBuilder, Partition};
use seriatim::topics::Topics;
use seriatim::work::{Answer, Failure, Job, Output, Processor};
use seriatim::{resequence, work};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const LANE: Partition = Partition(0);

/// Longer than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often each message was begun, by offset.
type Calls = Arc<Mutex<BTreeMap<u64, usize>>>;

/// How a worker takes its time.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Each(Duration),
    /// Nothing ever ends.
    Never,
    /// All but the first message is done at once.
    NeverTheFirst,
}

#[derive(Debug)]
struct Worker {
    pace: Pace,
    begun: Arc<AtomicUsize>,
    calls: Calls,
}

impl Processor for Worker {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        self.begun.fetch_add(1, Relaxed);
        *self.calls.lock().expect("no holder panics").entry(job.source.offset.0).or_default() += 1;
        async move {
            match self.pace {
                Pace::Each(time) => sleep(time).await,
                Pace::NeverTheFirst if job.source.offset.0 > 0 => {}
                Pace::Never | Pace::NeverTheFirst => std::future::pending().await,
            }
            Ok(Answer::One(Output::new(job.shared_body())))
        }
        .boxed()
    }
}

/// A lane with its owner. Everything that was started ends with it.
struct Pipeline {
    log: Arc<dyn Log>,
    topics: Topics,
    calls: Calls,
    tasks: Vec<JoinHandle<()>>,
}

impl Pipeline {
    async fn new(log: Arc<dyn Log>, window: u64) -> Self {
        let topics = Topics::derive("t", &["default"], 1, 1);
        log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
        let options = resequence::Options { window, fan_out: true, ..resequence::Options::default() };
        let (of, names) = (log.clone(), topics.clone());
        let owner = tokio::spawn(async move {
            let ended = resequence::run(of, names, options, "t.resequence", "owner", 1, CancellationToken::new()).await;
            panic!("the owner ended: {ended:?}");
        });
        Self { log, topics, calls: Calls::default(), tasks: vec![owner] }
    }

    /// Starts a work stage; how many records it has begun.
    fn worker(&mut self, name: &str, concurrency: usize, pace: Pace) -> Arc<AtomicUsize> {
        let begun = Arc::<AtomicUsize>::default();
        let processor = Arc::new(Worker { pace, begun: Arc::clone(&begun), calls: Arc::clone(&self.calls) });
        let options = work::Options { fan_out: true, concurrency, ..work::Options::for_pipeline("t") };
        let (log, topics, name) = (self.log.clone(), self.topics.clone(), name.to_owned());
        self.tasks.push(tokio::spawn(async move {
            let ended = work::run(log, topics, options, processor, name, 2, CancellationToken::new()).await;
            panic!("a worker ended: {ended:?}");
        }));
        begun
    }

    async fn send(&self, count: u64) {
        let mut builder = BatchBuilder::default();
        (0..count).for_each(|n| builder.push(None, Some(n.to_string().as_bytes()), |_| {}));
        let input = self.topics.input.partition(LANE);
        self.log.append(&input, builder.finish()).await.expect("accepted").await.expect("durable");
    }

    /// Waits for so many outputs, which have to be the messages in the order in which they came.
    async fn all_leave(&self, count: u64) {
        let output = self.topics.destinations["default"].partition(LANE);
        let start = self.log.bounds(&output).await.expect("it exists").start;
        let mut reader = self.log.read(&output, start, Visibility::Durable, 1 << 20).await.expect("it exists");
        let mut next = 0;
        while next < count {
            let fetched = timeout(PATIENCE, reader.next()).await.expect("it goes on").expect("the log is well");
            for record in fetched.batches.iter().flatten() {
                assert_eq!(record.value, Some(next.to_string().as_bytes()));
                next += 1;
            }
        }
    }

    /// How many were begun more than once.
    fn repeated(&self) -> usize {
        self.calls.lock().expect("no holder panics").values().filter(|calls| **calls > 1).count()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn one_lane_goes_faster_in_proportion_to_its_workers() {
    const MESSAGES: u64 = 3_200;
    let work = Duration::from_millis(750);
    for workers in [1, 2, 4] {
        let mut pipeline = Pipeline::new(Arc::new(Memory::new(1)), 10_000).await;
        for number in 0..workers {
            pipeline.worker(&format!("worker {number}"), 100, Pace::Each(work));
        }
        sleep(Duration::from_secs(10)).await;
        let began = Instant::now();
        pipeline.send(MESSAGES).await;
        pipeline.all_leave(MESSAGES).await;
        let ideal = work * u32::try_from(MESSAGES / 100 / workers).expect("small");
        let took = began.elapsed();
        assert!(took < ideal.mul_f64(1.05), "{workers} workers took {took:?}, {ideal:?} is ideal");
        assert_eq!(pipeline.repeated(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_worker_slows_what_it_holds_and_gets_less() {
    const MESSAGES: u64 = 4_000;
    let mut pipeline = Pipeline::new(Arc::new(Memory::new(1)), 200).await;
    let fast = pipeline.worker("fast", 10, Pace::Each(Duration::from_millis(10)));
    let slow = pipeline.worker("slow", 10, Pace::Each(Duration::from_millis(200)));
    sleep(Duration::from_secs(10)).await;
    pipeline.send(MESSAGES).await;
    pipeline.all_leave(MESSAGES).await;
    let (fast, slow) = (fast.load(Relaxed), slow.load(Relaxed));
    assert!(slow > 0 && slow * 2 < fast, "the slow one began {slow}, the fast one {fast}");
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_is_not_worked_on_again_by_whoever_comes_next() {
    const MESSAGES: u64 = 1_000;
    let mut pipeline = Pipeline::new(Arc::new(Memory::new(1)), 10_000).await;
    let first = pipeline.worker("first", 100, Pace::NeverTheFirst);
    let dies = pipeline.tasks.pop().expect("it was started just now");
    pipeline.send(MESSAGES).await;
    // Less than the time-out of an attempt.
    sleep(Duration::from_secs(10)).await;
    assert_eq!(first.load(Relaxed), 1_000);
    dies.abort();
    let second = pipeline.worker("second", 100, Pace::Each(Duration::from_millis(10)));
    pipeline.all_leave(MESSAGES).await;
    assert_eq!(second.load(Relaxed), 1, "only the one that its predecessor took with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_with_records_in_its_hands_loses_none() {
    const MESSAGES: u64 = 2_000;
    let folder = tempfile::tempdir().expect("a folder for the log");
    let log = Embedded::open(folder.path(), embedded::Options::default()).expect("it opens");
    let mut pipeline = Pipeline::new(Arc::new(log), 1_000).await;
    let dying = pipeline.worker("dying", 50, Pace::Never);
    let dies = pipeline.tasks.pop().expect("it was started just now");
    pipeline.send(MESSAGES).await;
    let held = async {
        while dying.load(Relaxed) < 50 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, held).await.expect("it takes as many as it may");
    pipeline.worker("fast", 50, Pace::Each(Duration::from_millis(1)));
    pipeline.worker("slow", 2, Pace::Each(Duration::from_millis(20)));
    dies.abort();
    pipeline.all_leave(MESSAGES).await;
    assert_eq!(dying.load(Relaxed), 50);
}
