//! Workers in another language on real Kafka, by the documented contract alone: the example in
//! Node.js, beside a work stage of our own; and a member that commits its offsets and dies.

#[path = "support/kafka.rs"]
mod kafka_cluster;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use seriatim::log::kafka::{Kafka, Options};
use seriatim::log::{Event, Log, TopicPartition, Visibility};
use seriatim::record::{BatchBuilder, Partition, ResultHeaders};
use seriatim::topics::Topics;
use seriatim::work::builtin::Echo;
use seriatim::{resequence, work};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use kafka_cluster::Cluster;

const LANE: Partition = Partition(0);

/// Longer than any of this takes on a busy machine: brokers, rebalances, take-overs, a deadline.
const PATIENCE: Duration = Duration::from_secs(180);

/// Messages that are sent at once: enough for all partitions.
const WAVE: u64 = 100;

const DEADLINE: Duration = Duration::from_secs(5);

struct Pipeline {
    name: String,
    log: Arc<dyn Log>,
    topics: Topics,
}

impl Pipeline {
    /// A pipeline of this name with an owner and no workers.
    async fn new(name: &str) -> Self {
        let shared_groups = BTreeSet::from([format!("{name}.work")]);
        let options = Options { properties: Cluster::shared().properties(), shared_groups };
        let log: Arc<dyn Log> = Arc::new(Kafka::connect(options).await.expect("the broker answers"));
        let topics = Topics { work_partitions: 4, ..Topics::derive(name, &["default"], 1, 1) };
        log.ensure(&topics.shapes()).await.expect("there are no such topics");
        let options = resequence::Options { fan_out: true, deadline: DEADLINE, ..resequence::Options::default() };
        let (of, names, group) = (log.clone(), topics.clone(), format!("{name}.resequence"));
        tokio::spawn(async move {
            let ended = resequence::run(of, names, options, &group, "owner", 1, CancellationToken::new()).await;
            panic!("the owner ended: {ended:?}");
        });
        Self { name: name.to_owned(), log, topics }
    }

    /// A work stage of our own, which hands messages on as they are.
    fn rust_worker(&self) {
        let options = work::Options { fan_out: true, ..work::Options::for_pipeline(&self.name) };
        let (log, topics) = (self.log.clone(), self.topics.clone());
        tokio::spawn(async move {
            let worker = "rust".to_owned();
            let ended = work::run(log, topics, options, Arc::new(Echo), worker, 2, CancellationToken::new()).await;
            panic!("the worker ended: {ended:?}");
        });
    }

    fn node_worker(&self, worker: &str, takes: &str) -> Node {
        let properties = Cluster::shared().properties();
        let mut node = Command::new("node");
        node.arg("worker.js").current_dir(example()).stdin(Stdio::null());
        node.env("KAFKA", &properties["bootstrap.servers"])
            .env("NAME", &self.name)
            .env("WORKER", worker)
            .env("TAKES", takes);
        Node(node.spawn().expect("Node.js is there, as its npm was"))
    }

    async fn send(&self, bodies: impl Iterator<Item = u64>) {
        let mut builder = BatchBuilder::default();
        bodies.for_each(|n| builder.push(None, Some(format!("m{n}").as_bytes()), |_| {}));
        let input = self.topics.input.partition(LANE);
        self.log.append(&input, builder.finish()).await.expect("accepted").await.expect("durable");
    }

    /// Waits for so many outputs, which have to be the messages in the order in which they came.
    async fn all_leave(&self, count: u64) {
        let output = self.topics.destinations["default"].partition(LANE);
        let values = self.read(&output, count, |value, _| String::from_utf8_lossy(value).to_lowercase()).await;
        let expected: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
        assert_eq!(values, expected);
    }

