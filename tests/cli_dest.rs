//! `seriatim dest` as its users meet it, against a real `seriatim run` and a real receiver.

#[path = "cli_verbs/program.rs"]
#[allow(dead_code, reason = "other verbs need more of it")]
mod program;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use program::{Folder, Pipeline};

/// More pushes than any test here makes.
const MOST_BODIES: usize = 1_000;

/// Answers every push with the status of the moment; counts those it took, and hands them on.
struct Receiver {
    bodies: std::sync::mpsc::Receiver<String>,
    url: String,
    status: Arc<AtomicU16>,
    taken: Arc<AtomicUsize>,
}

impl Receiver {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it listens"));
        let (status, taken) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let (now, count) = (status.clone(), taken.clone());
        let (to, bodies) = sync_channel(MOST_BODIES);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (now, count, to) = (now.clone(), count.clone(), to.clone());
                std::thread::spawn(move || serve(&connection, &now, &count, &to));
            }
        });
        Self { url, status, taken, bodies }
    }
}

/// Until the other side has had enough.
fn serve(connection: &TcpStream, status: &AtomicU16, taken: &AtomicUsize, to: &SyncSender<String>) -> Option<()> {
    let mut from = BufReader::new(connection);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            from.read_line(&mut line).ok().filter(|read| *read > 0)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).ok()?;
        let status = status.load(Ordering::SeqCst);
        taken.fetch_add(usize::from(status == 200), Ordering::SeqCst);
        // A test that is over, or looks at the count alone, does not read it.
        let _ = to.try_send(String::from_utf8(body).ok()?);
        write!(&mut &*connection, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

fn start<'a>(folder: &'a Folder, receiver: &Receiver) -> Pipeline<'a> {
    let push = "SERIATIM_DESTINATIONS__DEFAULT__PUSH__HTTP__";
    let (url, private) = (format!("{push}URL"), format!("{push}ALLOW_PRIVATE"));
    Pipeline::start(folder, &[(&url, &receiver.url), (&private, "true")])
}

/// Asks until the answer says this.
#[track_caller]
fn until_it_says(pipeline: &Pipeline<'_>, arguments: &[&str], says: &str) {
    let mut told = String::new();
    for _ in 0..500 {
        told = pipeline.run(arguments).out;
        if told.contains(says) {
            return;
        }
    }
    panic!("{arguments:?} never said {says:?}: {told}");
}

#[test]
fn a_destination_that_its_receiver_disabled_is_told_and_resumed() {
    let (folder, receiver) = (Folder::new(), Receiver::start(410));
    let pipeline = start(&folder, &receiver);
    assert_eq!(pipeline.run_with(&["send", "-"], "a\nb\n").code, 0);
    until_it_says(&pipeline, &["dest"], "disabled by its receiver");
    until_it_says(&pipeline, &["why"], "seriatim dest resume default");
    receiver.status.store(200, Ordering::SeqCst);
    let resumed = pipeline.run(&["dest", "resume", "default", "--reason", "a test"]);
    assert_eq!((resumed.code, resumed.out.as_str()), (0, "resume default: done\n"), "{}", resumed.err);
    until_it_says(&pipeline, &["dest"], "pushed below 2, 0 behind");
    assert_eq!(receiver.taken.load(Ordering::SeqCst), 2);
}

#[test]
fn refused_items_are_told_retried_and_skipped_and_a_pause_holds() {
    let (folder, receiver) = (Folder::new(), Receiver::start(422));
    let pipeline = start(&folder, &receiver);
    assert_eq!(pipeline.run_with(&["send", "-"], "a\nb\n").code, 0);
    until_it_says(&pipeline, &["dest"], "0 was refused: status 422");
    until_it_says(&pipeline, &["why"], "seriatim dest retry");
    assert_eq!(pipeline.run(&["dest", "skip", "default", "0", "--reason", "a test"]).code, 0);
    until_it_says(&pipeline, &["dest"], "1 was refused");
    let skipped = pipeline.run(&["dest", "skip", "default", "0", "0", "--reason", "again"]);
    assert_eq!(skipped.code, 4, "{}", skipped.out);
    assert!(skipped.err.contains("not refused, in default, lane 0: 0; nothing was done"), "{}", skipped.err);
    assert_eq!(pipeline.run(&["dest", "retry", "default", "0", "1", "99", "--reason", "x"]).code, 4);
    receiver.status.store(200, Ordering::SeqCst);
    assert_eq!(pipeline.run(&["dest", "retry", "default", "0", "1", "--reason", "a test"]).code, 0);
    until_it_says(&pipeline, &["dest"], "pushed below 2, 0 behind");
    let retried = pipeline.run(&["dest", "retry", "default", "0", "--reason", "a test"]);
    assert_eq!(retried.code, 4, "{}", retried.out);
    assert!(retried.err.contains("nothing of default, lane 0, is refused"), "{}", retried.err);
    assert_eq!(pipeline.run(&["dest", "pause", "default", "--reason", "they move"]).code, 0);
    assert_eq!(pipeline.run_with(&["send", "-"], "c\n").code, 0);
    until_it_says(&pipeline, &["dest"], "default, paused: they move\n  lane 0: pushed below 2, 1 behind");
    assert_eq!(receiver.taken.load(Ordering::SeqCst), 1);
    assert_eq!(pipeline.run(&["dest", "resume", "nowhere", "--reason", "x"]).code, 3);
    assert_eq!(pipeline.run(&["dest", "retry", "default", "7", "--reason", "x"]).code, 3);
}

