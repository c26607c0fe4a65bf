//! What an embedded log that has lost its end says, and that nothing else is taken for that.

#[path = "support/texts.rs"]
mod texts;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seriatim::log::embedded::{Embedded, OpenError, Options};
use seriatim::log::{Cleanup, Error, Log as _, Offsets, Topic, TopicShape};
use seriatim::record::BatchBuilder;
use tempfile::tempdir;
use texts::{partition, values};

async fn open(folder: &Path, options: Options) -> Embedded {
    let log = Embedded::open(folder, options).expect("it opens");
    let shape = |partitions, cleanup| TopicShape { partitions, cleanup };
    let topics = [("topic", shape(2, Cleanup::Delete)), ("compacted", shape(1, Cleanup::Compact))];
    let made = log.ensure(&topics.map(|(name, shape)| (Topic::from(name), shape))).await;
    made.expect("the shapes are the same every time");
    log
}

async fn append(log: &Embedded, values: &[&str]) -> Result<Offsets, Error> {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(None, Some(value.as_bytes()), |_| {});
    }
    log.append(&partition(), builder.finish()).await?.await
}

const FLOOR: &str = "seriatim-floor.json";

/// Opening is refused for what is missing, again and again, until the floor is removed.
async fn is_refused_until_accepted(folder: &Path, expected: &str, left: &[&str]) {
    for _ in 0..2 {
        let refused = Embedded::open(folder, Options::default()).expect_err("records are missing");
        assert!(matches!(refused, OpenError::Lost { .. }), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains(expected) && text.contains(FLOOR) && text.contains("copy"), "{text}");
    }
    std::fs::remove_file(folder.join(FLOOR)).expect("the message names it");
    let log = open(folder, Options::default()).await;
    assert_eq!(values(&log).await, left);
    append(&log, &["goes on"]).await.expect("there is room");
}

#[tokio::test]
async fn a_removed_journal_is_told() {
    let folder = tempdir().expect("a temporary folder");
    let log = open(folder.path(), Options::default()).await;
    append(&log, &["a", "b"]).await.expect("there is room");
    drop(log);
    std::fs::remove_file(folder.path().join("store/0.jnl")).expect("it is the only journal");
    is_refused_until_accepted(folder.path(), "topic[0] ends at 0 and has reached 2", &[]).await;
}

#[tokio::test]
async fn a_journal_cut_between_two_records_is_told() {
    let folder = tempdir().expect("a temporary folder");
    let journal = folder.path().join("store/0.jnl");
    append(&open(folder.path(), Options::default()).await, &["a"]).await.expect("there is room");
    let shorter = std::fs::read(&journal).expect("it is the only journal");
    append(&open(folder.path(), Options::default()).await, &["b", "c"]).await.expect("there is room");
    std::fs::write(&journal, shorter).expect("it can be written");
    is_refused_until_accepted(folder.path(), "topic[0] ends at 1 and has reached 3", &["a"]).await;
}

#[tokio::test]
async fn a_marker_older_than_the_records_is_told() {
    let folder = tempdir().expect("a temporary folder");
    let marker = folder.path().join("seriatim-log.json");
    drop(Embedded::open(folder.path(), Options::default()).expect("it opens"));
    let older = std::fs::read(&marker).expect("it was made at once");
    append(&open(folder.path(), Options::default()).await, &["a"]).await.expect("there is room");
    std::fs::write(&marker, older).expect("it can be written");
    let refused = Embedded::open(folder.path(), Options::default()).expect_err("a topic is missing");
    assert!(matches!(&refused, OpenError::Lost { reason, .. } if reason.contains("topic[0]")), "{refused:?}");
}

/// What a crash of the machine may take must not be missed afterwards.
#[tokio::test]
async fn the_floor_holds_what_is_synced_and_no_more() {
    static FAILING: AtomicBool = AtomicBool::new(false);
    let floor = |folder: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.join(FLOOR)).expect("it is there")).expect("it is JSON")
    };
    let folder = tempdir().expect("a temporary folder");
    let options = Options {
        before_sync: || if FAILING.load(Ordering::SeqCst) { Err(io::Error::other("bad disk")) } else { Ok(()) },
        on_fatal: |_| {},
        floor_every: Duration::from_millis(10),
        ..Options::default()
    };
    let log = open(folder.path(), options).await;
    append(&log, &["a", "b"]).await.expect("there is room");
    while !folder.path().join(FLOOR).exists() || floor(folder.path())["topic"] != serde_json::json!([2, 0]) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    FAILING.store(true, Ordering::SeqCst);
    append(&log, &["not synced"]).await.expect_err("the disk is bad");
    drop(log);
    assert_eq!(floor(folder.path()), serde_json::json!({"topic": [2, 0], "compacted": [0]}));
    open(folder.path(), Options::default()).await;
    assert_eq!(floor(folder.path())["topic"], serde_json::json!([3, 0]), "what is read again counts as durable");
}
