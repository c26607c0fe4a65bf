//! What only this engine does; what every engine does is in the conformance suite.

use std::time::Duration;

use super::*;
use crate::log::{Append, Cleanup, Event, Fetched, SESSION_TIMEOUT, Writer};
use crate::record::{BatchBuilder, Partition};

fn batch(values: &[&str]) -> Batch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(Some(b"key"), Some(value.as_bytes()), |_| {});
    }
    builder.finish()
}

fn partition(number: u32) -> TopicPartition {
    Topic::from("topic").partition(Partition(number))
}

async fn log(seed: u64) -> Memory {
    log_of(seed, Cleanup::Delete).await
}

async fn log_of(seed: u64, cleanup: Cleanup) -> Memory {
    let log = Memory::new(seed);
    log.ensure(&[(Topic::from("topic"), TopicShape { partitions: 2, cleanup })]).await.expect("nothing is there");
    log
}

async fn append(log: &Memory, values: &[&str]) -> Result<crate::log::Offsets, Error> {
    log.append(&partition(0), batch(values)).await?.await
}

async fn all(log: &Memory) -> Vec<(u64, String)> {
    let end = log.bounds(&partition(0)).await.expect("it exists").end;
    let mut reader = log.read(&partition(0), Offset::ZERO, Visibility::Durable, 1 << 20).await.expect("it exists");
    let mut found = Vec::new();
    while reader.position() < end {
        found.extend(values(&reader.next().await.expect("nothing was removed")));
    }
    found
}

fn values(fetched: &Fetched) -> Vec<(u64, String)> {
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    fetched.batches.iter().flatten().map(|r| (r.offset.0, text(r.value))).collect()
}

async fn member(log: &Memory) -> Box<dyn Membership> {
    log.join("group", &[Topic::from("topic")], "member").await.expect("the topic exists")
}

async fn writer(membership: &mut Box<dyn Membership>) -> Box<dyn Writer> {
    assert!(matches!(membership.next().await, Ok(Event::Assigned(_))));
    membership.claim(&partition(0)).await.expect("it is assigned")
}

fn appends(values: &[&str]) -> Vec<Append> {
    vec![Append { to: partition(0), batch: batch(values) }, Append { to: partition(1), batch: batch(values) }]
}

#[tokio::test(start_paused = true)]
async fn the_clock_is_tokios() {
    let log = log(1).await;
    assert_eq!(log.now(), EPOCH);
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert_eq!(log.now(), Timestamp(EPOCH.0 + 1500));
    append(&log, &["a"]).await.expect("no faults");
    assert_eq!(log.snapshot(&partition(0))[0].timestamp, log.now());
}

