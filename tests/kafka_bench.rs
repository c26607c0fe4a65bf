//! `bench` on real Kafka, in small: the same scenarios as on the embedded log, on topics of its own
//! that are gone afterwards.

#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "support/kafka.rs"]
mod kafka_cluster;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kafka_cluster::Cluster;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Deleted topics are shown for a moment longer; what is slower than this was not deleted.
const PATIENCE: Duration = Duration::from_secs(20);

fn bench(cluster: &Cluster, arguments: &[&str]) -> Command {
    let properties: Vec<_> = cluster.properties().iter().map(|(k, v)| format!("{k:?} = {v:?}")).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_seriatim"));
    command.env("SERIATIM_LOG__KAFKA", format!("{{ {} }}", properties.join(", ")));
    command.args(["bench", "--json"]).args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// The topics that a bench has, or has left behind.
fn topics(cluster: &Cluster) -> Vec<String> {
    let config: ClientConfig = cluster.properties().into_iter().collect();
    let consumer: BaseConsumer = config.create().expect("the properties are right");
    let metadata = consumer.fetch_metadata(None, PATIENCE).expect("the broker is there");
    let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
    names.filter(|name| name.starts_with("seriatim-bench-")).collect()
}

fn wait(what: &str, until: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !until() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_scenario_runs_on_topics_of_its_own_that_go_with_it() {
    let cluster = Cluster::start(&[]);
    for (arguments, least) in [
        (&["--messages", "300", "--work", "0ms..5ms", "--concurrency", "100"][..], 300),
        (&["--messages", "100", "--work", "10ms", "--tail", "0.01:200ms", "--worker", "http"], 100),
        (&["--messages", "3000", "--size", "100"], 3_000),
        (&["--rate", "20/s", "--seconds", "2", "--work", "50ms"], 35),
    ] {
        let output = bench(&cluster, arguments).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let figures: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let figures = &figures["ordered"];
        assert_eq!(figures["inOrder"], true, "{figures}");
        assert!(figures["messages"].as_u64() >= Some(least) && figures["commits"].as_u64() > Some(0), "{figures}");
        assert!(figures["startingSeconds"].as_f64() < figures["totalSeconds"].as_f64(), "{figures}");
    }
    wait("the topics are left behind", || topics(&cluster).is_empty());

    let arguments = ["--messages", "10", "--work", "1min"];
    let child = bench(&cluster, &arguments).stderr(Stdio::null()).spawn().expect("the program starts");
    wait("it makes no topics", || topics(&cluster).len() > 10);
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is running");
    let ended = child.wait_with_output().expect("it is our child");
    assert_eq!(ended.status.code(), Some(1), "it has no figures");
    wait("an interrupted run leaves its topics behind", || topics(&cluster).is_empty());
}
