//! The program as processes, and a reader of what it puts out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::kafka_cluster::Cluster;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A pipeline of its own: name, topics, configuration.
pub(crate) struct Pipeline {
    name: &'static str,
    config: PathBuf,
    port: u16,
    sent: Cell<usize>,
    _folder: tempfile::TempDir,
}

impl Pipeline {
    pub(crate) fn new(cluster: &Cluster, name: &'static str, lanes: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("seriatim.toml");
        // Freed again, and most unlikely to be given to somebody else within the next second.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("it is bound").port();
        let properties: Vec<_> = cluster.properties().iter().map(|(k, v)| format!("{k:?} = {v:?}")).collect();
        let text = format!(
            "name = {name:?}\nlog = {{ kafka = {{ {} }}, partitions = {lanes} }}\n\
             ingress = {{ http = \"127.0.0.1:{port}\" }}\nadmin.listen = \"127.0.0.1:0\"\n\
             work = {{ builtin = {{ sleep = \"100ms\" }}, concurrency = 10 }}\nbatch.events = \"default\"\n",
            properties.join(", ")
        );
        std::fs::write(&config, text).expect("the folder is writable");
        let pipeline = Self { name, config, port, sent: Cell::new(0), _folder: folder };
        let (code, text) = pipeline.verb(&["topics", "apply"], &[]);
        assert_eq!(code, Some(0), "{text}");
        pipeline
    }

    pub(crate) fn output(&self) -> String {
        format!("{}.output", self.name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seriatim"));
        command.env("NO_COLOR", "1").arg("--config").arg(&self.config);
        command
    }

    /// Runs a verb to its end; what it said, on both streams.
    pub(crate) fn verb(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
        let output = self.command().args(arguments).envs(environment.iter().copied()).output().expect("it runs");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), text.concat())
    }

    /// Starts a role and waits until it has joined its group.
    pub(crate) fn run(&self, role: &str) -> Process {
        let mut child = self
            .command()
            .args(["run", "--role", role])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        let lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                keep.lock().expect("nobody panics with it").push(line);
            }
        });
        let process = Process { child, said };
        process.admin();
        process
    }

    /// Takes out the process that owns the lanes.
    pub(crate) fn owner(of: &mut Vec<Process>) -> Process {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(index) = of.iter().position(Process::is_owner) {
                return of.remove(index);
            }
            std::thread::park_timeout(LOOK);
        }
        panic!("nobody owns the lanes: {:?}", of.iter().map(Process::said).collect::<Vec<_>>());
    }

    /// Sends the next numbers, under each of two keys; how many messages were sent until now.
    pub(crate) fn send(&self, numbers: usize) -> usize {
        let first = self.sent.replace(self.sent.get() + numbers);
        let body: Vec<_> = (first..first + numbers).map(|number| format!("[{number}]\n")).collect();
        let body = body.concat();
        let file = self.config.with_extension("ndjson");
        std::fs::write(&file, body).expect("the folder is writable");
        let url = format!("http://127.0.0.1:{}", self.port);
        let path = file.to_str().expect("temporary folders are text");
        for key in ["a", "b"] {
            let (code, text) = self.verb(&["send", "--to", &url, "--key", key, path], &[]);
            assert_eq!(code, Some(0), "{text}");
        }
        2 * self.sent.get()
    }

    pub(crate) fn verify(&self) {
        let (code, text) = self.verb(&["verify"], &[]);
        assert_eq!(code, Some(0), "{text}");
    }
}

/// A process of the program; dropping it kills it, as SIGKILL does.
pub(crate) struct Process {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Process {
    fn said(&self) -> Vec<String> {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// The admin port's address, once it says that the roles have joined.
    fn admin(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            let address = self.said().iter().find_map(|line| {
                let (_, address) = line.split_once("the admin port listens address=")?;
                Some(address.trim().to_owned())
            });
            if let Some(address) = address.filter(|address| get(address, "/readyz").is_some_and(|(ok, _)| ok)) {
                return address;
            }
            std::thread::park_timeout(LOOK);
        }
        panic!("it does not get ready: {:?}", self.said());
    }

    fn is_owner(&self) -> bool {
        let Some((_, metrics)) = get(&self.admin(), "/metrics") else { return false };
        metrics.lines().any(|line| {
            line.starts_with("seriatim_takeovers_total") && line.contains("resequence") && !line.ends_with(" 0")
        })
    }

    /// `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let process = self.child.id().to_string();
        let signalled = Command::new("kill").args(["-s", signal, &process]).status().expect("kill exists");
        assert!(signalled.success());
    }

    /// Ends it as an orchestrator does, and waits for its end.
    pub(crate) fn drain(mut self) {
        self.signal("TERM");
        assert!(self.child.wait().expect("it is our child").success(), "{:?}", self.said());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to kill.
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
    }
}

/// The answer's success and body, `None` where nobody answers.
fn get(address: &str, path: &str) -> Option<(bool, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some((answer.starts_with("HTTP/1.1 200"), answer))
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
    pub(crate) fn assert_ordered(&self, lanes: u32) {
        assert!(self.0.len() <= lanes as usize);
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
    pub(crate) fn start(cluster: &Cluster, topic: &str, lanes: u32) -> Self {
        let mut config: ClientConfig = cluster.properties().into_iter().collect();
        config.set("group.id", "a-reader").set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("the properties are right");
        let mut list = TopicPartitionList::new();
        for lane in 0..lanes {
            let number = i32::try_from(lane).expect("there are few");
            list.add_partition_offset(topic, number, Offset::Beginning).expect("it is an offset");
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

    /// Waits until so many have come out.
    pub(crate) fn wait(&self, count: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.count() < count {
            assert!(Instant::now() < deadline, "{} of {count} have come out", self.count());
            std::thread::park_timeout(LOOK);
        }
    }

    /// What has come out, after a while in which more would have.
    pub(crate) fn finish(self) -> Outputs {
        std::thread::park_timeout(Duration::from_millis(500));
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the reader does not panic");
        std::mem::take(&mut *self.seen.lock().expect("nobody panics with it"))
    }
}
