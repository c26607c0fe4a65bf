//! Atomic commits.

use seriatim::log::{Append, Error, Offsets};
use seriatim::record::Partition;

use crate::fixture::{Fixture, batch, fetch_many, soon, to};

pub(crate) async fn a_commit_is_read_everywhere(f: Fixture) {
    let topic = f.topic("three", 3).await;
    let control = f.topic("control", 1).await.partition(Partition(0));
    let (_member, mut writer) = f.sole_writer("group", &control).await;
    let appends = topic.partitions(3).map(|p| to(&p, &["a", "b"])).collect();
    let offsets = soon(writer.commit(appends)).await.expect("it is the only writer");
    assert_eq!(offsets.len(), 3);
    for (p, offsets) in topic.partitions(3).zip(offsets) {
        let mut reader = f.reader(&p, seriatim::record::Offset::ZERO).await;
        let expected: Vec<_> = offsets.iter().zip(["a".to_owned(), "b".to_owned()]).collect();
        assert_eq!(fetch_many(&mut reader, 2).await, expected);
    }
}

pub(crate) async fn all_or_nothing(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let [a, b] = [0, 1].map(|p| topic.partition(Partition(p)));
    let beyond = topic.partition(Partition(9));
    let (mut member, mut writer) = f.writer("group", &a).await;
    let appends = vec![to(&a, &["lost"]), to(&beyond, &["impossible"]), to(&b, &["lost"])];
    let rejected = member.busy(writer.commit(appends)).await;
    assert!(matches!(&rejected, Err(Error::Rejected { at, .. }) if *at == beyond), "{rejected:?}");
    // The rest may be committed without it, by this writer or, where the engine says so, the next.
    let rest = || vec![to(&a, &["kept"]), to(&b, &["kept"])];
    if member.busy(writer.commit(rest())).await.is_err() {
        let mut writer = member.claim(&a).await;
        member.busy(writer.commit(rest())).await.expect("it is new");
    }
    for p in [a, b] {
        assert_eq!(f.values(&p).await, ["kept"]);
    }
}

pub(crate) async fn appends_to_one_partition_keep_their_order(f: Fixture) {
    let p = f.partition().await;
    let (_member, mut writer) = f.sole_writer("group", &p).await;
    let appends = vec![to(&p, &["a", "b"]), to(&p, &["c"]), to(&p, &["d", "e"])];
    let offsets = soon(writer.commit(appends)).await.expect("it is the only writer");
    let given: Vec<_> = offsets.iter().flat_map(Offsets::iter).collect();
    let expected: Vec<_> = given.into_iter().zip(["a", "b", "c", "d", "e"].map(str::to_owned)).collect();
    assert_eq!(f.read_all(&p).await, expected);
}

pub(crate) async fn commits_follow_each_other(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let [a, b] = [0, 1].map(|p| topic.partition(Partition(p)));
    let (_member, mut writer) = f.sole_writer("group", &a).await;
    let mut given = Vec::new();
    for n in 0..20 {
        let value = n.to_string();
        let offsets =
            soon(writer.commit(vec![to(&a, &[&value]), to(&b, &[&value])])).await.expect("it is the only one");
        given.extend(offsets[0].get(0));
    }
    assert!(given.is_sorted_by(|a, b| a < b));
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(f.values(&a).await, expected);
    assert_eq!(f.values(&b).await, expected);
}

pub(crate) async fn commits_and_appends_mix(f: Fixture) {
    let p = f.partition().await;
    let (_member, mut writer) = f.sole_writer("group", &p).await;
    let append = async {
        for n in 0..30 {
            f.append(&p, &[&format!("append {n:02}")]).await;
        }
    };
    let commit = async {
        for n in 0..30 {
            let value = format!("commit {n:02}");
            soon(writer.commit(vec![to(&p, &[&value])])).await.expect("it is the only writer");
        }
    };
    tokio::join!(append, commit);
    let found = f.values(&p).await;
    assert_eq!(found.len(), 60);
    for kind in ["append", "commit"] {
        let own: Vec<_> = found.iter().filter(|value| value.starts_with(kind)).collect();
        assert_eq!(own.len(), 30);
        assert!(own.is_sorted(), "{own:?}");
    }
}

pub(crate) async fn a_large_commit(f: Fixture) {
    let topic = f.topic("ten", 10).await;
    let control = f.topic("control", 1).await.partition(Partition(0));
    let (_member, mut writer) = f.sole_writer("group", &control).await;
    let values: Vec<_> = (0..1000).map(|n| format!("{n} {}", "x".repeat(100))).collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    let appends = topic.partitions(10).map(|to| Append { to, batch: batch(&values) }).collect();
    soon(writer.commit(appends)).await.expect("it is the only writer");
    for p in topic.partitions(10) {
        assert_eq!(f.values(&p).await, values);
    }
}

pub(crate) async fn nothing_to_commit(f: Fixture) {
    let p = f.partition().await;
    let (_member, mut writer) = f.sole_writer("group", &p).await;
    assert!(soon(writer.commit(Vec::new())).await.expect("it is the only writer").is_empty());
    let offsets = soon(writer.commit(vec![to(&p, &[]), to(&p, &["a"])])).await.expect("it is the only writer");
    assert_eq!(offsets[0].get(0), None);
    assert!(offsets[1].get(0).is_some());
    assert_eq!(f.values(&p).await, ["a"]);
}

pub(crate) async fn the_claim_itself_is_committed(f: Fixture) {
    let p = f.partition().await;
    let (mut member, mut writer) = f.writer("group", &p).await;
    member.busy(writer.commit_claim(vec![to(&p, &["first claim"])])).await.expect("it is a member");
    member.busy(writer.commit(vec![to(&p, &["work"])])).await.expect("it is the only writer");
    let mut writer = member.claim(&p).await;
    member.busy(writer.commit_claim(vec![to(&p, &["second claim"])])).await.expect("it is a member");
    assert_eq!(f.values(&p).await, ["first claim", "work", "second claim"]);
}
