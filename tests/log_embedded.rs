//! What only the embedded log promises: durability, its folder, its disk, its retention.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use seriatim::log::embedded::{Embedded, OpenError, Options, Retention};
use seriatim::log::{
    Append, Cleanup, Error, Event, Log as _, Membership, Offsets, Topic, TopicPartition, TopicShape, Visibility,
};
use seriatim::record::{Batch, BatchBuilder, Offset, Partition};
use tempfile::tempdir;

fn partition(number: u32) -> TopicPartition {
    Topic::from("topic").partition(Partition(number))
}

fn compacted() -> TopicPartition {
    Topic::from("compacted").partition(Partition(0))
}

fn shapes(partitions: u32) -> [(Topic, TopicShape); 2] {
    [
        (Topic::from("topic"), TopicShape { partitions, cleanup: Cleanup::Delete }),
        (Topic::from("compacted"), TopicShape { partitions: 1, cleanup: Cleanup::Compact }),
    ]
}

async fn open(folder: &Path, options: Options) -> Embedded {
    let log = Embedded::open(folder, options).expect("it opens");
    log.ensure(&shapes(2)).await.expect("the shapes are the same every time");
    log
}

fn batch(values: &[&str]) -> Batch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(Some(b"key"), Some(value.as_bytes()), |_| {});
    }
    builder.finish()
}

async fn append(log: &Embedded, to: &TopicPartition, values: &[&str]) -> Result<Offsets, Error> {
    log.append(to, batch(values)).await?.await
}

async fn values(log: &Embedded, of: &TopicPartition) -> Vec<(u64, String)> {
    let bounds = log.bounds(of).await.expect("it exists");
    let mut reader = log.read(of, bounds.start, Visibility::Durable, 1000).await.expect("it exists");
    let mut found = Vec::new();
    while reader.position() < bounds.stable_end {
        let fetched = reader.next().await.expect("nothing was removed");
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        found.extend(fetched.batches.iter().flatten().map(|record| (record.offset.0, text(record.value))));
    }
    found
}

async fn member(log: &Embedded) -> Box<dyn Membership> {
    let mut member = log.join("group", &[Topic::from("topic")], "member").await.expect("the topic exists");
    assert!(matches!(member.next().await, Ok(Event::Assigned(partitions)) if partitions.len() == 2));
    member
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let folder = tempdir().expect("a temporary folder");
    let mut expected = Vec::new();
    for run in 0..4u64 {
        let log = open(folder.path(), Options::default()).await;
        assert_eq!(values(&log, &partition(0)).await, expected);
        let mut member = member(&log).await;
        let stored = member.committed(&partition(1)).await.expect("it is there");
        assert_eq!(stored, run.checked_sub(1).map(Offset));
        member.commit(&[(partition(1), Offset(run))]).await.expect("it is assigned");
        let text = format!("append {run}");
        assert_eq!(append(&log, &partition(0), &[&text]).await.expect("there is room").get(0), Some(Offset(run * 2)));
        expected.push((run * 2, text));
        let text = format!("commit {run}");
        let mut writer = member.claim(&partition(0)).await.expect("it is assigned");
        let commit = [partition(0), compacted()].map(|to| Append { to, batch: batch(&[&text]) });
        writer.commit(commit.to_vec()).await.expect("it is the only writer");
        assert_eq!(values(&log, &compacted()).await.last(), Some(&(run, text.clone())));
        expected.push((run * 2 + 1, text));
        assert_eq!(log.shape(&Topic::from("topic")).await.expect("it is there"), Some(shapes(2)[0].1.clone()));
    }
}

