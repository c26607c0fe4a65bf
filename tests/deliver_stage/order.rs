//! Order, concurrency, progress and what a receiver has to see.

use std::time::Duration;

use seriatim::deliver::{Options, Progress, Start};
use seriatim::log::Log as _;
use seriatim::log::memory::{Delay, Faults};
use seriatim::record::{BatchBuilder, Partition};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rig::{NAME, Reaction, Rig, assert_exact, assert_in_order};

#[tokio::test(start_paused = true)]
async fn every_group_leaves_in_order_one_at_a_time_and_others_meanwhile() {
    let rig = Rig::new(2, 1).await;
    let groups: Vec<u64> = (0..90).map(|n| n % 3).collect();
    rig.write(0, &groups, 10).await;
    rig.write(1, &groups, 10).await;
    let mut rng = fastrand::Rng::with_seed(1);
    rig.receiver.script(move |_| Reaction::Take(Duration::from_millis(rng.u64(0..200))));
    rig.run_until(Rig::options(), rig.receiver.wait_applied(180)).await;
    assert_in_order(&rig.receiver.seen());
    assert_exact(&rig.receiver.applied(), 2, 90);
    assert_eq!(rig.receiver.seen().len(), 180, "nothing was sent twice");
    assert_eq!(rig.receiver.most_in_flight(), 6, "all groups of both lanes at once");
}

#[tokio::test(start_paused = true)]
async fn no_more_groups_than_allowed_are_under_way() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &(0..100).collect::<Vec<_>>(), 10).await;
    rig.receiver.script(|_| Reaction::Take(Duration::from_millis(100)));
    let options = Options { concurrency: 4.try_into().expect("not 0"), ..Rig::options() };
    rig.run_until(options, rig.receiver.wait_applied(100)).await;
    assert_eq!(rig.receiver.most_in_flight(), 4);
}

/// How long ten items of one group take where a commit takes 100 ms and the receiver nothing.
async fn time_of_ten(progress: Progress) -> Duration {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[5; 10], 10).await;
    slow_commits(&rig);
    rig.run_until(Options { progress, ..Rig::options() }, rig.receiver.wait_applied(10)).await;
    let seen = rig.receiver.seen();
    seen[9].at - seen[0].at
}

#[tokio::test(start_paused = true)]
async fn an_item_waits_for_the_commit_of_the_last_one_only_where_it_has_to() {
    assert!(time_of_ten(Progress::Item).await >= Duration::from_millis(900));
    assert!(time_of_ten(Progress::Batch).await < Duration::from_millis(10));
}

/// Every commit takes 100 ms to be durable.
fn slow_commits(rig: &Rig) {
    let slow = Duration::from_millis(100)..Duration::from_millis(100);
    rig.log.set_faults(Faults { commit_delay: Delay::always(slow), ..Faults::default() });
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_before_the_epoch_is_committed_and_no_item_during_the_commit_of_the_last() {
    let rig = Rig::new(1, 1).await;
    slow_commits(&rig);
    rig.write(0, &[5], 10).await;
    let begun = Instant::now();
    let done = async {
        // Each comes to an empty group whose last acknowledgement is not durable yet.
        for count in 1..4 {
            rig.receiver.wait_applied(count).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            rig.write(0, &[5], 10).await;
        }
        rig.receiver.wait_applied(4).await;
    };
    rig.run_until(Rig::options(), done).await;
    let seen = rig.receiver.seen();
    assert!(seen[0].at - begun >= Duration::from_millis(200), "the claim and the epoch's commit come first");
    assert!(seen.windows(2).all(|two| two[1].at - two[0].at >= Duration::from_millis(100)));
}

#[tokio::test(start_paused = true)]
async fn done_below_waits_for_the_commit() {
    let rig = Rig::new(1, 1).await;
    slow_commits(&rig);
    let below = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = below.clone();
    rig.receiver.script(move |push| {
        told.lock().expect("not poisoned").push(push.done_below.expect("it has provenance").0);
        Reaction::Take(Duration::ZERO)
    });
    let done = async {
        for (group, pause) in [(1, 10), (2, 250), (3, 10)] {
            rig.write(0, &[group], 10).await;
            rig.receiver.wait_applied(usize::try_from(group).expect("small")).await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    };
    rig.run_until(Rig::options(), done).await;
    assert_eq!(*below.lock().expect("not poisoned"), [0, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn groups_share_commits() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &(0..60).collect::<Vec<_>>(), 10).await;
    rig.run_until(Rig::options(), rig.receiver.wait_applied(60)).await;
    assert!(rig.commits(0) <= 4, "{} commits for 60 items that came at once", rig.commits(0));
}

#[tokio::test(start_paused = true)]
async fn done_below_covers_what_is_committed_and_nothing_else() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 2, 2, 2], 10).await;
    let (topics, log) = (rig.topics.clone(), rig.log.clone());
    let cursors = topics.cursors_deliver.partition(Partition(0));
    rig.receiver.script(move |push| {
        let last = log.snapshot(&cursors).pop().and_then(|record| record.value).expect("a cursor comes before a push");
        let cursor: seriatim::record::push::PushCursor = seriatim::record::cursor::decode(&last).expect("it decodes");
        let position = &cursor.topics[topics.destinations[NAME].as_str()][&0];
        // Offsets are dense here, so they are the sequence numbers.
        assert_eq!(push.done_below.expect("it has provenance").0, position.position);
        assert_eq!(cursor.epoch, push.epoch.0, "the epoch is committed before the first push");
        let head = push.provenance.expect("it has provenance").group == 1;
        Reaction::Take(Duration::from_millis(if head { 1000 } else { 10 }))
    });
    let done = async {
        rig.receiver.wait_applied(4).await;
        rig.wait_position(0, 4).await;
        rig.write(0, &[9], 10).await;
        rig.receiver.wait_applied(5).await;
    };
    rig.run_until(Rig::options(), done).await;
    assert_exact(&rig.receiver.applied(), 1, 5);
}

