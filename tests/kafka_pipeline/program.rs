//! A pipeline that takes messages in over HTTP, and a reader of what it puts out.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::rig::{LANES, Process, Rig, wait_for};

/// Everything that is waited for comes before.
const PATIENCE: Duration = Duration::from_secs(90);

/// What each process is told beside where it stands.
const SETTINGS: &str = "work.builtin = { sleep = \"100ms\" }\nwork.concurrency = 10\nbatch.events = \"default\"\n";

/// See the module's documentation.
pub(crate) struct Pipeline {
    pub(crate) rig: Rig,
    /// Processes started until now, each of which has a name of its own.
    started: Cell<u32>,
    sent: Cell<usize>,
    /// The data port, once the role runs.
    ingress: OnceCell<String>,
}

impl Pipeline {
    pub(crate) fn new(rig: Rig) -> Self {
        Self { rig, started: Cell::new(0), sent: Cell::new(0), ingress: OnceCell::new() }
    }

    /// Runs a verb to its end, as somebody who knows the data port; what it said, on both streams.
    pub(crate) fn verb(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let port = self.ingress.get().expect("somebody takes messages in");
        self.rig.verb(arguments, &[("SERIATIM_INGRESS__HTTP", port)])
    }

    /// Starts a role and waits until it has joined its group.
    pub(crate) fn run(&self, role: &str) -> Process {
        let number = self.started.replace(self.started.get() + 1);
        let process = self.rig.run_with(&format!("{role}-{number}"), role, SETTINGS).ready();
        if role == "ingress" {
            self.ingress.set(process.address("the data port")).expect("one process takes messages in");
        }
        process
    }

    /// Sends the next numbers, under each of two keys; how many messages were sent until now.
    pub(crate) fn send(&self, numbers: usize) -> usize {
        let first = self.sent.replace(self.sent.get() + numbers);
        let body: Vec<_> = (first..first + numbers).map(|number| format!("[{number}]\n")).collect();
        let file = self.rig.write("messages.ndjson", &body.concat());
        let path = file.to_str().expect("temporary folders are text");
        for key in ["a", "b"] {
            let (code, text) = self.verb(&["send", "--key", key, path]);
            assert_eq!(code, Some(0), "{text}");
        }
        2 * self.sent.get()
    }

    pub(crate) fn verify(&self) {
        let (code, text) = self.verb(&["verify"]);
        assert_eq!(code, Some(0), "{text}");
    }
}

/// What was put out, as a read-committed reader saw it, in the order of each lane.
#[derive(Default)]
pub(crate) struct Outputs(BTreeMap<i32, Vec<(u64, String)>>);

impl Outputs {
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The bodies, lane by lane, in the order of each.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = &str> {
        self.0.values().flatten().filter_map(|(_, text)| Some(text.split_once(':')?.1))
    }

    /// In each lane the sequence is contiguous from 0, and the messages are in the order of sending.
    pub(crate) fn assert_ordered(&self) {
        for (lane, outputs) in &self.0 {
            let sequences: Vec<u64> = outputs.iter().map(|(sequence, _)| *sequence).collect();
            assert_eq!(sequences, (0..outputs.len() as u64).collect::<Vec<_>>(), "lane {lane}");
            // Keys a and b may share a lane; of each, every number comes once and in order.
            for key in ["a", "b"] {
                let own = outputs
                    .iter()
                    .filter_map(|(_, text)| text.strip_prefix(key)?.strip_prefix(":[")?.strip_suffix(']'));
                let numbers: Vec<u64> = own.map(|number| number.parse().expect("it is a number")).collect();
                assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "lane {lane}, key {key}");
            }
        }
    }
}

/// Reads the output topic on a thread, from the beginning, committed records only.
pub(crate) struct Reader {
    seen: Arc<Mutex<Outputs>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Reader {
    pub(crate) fn start(of: &Pipeline) -> Self {
        let (mut config, topic) = (of.rig.client(), of.rig.topic("output"));
        config.set("group.id", "a-reader").set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("the properties are right");
        let mut list = TopicPartitionList::new();
        for lane in 0..LANES {
            list.add_partition_offset(&topic, lane, Offset::Beginning).expect("it is an offset");
        }
        consumer.assign(&list).expect("the topic exists");
        let (seen, stop) = (Arc::<Mutex<Outputs>>::default(), Arc::<AtomicBool>::default());
        let (note, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
                let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
                let headers = message.headers().expect("outputs have headers");
                let sequence = headers.iter().find(|header| header.key == "seriatim-sequence");
                let sequence = text(sequence.expect("outputs are numbered").value).parse().expect("it is a number");
                let body = format!("{}:{}", text(message.key()), text(message.payload()));
                let mut seen = note.lock().expect("nobody panics with it");
                seen.0.entry(message.partition()).or_default().push((sequence, body));
            }
        });
        Self { seen, stop, thread }
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().expect("nobody panics with it").len()
    }

    /// Waits until so many have come out; gives how long it took.
    pub(crate) fn wait(&self, count: usize) -> Duration {
        let begun = Instant::now();
        let enough = || (self.count() >= count).then(|| begun.elapsed());
        wait_for(PATIENCE, enough, || format!("{} of {count} have come out", self.count()))
    }

    /// What has come out, after a while in which more would have.
    pub(crate) fn finish(self) -> Outputs {
        std::thread::park_timeout(Duration::from_millis(500));
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the reader does not panic");
        std::mem::take(&mut *self.seen.lock().expect("nobody panics with it"))
    }
}