#[tokio::test]
async fn times_survive_and_go_on() {
    let folder = tempdir().expect("a temporary folder");
    let mut times = Vec::new();
    for _ in 0..3 {
        let log = open(folder.path(), Options { cache: 0, ..Options::default() }).await;
        append(&log, &partition(0), &["a"]).await.expect("there is room");
        let mut reader = log.read(&partition(0), Offset::ZERO, Visibility::Durable, 1000).await.expect("it exists");
        let fetched = reader.next().await.expect("nothing was removed");
        let found: Vec<_> = fetched.batches.iter().flatten().map(|record| record.timestamp).collect();
        assert!(found.starts_with(&times) && found.is_sorted(), "{times:?} {found:?}");
        times = found;
    }
    assert_eq!(times.len(), 3);
}

#[tokio::test]
async fn what_is_superseded_is_removed_from_disk() {
    let folder = tempdir().expect("a temporary folder");
    let uncached = || Options { cache: 0, ..Options::default() };
    let log = open(folder.path(), uncached()).await;
    for n in 0..100 {
        append(&log, &compacted(), &[&n.to_string()]).await.expect("there is room");
    }
    assert_eq!(values(&log, &compacted()).await, [(99, "99".to_owned())]);
    drop(log);
    let log = open(folder.path(), uncached()).await;
    assert_eq!(values(&log, &compacted()).await, [(99, "99".to_owned())]);
    append(&log, &compacted(), &["100"]).await.expect("there is room");
    assert_eq!(values(&log, &compacted()).await, [(100, "100".to_owned())]);
}

/// Large ones, so that each is stored by itself though several are written at once.
#[tokio::test]
async fn what_is_superseded_at_once_is_never_stored() {
    let folder = tempdir().expect("a temporary folder");
    let uncached = || Options { cache: 0, ..Options::default() };
    let log = open(folder.path(), uncached()).await;
    for round in 0..5 {
        let mut pending = Vec::new();
        for n in 0..10 {
            let value = format!("{round} {n} {}", "x".repeat(300 << 10));
            pending.push(log.append(&compacted(), batch(&[&value])).await.expect("there is room"));
        }
        for appending in pending {
            appending.await.expect("it is written");
        }
        let found = values(&log, &compacted()).await;
        assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [round * 10 + 9]);
    }
    drop(log);
    let found = values(&open(folder.path(), uncached()).await, &compacted()).await;
    assert!(found.len() == 1 && found[0].1.starts_with("4 9 "), "{}", found.len());
}

#[tokio::test]
async fn a_second_opening_names_the_first() {
    let folder = tempdir().expect("a temporary folder");
    let log = open(folder.path(), Options::default()).await;
    let refused = Embedded::open(folder.path(), Options::default()).expect_err("it is in use");
    assert!(matches!(refused, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains(&folder.path().display().to_string()), "{text}");
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(log);
    open(folder.path(), Options::default()).await;
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let folder = tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("notes.txt"), "mine").expect("it can be written");
    let refused = Embedded::open(folder.path(), Options::default()).expect_err("it is no log");
    assert!(refused.to_string().contains("notes.txt"), "{refused}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("it is there").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_folder_half_made_is_finished() {
    let folder = tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("lock"), "").expect("it can be written");
    std::fs::write(folder.path().join("seriatim-log.json.new"), "{\"for").expect("it can be written");
    let log = open(folder.path(), Options::default()).await;
    append(&log, &partition(0), &["a"]).await.expect("there is room");
}

#[tokio::test]
async fn a_store_half_made_is_made_anew() {
    let folder = tempdir().expect("a temporary folder");
    // The marker comes first, and names no topics before the store is there.
    std::fs::write(folder.path().join("seriatim-log.json"), "{\"format\":1,\"topics\":{}}").expect("it can be written");
    std::fs::create_dir_all(folder.path().join("store/keyspaces")).expect("it can be made");
    std::fs::write(folder.path().join("store/0.jnl"), "").expect("it can be written");
    let log = open(folder.path(), Options::default()).await;
    append(&log, &partition(0), &["a"]).await.expect("there is room");
}

type Harm = fn(&Path);

