//! The owner and the workers together, on the log in memory and virtual time: what goes in comes
//! out once and in order.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use seriatim::log::memory::Memory;
use seriatim::log::{Log, TopicPartition};
use seriatim::record::cursor::{OwnerCursor, decode};
use seriatim::record::{BatchBuilder, Name, Partition};
use seriatim::resequence::{OnFailure, Options, Scope};
use seriatim::topics::Topics;
use seriatim::work::{Answer, Failure, Job, Output, Processor};
use seriatim::{resequence, work};
use tokio_util::sync::CancellationToken;

const LANE: Partition = Partition(0);

/// Takes as many milliseconds as the body says, in its first word; `fail` fails.
#[derive(Debug)]
struct Worker;

impl Processor for Worker {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            let body = String::from_utf8_lossy(job.body()).into_owned();
            let word = body.split(' ').next().unwrap_or_default();
            if word == "fail" {
                return Err(Failure::fail("told-to", "the body says so"));
            }
            tokio::time::sleep(Duration::from_millis(word.parse().unwrap_or(0))).await;
            Ok(Answer::One(Output::new(job.shared_body())))
        }
        .boxed()
    }
}

struct Pipeline {
    log: Memory,
    topics: Topics,
    options: Options,
}

impl Pipeline {
    async fn new(destinations: &[&str], options: Options) -> Self {
        let log = Memory::new(1);
        let topics = Topics::derive("t", destinations, 1, 1);
        log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
        Self { log, topics, options }
    }

    /// Runs both roles; dropping what this gives is a crash.
    fn run(&self) -> impl Future<Output = ()> + use<> {
        let (log, topics, options) = (self.log.clone(), self.topics.clone(), self.options.clone());
        async move {
            let log: Arc<dyn Log> = Arc::new(log);
            let stop = CancellationToken::new();
            let owner = resequence::run(log.clone(), topics.clone(), options, "t.resequence", "owner", 1, stop.clone());
            let worker = work::run(
                log.clone(),
                topics,
                work::Options::for_pipeline("t"),
                Arc::new(Worker),
                "worker".to_owned(),
                2,
                stop,
            );
            let ended = futures::future::join(owner, worker).await;
            panic!("the roles ended: {ended:?}");
        }
    }

    async fn send(&self, bodies: impl IntoIterator<Item = (Option<String>, Option<&str>, String)>) {
        let mut builder = BatchBuilder::default();
        for (key, destination, body) in bodies {
            builder.push(key.as_deref().map(str::as_bytes), Some(body.as_bytes()), |h| {
                if let Some(destination) = destination {
                    h.put(Name::Destination, destination.as_bytes());
                }
            });
        }
        let input = self.topics.input.partition(LANE);
        self.log.append(&input, builder.finish()).await.expect("accepted").await.expect("durable");
    }

    fn values(&self, of: &TopicPartition) -> Vec<String> {
        let text = |value: Option<Vec<u8>>| String::from_utf8(value.unwrap_or_default()).expect("text was sent");
        self.log.snapshot(of).into_iter().map(|record| text(record.value)).collect()
    }

    fn output(&self, destination: &str) -> Vec<String> {
        self.values(&self.topics.destinations[destination].partition(LANE))
    }

    fn cursor(&self) -> Option<OwnerCursor> {
        let last = self.log.snapshot(&self.topics.cursors_resequence.partition(Partition(0))).pop()?;
        Some(decode(&last.value?).expect("the owner wrote it"))
    }

    /// Runs until the condition holds; fails after ten virtual minutes.
    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            biased;
            () = self.run() => {}
            done = tokio::time::timeout(Duration::from_secs(600), wait) => done.expect("the condition never held"),
        }
    }
}

fn plain(body: String) -> (Option<String>, Option<&'static str>, String) {
    (None, None, body)
}

#[tokio::test(start_paused = true)]
async fn a_lane_leaves_in_the_order_of_arrival() {
    let pipeline = Pipeline::new(&["default"], Options::default()).await;
    let bodies: Vec<_> = (0..500u64).map(|i| format!("{} {i}", i * 7919 % 400)).collect();
    pipeline.send(bodies.iter().cloned().map(plain)).await;
    pipeline.until(|p| p.output("default").len() == 500).await;
    assert_eq!(pipeline.output("default"), bodies);
    let cursor = pipeline.cursor().expect("it was released");
    assert_eq!((cursor.lanes[&0].frontier, cursor.lanes[&0].results), (500, 500));
}

#[tokio::test(start_paused = true)]
async fn crashes_lose_nothing_and_repeat_nothing() {
    let pipeline = Pipeline::new(&["default"], Options { window: 64, ..Options::default() }).await;
    let bodies: Vec<_> = (0..300u64).map(|i| format!("{} {i}", i * 7919 % 400)).collect();
    pipeline.send(bodies.iter().cloned().map(plain)).await;
    for released in [1, 7, 60, 61, 150, 290, 300] {
        pipeline.until(|p| p.output("default").len() >= released).await;
    }
    assert_eq!(pipeline.output("default"), bodies);
}

