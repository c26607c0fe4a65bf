//! A jq filter as the worker.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use seriatim::record::Status;
use seriatim::work::jq::{Jq, Options, VERB};

use crate::support::Rig;

/// Longer than anything that ends takes, on a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

fn jq(filter: &str, patience: Duration) -> Arc<Jq> {
    let command = [env!("CARGO_BIN_EXE_seriatim"), VERB].map(str::to_owned).to_vec();
    Arc::new(Jq::new(Options { filter: filter.to_owned(), command, patience, max_output: 1000 }).expect("it compiles"))
}

#[tokio::test]
async fn values_become_outputs_and_bad_bodies_failures() {
    let rig = Rig::with(1, 1, jq("if .n > 1 then range(.n) else select(.n == 1) | .n = 7 end", LONG)).await;
    rig.bodies(&[r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":"#]).await;
    let stage = rig.start("a");
    rig.until("all are answered", || rig.answered(0) == 4).await;
    let ends = rig.ends();
    let found: Vec<_> =
        ends.iter().map(|(seen, stored)| (seen.status, stored.value.as_deref().unwrap_or_default())).collect();
    let several = br#"[{"contentType":"application/json","body":0},{"contentType":"application/json","body":1}]"#;
    let expected =
        [(Status::Empty, &b""[..]), (Status::Done, br#"{"n":7}"#), (Status::Done, several), (Status::Failed, b"")];
    assert_eq!(found, expected);
    assert_eq!((ends[3].0.code.as_str(), ends[3].0.attempt), ("not-json", 1));
    stage.drain().await;
}

#[tokio::test]
async fn a_filter_that_takes_too_long_fails_its_record_and_stalls_no_other() {
    let rig = Rig::with(1, 1, jq("if . == 1 then last(repeat(1)) else . end", Duration::from_secs(2))).await;
    rig.bodies(&["1", "2", "1", "3", "4"]).await;
    let stage = rig.start("a");
    rig.until("all are answered", || rig.answered(0) == 5).await;
    assert_eq!(codes(&rig), ["filter-too-slow", "", "filter-too-slow", "", ""]);
    stage.drain().await;
}

/// Recursion that is no tail call, values nested so deep that to print or even to forget them
/// takes a stack, and memory without end: each fails its own record, at the first attempt.
#[tokio::test]
async fn a_filter_that_ends_its_process_fails_its_record_and_no_other() {
    let filter = r#"def down: 1 + down; def nested(n): reduce range(n) as $i (0; [.]);
        if .do == "recurse" then down elif .do == "nest" then nested(3000000) | [.] | length
        elif .do == "print" then nested(1000000) elif .do == "grow" then [range(infinite) | "x" * 1000000] else . end"#;
    let rig = Rig::with(1, 1, jq(filter, LONG)).await;
    let bodies: Vec<String> = ["recurse", "", "nest", "", "print", "", "grow", ""]
        .iter()
        .map(|what| format!(r#"{{"do":"{what}"}}"#))
        .collect();
    rig.bodies(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let stage = rig.start("a");
    rig.until("all are answered", || rig.answered(0) == 8).await;
    let crashed = "filter-crashed";
    assert_eq!(codes(&rig), [crashed, "", crashed, "", crashed, "", crashed, ""]);
    assert!(rig.ends().iter().all(|(seen, _)| seen.attempt <= 1), "a crash does not pass");
    stage.drain().await;
}

/// A filter that runs on must not survive the process that it works for, however that ends.
#[test]
fn a_filter_that_does_not_end_ends_with_its_parent() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seriatim"));
    let mut child = command.args([VERB, "1000"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    for frame in ["last(repeat(1))", "1"] {
        let length = u32::try_from(frame.len()).expect("it is short").to_be_bytes();
        stdin.write_all(&[&length, frame.as_bytes()].concat()).expect("it reads");
    }
    let mut ready = [0; 4];
    child.stdout.as_mut().expect("it is piped").read_exact(&mut ready).expect("it says that it is ready");
    drop(stdin);
    assert!(child.wait().expect("it was started here").success());
}

fn codes(rig: &Rig) -> Vec<String> {
    rig.ends().into_iter().map(|(seen, _)| seen.code).collect()
}
