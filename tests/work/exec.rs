//! Child processes as workers: real scripts, real crashes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seriatim::record::Status;
use seriatim::work::exec::{Error, Exec, Options};

use crate::support::{Rig, Running, Seen};

/// Answers each body as it asks for. `crash` ends the process at the first attempt.
const SCRIPT: &str = r#"
import json, os, sys, time
held = []
def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
print("started", os.getpid(), file=sys.stderr, flush=True)
while True:
    line = sys.stdin.readline()
    if not line:
        break
    job = json.loads(line)
    what, id = job["body"], job["id"]
    first = job["attempt"] == 1
    if what == "echo":
        say({"id": id, "outputs": [{"body": job}]})
    elif what == "none":
        say({"id": id, "outputs": []})
    elif what == "many":
        say({"id": id, "outputs": [{"body": 1}, {"body": 2, "destination": "a"}]})
    elif what == "invalid":
        say({"id": id, "outputs": [{"colour": 1}]})
    elif what == "refuse":
        say({"id": id, "error": {"code": "bad", "detail": "no", "retryable": False}})
    elif what == "later":
        say({"id": id, "error": {"code": "later", "retryable": True}} if first else {"id": id, "outputs": []})
    elif what == "crash" and first:
        os._exit(3)
    elif what == "poison":
        os._exit(3)
    elif what == "garbage" and first:
        sys.stdout.write("Traceback: this is no JSON\n"); sys.stdout.flush()
    elif what == "long" and first:
        sys.stdout.write("x" * 1000000); sys.stdout.flush()
    elif what == "large":
        say({"id": id, "outputs": [{"body": "x" * 1000000}]})
    elif what == "noise":
        sys.stderr.write("e" * 300000); sys.stderr.flush()
        say({"id": id, "outputs": []})
    elif what == "hold":
        held.append(id)
        if len(held) == 2:
            for id in reversed(held):
                say({"id": id, "outputs": [{"body": "held"}]})
    elif what == "silent" and first:
        pass
    else:
        say({"id": id, "outputs": [{"body": "second"}]})
"#;

fn script(folder: &Path) -> Vec<String> {
    let path: PathBuf = folder.join("worker.py");
    std::fs::write(&path, SCRIPT).expect("the folder can be written");
    vec!["python3".to_owned(), path.to_str().expect("it is UTF-8").to_owned()]
}

async fn start(processes: usize, bodies: &[&str]) -> (Rig, Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("there is room");
    let options = Options { command: script(folder.path()), processes, max_output: 10_000 };
    let exec = Exec::start(&options).expect("python3 is there");
    let rig = Rig::with(1, 1, Arc::new(exec)).await;
    let bodies: Vec<_> = bodies.iter().map(|body| format!("\"{body}\"")).collect();
    rig.bodies(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut options = Rig::options();
    options.retry.backoff = Duration::from_millis(300);
    options.timeout = Duration::from_secs(3);
    let stage = rig.start_with("a", options);
    (rig, stage, folder)
}

#[tokio::test]
async fn answers_come_in_any_order_and_have_their_meaning() {
    let cases = ["echo", "none", "many", "invalid", "refuse", "later", "noise", "large", "hold", "hold", "silent"];
    let (rig, stage, _folder) = start(1, &cases).await;
    rig.until("all are answered", || rig.answered(0) == cases.len()).await;
    use Status::{Done, Empty, Failed};
    let ends = rig.ends();
    let found: Vec<_> = ends.iter().map(|(seen, _)| (seen.status, seen.attempt, seen.code.as_str())).collect();
    let expected = [
        (Done, 1, ""),
        (Empty, 1, ""),
        (Done, 1, ""),
        (Failed, 1, "outputs-invalid"),
        (Failed, 1, "bad"),
        (Empty, 2, ""),
        (Empty, 1, ""),
        (Failed, 1, "output-too-large"),
        (Done, 1, ""),
        (Done, 1, ""),
        (Done, 2, ""),
    ];
    assert_eq!(found, expected);
    let echoed: serde_json::Value =
        serde_json::from_slice(ends[0].1.value.as_deref().unwrap_or_default()).expect("JSON");
    let job = serde_json::json!({
        "id": "0-0", "lane": 0, "offset": 0, "key": "key", "attempt": 1, "headers": {},
        "contentType": "application/json", "body": "echo",
    });
    assert_eq!(echoed, job);
    stage.drain().await;
}

#[tokio::test]
async fn a_broken_process_is_started_anew_and_what_it_held_is_tried_again() {
    for (breaker, says) in [("crash", "exit status: 3"), ("garbage", "no answer"), ("long", "cannot be read")] {
        let (rig, stage, _folder) = start(1, &["silent", breaker, "echo"]).await;
        rig.until(&format!("all are answered after {breaker}"), || rig.answered(0) == 3).await;
        let ends = rig.ends();
        assert_eq!((ends[1].0.status, ends[1].0.attempt), (Status::Done, 2), "{breaker}");
        assert_eq!((ends[0].0.status, ends[0].0.attempt), (Status::Done, 2), "{breaker}: held by the same process");
        let crashed = |seen: &Seen| seen.status == Status::Retrying && seen.code == "worker-crashed";
        let retrying = rig.seen(0).into_iter().find(crashed).expect("it was retried");
        assert!(retrying.error["detail"].as_str().unwrap_or_default().contains(says), "{}", retrying.error);
        stage.drain().await;
    }
}

#[tokio::test]
async fn what_breaks_a_process_uses_up_no_attempts_of_what_it_was_held_with() {
    let (rig, stage, _folder) = start(1, &["poison", "echo", "echo", "echo", "echo"]).await;
    rig.until("all are answered", || rig.answered(0) == 5).await;
    let ends = rig.ends();
    assert_eq!((ends[0].0.status, &*ends[0].0.code), (Status::Failed, "worker-crashed"));
    for (seen, _) in &ends[1..] {
        assert_eq!((seen.status, seen.attempt), (Status::Done, 1));
    }
    stage.drain().await;
}

#[tokio::test]
async fn several_processes_share_the_work() {
    // Each answers `hold` only when it has two of them: four go to two processes, two each.
    let (rig, stage, _folder) = start(2, &["hold", "hold", "hold", "hold"]).await;
    rig.until("all are answered", || rig.answered(0) == 4).await;
    assert!(rig.ends().iter().all(|(seen, _)| seen.attempt == 1));
    stage.drain().await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_refused_at_start() {
    let options = |command: &[&str]| Options {
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        processes: 1,
        max_output: 1,
    };
    let error = Exec::start(&options(&["/no/such/program", "x"])).expect_err("there is none");
    assert!(error.to_string().contains("\"/no/such/program\" cannot be started: No such file"), "{error}");
    assert!(matches!(Exec::start(&options(&[])), Err(Error::Empty)));
}

#[tokio::test]
async fn a_process_that_ends_at_once_is_a_worker_that_is_not_there() {
    let options = Options { command: vec!["true".to_owned()], processes: 1, max_output: 1000 };
    let rig = Rig::with(1, 1, Arc::new(Exec::start(&options).expect("there is such a program"))).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.bodies(&["1"]).await;
    let stage = rig.start("a");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.ends().is_empty(), "it is not given up");
    stage.drain().await;
}