    /// Sends more and more messages until each of these workers has answered some of them; how many
    /// there are then. All leave in order.
    async fn until_all_answer(&self, mut sent: u64, workers: &[&str]) -> u64 {
        let began = tokio::time::Instant::now();
        loop {
            let before = sent;
            sent += WAVE;
            self.send(before..sent).await;
            self.all_leave(sent).await;
            let answered = self.workers(sent).await;
            if workers.iter().all(|worker| answered.contains(*worker)) {
                return sent;
            }
            assert!(began.elapsed() < PATIENCE, "only {answered:?} have answered");
        }
    }

    /// Who has answered, as far as `count` results tell.
    async fn workers(&self, count: u64) -> BTreeSet<String> {
        let worker = |_: &[u8], headers: Option<ResultHeaders<'_>>| {
            String::from_utf8_lossy(headers.and_then(|headers| headers.worker).unwrap_or_default()).into_owned()
        };
        self.read(&self.topics.results.partition(LANE), count, worker).await.into_iter().collect()
    }

    async fn read(
        &self,
        of: &TopicPartition,
        count: u64,
        see: impl Fn(&[u8], Option<ResultHeaders<'_>>) -> String,
    ) -> Vec<String> {
        let start = self.log.bounds(of).await.expect("it exists").start;
        let mut reader = self.log.read(of, start, Visibility::Durable, 1 << 20).await.expect("it exists");
        let mut seen = Vec::new();
        while (seen.len() as u64) < count {
            let fetched = timeout(PATIENCE, reader.next()).await.expect("it goes on").expect("the log is well");
            for record in fetched.batches.iter().flatten() {
                seen.push(see(record.value.unwrap_or_default(), ResultHeaders::decode(record.headers).ok()));
            }
        }
        seen
    }
}

/// A process that ends with the test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // kill -9; where it has ended already there is nothing to kill.
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

fn example() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kafka-worker"))
}

/// Installs what the example needs. `false` where there is no Node.js.
fn has_node() -> bool {
    let installed = Command::new("npm").args(["ci", "--silent"]).current_dir(example()).status();
    match installed {
        Ok(status) => {
            assert!(status.success(), "npm ci failed in examples/kafka-worker");
            true
        }
        Err(_) => {
            eprintln!("Node.js is not installed, so its worker is not tested");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_in_another_language_takes_part_and_one_that_is_killed_is_replaced() {
    if !has_node() {
        return;
    }
    let pipeline = Pipeline::new("foreign").await;
    let _stays = pipeline.node_worker("node-stays", "20");
    let dies = pipeline.node_worker("node-dies", "20");
    let sent = pipeline.until_all_answer(0, &["node-stays", "node-dies"]).await;
    pipeline.send(sent..sent + WAVE).await;
    drop(dies);
    pipeline.all_leave(sent + WAVE).await;
    // Our own stage and clients in other languages share one group.
    pipeline.rust_worker();
    pipeline.until_all_answer(sent + WAVE, &["node-stays", "rust"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_held_that_committed_and_died_is_sent_again() {
    const MESSAGES: u64 = 100;
    let pipeline = Pipeline::new("careless").await;
    let group = format!("{}.work", pipeline.name);
    let topics = [pipeline.topics.work.clone()];
    let mut careless = pipeline.log.join(&group, &topics, "careless").await.expect("the broker answers");
    let Ok(Event::Assigned(partitions)) = timeout(PATIENCE, careless.next()).await.expect("it is the only member")
    else {
        panic!("it is assigned all there is");
    };
    pipeline.send(0..MESSAGES).await;
    // Read by nobody, and said to be done.
    let mut ends = Vec::new();
    while ends.iter().map(|(_, end): &(TopicPartition, _)| end).sum::<u64>() < MESSAGES {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ends.clear();
        for at in &partitions {
            ends.push((at.clone(), pipeline.log.bounds(at).await.expect("it exists").stable_end.0));
        }
    }
    let done: Vec<_> = ends.into_iter().map(|(at, end)| (at, seriatim::record::Offset(end))).collect();
    timeout(PATIENCE, careless.commit(&done)).await.expect("the broker answers").expect("they are its own");
    careless.leave().await;
    pipeline.rust_worker();
    pipeline.all_leave(MESSAGES).await;
}