#[tokio::test(start_paused = true)]
async fn holes_before_within_and_after() {
    let log = log(2).await;
    log.set_faults(Faults { hole: 0.7, hole_size: 5, regrouped: 0.5, markers: true, ..Faults::default() });
    let mut writer = writer(&mut member(&log).await).await;
    let mut expected = Vec::new();
    for round in 0..50 {
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let offsets = append(&log, &[&a, &b]).await.expect("holes only");
        expected.extend([(offsets.get(0).unwrap().0, a), (offsets.get(1).unwrap().0, b)]);
        let c = format!("c{round}");
        let offsets = writer.commit(appends(&[&c])).await.expect("holes only");
        expected.push((offsets[0].get(0).unwrap().0, c));
    }
    assert_eq!(all(&log).await, expected);
    assert!(expected.last().unwrap().0 > 200, "there were holes");
    let bounds = log.bounds(&partition(0)).await.unwrap();
    assert!(bounds.end.0 > expected.last().unwrap().0 + 1, "a marker is at the end");
    assert_eq!(bounds.end, bounds.stable_end);
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_what_was_drawn() {
    let log = log(3).await;
    let only = |f: fn(&mut Faults)| {
        let mut faults = Faults::default();
        f(&mut faults);
        log.set_faults(faults);
    };
    only(|f| f.append_unknown_written = 1.0);
    assert!(matches!(append(&log, &["written"]).await, Err(Error::Unknown(_))));
    only(|f| f.append_unknown_lost = 1.0);
    assert!(matches!(append(&log, &["lost"]).await, Err(Error::Unknown(_))));
    only(|f| f.append_unavailable = 1.0);
    assert!(matches!(append(&log, &["refused"]).await, Err(Error::Unavailable(_))));
    only(|f| f.append_duplicated = 1.0);
    assert!(append(&log, &["twice"]).await.is_ok());
    only(|_| {});
    let texts: Vec<_> = all(&log).await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["written", "twice", "twice"]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_of_unknown_outcome_is_spent() {
    let log = log(4).await;
    let mut membership = member(&log).await;
    let mut writer = writer(&mut membership).await;
    log.set_faults(Faults { commit_unknown_written: 1.0, ..Faults::default() });
    assert!(matches!(writer.commit(appends(&["written"])).await, Err(Error::Unknown(_))));
    log.set_faults(Faults::default());
    assert!(matches!(writer.commit(appends(&["spent"])).await, Err(Error::Fenced(_))));
    let mut writer = membership.claim(&partition(0)).await.expect("it is still assigned");
    writer.commit(appends(&["anew"])).await.expect("it is new");
    for number in [0, 1] {
        let found: Vec<_> = log.snapshot(&partition(number)).into_iter().map(|r| r.value.unwrap()).collect();
        assert_eq!(found, [b"written".to_vec(), b"anew".to_vec()]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_waits_for_what_its_predecessor_began() {
    let log = log(5).await;
    let mut membership = member(&log).await;
    let mut old = writer(&mut membership).await;
    let slow = Delay::always(Duration::from_secs(3)..Duration::from_secs(3));
    log.set_faults(Faults { commit_delay: slow, ..Faults::default() });
    {
        let commit = old.commit(appends(&["late"]));
        assert!(tokio::time::timeout(Duration::from_secs(1), commit).await.is_err());
    }
    assert_eq!(log.bounds(&partition(0)).await.unwrap().stable_end, Offset(0));
    let _new = membership.claim(&partition(0)).await.expect("it is assigned");
    assert_eq!(log.bounds(&partition(0)).await.unwrap().stable_end, Offset(1));
}

#[tokio::test(start_paused = true)]
async fn the_frozen_lose_their_partitions_and_are_fenced() {
    let log = log(6).await;
    let mut frozen = member(&log).await;
    let mut zombie = writer(&mut frozen).await;
    let mut other = member(&log).await;
    let begun = Instant::now();
    let mut mine = Vec::new();
    while mine.len() < 2 {
        if let Event::Assigned(partitions) = other.next().await.expect("it listens") {
            mine.extend(partitions);
        }
    }
    assert_eq!(begun.elapsed(), SESSION_TIMEOUT);
    zombie.commit(appends(&["not yet fenced"])).await.expect("nobody has claimed");
    let mut writer = other.claim(&partition(0)).await.expect("it is assigned");
    assert!(matches!(zombie.commit(appends(&["fenced"])).await, Err(Error::Fenced(_))));
    writer.commit(appends(&["mine"])).await.expect("it is the only one");
    assert!(matches!(frozen.claim(&partition(0)).await, Err(Error::Fenced(_))));
    assert!(matches!(frozen.next().await, Ok(Event::Lost(lost)) if lost.len() == 2));
    writer.commit(appends(&["mine"])).await.expect("a fenced claim fences nobody");
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_holds_the_stable_end() {
    let log = log(7).await;
    append(&log, &["before"]).await.expect("no faults");
    let open = log.append_uncommitted(&partition(0), &batch(&["open"])).expect("it exists");
    let aborted = log.append_uncommitted(&partition(0), &batch(&["aborted"])).expect("it exists");
    append(&log, &["after"]).await.expect("no faults");
    let mut reader = log.read(&partition(0), Offset::ZERO, Visibility::Durable, 1 << 20).await.expect("it exists");
    assert_eq!(values(&reader.next().await.unwrap()), [(0, "before".to_owned())]);
    assert!(tokio::time::timeout(Duration::from_secs(60), reader.next()).await.is_err());
    aborted.abort();
    assert_eq!(log.bounds(&partition(0)).await.unwrap().stable_end, Offset(1));
    open.commit();
    assert_eq!(values(&reader.next().await.unwrap()), [(1, "open".to_owned()), (3, "after".to_owned())]);
    assert_eq!(reader.position(), log.bounds(&partition(0)).await.unwrap().end);
}

#[tokio::test(start_paused = true)]
async fn removed_and_made_anew() {
    let log = log(8).await;
    append(&log, &["a", "b", "c"]).await.expect("no faults");
    log.delete_below(&partition(0), Offset(2)).expect("it exists");
    let mut reader = log.read(&partition(0), Offset(1), Visibility::Durable, 1 << 20).await.expect("it exists");
    assert!(matches!(reader.next().await, Err(Error::Lost { start: Offset(2), wanted: Offset(1), .. })));
    let mut reader = log.read(&partition(0), Offset(2), Visibility::Durable, 1 << 20).await.expect("it exists");
    assert_eq!(values(&reader.next().await.unwrap()), [(2, "c".to_owned())]);
    log.recreate(&Topic::from("topic"));
    assert!(matches!(reader.next().await, Err(Error::Damaged(_))));
}

#[tokio::test(start_paused = true)]
async fn compaction_keeps_the_last_of_each_key() {
    let log = log_of(9, Cleanup::Compact).await;
    for n in 0..1000 {
        append(&log, &[&n.to_string()]).await.expect("no faults");
    }
    let left = all(&log).await;
    assert!(left.len() < 70, "{}", left.len());
    assert_eq!(left.last(), Some(&(999, "999".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_history() {
    async fn history(seed: u64) -> Vec<String> {
        let log = log(seed).await;
        log.set_faults(Faults::mixed(&mut fastrand::Rng::with_seed(seed)));
        let mut history = Vec::new();
        for n in 0..200 {
            let outcome = append(&log, &[&n.to_string()]).await;
            history.push(format!("{} {outcome:?}", log.now().0));
        }
        history
    }
    for seed in 0..10 {
        assert_eq!(history(seed).await, history(seed).await);
    }
    assert_ne!(history(1).await, history(2).await);
}
