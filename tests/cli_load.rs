//! `demo` and `bench` as their users meet them, in small.

#![allow(
    clippy::disallowed_methods,
    reason = "real processes live in real time, and crashes come at some moment of it"
)]

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
fn the_demo_ends_in_order_and_says_how_late_one_at_a_time_would_be() {
    let summary = figures(&["demo", "--seconds", "2", "--rate", "20/s", "--work", "300ms"]);
    assert_eq!((summary["inOrder"].as_bool(), summary["findings"].as_u64()), (Some(true), Some(0)), "{summary}");
    assert_eq!(summary["sent"], summary["released"], "{summary}");
    assert!(summary["sent"].as_u64().is_some_and(|sent| (30..=41).contains(&sent)), "{summary}");
    assert!(summary["delay"]["p50"].as_f64().is_some_and(|p50| p50 >= 300.0), "{summary}");
    // 40 of 300 ms each take 12 s, of which 2 have passed.
    assert!(summary["oneAtATimeSeconds"].as_f64().is_some_and(|behind| (7.0..11.0).contains(&behind)), "{summary}");
}

#[test]
fn an_interrupted_demo_gives_the_summary_so_far_and_leaves_nothing() {
    let temporary = tempfile::tempdir().expect("a folder");
    let mut command = seriatim(&["demo", "--seconds", "600", "--rate", "50/s", "--work", "10ms"]);
    let command = command.env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().expect("the program starts");
    std::thread::sleep(Duration::from_secs(3));
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is running");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("verified") && text.contains("seriatim run"), "{text}");
    assert_eq!(std::fs::read_dir(temporary.path()).expect("it is there").count(), 0);
}

#[test]
fn order_is_compared_with_none_by_the_same_http_worker() {
    let arguments = ["--messages", "200", "--work", "5ms", "--tail", "0.05:200ms", "--concurrency", "20"];
    let results = figures(&[&["bench", "--compare", "--worker", "http"], &arguments[..]].concat());
    let (ordered, unordered) = (&results["ordered"], &results["unordered"]);
    assert_eq!((ordered["inOrder"].as_bool(), unordered["inOrder"].as_bool()), (Some(true), Some(false)), "{results}");
    for figures in [ordered, unordered] {
        assert_eq!(figures["messages"], 200);
        let (total, ideal) = (figures["totalSeconds"].as_f64(), figures["idealSeconds"].as_f64());
        assert!(total >= ideal && ideal > Some(0.0), "nothing is faster than the ideal: {results}");
        assert!(figures["commits"].as_u64() > Some(0));
    }
    assert!(results["ratio"].as_f64() > Some(0.0));
}

#[test]
fn work_that_takes_no_time_and_messages_at_a_rate_can_be_measured() {
    let results = figures(&["bench", "--messages", "20000", "--size", "100"]);
    assert_eq!(
        (results["ordered"]["messages"].as_u64(), results["ordered"]["inOrder"].as_bool()),
        (Some(20_000), Some(true))
    );
    let results = figures(&["bench", "--rate", "20/s", "--seconds", "2", "--work", "50ms", "--series"]);
    assert!(results["ordered"]["delay"]["p50"].as_f64() >= Some(50.0), "{results}");
    assert!(results["ordered"]["series"].as_array().is_some_and(|series| series.len() >= 2), "{results}");
}

#[test]
fn a_load_that_makes_no_sense_ends_with_2() {
    for arguments in [
        &["bench", "--rate", "0/s"][..],
        &["bench", "--messages", "0"],
        &["bench", "--tail", "2:1s"],
        &["bench", "--unordered", "--compare"],
        &["demo", "--rate", "often"],
    ] {
        assert_eq!(seriatim(arguments).output().expect("it starts").status.code(), Some(2), "{arguments:?}");
    }
}
