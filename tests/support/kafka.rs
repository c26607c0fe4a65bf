//! Real Kafka for tests: brokers that `scripts/kafka` starts, and that end with this process
//! whatever becomes of it, because the script's standard input ends with it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Brokers of a test.
pub(crate) struct Cluster {
    child: Child,
    pipe: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    properties: BTreeMap<String, String>,
    behind: Option<SocketAddr>,
    inside: Option<SocketAddr>,
}

impl Cluster {
    /// Starts brokers, which takes seconds. `arguments` are those of `scripts/kafka`.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
        let mut child = Command::new(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/kafka can be run; it needs bash");
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut properties = BTreeMap::new();
        let (mut behind, mut inside) = (None, None);
        loop {
            let mut line = String::new();
            let read = output.read_line(&mut line).expect("the script speaks UTF-8");
            assert!(read > 0, "scripts/kafka has ended; what it said is above");
            match line.trim_end().split_once(' ') {
                Some(("bootstrap", servers)) => {
                    properties.insert("bootstrap.servers".to_owned(), servers.to_owned());
                }
                Some(("behind", address)) => behind = Some(address.parse().expect("an address")),
                Some(("inside", address)) => inside = Some(address.parse().expect("an address")),
                Some(("certificate", path)) => properties.extend(secure(path)),
                None if line.trim_end() == "ready" => break,
                _ => {}
            }
        }
        Self { child, pipe: Mutex::new((input, output)), properties, behind, inside }
    }

    /// One broker for all tests of this process.
    #[allow(dead_code, reason = "a test that breaks brokers has its own")]
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// What a client needs to come to the cluster.
    pub(crate) fn properties(&self) -> BTreeMap<String, String> {
        self.properties.clone()
    }

    /// Where a proxy finds the broker, with `--proxy`.
    #[allow(dead_code, reason = "not every test has a proxy")]
    pub(crate) fn behind_proxy(&self) -> SocketAddr {
        self.behind.expect("it was started with --proxy")
    }

    /// Where a proxy finds the broker as other brokers do, with `--between`.
    #[allow(dead_code, reason = "not every test stands between brokers")]
    pub(crate) fn inside_proxy(&self) -> SocketAddr {
        self.inside.expect("it was started with --between")
    }

    /// `kill`, `stop`, `cont` or `start` for a broker, by its number from 1; returns when it is done.
    #[allow(dead_code, reason = "not every test that has brokers breaks them")]
    pub(crate) fn command(&self, command: &str, broker: u32) {
        self.order(command, &broker.to_string());
    }

    /// `deny` or `allow` for who writes to a topic, where the script was started with `--authorize`; `cut` for a
    /// partition as its folder is named, of which broker 1, while it is dead, loses the last batch.
    #[allow(dead_code, reason = "not every test that has brokers forbids anything")]
    pub(crate) fn order(&self, command: &str, of: &str) {
        let mut pipe = self.pipe.lock().expect("no other test has failed with it");
        writeln!(pipe.0, "{command} {of}").expect("the script runs");
        let mut answer = String::new();
        pipe.1.read_line(&mut answer).expect("the script speaks UTF-8");
        assert_eq!(answer.trim_end(), format!("done {command} {of}"));
    }
}

fn secure(certificate: &str) -> [(String, String); 5] {
    [
        ("security.protocol", "SASL_SSL"),
        ("ssl.ca.location", certificate),
        ("sasl.mechanism", "SCRAM-SHA-256"),
        ("sasl.username", "seriatim"),
        ("sasl.password", "only-for-tests"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its trap kills the brokers; where it is gone already there is nothing to wait for.
        let _: std::io::Result<_> = Command::new("kill").arg(self.child.id().to_string()).status();
        let _: std::io::Result<_> = self.child.wait();
    }
}

/// A session that a busy machine does not end by itself, for tests in which nobody dies.
#[allow(dead_code, reason = "others are about who dies")]
pub(crate) fn patient_session() -> (String, String) {
    ("session.timeout.ms".to_owned(), "20000".to_owned())
}
