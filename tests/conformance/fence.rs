//! Who may commit, and who no longer.

use std::time::Duration;

use seriatim::log::{Error, Writer};
use seriatim::record::Partition;

use crate::fixture::{Fixture, Member, listen, session, settle, soon, to};

/// Refused, with whichever words the engine has for it.
async fn refused(writer: &mut Box<dyn Writer>, p: &seriatim::log::TopicPartition) {
    let refused = soon(writer.commit(vec![to(p, &["fenced"])])).await;
    assert!(matches!(refused, Err(Error::Fenced(_))), "{refused:?}");
}

pub(crate) async fn a_new_claim_fences_the_old_writer(f: Fixture) {
    let p = f.partition().await;
    let (mut member, mut old) = f.writer("group", &p).await;
    member.busy(old.commit(vec![to(&p, &["old"])])).await.expect("nobody else has claimed");
    let mut new = member.claim(&p).await;
    member.busy(refused(&mut old, &p)).await;
    member.busy(new.commit(vec![to(&p, &["new"])])).await.expect("it is the last to claim");
    assert_eq!(f.values(&p).await, ["old", "new"]);
}

pub(crate) async fn whoever_takes_over_fences(f: Fixture) {
    let p = f.partition().await;
    let (member, mut old) = f.writer("group", &p).await;
    soon(member.seat.leave()).await;
    let (_member, mut new) = f.sole_writer("group", &p).await;
    refused(&mut old, &p).await;
    soon(new.commit(vec![to(&p, &["new"])])).await.expect("it is the last to claim");
    assert_eq!(f.values(&p).await, ["new"]);
}

pub(crate) async fn the_fenced_write_nothing(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let [a, b] = [0, 1].map(|p| topic.partition(Partition(p)));
    let (mut member, mut old) = f.writer("group", &a).await;
    let _new = member.claim(&a).await;
    let fenced = member.busy(old.commit(vec![to(&a, &["fenced"]), to(&b, &["fenced"])])).await;
    assert!(matches!(fenced, Err(Error::Fenced(_))), "{fenced:?}");
    for p in [a, b] {
        f.append(&p, &["after"]).await;
        assert_eq!(f.values(&p).await, ["after"]);
    }
}

pub(crate) async fn the_fenced_stay_fenced(f: Fixture) {
    let p = f.partition().await;
    let (mut member, mut old) = f.writer("group", &p).await;
    let new = member.claim(&p).await;
    member.busy(refused(&mut old, &p)).await;
    drop(new);
    member.busy(refused(&mut old, &p)).await;
}

pub(crate) async fn an_abandoned_commit_is_decided_by_the_next_claim(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let [a, b] = [0, 1].map(|p| topic.partition(Partition(p)));
    let (mut member, mut writer) = f.writer("group", &a).await;
    for n in 0..10 {
        let value = n.to_string();
        let commit = writer.commit(vec![to(&a, &[&value]), to(&b, &[&value])]);
        // From not even begun to nearly done.
        let _: Result<_, _> = tokio::time::timeout(Duration::from_micros(n * 100), commit).await;
        writer = member.claim(&a).await;
        let decided = member.busy(f.values(&a)).await;
        assert_eq!(member.busy(f.values(&b)).await, decided, "all or nothing");
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(member.busy(f.values(&a)).await, decided, "nothing comes late");
        assert!(decided.is_sorted());
    }
}

pub(crate) async fn claims_of_other_partitions_do_not_fence(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let [a, b] = [0, 1].map(|p| topic.partition(Partition(p)));
    let (mut member, mut of_a) = f.writer("group", &a).await;
    let mut of_b = member.claim(&b).await;
    for writer in [&mut of_a, &mut of_b] {
        member.busy(writer.commit(vec![to(&a, &["both"])])).await.expect("it is the only one of its partition");
    }
    assert_eq!(f.values(&a).await, ["both", "both"]);
}

pub(crate) async fn claims_of_other_groups_do_not_fence(f: Fixture) {
    let p = f.partition().await;
    let (_one, mut of_one) = f.sole_writer("one", &p).await;
    let (_two, mut of_two) = f.sole_writer("two", &p).await;
    for writer in [&mut of_one, &mut of_two] {
        soon(writer.commit(vec![to(&p, &["both"])])).await.expect("it is the only one of its group");
    }
    assert_eq!(f.values(&p).await, ["both", "both"]);
}

pub(crate) async fn what_is_not_assigned_cannot_be_claimed(f: Fixture) {
    let p = f.partition().await;
    let (_holder, mut writer) = f.sole_writer("group", &p).await;
    let mut other = f.join("group", &[&p.topic]).await;
    listen(&mut [&mut other], Duration::from_millis(100)).await;
    let refused = soon(other.seat.claim(&p)).await.map(drop);
    assert!(matches!(refused, Err(Error::Fenced(_))), "{refused:?}");
    soon(writer.commit(vec![to(&p, &["still mine"])])).await.expect("a refused claim fences nobody");
}

pub(crate) async fn a_claim_of_the_past_is_not_committed(f: Fixture) {
    let p = f.partition().await;
    let (member, mut old) = f.writer("group", &p).await;
    soon(member.seat.leave()).await;
    let mut other = f.join("group", &[&p.topic]).await;
    settle(&mut [&mut other], |m| m[0].held.contains(&p)).await;
    // Nobody has fenced it yet, but the group has moved on.
    let refused = other.busy(old.commit_claim(vec![to(&p, &["late claim"])])).await;
    assert!(matches!(refused, Err(Error::Fenced(_) | Error::Unavailable(_))), "{refused:?}");
    let mut new = other.claim(&p).await;
    other.busy(new.commit_claim(vec![to(&p, &["claim"])])).await.expect("it is a member");
    assert_eq!(f.values(&p).await, ["claim"]);
}

pub(crate) async fn the_frozen_are_fenced(f: Fixture) {
    if !f.notices_silence {
        return;
    }
    let p = f.partition().await;
    let (mut frozen, mut zombie) = f.writer("group", &p).await;
    let mut other: Member = f.join("group", &[&p.topic]).await;
    settle(&mut [&mut other], |m| m[0].held.contains(&p)).await;
    let mut writer = other.claim(&p).await;
    other.busy(refused(&mut zombie, &p)).await;
    let claim = other.busy(frozen.seat.claim(&p)).await.map(drop);
    assert!(claim.is_err(), "a woken zombie claims nothing");
    other.busy(writer.commit(vec![to(&p, &["mine"])])).await.expect("it is the last to claim");
    let mut members = [&mut frozen, &mut other];
    listen(&mut members, session()).await;
    assert!(!frozen.held.contains(&p) && other.held.contains(&p));
}
