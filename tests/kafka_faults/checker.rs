//! Reads what comes out while the faults happen, read-committed, with a client that is none of the
//! program's, and holds it against what went in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::rig::{LANES, Rig, wait_for};

/// How long the pipeline may need to recover from everything that these tests do to it, once that
/// has ended: several session time-outs of 6 s, on a busy machine.
pub(crate) const RECOVERY: Duration = Duration::from_secs(90);

/// What has come out of one lane.
#[derive(Debug, Default)]
struct Lane {
    /// Source offsets and bodies, in the order in which they came out.
    outputs: Vec<(i64, Vec<u8>)>,
    next_sequence: u64,
}

#[derive(Debug)]
struct State {
    lanes: BTreeMap<i32, Lane>,
    /// The first thing that was wrong.
    wrong: Option<String>,
    last: Instant,
    longest: Duration,
}

/// See the module's documentation.
pub(crate) struct Checker {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    config: ClientConfig,
    input: String,
}

impl Checker {
    pub(crate) fn start(of: &Rig) -> Self {
        Self::going_on_from(of, 0)
    }

    /// Of lanes whose first output has this sequence number.
    pub(crate) fn going_on_from(of: &Rig, next_sequence: u64) -> Self {
        Self::of(of, "output", next_sequence)
    }

    /// As [`Checker::going_on_from`], of an output topic of this name.
    pub(crate) fn of(of: &Rig, output: &str, next_sequence: u64) -> Self {
        let consumer = reader(&of.client(), &of.topic(output));
        Self::on(of, consumer, next_sequence)
    }

    /// Of what comes from now on, when the pipeline is still, with this sequence number first.
    pub(crate) fn from_here(of: &Rig, next_sequence: u64) -> Self {
        let topic = of.topic("output");
        let consumer = reader(&of.client(), &topic);
        let mut ends = TopicPartitionList::new();
        for lane in 0..LANES {
            let ends_at = consumer.fetch_watermarks(&topic, lane, RECOVERY).expect("the brokers are there").1;
            ends.add_partition_offset(&topic, lane, Offset::Offset(ends_at)).expect("it is an offset");
        }
        consumer.assign(&ends).expect("the topic is there");
        Self::on(of, consumer, next_sequence)
    }

    fn on(of: &Rig, consumer: BaseConsumer, next_sequence: u64) -> Self {
        let lane = |lane| (lane, Lane { outputs: Vec::new(), next_sequence });
        let lanes = (0..LANES).map(lane).collect();
        let state = State { lanes, wrong: None, last: Instant::now(), longest: Duration::ZERO };
        let (state, stop) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (state.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Errors are the faults at work; librdkafka goes on by itself.
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
                    shared.lock().expect("nobody panics with it").take(&message);
                }
            }
        });
        Self { state, stop, thread: Some(thread), config: of.client(), input: of.topic("input") }
    }

    /// How many outputs have come.
    pub(crate) fn count(&self) -> usize {
        self.counts().into_iter().sum()
    }

    /// As [`Checker::count`], once all that there is has had time to come.
    pub(crate) fn count_after(&self, time: Duration) -> usize {
        std::thread::sleep(time);
        self.count()
    }

    /// How many outputs have come, by lane.
    fn counts(&self) -> Vec<usize> {
        let state = self.state.lock().expect("nobody panics with it");
        assert_eq!(state.wrong, None);
        state.lanes.values().map(|lane| lane.outputs.len()).collect()
    }

    /// Waits until so many more have come; gives how long it took.
    pub(crate) fn more(&self, count: usize) -> Duration {
        self.until(self.count() + count)
    }

    /// Waits until so many have come; gives how long it took.
    pub(crate) fn until(&self, wanted: usize) -> Duration {
        let begun = Instant::now();
        let why = || format!("{:?} of {wanted} outputs", self.counts());
        wait_for(RECOVERY, || (self.count() >= wanted).then(|| begun.elapsed()), why)
    }

    /// The longest pause between two outputs since this was asked last.
    pub(crate) fn longest_pause(&self) -> Duration {
        let mut state = self.state.lock().expect("nobody panics with it");
        state.last = Instant::now();
        std::mem::take(&mut state.longest)
    }

    /// The source offsets of what has come out of a lane, in the order in which they did.
    pub(crate) fn sources(&self, lane: i32) -> Vec<i64> {
        let state = self.state.lock().expect("nobody panics with it");
        state.lanes[&lane].outputs.iter().map(|(offset, _)| *offset).collect()
    }

    /// The bodies of what has come out of a lane, in the order in which they did.
    pub(crate) fn bodies(&self, lane: i32) -> Vec<String> {
        let state = self.state.lock().expect("nobody panics with it");
        assert_eq!(state.wrong, None);
        state.lanes[&lane].outputs.iter().map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect()
    }

    /// Waits until everything that was ever committed to the input has come out, and looks that it
    /// was each message once, as its worker echoed it, in order, and nothing else. How many there were.
    pub(crate) fn finish(&self) -> usize {
        let expected = committed(&self.config, &self.input);
        let all: usize = expected.values().map(Vec::len).sum();
        self.until(all);
        // What is too much would come now.
        std::thread::sleep(Duration::from_millis(500));
        let state = self.state.lock().expect("nobody panics with it");
        assert_eq!(state.wrong, None);
        for (lane, messages) in &expected {
            let outputs = &state.lanes[lane].outputs;
            let offsets = |of: &[(i64, Vec<u8>)]| of.iter().map(|(offset, _)| *offset).collect::<Vec<_>>();
            assert_eq!(offsets(outputs), offsets(messages), "lane {lane}");
            assert!(outputs == messages, "lane {lane}: an output is not what its message was");
        }
        all
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been said already.
            let _: std::thread::Result<()> = thread.join();
        }
    }
}