#[tokio::test]
async fn damage_to_the_folder_is_told() {
    let marker = "seriatim-log.json";
    let harms: [(&str, Harm); 4] = [
        ("is not JSON", |folder| std::fs::write(folder.join("seriatim-log.json"), "{").expect("it is there")),
        ("gone", |folder| std::fs::remove_dir_all(folder.join("store")).expect("it is there")),
        ("gone", |folder| std::fs::remove_file(folder.join("store/version")).expect("it is there")),
        ("topic more", |folder| {
            let path = folder.join("seriatim-log.json");
            let text = std::fs::read_to_string(&path).expect("it is there");
            let more = "\"topics\": {\n \"more\": {\"partitions\": 1, \"cleanup\": \"delete\"},";
            std::fs::write(path, text.replace("\"topics\": {", more)).expect("it can be written");
        }),
    ];
    for (expected, harm) in harms {
        let folder = tempdir().expect("a temporary folder");
        append(&open(folder.path(), Options::default()).await, &partition(0), &["a"]).await.expect("there is room");
        harm(folder.path());
        for _ in 0..2 {
            let refused = Embedded::open(folder.path(), Options::default()).expect_err("it is damaged");
            assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }
    let folder = tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join(marker), "{\"format\": 99, \"whatever\": 1}").expect("it can be written");
    let refused = Embedded::open(folder.path(), Options::default()).expect_err("it is newer");
    assert!(matches!(refused, OpenError::Newer { found: 99, .. }), "{refused:?}");
}

#[tokio::test]
async fn other_partitions_are_refused_after_opening_again() {
    let folder = tempdir().expect("a temporary folder");
    drop(open(folder.path(), Options::default()).await);
    let log = Embedded::open(folder.path(), Options::default()).expect("it opens");
    let refused = log.ensure(&shapes(3)).await.expect_err("it has two").to_string();
    assert!(refused.contains("topic topic") && refused.contains('2') && refused.contains('3'), "{refused}");
}

#[tokio::test]
async fn retention_by_size_stops_at_the_floor_and_the_last_batch() {
    let folder = tempdir().expect("a temporary folder");
    let log = open(folder.path(), Options::default()).await;
    for n in 0..600 {
        append(&log, &partition(0), &[&n.to_string()]).await.expect("there is room");
        append(&log, &partition(1), &[&n.to_string()]).await.expect("there is room");
    }
    let size = 4 + 4 + 4 + 4;
    let retain = |floor, bytes| {
        let floors = BTreeMap::from([(partition(0), Offset(floor)), (compacted(), Offset(0))]);
        let log = log.clone();
        async move {
            let retention = Retention { bytes: Some(bytes), age: None };
            log.retain(&floors, retention).await.expect("the log is there");
            log.bounds(&partition(0)).await.expect("it exists").start
        }
    };
    assert_eq!(retain(600, 600 * size).await, Offset(0), "there is not so much");
    let start = retain(600, 100 * size).await;
    assert!(start > Offset(400) && start <= Offset(505), "{start}");
    assert_eq!(retain(start.0 + 10, 0).await, Offset(start.0 + 10), "the floor");
    assert_eq!(retain(u64::MAX, 0).await, Offset(599), "the last batch");
    assert_eq!(log.bounds(&partition(1)).await.expect("it exists").start, Offset(0), "it had no floor");
    drop(log);
    let log = open(folder.path(), Options::default()).await;
    assert_eq!(log.bounds(&partition(0)).await.expect("it exists").start, Offset(599));
    assert_eq!(values(&log, &partition(0)).await, [(599, "599".to_owned())]);
    let offsets = append(&log, &partition(0), &["600"]).await.expect("there is room");
    assert_eq!(offsets.get(0), Some(Offset(600)));
}

