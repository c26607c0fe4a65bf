//! The sample receiver behind the real program: each item once and in order, whatever dies.

#[path = "cli_verbs/program.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod program;
#[path = "../examples/receiver.rs"]
#[allow(dead_code, reason = "it is a program of its own")]
mod receiver;

use std::path::Path;
use std::time::Duration;

use program::{Folder, Pipeline};
use receiver::{Journal, Line, Marks, Place, Receiver, Verdict};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const MESSAGES: usize = 1_500;
const KILLS: usize = 6;

/// How long all of it may take; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

fn applied(journal: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).expect("whole lines are JSON")).collect()
}

/// The receiver in a runtime of its own, with which all of it ends.
struct Serving(Option<Runtime>);

impl Serving {
    fn start(listener: &std::net::TcpListener, journal: &Path) -> Self {
        let receiver = Receiver::new(Journal::open(journal).expect("it opens"), SECRET).expect("the secret is fine");
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("it starts");
        let listener = listener.try_clone().expect("it can be cloned");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it listens");
            axum::serve(listener, receiver.router()).await.expect("it serves for ever");
        });
        Self(Some(runtime))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // What is being written is written before the journal may be opened again.
        self.0.take().expect("it is taken only here").shutdown_timeout(PATIENCE);
    }
}

fn exactly_once(batch: &str) {
    let folder = Folder::new();
    folder.write("secret", SECRET);
    let journal = folder.path().join("applied.ndjson");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("it can be");
    let at = listener.local_addr().expect("it is bound");
    let mut serving = Serving::start(&listener, &journal);
    let http = format!("{{ url = 'http://{at}/', secret_file = 'secret', allow_private = true, batch = {batch} }}");
    let env = [
        ("SERIATIM_WORK__BUILTIN", "{ sleep = '2ms' }"),
        ("SERIATIM_DESTINATIONS__DEFAULT__PUSH__HTTP", http.as_str()),
        ("SERIATIM_DESTINATIONS__DEFAULT__PUSH__RETRY__CAP", "500ms"),
    ];
    let mut pipeline = Pipeline::start(&folder, &env);
    let mut again = pipeline.ports();
    again.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let messages: String = (0..MESSAGES).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    assert_eq!(pipeline.run_with(&["send", "-"], &messages).code, 0);
    let begun = Instant::now();
    let wait = |enough: usize| {
        while applied(&journal).len() < enough {
            assert!(begun.elapsed() < PATIENCE, "{} of {enough} are applied", applied(&journal).len());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    for kill in 1..=KILLS {
        wait(MESSAGES * kill / (KILLS + 2));
        if kill % 3 == 0 {
            // The receiver goes, with what is in hand, and comes back.
            drop(serving);
            serving = Serving::start(&listener, &journal);
        } else {
            drop(pipeline);
            pipeline = Pipeline::start_at(&folder, &again);
        }
    }
    wait(MESSAGES);
    let numbers: Vec<_> = applied(&journal).iter().map(|line| line.body["n"].as_u64()).collect();
    assert_eq!(numbers, (0..MESSAGES as u64).map(Some).collect::<Vec<_>>());
    let epochs: Vec<_> = applied(&journal).iter().map(|line| line.place.epoch).collect();
    assert!(epochs.is_sorted() && epochs.first() < epochs.last(), "others took over");
    assert_eq!(pipeline.run(&["dest", "test", "default"]).code, 0);
    assert_eq!(applied(&journal).len(), MESSAGES);
    drop(serving);
}

#[test]
fn each_item_is_applied_once_and_in_order_through_kills_of_both_sides() {
    exactly_once("1");
}

#[test]
fn so_are_items_that_come_several_in_a_request() {
    exactly_once("20");
}

fn place(epoch: u64, sequence: u64, done_below: u64) -> Place {
    Place { stream: "default/0".to_owned(), epoch, sequence, done_below }
}

#[test]
fn a_repeat_is_applied_once_and_a_replaced_sender_is_refused() {
    let mut marks = Marks::default();
    for (at, verdict) in [
        (place(1, 0, 0), Verdict::Apply),
        (place(1, 0, 0), Verdict::Repeat),
        (place(2, 2, 1), Verdict::Apply),
        (place(1, 1, 1), Verdict::Stale),
        (place(2, 1, 1), Verdict::Apply),
        (place(2, 2, 1), Verdict::Repeat),
        (place(2, 0, 1), Verdict::Repeat),
    ] {
        assert_eq!(marks.judge(&at), verdict, "{at:?}");
        if verdict == Verdict::Apply {
            marks.note(&at);
        }
    }
}

#[test]
fn a_line_that_a_crash_cut_off_was_never_applied() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("applied");
    let mut journal = Journal::open(&path).expect("it opens");
    for sequence in 0..2 {
        assert_eq!(journal.apply(place(1, sequence, 0), 7.into()).expect("it is written"), Verdict::Apply);
    }
    let whole = std::fs::read(&path).expect("it can be read");
    std::fs::write(&path, &whole[..whole.len() - 3]).expect("it can be written");
    let mut journal = Journal::open(&path).expect("it opens");
    assert_eq!(journal.apply(place(1, 0, 0), 7.into()).expect("it is written"), Verdict::Repeat);
    assert_eq!(journal.apply(place(1, 1, 0), 7.into()).expect("it is written"), Verdict::Apply);
    assert_eq!(std::fs::read(&path).expect("it can be read"), whole);
}
