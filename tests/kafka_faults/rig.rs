//! A pipeline on real Kafka: brokers, topics, and a process of the real program for each role.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rustix::process::{Pid, Signal, kill_process};

use crate::feed::input;
use crate::kafka::Cluster;

const PROGRAM: &str = env!("CARGO_BIN_EXE_seriatim");

/// How many lanes a pipeline of these tests has.
pub(crate) const LANES: i32 = 2;

/// The name of every pipeline of these tests; each has brokers of its own.
pub(crate) const NAME: &str = "t";

pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    folder: tempfile::TempDir,
}

impl Rig {
    /// Starts brokers with these arguments of `scripts/kafka`, and creates the topics.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let rig = Self { cluster: Cluster::start(arguments), folder: tempfile::tempdir().expect("a folder") };
        rig.create_topics();
        rig
    }

    /// Creates the topics that are missing.
    fn create_topics(&self) {
        let config = self.config("topics", "");
        let applied = Command::new(PROGRAM).args(["topics", "apply", "--config"]).arg(&config).output();
        let applied = applied.expect("the program runs");
        let said = String::from_utf8_lossy(&applied.stderr).into_owned();
        assert!(applied.status.success(), "topics apply: {said}");
    }

    /// Deletes a topic with all that it holds, and creates it again.
    pub(crate) fn make_anew(&self, topic: &str) {
        let topic = format!("{NAME}.{topic}");
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
        self.create_topics();
    }

    /// Deletes the messages of a lane below an offset, as retention does.
    pub(crate) fn delete_input_below(&self, lane: i32, offset: i64) {
        self.delete_below(&input(), lane, Offset::Offset(offset));
    }

    /// Deletes all that a partition of a topic holds.
    pub(crate) fn delete_all(&self, topic: &str, partition: i32) {
        self.delete_below(&format!("{NAME}.{topic}"), partition, Offset::End);
    }

    fn delete_below(&self, topic: &str, partition: i32, offset: Offset) {
        let mut below = TopicPartitionList::new();
        below.add_partition_offset(topic, partition, offset).expect("it is an offset");
        let delete = async {
            self.admin().delete_records(&below, &AdminOptions::new()).await.expect("the brokers are there");
        };
        block_on(delete);
    }

    /// Has a topic refuse larger batches of records.
    pub(crate) fn limit(&self, topic: &str, bytes: u32) {
        let (topic, bytes) = (format!("{NAME}.{topic}"), bytes.to_string());
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
            "name = \"{NAME}\"\n{more}ingress.http = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n\
             log.partitions = {LANES}\n"
        );
        for (key, value) in properties {
            writeln!(text, "log.kafka.{key:?} = {value:?}").expect("a String takes everything");
        }
        let path = self.folder.path().join(format!("{process}.toml"));
        std::fs::write(&path, text).expect("the folder is there");
        path
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