impl State {
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        if is_end(message) {
            return;
        }
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
        let lane = message.partition();
        let found = self.lanes.entry(lane).or_default();
        let sequence: u64 = header(message, "seriatim-sequence").parse().expect("the pipeline writes a number");
        let source = header(message, "seriatim-source");
        let offset: i64 = match source.split_once(':') {
            Some((from, offset)) if from == lane.to_string() => offset.parse().expect("the pipeline writes a number"),
            _ => return self.is_wrong(format!("source {source} in lane {lane}")),
        };
        let (last, expected) = (found.outputs.last().map(|(offset, _)| *offset), found.next_sequence);
        found.outputs.push((offset, body(message)));
        found.next_sequence = sequence + 1;
        if last.is_some_and(|last| last >= offset) {
            self.is_wrong(format!("lane {lane}: {offset} came after {last:?}"));
        } else if sequence != expected {
            self.is_wrong(format!("lane {lane}: sequence {sequence} came where {expected} was next"));
        }
    }

    fn is_wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> String {
    let headers = message.headers().expect("outputs have headers");
    let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
    String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
}

fn body(message: &BorrowedMessage<'_>) -> Vec<u8> {
    message.payload().unwrap_or_default().to_vec()
}

/// Reads a topic from its beginning, committed records only.
fn reader(config: &ClientConfig, topic: &str) -> BaseConsumer {
    let mut config = config.clone();
    config
        .set("group.id", "a-checker")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "false")
        .set("fetch.queue.backoff.ms", "20")
        .set("isolation.level", "read_committed");
    let consumer = BaseConsumer::from_config(&config).expect("the brokers are there");
    let mut all = TopicPartitionList::new();
    for lane in 0..LANES {
        all.add_partition_offset(topic, lane, Offset::Beginning).expect("the beginning is an offset");
    }
    consumer.assign(&all).expect("the topic is there");
    consumer
}

/// The offsets and bodies of all committed messages of the input, by lane.
fn committed(config: &ClientConfig, input: &str) -> BTreeMap<i32, Vec<(i64, Vec<u8>)>> {
    let patience = Duration::from_secs(30);
    let consumer = reader(config, input);
    let mut found: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for lane in 0..LANES {
        found.insert(lane, Vec::new());
        // A broker that has just started may not lead anything yet.
        let ask = || consumer.fetch_watermarks(input, lane, patience).ok();
        let (_, end) = wait_for(patience, ask, || "the brokers are there".to_owned());
        ends.insert(lane, end);
    }
    let reached = |lane: i32| {
        let position = consumer.position().expect("it is assigned");
        let place = position.find_partition(input, lane).map(|found| found.offset());
        matches!(place, Some(Offset::Offset(at)) if at >= ends[&lane])
    };
    let until = Instant::now() + patience;
    while !(0..LANES).all(|lane| ends[&lane] == 0 || reached(lane)) {
        assert!(Instant::now() < until, "the input cannot be read to {ends:?}");
        if let Some(message) = consumer.poll(Duration::from_millis(50)) {
            let message = message.expect("the input can be read");
            if !is_end(&message) {
                found.entry(message.partition()).or_default().push((message.offset(), body(&message)));
            }
        }
    }
    found
}

/// Whether an owner wrote it to end what was open, its own or somebody's, when it claimed. It is no message.
fn is_end(message: &BorrowedMessage<'_>) -> bool {
    message.payload().is_none() && message.key() == Some(b"seriatim-settled")
}
