//! What a huge batch does to others: the real stages in virtual time, with 32 workers at once that
//! take 18 ms for an item, and 2 s for one in a hundred.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::json;
use seriatim::log::Log;
use seriatim::log::memory::Memory;
use seriatim::record::batches::{BatchRecord, Command, StartProcessing};
use seriatim::record::cursor::decode;
use seriatim::record::{BatchBuilder, Partition};
use seriatim::topics::Topics;
use seriatim::work::{Answer, Failure, Job, Processor};
use seriatim::{resequence, work};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

const WORKERS: usize = 32;
const WINDOW: u32 = 100;

/// Lognormal with a mean of 18 ms; 2 s for one in a hundred.
#[derive(Debug)]
struct Stragglers(Mutex<Rng>);

impl Stragglers {
    fn time(&self) -> Duration {
        let mut rng = self.0.lock().expect("no holder of this lock panics");
        if rng.u32(..100) == 0 {
            return Duration::from_secs(2);
        }
        // Box and Muller: two even draws make a normal one.
        let (a, b) = (1.0 - rng.f64(), rng.f64());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        Duration::from_secs_f64(0.5f64.mul_add(normal, -4.1).exp())
    }
}

impl Processor for Stragglers {
    fn process(&self, _job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            sleep(self.time()).await;
            Ok(Answer::Empty)
        }
        .boxed()
    }
}

struct Pipeline {
    log: Memory,
    topics: Topics,
}

impl Pipeline {
    async fn start(seed: u64) -> Self {
        let (log, topics) = (Memory::new(seed), Topics::derive("t", &["default"], 1, 1));
        log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
        let shared: Arc<dyn Log> = Arc::new(log.clone());
        let options = resequence::Options { batch_window: WINDOW, ..resequence::Options::default() };
        let stop = CancellationToken::new();
        let (of, stopped) = (shared.clone(), stop.clone());
        let lanes = topics.clone();
        spawn_local(async move {
            let ended = resequence::run(of, lanes, options, "t.resequence", "owner", seed, stopped).await;
            panic!("the owner ended: {ended:?}");
        });
        let options = work::Options { concurrency: WORKERS, ..work::Options::for_pipeline("t") };
        let worker = Arc::new(Stragglers(Mutex::new(Rng::with_seed(seed))));
        let running = work::run(shared, topics.clone(), options, worker, "worker".to_owned(), seed, stop);
        spawn_local(async move { panic!("the worker ended: {:?}", running.await) });
        // The groups are joined and the lane is owned.
        sleep(Duration::from_secs(10)).await;
        Self { log, topics }
    }

    async fn command(&self, command: &Command) {
        let mut builder = BatchBuilder::default();
        builder.push(Some(command.id().as_bytes()), Some(&command.encode()), |_| {});
        let to = self.topics.batches.partition(Partition(0));
        self.log.append(&to, builder.finish()).await.expect("it takes it").await.expect("it is written");
    }

    async fn ask(&self, id: &str, count: u64, mode: &str) {
        let start = json!({"type": "StartProcessing", "id": id, "count": count, "mode": mode});
        let start: StartProcessing = serde_json::from_str(&start.to_string()).expect("it is a start");
        self.command(&Command::Start(Box::new(start))).await;
    }

    fn record(&self, id: &str) -> Option<BatchRecord> {
        let states = self.log.snapshot(&self.topics.batch_state.partition(Partition(0)));
        let last = states.into_iter().rev().find(|stored| stored.key.as_deref() == Some(id.as_bytes()))?;
        decode(&last.value?).ok()
    }

    /// How long a batch took from `asked`, once it has ended.
    async fn took(&self, id: &str, asked: i64) -> Duration {
        loop {
            if let Some(ended) = self.record(id).and_then(|record| record.state.ended_at) {
                return Duration::from_millis(u64::try_from(ended - asked).unwrap_or(0));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Twenty batches of 50, one a second: the median and the 95th percentile of their times.
    async fn small_ones(&self) -> (Duration, Duration) {
        let begun = Instant::now();
        let mut asked = Vec::new();
        for number in 0..20u32 {
            sleep_until(begun + Duration::from_millis(500) + Duration::from_secs(1) * number).await;
            asked.push((format!("small-{number}"), self.log.now().0));
            self.ask(&format!("small-{number}"), 50, "window").await;
        }
        let mut times = Vec::new();
        for (id, asked) in asked {
            times.push(self.took(&id, asked).await);
        }
        times.sort_unstable();
        (times[10], times[18])
    }
}

fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime without IO takes no resources"), test)
}

#[test]
fn small_batches_are_not_stuck_behind_a_huge_one_and_a_cancel_leaves_a_window() {
    let (idle, beside, left) = in_virtual_time(async {
        let idle = Pipeline::start(1).await.small_ones().await;
        let pipeline = Pipeline::start(2).await;
        pipeline.ask("huge", 1_000_000, "window").await;
        let beside = pipeline.small_ones().await;
        pipeline.command(&Command::Cancel { id: "huge".to_owned(), reason: None }).await;
        sleep(Duration::from_millis(50)).await;
        let left = pipeline.record("huge").expect("it has begun").state.open.len();
        (idle, beside, left)
    });
    println!("batches of 50: p50, p95 idle {idle:?}, beside a million items {beside:?}; left at a cancel: {left}");
    assert!(beside.1 < idle.1.mul_f64(1.5), "p95 of small batches: {beside:?} beside a huge one, {idle:?} without");
    assert!(left <= WINDOW as usize, "{left} items are left");
}

#[test]
fn a_window_finishes_where_a_barrier_waits_for_its_slowest_each_time() {
    let [window, barrier] = ["window", "barrier"].map(|mode| {
        in_virtual_time(async move {
            let pipeline = Pipeline::start(3).await;
            let asked = pipeline.log.now().0;
            pipeline.ask("one", 3_000, mode).await;
            pipeline.took("one", asked).await
        })
    });
    println!("3,000 items: {window:?} in a window of {WINDOW}, {barrier:?} with a barrier");
    assert!(window < Duration::from_secs(8), "a window of 3,000 took {window:?}");
    assert!(barrier > window * 4, "a barrier took {barrier:?}, a window {window:?}");
}