#[tokio::test]
async fn retention_by_age() {
    let folder = tempdir().expect("a temporary folder");
    let log = open(folder.path(), Options::default()).await;
    append(&log, &partition(0), &["old"]).await.expect("there is room");
    let begun = log.now();
    while log.now().since(begun) <= Duration::from_millis(200) {
        append(&log, &partition(0), &["then"]).await.expect("there is room");
    }
    let floors = BTreeMap::from([(partition(0), Offset(u64::MAX))]);
    let hour = Retention { age: Some(Duration::from_secs(3600)), bytes: None };
    assert_eq!(log.retain(&floors, hour).await.expect("the log is there"), 0);
    let now = Retention { age: Some(Duration::from_millis(100)), bytes: None };
    assert!(log.retain(&floors, now).await.expect("the log is there") > 0);
    let left = values(&log, &partition(0)).await;
    assert!(left.iter().all(|(_, value)| value == "then"), "{left:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_appends_but_lets_a_pipeline_drain() {
    let folder = tempdir().expect("a temporary folder");
    let disk = rustix::fs::statvfs(folder.path()).expect("it is there");
    let free = disk.f_bavail * disk.f_frsize;
    // Less is free than is kept from intake, and more than is kept from what finishes the work.
    let reserve = free + free / 2;
    let drains = [Options { reserve, ..Options::default() }, Options { max_disk: Some(1), ..Options::default() }];
    for options in drains {
        let intake = [partition(0).topic].into();
        let log = open(folder.path(), Options { intake, ..options }).await;
        let refused = append(&log, &partition(0), &["a"]).await.expect_err("the disk is nearly full");
        assert!(matches!(&refused, Error::Unavailable(reason) if reason.contains("disk nearly full")), "{refused:?}");
        let mut writer = member(&log).await.claim(&partition(0)).await.expect("it is assigned");
        writer.commit(vec![Append { to: partition(0), batch: batch(&["drained"]) }]).await.expect("there is some room");
    }
    let log = open(folder.path(), Options { reserve: free.saturating_mul(100), ..Options::default() }).await;
    let mut writer = member(&log).await.claim(&partition(0)).await.expect("it is assigned");
    let refused = writer.commit(vec![Append { to: partition(0), batch: batch(&["a"]) }]).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(values(&log, &partition(0)).await.len(), 2);
}

#[tokio::test]
async fn what_retention_removes_makes_room_again_on_a_disk_that_was_full() {
    let folder = tempdir().expect("a temporary folder");
    let intake = [partition(0).topic].into();
    let log = open(folder.path(), Options { intake, max_disk: Some(192 << 20), ..Options::default() }).await;
    let mut rng = fastrand::Rng::with_seed(1);
    // Nothing that could be compressed.
    let mut message = || std::iter::repeat_with(|| rng.alphanumeric()).take(512 << 10).collect::<String>();
    let mut taken = 0_u64;
    let reason = loop {
        match append(&log, &partition(0), &[&message()]).await {
            Ok(_) => taken += 1,
            Err(Error::Unavailable(reason)) => break reason,
            Err(other) => panic!("{other}"),
        }
        assert!(taken < 1000, "there is only room for so many");
    };
    assert!(taken > 50 && reason.contains("disk nearly full"), "{taken}: {reason}");
    let floors = BTreeMap::from([(partition(0), Offset(u64::MAX))]);
    let nothing = Retention { bytes: Some(0), age: None };
    assert!(log.retain(&floors, nothing).await.expect("the log is there") > 0);
    assert_eq!(log.refuses_intake(), None, "{} bytes are used", log.disk_space());
    tokio::time::sleep(Duration::from_millis(200)).await;
    append(&log, &partition(0), &["again"]).await.expect("there is room");
    assert_eq!(values(&log, &partition(0)).await.last(), Some(&(taken, "again".to_owned())));
}

#[tokio::test]
async fn a_failed_sync_is_the_end() {
    static FAILING: AtomicBool = AtomicBool::new(false);
    static FATAL: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let folder = tempdir().expect("a temporary folder");
    let options = Options {
        before_sync: || if FAILING.load(Ordering::SeqCst) { Err(io::Error::other("bad disk")) } else { Ok(()) },
        on_fatal: |reason| FATAL.lock().expect("nobody panics").push(reason.to_owned()),
        ..Options::default()
    };
    let log = open(folder.path(), options).await;
    append(&log, &partition(0), &["synced"]).await.expect("there is room");
    FAILING.store(true, Ordering::SeqCst);
    let unknown = append(&log, &partition(0), &["not synced"]).await;
    assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");
    let refused = append(&log, &partition(0), &["refused"]).await;
    assert!(matches!(&refused, Err(Error::Damaged(reason)) if reason.contains("bad disk")), "{refused:?}");
    assert_eq!(*FATAL.lock().expect("nobody panics"), ["sync failed: bad disk"]);
    drop(log);
    let log = open(folder.path(), Options::default()).await;
    let found = values(&log, &partition(0)).await;
    assert_eq!(found[0].1, "synced");
    assert!(found.len() == 1 || found[1].1 == "not synced", "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_holds_up_no_reader() {
    static SYNCING: (Mutex<(bool, bool)>, Condvar) = (Mutex::new((false, false)), Condvar::new());
    let folder = tempdir().expect("a temporary folder");
    let before_sync = || {
        let (state, changed) = &SYNCING;
        let mut state = state.lock().expect("nobody panics");
        state.1 |= state.0;
        changed.notify_all();
        drop(changed.wait_while(state, |(blocked, _)| *blocked).expect("nobody panics"));
        Ok(())
    };
    let log = open(folder.path(), Options { before_sync, cache: 0, ..Options::default() }).await;
    append(&log, &partition(0), &["before"]).await.expect("there is room");
    SYNCING.0.lock().expect("nobody panics").0 = true;
    let appending = log.append(&partition(0), batch(&["during"])).await.expect("there is room");
    tokio::task::spawn_blocking(|| {
        let state = SYNCING.0.lock().expect("nobody panics");
        drop(SYNCING.1.wait_while(state, |(_, reached)| !*reached).expect("nobody panics"));
    })
    .await
    .expect("it does not panic");
    let mut written = log.read(&partition(0), Offset(0), Visibility::Written, 1).await.expect("it exists");
    let mut durable = log.read(&partition(0), Offset(0), Visibility::Durable, 1).await.expect("it exists");
    for reader in [&mut written, &mut durable] {
        assert_eq!(reader.next().await.expect("it is there").next, Offset(1));
    }
    assert_eq!(written.next().await.expect("it is written").next, Offset(2));
    assert!(tokio::time::timeout(Duration::from_millis(200), durable.next()).await.is_err());
    SYNCING.0.lock().expect("nobody panics").0 = false;
    SYNCING.1.notify_all();
    assert_eq!(durable.next().await.expect("it is durable").next, Offset(2));
    assert_eq!(appending.await.expect("it is durable").get(0), Some(Offset(1)));
}

#[tokio::test]
async fn what_is_too_large_is_rejected() {
    let folder = tempdir().expect("a temporary folder");
    let log = open(folder.path(), Options::default()).await;
    let large = "x".repeat(seriatim::log::embedded::MAX_BATCH);
    let refused = append(&log, &partition(0), &[&large]).await;
    assert!(matches!(&refused, Err(Error::Rejected { at, .. }) if *at == partition(0)), "{refused:?}");
    let half = &large[..large.len() / 2];
    append(&log, &partition(0), &[half]).await.expect("it is large but not too large");
    assert_eq!(values(&log, &partition(0)).await[0].1.len(), half.len());
}

#[tokio::test]
async fn names_that_no_log_takes_are_rejected() {
    let folder = tempdir().expect("a temporary folder");
    let log = open(folder.path(), Options::default()).await;
    for name in ["", "$meta", "a b", "a/b", &"x".repeat(250)] {
        let shape = TopicShape { partitions: 1, cleanup: Cleanup::Delete };
        let refused = log.ensure(&[(Topic::from(name), shape)]).await;
        assert!(matches!(refused, Err(Error::Rejected { .. })), "{name}: {refused:?}");
    }
}