#[tokio::test(start_paused = true)]
async fn a_slow_key_holds_back_its_own_only() {
    let pipeline = Pipeline::new(&["default"], Options { by: Scope::Key, ..Options::default() }).await;
    let key = |key: &str, body: &str| (Some(key.to_owned()), None, body.to_owned());
    pipeline.send([key("a", "20000 a1"), key("b", "10 b1"), key("a", "10 a2"), key("b", "1 b2")]).await;
    pipeline.until(|p| p.output("default").len() == 2).await;
    assert_eq!(pipeline.output("default"), ["10 b1", "1 b2"]);
    // The process died with b1 and b2 released above the frontier; they do not leave again.
    pipeline.until(|p| p.output("default").len() == 4).await;
    assert_eq!(pipeline.output("default"), ["10 b1", "1 b2", "20000 a1", "10 a2"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_stuck_for_one_destination_delays_that_one_only() {
    let pipeline =
        Pipeline::new(&["a", "b", "default"], Options { by: Scope::Destination, ..Options::default() }).await;
    let to = |to: &'static str, body: &str| (None, Some(to), body.to_owned());
    pipeline.send([to("a", "20000 first"), to("a, b", "10 both"), to("b", "5 last")]).await;
    pipeline.until(|p| p.output("b").len() == 2).await;
    assert_eq!(
        (pipeline.output("a").len(), pipeline.output("b")),
        (0, vec!["10 both".to_owned(), "5 last".to_owned()])
    );
    pipeline.until(|p| p.output("a").len() == 2).await;
    assert_eq!(pipeline.output("a"), ["20000 first", "10 both"]);
    assert_eq!(pipeline.output("b").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_halt_or_go_to_the_dead_letters_in_place() {
    for (on_failure, expected) in
        [(OnFailure::Halt, &["1 a"][..]), (OnFailure::DeadLetter, &["1 a", "1 c"]), (OnFailure::Skip, &["1 a", "1 c"])]
    {
        let pipeline = Pipeline::new(&["default"], Options { on_failure, ..Options::default() }).await;
        pipeline.send(["1 a", "fail b", "1 c"].map(|body| plain(body.to_owned()))).await;
        let _ = tokio::time::timeout(Duration::from_secs(60), pipeline.run()).await;
        assert_eq!(pipeline.output("default"), expected, "{on_failure:?}");
        let dead = pipeline.values(&pipeline.topics.dead_letter.partition(LANE));
        assert_eq!(dead.len(), usize::from(on_failure == OnFailure::DeadLetter));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_for_nowhere_halts_where_operators_see_it_and_spares_its_neighbours() {
    use seriatim::observe::live::{self, Waiting};
    let pipeline = Pipeline::new(&["a", "default"], Options { by: Scope::Destination, ..Options::default() }).await;
    let to = |to: &'static str, body: &str| (None, Some(to), body.to_owned());
    pipeline.send([to("a, nowhere", "1 lost"), to("default", "2 found")]).await;
    pipeline.until(|p| p.output("default").len() == 1).await;
    let lane = live::lane(&pipeline.log, &pipeline.topics, &pipeline.options, LANE).await;
    let lane = lane.expect("the log answers").expect("it had an owner");
    let waiting: Vec<_> = lane.messages().map(|message| message.waiting).collect();
    assert!(matches!(&waiting[..], [Waiting::Operator(why)] if why.contains("nowhere")), "{waiting:?}");
    assert_eq!(pipeline.output("a"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_on_the_input_is_seen_to_hold_up_what_is_behind_it() {
    use seriatim::observe::live;
    let pipeline = Pipeline::new(&["default"], Options::default()).await;
    let input = pipeline.topics.input.partition(LANE);
    pipeline.send([(None, None, "1 before".to_owned())]).await;
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(b"1 open"), |_| {});
    let open = pipeline.log.append_uncommitted(&input, &builder.finish()).expect("it exists");
    pipeline.send([(None, None, "1 behind".to_owned())]).await;
    pipeline.until(|p| p.output("default").len() == 1).await;
    let look = || live::lane(&pipeline.log, &pipeline.topics, &pipeline.options, LANE);
    let lane = look().await.expect("the log answers").expect("it had an owner");
    assert_eq!((lane.input_end.0, lane.held_up_to.0), (1, 3));
    assert!(lane.blocking().is_none(), "nothing that can be read is in the way");
    open.commit();
    pipeline.until(|p| p.output("default").len() == 3).await;
    let lane = look().await.expect("the log answers").expect("it has an owner");
    assert_eq!(lane.input_end, lane.held_up_to);
}
