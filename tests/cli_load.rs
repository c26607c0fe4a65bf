//! `demo` and `bench` as their users meet them, in small.

#![allow(clippy::disallowed_methods, reason = "the demo runs in real time, and is interrupted at some moment of it")]

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn seriatim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seriatim"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn figures(arguments: &[&str]) -> Value {
    let output = seriatim(arguments).arg("--json").output().expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

#[test]
fn the_demo_ends_with_every_message_in_its_place() {
    let demo = seriatim(&["demo", "--seconds", "2", "--rate", "20", "--work", "300ms"]).output().expect("it starts");
    let text = String::from_utf8_lossy(&demo.stdout);
    assert_eq!(demo.status.code(), Some(0), "{}", String::from_utf8_lossy(&demo.stderr));
    assert!(text.starts_with("40 messages in, 40 out, each in its place.\n"), "{text}");
    assert!(String::from_utf8_lossy(&demo.stderr).contains("in progress"), "it tells where it stands");
}

#[test]
fn an_interrupted_demo_gives_the_summary_so_far_and_leaves_nothing() {
    let temporary = tempfile::tempdir().expect("a folder");
    let mut command = seriatim(&["demo", "--seconds", "600", "--rate", "20", "--work", "10ms"]);
    let command = command.env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().expect("the program starts");
    std::thread::sleep(Duration::from_secs(3));
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is running");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("each in its place"), "{text}");
    assert_eq!(std::fs::read_dir(temporary.path()).expect("it is there").count(), 0);
}

#[test]
fn order_is_compared_with_none_by_the_same_http_worker() {
    let load = ["--messages", "200", "--work", "5ms", "--tail", "0.05:200ms", "--concurrency", "20"];
    let results = figures(&[&["bench", "--compare", "--worker", "http"], &load[..]].concat());
    for run in ["ordered", "unordered"] {
        let figures = &results[run];
        assert_eq!(figures["messages"], 200, "{results}");
        let (took, ideal) = (figures["seconds"].as_f64(), figures["idealSeconds"].as_f64());
        assert!(took >= ideal && ideal > Some(0.0), "nothing is faster than the ideal: {results}");
    }
    assert!(results["ratio"].as_f64() > Some(0.0), "{results}");
}

#[test]
fn work_that_takes_no_time_and_messages_at_a_rate_can_be_measured() {
    let results = figures(&["bench", "--messages", "20000", "--work", "0ms", "--worker", "builtin"]);
    assert_eq!(results["ordered"]["messages"], 20_000, "{results}");
    let live = ["bench", "--rate", "20", "--seconds", "2", "--work", "50ms", "--worker", "builtin"];
    let results = figures(&live);
    assert!(results["ordered"]["latency"]["p50Ms"].as_f64() >= Some(50.0), "{results}");
}