#[test]
fn what_a_destination_waits_for_is_told_by_its_name() {
    let (folder, receiver) = (Folder::new(), Receiver::start(503));
    let push = "SERIATIM_DESTINATIONS__DEFAULT__PUSH__";
    let (url, private) = (format!("{push}HTTP__URL"), format!("{push}HTTP__ALLOW_PRIVATE"));
    let (backoff, cap) = (format!("{push}RETRY__BACKOFF"), format!("{push}RETRY__CAP"));
    let retry = [(backoff.as_str(), "20ms"), (cap.as_str(), "200ms")];
    let pipeline =
        Pipeline::start(&folder, &[&[(url.as_str(), receiver.url.as_str()), (&private, "true")], &retry[..]].concat());
    assert_eq!(pipeline.run_with(&["send", "-"], "a\nb\n").code, 0);
    until_it_says(&pipeline, &["why", "default"], "taken for down and only probed; item 0 of lane 0 was tried");
    let told = pipeline.run(&["why", "default"]).out;
    assert!(told.contains("status 503; 2 behind\n  lane") && told.contains("the next attempt"), "{told}");
    until_it_says(&pipeline, &["dest"], "times, taken for down: status 503");
    until_it_says(&pipeline, &["why"], "destination default waits for its receiver");
    receiver.status.store(200, Ordering::SeqCst);
    until_it_says(&pipeline, &["why", "default"], "default waits for nothing");
    assert_eq!(pipeline.run(&["dest", "pause", "default", "--reason", "they move"]).code, 0);
    let told = pipeline.run(&["why", "default"]).out;
    assert!(
        told.contains("is paused: they move; `seriatim dest resume default --reason WHY` goes on; 0 behind"),
        "{told}"
    );
    let told = pipeline.run(&["why", "1"]).out;
    assert!(told.contains("message 0-1 has left: to default as number 1"), "{told}");
    let unknown = pipeline.run(&["why", "nowhere"]);
    assert_eq!(unknown.code, 3);
    assert!(unknown.err.contains("there are default"), "{}", unknown.err);
}

/// How long a batch of a moment may take; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn events_of_batches_are_pushed_and_all_done_comes_last() {
    let (folder, receiver) = (Folder::new(), Receiver::start(200));
    let push = "SERIATIM_DESTINATIONS__HOOKS__PUSH__HTTP__";
    let (url, private) = (format!("{push}URL"), format!("{push}ALLOW_PRIVATE"));
    let pipeline = Pipeline::start(
        &folder,
        &[
            (&url, &receiver.url),
            (&private, "true"),
            ("SERIATIM_BATCH__EVENTS", "hooks"),
            ("SERIATIM_BATCH__ITEM_EVENTS", "true"),
            ("SERIATIM_WORK__JQ", "if .index == 3 then error(\"told to\") else {index} end"),
        ],
    );
    let submitted = pipeline.run(&["batch", "submit", "--count", "20", "--window", "5", "--id", "b", "--watch"]);
    assert_eq!(submitted.code, 6, "{}", submitted.err);
    let mut pushed = Vec::new();
    while pushed.last().is_none_or(|event: &serde_json::Value| event["type"] != "WorkAllDone") {
        let body = receiver.bodies.recv_timeout(PATIENCE).expect("all done is pushed");
        pushed.push(serde_json::from_str(&body).expect("events are JSON"));
    }
    let counts = &pushed[pushed.len() - 1]["counts"];
    assert_eq!((&counts["succeeded"], &counts["failed"]), (&19.into(), &1.into()));
    let mut items: Vec<_> = pushed.iter().filter_map(|event| event["index"].as_u64()).collect();
    items.sort_unstable();
    assert_eq!(items, (0..20).collect::<Vec<_>>(), "each item ended once");
    until_it_says(&pipeline, &["dest"], "pushed below 21, 0 behind");
    let verified = pipeline.run(&["verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    assert_eq!(receiver.taken.load(Ordering::SeqCst), 21);
}

#[test]
fn a_test_says_what_the_receiver_answers_and_a_replay_pushes_once_more() {
    let (folder, receiver) = (Folder::new(), Receiver::start(200));
    let pipeline = start(&folder, &receiver);
    assert_eq!(pipeline.run_with(&["send", "-"], "a\nb\nc\n").code, 0);
    until_it_says(&pipeline, &["dest"], "pushed below 3, 0 behind");
    let replay =
        |from: &'static str| ["dest", "replay", "default", "0", "--from", from, "--id", "fix", "--reason", "x"];
    let replayed = pipeline.run(&replay("1"));
    assert_eq!(
        (replayed.code, replayed.out.as_str()),
        (0, "replay default: begun; its id is fix\n"),
        "{}",
        replayed.err
    );
    until_it_says(&pipeline, &["dest"], "pushed below 3, 0 behind");
    assert_eq!(receiver.taken.load(Ordering::SeqCst), 5);
    assert_eq!(pipeline.run(&replay("3")).code, 4, "that was not pushed yet");
    let invalid = ["dest", "replay", "default", "0", "--from", "1", "--id", "a/b", "--reason", "x"];
    assert_eq!(pipeline.run(&invalid).code, 2);
    let taken = pipeline.run(&["dest", "test", "default"]);
    assert!(taken.code == 0 && taken.out.starts_with("test default: taken after "), "{} {}", taken.out, taken.err);
    receiver.status.store(418, Ordering::SeqCst);
    let refused = pipeline.run_with(&["dest", "test", "default", "-", "--content-type", "text/plain"], "hello");
    assert!(refused.code == 1 && refused.out.contains(" ms: status 418"), "{} {}", refused.out, refused.err);
    assert_eq!(receiver.taken.load(Ordering::SeqCst), 6);
    assert_eq!(pipeline.run(&["dest", "test", "nowhere"]).code, 3);
}
