//! What operators ask for: replays, tests, another order, a rate.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use seriatim::deliver::{Options, Order, Push, Rate};
use seriatim::record::push::{Held, PushAction, TestItem, Tested};
use tokio::time::{Instant, sleep};

use super::rig::{NAME, Reaction, Rig, assert_exact};

/// What a push said of itself: sequence, done-below, replay.
type Said = (u64, u64, Option<String>);

/// Writes down what comes, and takes it after 5 ms.
fn write_down(rig: &Rig) -> Arc<Mutex<Vec<Said>>> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let to = said.clone();
    rig.receiver.script(move |push: &Push| {
        let sequence = push.provenance.expect("written by the rig").sequence.0;
        let below = push.done_below.expect("it has a sequence").0;
        let replay = push.replay.as_deref().map(str::to_owned);
        to.lock().expect("not poisoned").push((sequence, below, replay));
        Reaction::Take(Duration::from_millis(5))
    });
    said
}

fn replay(from: u64) -> PushAction {
    PushAction::Replay { lane: 0, from, id: "fix".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_replay_pushes_once_more_what_was_pushed_and_live_items_wait_behind() {
    let rig = Rig::new(1, 1).await;
    let said = write_down(&rig);
    rig.write(0, &[1, 2, 1, 2, 1, 2], 10).await;
    let done = async {
        rig.wait_position(0, 6).await;
        rig.order(0, replay(2)).await;
        rig.write(0, &[1, 2], 10).await;
        rig.receiver.wait_seen(12).await;
        rig.wait_position(0, 8).await;
    };
    rig.run_until(Rig::options(), done).await;
    let said = said.lock().expect("not poisoned").split_off(6);
    for group in 0..2 {
        let of_group: Vec<_> = said.iter().filter(|said| said.0 % 2 == group).collect();
        let sequences: Vec<_> = of_group.iter().map(|said| said.0 - group).collect();
        assert_eq!(sequences, [2, 4, 6]);
    }
    for (sequence, below, replay) in said {
        assert_eq!(replay.as_deref(), (sequence < 6).then_some("fix"), "{sequence}");
        assert!(below <= sequence, "{sequence} is not done, nor is all below {below}");
    }
    // A receiver that acts exactly once, and takes no part, has applied nothing twice.
    assert_exact(&rig.receiver.applied(), 1, 8);
    assert_eq!(rig.position(0).replay, None);
}

#[tokio::test(start_paused = true)]
async fn a_replay_waits_for_what_is_under_way_and_outlives_its_owner() {
    for after in 0..6 {
        let rig = Rig::new(1, 1).await;
        let said = write_down(&rig);
        rig.write(0, &[1; 6], 10).await;
        let cut = async {
            rig.receiver.wait_seen(4).await;
            // Three are done, the fourth is under way.
            rig.order(0, replay(0)).await;
            rig.receiver.wait_seen(4 + after).await;
        };
        rig.run_until(Rig::options(), cut).await;
        rig.run_until(Rig::options(), rig.wait_position(0, 6)).await;
        let said = said.lock().expect("not poisoned");
        let again: BTreeSet<_> = said.iter().filter(|said| said.2.is_some()).map(|said| said.0).collect();
        assert!(again.is_superset(&(0..3).collect()), "{after}: {said:?}");
        assert!(again.iter().all(|sequence| *sequence < 6), "{after}: {said:?}");
        assert_exact(&rig.receiver.applied(), 1, 6);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_never_pushed_is_not_replayed() {
    let rig = Rig::new(1, 1).await;
    let said = write_down(&rig);
    rig.write(0, &[1; 3], 10).await;
    let done = async {
        rig.wait_position(0, 3).await;
        rig.order(0, replay(3)).await;
        rig.write(0, &[1; 3], 10).await;
        rig.wait_position(0, 6).await;
    };
    rig.run_until(Rig::options(), done).await;
    let said = said.lock().expect("not poisoned");
    assert!(said.iter().all(|said| said.2.is_none()), "{said:?}");
    assert_eq!(said.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_test_goes_to_a_paused_receiver_and_its_outcome_is_in_the_cursor() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1], 10).await;
    rig.receiver.script(|push| {
        assert!(push.test && push.provenance.is_none() && push.done_below.is_none());
        assert_eq!((push.body().as_ref(), push.content_type()), (&b"hello"[..], Some(&b"text/plain"[..])));
        assert!(push.id().starts_with("test-0-"), "{}", push.id());
        assert!(push.protocol_headers().contains(&("seriatim-test", "true".to_owned())));
        Reaction::Say(418)
    });
    let item = TestItem { body: BASE64_STANDARD.encode("hello"), content_type: Some("text/plain".to_owned()) };
    let tested = async {
        rig.order(0, PushAction::Pause).await;
        rig.order(0, PushAction::Test(item)).await;
        rig.receiver.wait_seen(1).await;
        loop {
            if let Some(tested) = rig.cursor(0).tests.remove(NAME) {
                let said = "status 418: as scripted".to_owned();
                assert_eq!(tested, Tested { order: tested.order, taken: false, said, millis: 0 });
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    // The pause is heard before the first push: nothing goes before the first commit has vouched.
    rig.order(0, PushAction::Pause).await;
    rig.run_until(Rig::options(), tested).await;
    assert_eq!(rig.receiver.seen().len(), 1);
    assert!(matches!(rig.cursor(0).held.get(NAME), Some(Held::Paused(_))));
}

#[tokio::test(start_paused = true)]
async fn a_rate_spaces_items_out_and_each_control_partition_has_its_share() {
    let rig = Rig::new(2, 2).await;
    rig.write(0, &(0..20).collect::<Vec<_>>(), 10).await;
    let ten = const { NonZeroU32::new(10).expect("10 is not 0") };
    let options = Options { rate: Some(Rate { items: ten, per: Duration::from_secs(1) }), ..Rig::options() };
    rig.run_until(options, rig.wait_position(0, 20)).await;
    let seen = rig.receiver.seen();
    for (first, later) in seen.iter().zip(&seen[1..]) {
        let apart = later.at - first.at;
        assert!(apart >= Duration::from_millis(189), "{apart:?}");
        assert!(apart <= Duration::from_millis(215), "{apart:?}: it goes on as soon as it may");
    }
}

async fn most_at_once(order: Order) -> usize {
    let rig = Rig::new(1, 1).await;
    rig.receiver.expect_no_order();
    rig.receiver.script(|_| Reaction::Take(Duration::from_millis(50)));
    rig.write(0, &[1, 1, 2, 2, 3, 3], 10).await;
    let begun = Instant::now();
    rig.run_until(Options { order, ..Rig::options() }, rig.wait_position(0, 6)).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{order:?}: {:?}", begun.elapsed());
    rig.receiver.most_in_flight()
}

#[tokio::test(start_paused = true)]
async fn the_order_scope_says_what_may_go_side_by_side() {
    assert_eq!(most_at_once(Order::Group).await, 3);
    assert_eq!(most_at_once(Order::Lane).await, 1);
    // All items of the rig have one key.
    assert_eq!(most_at_once(Order::Key).await, 1);
    assert_eq!(most_at_once(Order::None).await, 6);
}
