//! `seriatim batch` as its users meet it, against a real `seriatim run` that is killed on the way.

#[path = "cli_verbs/program.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod program;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use program::{Ended, Folder, Pipeline};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long a batch of a second may take; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Items fail for as many rounds as they say.
const WORKER: &str = r#"if .type == "WorkAllDone" then {final: .counts.succeeded}
elif .item.fail > .round then error("told to") else {index, round} end"#;

fn start(folder: &Folder) -> Pipeline<'_> {
    folder.write("seriatim.toml", &format!("[work]\njq = '''{WORKER}'''\n"));
    Pipeline::start(folder, &[])
}

fn items(failing: &[(usize, u32)], total: usize) -> String {
    let fail = |index| failing.iter().find(|(at, _)| *at == index).map_or(0, |(_, rounds)| *rounds);
    (0..total).map(|index| format!("{}\n", json!({ "fail": fail(index) }))).collect()
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("it is JSON: {ended:?}"))
}

fn lines(ended: &Ended) -> Vec<Value> {
    ended.out.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

#[test]
fn a_batch_comes_to_its_end_once_whoever_is_killed() {
    let folder = Folder::new();
    let mut pipeline = start(&folder);
    folder.write("items.ndjson", &items(&[(7, 9), (150, 9), (299, 9)], 300));
    let paced = ["--mode", "paced", "--window", "10", "--interval", "50ms", "--completion", "{}"];
    let submit = [&["batch", "submit", "items.ndjson", "--id", "b", "--json"][..], &paced].concat();
    let begun = pipeline.run(&submit);
    assert_eq!(begun.code, 0, "{}", begun.err);
    assert_eq!((&json(&begun)["id"], &json(&begun)["counts"]["total"]), (&json!("b"), &json!(300)));
    for done in [30, 100, 200] {
        until(&pipeline, "b", |batch| batch["counts"]["succeeded"].as_u64() >= Some(done));
        let ports = pipeline.ports();
        drop(pipeline);
        pipeline = Pipeline::start_at(&folder, &ports);
    }
    let watched = pipeline.run(&["batch", "watch", "b", "--json"]);
    assert_eq!(watched.code, 6, "{}", watched.err);
    let batch = json(&watched);
    assert_eq!((&batch["status"], &batch["completion"]), (&json!("completed"), &json!("succeeded")));
    assert_eq!((&batch["counts"]["succeeded"], &batch["counts"]["failed"]), (&json!(297), &json!(3)));
    assert!(watched.err.contains("300/300 done"), "{}", watched.err);

    let listed = lines(&pipeline.run(&["batch", "items", "b", "--bodies"]));
    let indices: Vec<u64> = listed.iter().map(|item| item["index"].as_u64().expect("it has one")).collect();
    assert_eq!(indices, (0..300).collect::<Vec<_>>(), "in index order, each once");
    assert_eq!((&listed[5]["body"]["index"], &listed[7]["status"]), (&json!(5), &json!("failed")));
    let failed = lines(&pipeline.run(&["batch", "items", "b", "--status", "failed", "--from", "100"]));
    assert_eq!(failed.iter().map(|item| item["index"].as_u64()).collect::<Vec<_>>(), [Some(150), Some(299)]);

    let outputs = pipeline.bodies(298);
    assert_eq!(outputs.len(), 298, "an output for each item that succeeded, and the final one");
    assert_eq!(outputs.last().map(String::as_str), Some("{\"final\":297}"), "which is the last");
    let verified = pipeline.run(&["verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
}

#[test]
fn held_items_wait_for_an_operator_and_stop_nobody_else() {
    let folder = Folder::new();
    let pipeline = start(&folder);
    folder.write("items.ndjson", &items(&[(0, 1), (1, 9)], 4));
    let mode = ["--mode", "barrier", "--window", "2", "--on-item-failure", "hold"];
    let begun = pipeline.run(&[&["batch", "submit", "items.ndjson", "--id", "held"][..], &mode].concat());
    assert_eq!(begun.code, 0, "{}", begun.err);
    let blocked = until(&pipeline, "held", |batch| batch["stalled"] == true);
    assert_eq!((&blocked["blockedBy"], &blocked["counts"]["generated"]), (&json!([0, 1]), &json!(2)));
    let why = pipeline.run(&["why", "held"]);
    assert!(why.out.contains("it is stalled: items 0, 1 have failed"), "{}{}", why.out, why.err);
    assert!(why.out.contains("seriatim batch retry held") && why.out.contains("told to"), "{}", why.out);

    // A small batch beside it, and a message, are not in its way.
    let beside = pipeline.run(&["batch", "submit", "--count", "3", "--template", "{\"fail\":0}", "--watch"]);
    assert_eq!(beside.code, 0, "{}{}", beside.out, beside.err);

    let retried = pipeline.run(&["batch", "retry", "held", "--json"]);
    assert_eq!((retried.code, &json(&retried)["applied"]), (0, &json!(2)), "{}", retried.err);
    until(&pipeline, "held", |batch| batch["blockedBy"] == json!([1]) && batch["counts"]["succeeded"] == 1);
    let none = pipeline.run(&["batch", "retry", "held", "0", "2"]);
    assert_eq!(none.code, 4, "{}", none.err);
    assert!(none.err.contains("none of these items of held is held"), "{}", none.err);
    let paused = pipeline.run(&["batch", "pause", "held", "--json"]);
    assert_eq!(json(&paused)["status"], "paused");
    let set = pipeline.run(&["batch", "set", "held", "--window", "7", "--json"]);
    assert_eq!(json(&set)["window"], 7);
    let some = pipeline.run(&["batch", "discard", "held", "1", "3", "--json"]);
    assert_eq!((some.code, &json(&some)["applied"]), (6, &json!(1)), "{}", some.err);
    assert!(some.err.contains("1 of those named are not held"), "{}", some.err);
    let nothing = pipeline.run(&["batch", "discard", "held"]);
    assert_eq!(nothing.code, 0, "{}", nothing.err);
    assert!(nothing.err.contains("no item of held is held"), "{}", nothing.err);
    assert_eq!(json(&pipeline.run(&["batch", "resume", "held", "--json"]))["id"], "held");
    let watched = pipeline.run(&["batch", "watch", "held", "--json"]);
    let counts = &json(&watched)["counts"];
    assert_eq!((watched.code, &counts["succeeded"], &counts["discarded"]), (6, &json!(3), &json!(1)));
    let late = pipeline.run(&["batch", "cancel", "held"]);
    assert_eq!(late.code, 4, "{}", late.err);
    let list = pipeline.run(&["batch", "list", "--status", "completed"]);
    assert_eq!(list.out.lines().count(), 3, "{}", list.out);
}

#[test]
fn a_cancel_leaves_a_window_at_most() {
    let folder = Folder::new();
    let pipeline = start(&folder);
    let submit =
        ["batch", "submit", "--count", "1000000", "--template", "{\"fail\":0}", "--id", "big", "--window", "20"];
    assert_eq!(pipeline.run(&submit).code, 0);
    let cancelled = pipeline.run(&["batch", "cancel", "big", "--reason", "wrong month", "--json"]);
    let counts = &json(&cancelled)["counts"];
    assert!(counts["running"].as_u64().expect("it counts") <= 20, "{counts}");
    let ended = pipeline.run(&["batch", "watch", "big", "--json"]);
    assert_eq!((ended.code, &json(&ended)["reason"]), (1, &json!("wrong month")));
    let counts = json(&ended)["counts"].clone();
    let sum = counts["succeeded"].as_u64().zip(counts["cancelled"].as_u64()).map(|(a, b)| a + b);
    assert_eq!(sum, Some(1_000_000), "{counts}");
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let pipeline = start(&folder);
    let refused = |arguments: &[&str], expected: &str| {
        let ended = pipeline.run(&[&["batch", "submit"][..], arguments].concat());
        let code = match expected {
            _ if expected.contains("already") => 4,
            _ if expected.contains("line 70000") || expected.contains("expected;") => 1,
            _ => 2,
        };
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(ended.err.contains(expected), "{arguments:?}: {}", ended.err);
    };
    refused(&["--count", "0"], "0 is not in 1..");
    refused(&["--count", "1", "--window", "0"], "0 is not in 1..=10000");
    refused(&["--count", "1", "--mode", "fast"], "possible values: window, barrier, paced");
    refused(&["--count", "1", "--on-item-failure", "ignore"], "possible values: continue, stop, hold");
    refused(&["--count", "1", "--mode", "paced"], "`interval`");
    refused(&["--count", "1", "--item-timeout", "soon"], "expected number at 0");
    refused(&["--count", "1", "--tolerated-failure-percentage", "101"], "it has to be 0 to 100");
    refused(&["--count", "1", "--id", "a b"], "`id` has to be 1 to 128 letters");
    folder.write("empty.ndjson", "\n\n");
    refused(&["empty.ndjson"], "a batch needs at least one item");
    let mut text = items(&[], 70_000);
    text.truncate(text.len() - 3);
    folder.write("broken.ndjson", &text);
    refused(&["broken.ndjson", "--id", "x"], "line 70000: it is not JSON");
    assert_eq!(pipeline.run(&["batch", "status", "x"]).code, 3, "nothing was started");
    let skipped = pipeline.run(&["batch", "submit", "broken.ndjson", "--id", "x", "--on-bad-line", "skip", "--json"]);
    assert_eq!(json(&skipped)["counts"]["total"], 69_999, "{}", skipped.err);
    assert!(skipped.err.contains("1 lines left out; the first: line 70000"), "{}", skipped.err);
    folder.write("five.ndjson", &items(&[], 5));
    refused(
        &["five.ndjson", "--id", "y", "--expect", "6"],
        "5 items came, and not the 6 expected; nothing was started",
    );
    assert_eq!(pipeline.run(&["batch", "submit", "five.ndjson", "--id", "y", "--expect", "5"]).code, 0);
    for (verb, status) in [("list", "accepted"), ("items", "running")] {
        let asked = [&["batch", verb][..], if verb == "items" { &["y"] } else { &[] }, &["--status", status]].concat();
        let ended = pipeline.run(&asked);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains("possible values:") && ended.err.contains("cancelled"), "{}", ended.err);
    }
    refused(&["--count", "1", "--id", "x"], "there is a batch \"x\" already");
    assert_eq!(pipeline.run(&["batch", "cancel", "x"]).code, 0);
}

#[test]
fn an_upload_that_is_cut_off_is_void() {
    let folder = Folder::new();
    let pipeline = start(&folder);
    let (_, address) = pipeline.ports().into_iter().next().expect("the data port is first");
    let mut stream = TcpStream::connect(&address).expect("it listens");
    let head = "POST /v1/batches?id=cut HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it is read");
    stream.write_all(b"10\r\n{\"fail\":0}\n1234\n\r\n").expect("it is read");
    stream.shutdown(std::net::Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    // Whether the answer gets through to who has hung up does not matter.
    let _ = stream.read_to_string(&mut answer);
    assert!(!answer.starts_with("HTTP/1.1 202"), "{answer}");
    let status = pipeline.run(&["batch", "status", "cut"]);
    assert_eq!(status.code, 3, "{}", status.out);

    // Killed with items on disk and the end of the upload to come: as void.
    let mut stream = TcpStream::connect(&address).expect("it listens");
    stream.write_all(head.as_bytes()).expect("it is read");
    stream.write_all(b"b\r\n{\"fail\":9}\n\r\n").expect("it is read");
    let ports = pipeline.ports();
    drop(pipeline);
    let pipeline = Pipeline::start_at(&folder, &ports);
    let status = pipeline.run(&["batch", "status", "cut"]);
    assert_eq!(status.code, 3, "{}", status.out);
    folder.write("items.ndjson", &items(&[], 5));
    let whole = pipeline.run(&["batch", "submit", "items.ndjson", "--id", "cut", "--watch"]);
    assert_eq!(whole.code, 0, "the id is free, and what was cut off is passed over: {}", whole.err);
}

/// The batch, once it is so.
fn until(pipeline: &Pipeline<'_>, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let status = pipeline.run(&["batch", "status", id, "--json"]);
        if let Some(batch) = (status.code == 0).then(|| json(&status)).filter(&wanted) {
            return batch;
        }
    }
    panic!("{id} never was as wanted: {}", pipeline.run(&["batch", "status", id]).out);
}
