//! A pipeline on real Kafka: brokers, topics, and processes of the real program.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rustix::process::{Pid, Signal, kill_process};

use crate::kafka::Cluster;

const PROGRAM: &str = env!("CARGO_BIN_EXE_seriatim");

/// How many lanes a pipeline of these tests has.
pub(crate) const LANES: i32 = 2;

pub(crate) struct Rig {
    pub(crate) cluster: Brokers,
    name: &'static str,
    /// Settings of all its processes.
    common: &'static str,
    folder: tempfile::TempDir,
}

/// Brokers that a test may break, or those of all tests of this process.
pub(crate) enum Brokers {
    Own(Cluster),
    Shared(&'static Cluster),
}

impl Deref for Brokers {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        match self {
            Self::Own(cluster) => cluster,
            Self::Shared(cluster) => cluster,
        }
    }
}

impl Rig {
    /// Starts brokers with these arguments of `scripts/kafka`, and creates the topics.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self::on(Brokers::Own(Cluster::start(arguments)), "t", "")
    }

    /// As [`Rig::new`], with settings that all of its processes have.
    pub(crate) fn with(arguments: &[&str], common: &'static str) -> Self {
        Self::on(Brokers::Own(Cluster::start(arguments)), "t", common)
    }

    /// On the brokers of all tests, under a name of its own.
    pub(crate) fn shared(name: &'static str) -> Self {
        Self::on(Brokers::Shared(Cluster::shared()), name, "")
    }

    /// As [`Rig::new`], without any topics yet.
    pub(crate) fn bare(arguments: &[&str]) -> Self {
        let (cluster, folder) = (Brokers::Own(Cluster::start(arguments)), tempfile::tempdir().expect("a folder"));
        Self { cluster, name: "t", common: "", folder }
    }

    fn on(cluster: Brokers, name: &'static str, common: &'static str) -> Self {
        let rig = Self { cluster, name, common, folder: tempfile::tempdir().expect("a folder") };
        rig.create_topics();
        rig
    }

    /// The full name of one of the pipeline's topics.
    pub(crate) fn topic(&self, what: &str) -> String {
        format!("{}.{what}", self.name)
    }

    /// Runs a verb to its end; what it said, on both streams.
    pub(crate) fn verb(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
        call(&self.config("verb", ""), arguments, environment)
    }

    /// Creates the topics that are missing.
    pub(crate) fn create_topics(&self) {
        let (code, text) = self.verb(&["topics", "apply"], &[]);
        assert_eq!(code, Some(0), "{text}");
    }

    /// A file in the pipeline's folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("the folder is there");
        path
    }

    /// Deletes a topic with all that it holds, and creates it again.
    pub(crate) fn make_anew(&self, topic: &str) {
        self.delete(topic);
        self.create_topics();
    }

    /// Deletes a topic with all that it holds.
    pub(crate) fn delete(&self, topic: &str) {
        let topic = self.topic(topic);
        let delete = async {
            let deleted =
                self.admin().delete_topics(&[&topic], &AdminOptions::new()).await.expect("the brokers are there");
            deleted.into_iter().for_each(|deleted| drop(deleted.expect("there is one")));
        };
        block_on(delete);
        // Gone a moment after the answer.
        let metadata: BaseConsumer = self.client().create().expect("the brokers are there");
        let is_gone = || {
            let all = metadata.fetch_metadata(None, Duration::from_secs(10)).ok()?;
            all.topics().iter().all(|there| there.name() != topic).then_some(())
        };
        wait_for(Duration::from_secs(30), is_gone, || format!("{topic} stays"));
    }

    /// Deletes the messages of a lane below an offset, as retention does.
    pub(crate) fn delete_input_below(&self, lane: i32, offset: i64) {
        self.delete_below(&self.topic("input"), lane, Offset::Offset(offset));
    }

    /// Deletes all that a partition of a topic holds.
    pub(crate) fn delete_all(&self, topic: &str, partition: i32) {
        self.delete_below(&self.topic(topic), partition, Offset::End);
    }

    fn delete_below(&self, topic: &str, partition: i32, offset: Offset) {
        let mut below = TopicPartitionList::new();
        below.add_partition_offset(topic, partition, offset).expect("it is an offset");
        let delete = async {
            self.admin().delete_records(&below, &AdminOptions::new()).await.expect("the brokers are there");
        };
        block_on(delete);
    }

    /// Adds partitions to a topic, up to so many.
    pub(crate) fn grow(&self, topic: &str, partitions: usize) {
        let topic = self.topic(topic);
        let more = NewPartitions::new(&topic, partitions);
        let add = async {
            let added =
                self.admin().create_partitions(&[more], &AdminOptions::new()).await.expect("the brokers answer");
            added.into_iter().for_each(|added| drop(added.expect("there are fewer")));
        };
        block_on(add);
    }

    /// Has a topic refuse larger batches of records.
    pub(crate) fn limit(&self, topic: &str, bytes: u32) {
        let (topic, bytes) = (self.topic(topic), bytes.to_string());
        let limit = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", &bytes);
        let alter = async {
            let altered = self.admin().alter_configs([&limit], &AdminOptions::new()).await.expect("the brokers answer");
            altered.into_iter().for_each(|altered| drop(altered.expect("it is a topic's setting")));
        };
        block_on(alter);
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("the brokers are there")
    }

    /// A configuration for a process of this name; `more` comes last. Its own settings of a section
    /// replace those here.
    pub(crate) fn config(&self, process: &str, more: &str) -> PathBuf {
        self.config_by(process, &self.cluster.properties(), more)
    }

    pub(crate) fn config_by(&self, process: &str, properties: &BTreeMap<String, String>, more: &str) -> PathBuf {
        let mut text = format!(
            "name = \"{}\"\n{}{more}ingress.http = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n\
             log.partitions = {LANES}\n",
            self.name, self.common
        );
        for (key, value) in properties {
            writeln!(text, "log.kafka.{key:?} = {value:?}").expect("a String takes everything");
        }
        self.write(&format!("{process}.toml"), &text)
    }

    /// Runs these roles in a process of this name, with a worker that takes 5 ms.
    pub(crate) fn run(&self, process: &str, roles: &str) -> Process {
        self.run_with(process, roles, "work.builtin = { sleep = \"5ms\" }\nwork.concurrency = 100\n")
    }

    /// Runs these roles with these settings.
    pub(crate) fn run_with(&self, process: &str, roles: &str, more: &str) -> Process {
        self.run_by(process, roles, &self.config(process, more))
    }

    pub(crate) fn run_by(&self, process: &str, roles: &str, config: &Path) -> Process {
        let path = self.folder.path().join(format!("{process}.log"));
        let said = File::options().create(true).append(true).open(&path).expect("the folder is there");
        let child = Command::new(PROGRAM)
            .env("NO_COLOR", "1")
            .args(["run", "--role", roles, "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("the program runs");
        Process { child, said: path }
    }

    /// A client of these brokers that is none of the program's.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in self.cluster.properties() {
            config.set(key, value);
        }
        config
    }
}

