//! Groups.

use std::time::Duration;

use seriatim::log::{Error, TopicPartition};
use seriatim::record::{Offset, Partition};

use crate::fixture::{Fixture, Member, listen, session, settle, soon};

fn held(members: &[&mut Member]) -> usize {
    members.iter().map(|member| member.held.len()).sum()
}

fn disjoint(members: &[&mut Member]) -> bool {
    let all: Vec<&TopicPartition> = members.iter().flat_map(|member| &member.held).collect();
    let mut unique = all.clone();
    unique.sort();
    unique.dedup();
    unique.len() == all.len()
}

pub(crate) async fn alone_with_everything(f: Fixture) {
    let topic = f.topic("five", 5).await;
    let mut member = f.join("group", &[&topic]).await;
    settle(&mut [&mut member], |m| m[0].held.len() == 5).await;
    assert!(topic.partitions(5).all(|p| member.held.contains(&p)));
}

pub(crate) async fn two_share(f: Fixture) {
    let topic = f.topic("five", 5).await;
    let mut one = f.join("group", &[&topic]).await;
    settle(&mut [&mut one], |m| m[0].held.len() == 5).await;
    let mut two = f.join("group", &[&topic]).await;
    settle(&mut [&mut one, &mut two], |m| held(m) == 5 && m[1].held.len() >= 2).await;
    assert!(disjoint(&[&mut one, &mut two]));
    assert!(one.held.len() >= 2, "{:?} {:?}", one.held, two.held);
}

pub(crate) async fn a_newcomer_waits_for_the_barrier(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let mut one = f.join("group", &[&topic]).await;
    settle(&mut [&mut one], |m| m[0].held.len() == 2).await;
    one.keep_barriers = true;
    let mut two = f.join("group", &[&topic]).await;
    settle(&mut [&mut one, &mut two], |m| !m[0].barriers.is_empty()).await;
    listen(&mut [&mut one, &mut two], Duration::from_secs(1)).await;
    assert!(two.held.is_empty(), "{:?}", two.held);
    one.barriers.clear();
    one.keep_barriers = false;
    settle(&mut [&mut one, &mut two], |m| held(m) == 2 && m[1].held.len() == 1).await;
    assert!(disjoint(&[&mut one, &mut two]));
}

pub(crate) async fn patience_with_a_barrier_ends(f: Fixture) {
    if !f.notices_silence {
        return;
    }
    let topic = f.topic("two", 2).await;
    let mut one = f.join("group", &[&topic]).await;
    settle(&mut [&mut one], |m| m[0].held.len() == 2).await;
    one.keep_barriers = true;
    let mut two = f.join("group", &[&topic]).await;
    settle(&mut [&mut one, &mut two], |m| m[1].held.len() == 1).await;
    listen(&mut [&mut one, &mut two], Duration::from_secs(1)).await;
    assert!(one.lost.iter().any(|lost| two.held.contains(lost)), "it is told that it was too late");
    one.barriers.clear();
    listen(&mut [&mut one, &mut two], Duration::from_secs(1)).await;
    assert!(disjoint(&[&mut one, &mut two]));
}

pub(crate) async fn a_crash_is_noticed(f: Fixture) {
    let topic = f.topic("three", 3).await;
    let mut one = f.join("group", &[&topic]).await;
    settle(&mut [&mut one], |m| m[0].held.len() == 3).await;
    let mut two = f.join("group", &[&topic]).await;
    settle(&mut [&mut one, &mut two], |m| held(m) == 3 && !m[1].held.is_empty()).await;
    drop(one);
    settle(&mut [&mut two], |m| m[0].held.len() == 3).await;
}

pub(crate) async fn who_leaves_is_followed_at_once(f: Fixture) {
    let topic = f.topic("three", 3).await;
    let mut one = f.join("group", &[&topic]).await;
    settle(&mut [&mut one], |m| m[0].held.len() == 3).await;
    let mut two = f.join("group", &[&topic]).await;
    settle(&mut [&mut one, &mut two], |m| held(m) == 3 && !m[1].held.is_empty()).await;
    soon(one.seat.leave()).await;
    let mut members = [&mut two];
    let followed = settle(&mut members, |m| m[0].held.len() == 3);
    let patience = session() - Duration::from_secs(3);
    assert!(tokio::time::timeout(patience, followed).await.is_ok(), "it takes as long as a crash");
}

pub(crate) async fn who_stays_keeps_what_it_has(f: Fixture) {
    let topic = f.topic("six", 6).await;
    let mut one = f.join("group", &[&topic]).await;
    let mut two = f.join("group", &[&topic]).await;
    let mut three = f.join("group", &[&topic]).await;
    settle(&mut [&mut one, &mut two, &mut three], |m| m.iter().all(|m| m.held.len() == 2)).await;
    let kept = (one.held.clone(), two.held.clone());
    soon(three.seat.leave()).await;
    settle(&mut [&mut one, &mut two], |m| held(m) == 6).await;
    assert!(kept.0.is_subset(&one.held) && kept.1.is_subset(&two.held));
    assert!(disjoint(&[&mut one, &mut two]));
}