#[tokio::test(start_paused = true)]
async fn an_idle_owner_commits_before_it_pushes_again() {
    let rig = Rig::new(1, 1).await;
    let done = async {
        for count in 1..4 {
            rig.write(0, &[1], 10).await;
            rig.receiver.wait_applied(count).await;
            rig.wait_position(0, count as u64).await;
            tokio::time::sleep(Duration::from_secs(4)).await;
            let before = rig.commits(0);
            let cursors = rig.topics.cursors_deliver.partition(Partition(0));
            let log = rig.log.clone();
            rig.receiver.script(move |_| {
                assert!(log.snapshot(&cursors).len() > before, "it pushed on the word of an old commit");
                Reaction::Take(Duration::ZERO)
            });
        }
    };
    rig.run_until(Rig::options(), done).await;
}

#[tokio::test(start_paused = true)]
async fn records_of_strangers_are_pushed_in_their_order() {
    let rig = Rig::new(1, 1).await;
    let mut builder = BatchBuilder::default();
    for _ in 0..5 {
        builder.push(None, Some(b"x"), |h| h.put_named(b"seriatim-sequence", b"nonsense"));
    }
    rig.log.append(&rig.output(0), builder.finish()).await.expect("no faults").await.expect("no faults");
    rig.receiver.script(|push| {
        assert!(push.provenance.is_none() && push.done_below.is_none());
        Reaction::Take(Duration::from_millis(10))
    });
    rig.run_until(Rig::options(), rig.receiver.wait_applied(5)).await;
    assert_in_order(&rig.receiver.seen());
    assert_eq!(rig.receiver.most_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_destination_may_start_at_the_end() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1; 10], 10).await;
    let done = async {
        while rig.commits(0) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.write(0, &[1], 10).await;
        rig.receiver.wait_seen(1).await;
    };
    rig.run_until(Options { start: Start::End, ..Rig::options() }, done).await;
    assert_eq!(rig.receiver.seen()[0].sequence, 10);
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_and_commits_what_is_under_way() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 1, 2, 2], 10).await;
    rig.receiver.script(|_| Reaction::Take(Duration::from_secs(2)));
    let drain = CancellationToken::new();
    let stop = async {
        rig.receiver.wait_seen(2).await;
        drain.cancel();
    };
    let begun = Instant::now();
    let (ended, ()) = tokio::join!(rig.run(Rig::options(), "a", &drain), stop);
    ended.expect("a drain is no failure");
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(rig.receiver.seen().len(), 2, "nothing was begun any more");
    let position = rig.position(0);
    assert_eq!((position.position, position.done), (1, vec![(1, 1)]));
    // It left in order: the next one does not wait for a time-out.
    rig.receiver.script(|_| Reaction::Take(Duration::ZERO));
    let begun = Instant::now();
    rig.run_until(Rig::options(), rig.receiver.wait_applied(4)).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(rig.receiver.seen().len(), 4);
    assert_exact(&rig.receiver.applied(), 1, 4);
}

#[tokio::test(start_paused = true)]
async fn a_halted_group_with_large_items_leaves_room_for_the_others() {
    let rig = Rig::new(1, 1).await;
    // More than one read of 1 MiB.
    for _ in 0..12 {
        rig.write(0, &[1; 50], 4096).await;
    }
    rig.write(0, &[2; 20], 4096).await;
    rig.receiver.script(|push| match push.provenance.expect("written by the rig").group {
        1 => Reaction::Say(404),
        _ => Reaction::Take(Duration::ZERO),
    });
    // A thirtieth of what the halted group has waiting.
    let options = Options { memory: 80 << 10, ..Rig::options() };
    rig.run_until(options.clone(), rig.receiver.wait_applied(20)).await;
    // And what was forgotten is read again in its turn.
    rig.receiver.script(|push| {
        assert_eq!(push.body().len(), 4096);
        Reaction::Take(Duration::ZERO)
    });
    let done = async {
        let items = seriatim::record::push::HaltedItems { lane: 0, offsets: Vec::new() };
        rig.order(0, seriatim::record::push::PushAction::Retry(items)).await;
        rig.receiver.wait_applied(620).await;
    };
    rig.run_until(options, done).await;
    assert_exact(&rig.receiver.applied(), 1, 620);
}