/// Runs a verb to its end with this configuration; what it said, on both streams.
pub(crate) fn call(config: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command.env("NO_COLOR", "1").arg("--config").arg(config).args(arguments);
    let output = command.envs(environment.iter().copied()).output().expect("the program runs");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), text.concat())
}

/// A process of the program; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    said: PathBuf,
}

impl Process {
    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and waits for its end in order.
    pub(crate) fn terminate(mut self) {
        self.signal(Signal::TERM);
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}: {}", self.said());
    }

    /// Everything it has written to its log.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.said).expect("it is there")
    }

    /// Waits until it has written this to its log.
    pub(crate) fn says(&self, what: &str) {
        let said = || self.said().contains(what).then_some(());
        wait_for(Duration::from_secs(60), said, || format!("it never said {what:?}:\n{}", self.said()));
    }

    /// Where a port listens, which it says in these words.
    pub(crate) fn address(&self, port: &str) -> String {
        let address = || {
            let said = self.said();
            let (_, after) = said.split_once(&format!("{port} listens address="))?;
            after.split_whitespace().next().map(str::to_owned)
        };
        wait_for(Duration::from_secs(60), address, || format!("it never said where {port} listens:\n{}", self.said()))
    }

    /// Waits until its roles have joined their groups.
    pub(crate) fn ready(self) -> Self {
        let admin = self.address("the admin port");
        let ready = || get(&admin, "/readyz").filter(|answer| answer.starts_with("HTTP/1.1 200")).map(drop);
        wait_for(Duration::from_secs(60), ready, || format!("it does not get ready:\n{}", self.said()));
        self
    }

    /// Whether it has taken lanes over.
    fn is_owner(&self) -> bool {
        let metrics = get(&self.address("the admin port"), "/metrics").unwrap_or_default();
        let counted = |line: &str| line.contains("resequence") && !line.ends_with(" 0");
        metrics.lines().any(|line| line.starts_with("seriatim_takeovers_total") && counted(line))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} said:\n{}", self.said.display(), self.said());
        }
        // Where it has ended already there is nothing to do.
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
    }
}

/// Takes out the process that owns the lanes.
pub(crate) fn owner(of: &mut Vec<Process>) -> Process {
    let find = || of.iter().position(Process::is_owner);
    let index = wait_for(Duration::from_secs(60), find, || "nobody owns the lanes".to_owned());
    of.remove(index)
}

/// The answer with its head, `None` where nobody answers.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("there are threads").block_on(future)
}

/// Looks again and again until there is something.
pub(crate) fn wait_for<T>(within: Duration, mut look: impl FnMut() -> Option<T>, why: impl Fn() -> String) -> T {
    let until = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not within {within:?}: {}", why());
        std::thread::sleep(Duration::from_millis(20));
    }
}