pub(crate) async fn groups_are_independent(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let mut one = f.join("one", &[&topic]).await;
    let mut two = f.join("two", &[&topic]).await;
    settle(&mut [&mut one, &mut two], |m| m.iter().all(|m| m.held.len() == 2)).await;
    soon(one.seat.leave()).await;
    listen(&mut [&mut two], Duration::from_millis(300)).await;
    assert_eq!(two.held.len(), 2);
}

pub(crate) async fn a_spare_member_steps_in(f: Fixture) {
    let topic = f.topic("one", 1).await;
    let mut one = f.join("group", &[&topic]).await;
    settle(&mut [&mut one], |m| held(m) == 1).await;
    let mut spare = f.join("group", &[&topic]).await;
    listen(&mut [&mut one, &mut spare], Duration::from_secs(1)).await;
    assert_eq!(held(&[&mut one, &mut spare]), 1);
    let (holder, mut other) = if one.held.is_empty() { (spare, one) } else { (one, spare) };
    soon(holder.seat.leave()).await;
    settle(&mut [&mut other], |m| m[0].held.len() == 1).await;
}

pub(crate) async fn several_topics_are_shared_out(f: Fixture) {
    let four = f.topic("four", 4).await;
    let two = f.topic("two", 2).await;
    let mut a = f.join("group", &[&four, &two]).await;
    let mut b = f.join("group", &[&four, &two]).await;
    settle(&mut [&mut a, &mut b], |m| held(m) == 6 && m.iter().all(|m| m.held.len() >= 2)).await;
    assert!(disjoint(&[&mut a, &mut b]));
}

pub(crate) async fn events_survive_interruption(f: Fixture) {
    let topic = f.topic("four", 4).await;
    let mut one = f.join("group", &[&topic]).await;
    let mut two = f.join("group", &[&topic]).await;
    let listening = async {
        for interruption in 0.. {
            if held(&[&mut one, &mut two]) == 4 && two.held.len() == 2 {
                break;
            }
            let patience = Duration::from_micros(interruption % 20 * 100);
            for member in [&mut one, &mut two] {
                if let Ok(event) = tokio::time::timeout(patience, member.seat.next()).await {
                    member.note(event.expect("it is a member"));
                }
            }
            tokio::task::yield_now().await;
        }
    };
    soon(listening).await;
    assert!(disjoint(&[&mut one, &mut two]));
}

pub(crate) async fn the_silent_are_replaced(f: Fixture) {
    if !f.notices_silence {
        return;
    }
    let topic = f.topic("two", 2).await;
    let mut silent = f.join("group", &[&topic]).await;
    settle(&mut [&mut silent], |m| m[0].held.len() == 2).await;
    let mut other = f.join("group", &[&topic]).await;
    settle(&mut [&mut other], |m| m[0].held.len() == 2).await;
    settle(&mut [&mut silent, &mut other], |m| m[0].lost.len() == 2).await;
    settle(&mut [&mut silent, &mut other], |m| held(m) == 2 && m[0].held.len() == 1).await;
    assert!(disjoint(&[&mut silent, &mut other]));
}

pub(crate) async fn positions_are_stored(f: Fixture) {
    let topic = f.topic("two", 2).await;
    let [a, b] = [0, 1].map(|p| topic.partition(Partition(p)));
    f.append(&a, &["one", "two", "three"]).await;
    f.append(&b, &["one", "two", "three"]).await;
    let mut one = f.join("group", &[&topic]).await;
    settle(&mut [&mut one], |m| m[0].held.len() == 2).await;
    assert_eq!(soon(one.seat.committed(&a)).await.expect("the log is there"), None);
    soon(one.seat.commit(&[(a.clone(), Offset(1)), (b.clone(), Offset(2))])).await.expect("they are its own");
    soon(one.seat.commit(&[(a.clone(), Offset(3))])).await.expect("it is its own");
    assert_eq!(soon(one.seat.committed(&a)).await.expect("the log is there"), Some(Offset(3)));
    soon(one.seat.leave()).await;
    let two = f.join("group", &[&topic]).await;
    assert_eq!(soon(two.seat.committed(&a)).await.expect("the log is there"), Some(Offset(3)));
    assert_eq!(soon(two.seat.committed(&b)).await.expect("the log is there"), Some(Offset(2)));
}

pub(crate) async fn positions_belong_to_the_group(f: Fixture) {
    let p = f.partition().await;
    f.append(&p, &["one"]).await;
    let mut one = f.join("one", &[&p.topic]).await;
    settle(&mut [&mut one], |m| m[0].held.len() == 1).await;
    soon(one.seat.commit(&[(p.clone(), Offset(1))])).await.expect("it is its own");
    let two = f.join("two", &[&p.topic]).await;
    assert_eq!(soon(two.seat.committed(&p)).await.expect("the log is there"), None);
}

pub(crate) async fn positions_of_others_are_refused(f: Fixture) {
    let p = f.partition().await;
    f.append(&p, &["one"]).await;
    let mut one = f.join("group", &[&p.topic]).await;
    settle(&mut [&mut one], |m| m[0].held.len() == 1).await;
    let spare = f.join("group", &[&p.topic]).await;
    let refused = soon(spare.seat.commit(&[(p.clone(), Offset(1))])).await;
    assert!(matches!(refused, Err(Error::Fenced(_))), "{refused:?}");
    assert_eq!(soon(one.seat.committed(&p)).await.expect("the log is there"), None);
}
