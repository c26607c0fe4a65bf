//! Several items in one request, for receivers that take them.

use std::num::NonZeroUsize;
use std::time::Duration;

use seriatim::deliver::{Options, Order, Push};

use super::rig::{Reaction, Rig, Together, assert_exact};

fn options() -> Options {
    Options { batch: const { NonZeroUsize::new(10).expect("10 is not 0") }, ..Rig::options() }
}

fn all(pushes: &[Push]) -> Together {
    Together { status: 200, applied: pushes.len(), told: false }
}

fn sequence(push: &Push) -> u64 {
    push.provenance.expect("written by the rig").sequence.0
}

#[tokio::test(start_paused = true)]
async fn who_has_agreed_gets_what_comes_next_in_order_as_many_as_it_takes() {
    let rig = Rig::new(1, 1).await;
    rig.receiver.take_many(7, |pushes| {
        let sequences: Vec<_> = pushes.iter().map(sequence).collect();
        assert!(sequences.is_sorted_by(|a, b| a + 1 == *b), "{sequences:?}");
        all(pushes)
    });
    rig.write(0, &[1; 50], 10).await;
    rig.run_until(options(), rig.wait_position(0, 50)).await;
    assert_exact(&rig.receiver.applied(), 1, 50);
    // The first goes alone: only its answer says that there may be more.
    assert_eq!((rig.receiver.seen().len(), rig.receiver.together()), (1, vec![7; 7]));
}

#[tokio::test(start_paused = true)]
async fn who_has_not_agreed_gets_one_at_a_time() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1; 5], 10).await;
    rig.run_until(options(), rig.wait_position(0, 5)).await;
    assert_eq!((rig.receiver.seen().len(), rig.receiver.together()), (5, vec![]));
}

#[tokio::test(start_paused = true)]
async fn items_of_several_groups_share_a_request_and_bytes_are_bounded() {
    let rig = Rig::new(1, 1).await;
    rig.receiver.take_many(100, all);
    rig.write(0, &(0..9).collect::<Vec<_>>(), 300 << 10).await;
    rig.run_until(options(), rig.wait_position(0, 9)).await;
    assert_exact(&rig.receiver.applied(), 1, 9);
    assert!(rig.receiver.together().iter().all(|count| *count <= 3), "{:?}", rig.receiver.together());
}

#[tokio::test(start_paused = true)]
async fn what_a_receiver_has_not_applied_comes_again_and_nothing_else() {
    for (seed, order) in (0..40).zip([Order::Group, Order::Lane, Order::None].into_iter().cycle()) {
        let rig = Rig::new(1, 1).await;
        let (mut rng, mut next) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed));
        rig.receiver.expect_no_order();
        let mut known = std::collections::BTreeSet::new();
        rig.receiver.take_many(10, move |pushes| {
            let applied = rng.usize(..=pushes.len());
            for push in &pushes[..applied] {
                assert!(known.insert(sequence(push)), "seed {seed}: {} came again though it was told", sequence(push));
            }
            let status = if applied == pushes.len() || rng.bool() { 200 } else { 500 };
            Together { status, applied, told: true }
        });
        rig.receiver
            .script(move |_| if next.u8(0..4) == 0 { Reaction::Say(500) } else { Reaction::Take(Duration::ZERO) });
        rig.write(0, &(0..60).map(|n| n % 4).collect::<Vec<_>>(), 10).await;
        let four = const { NonZeroUsize::new(4).expect("4 is not 0") };
        let options = Options { order, concurrency: four, ..options() };
        rig.run_until(options, rig.wait_position(0, 60)).await;
        let mut applied = rig.receiver.applied();
        if order == Order::None {
            applied.sort_unstable();
        }
        assert_exact(&applied, 1, 60);
        assert!(!rig.receiver.together().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn where_it_is_not_told_who_is_to_blame_each_goes_alone() {
    let rig = Rig::new(1, 1).await;
    rig.receiver.take_many(10, |pushes| {
        let poisoned = pushes.iter().any(|push| sequence(push) == 5);
        Together {
            status: if poisoned { 422 } else { 200 },
            applied: if poisoned { 0 } else { pushes.len() },
            told: false,
        }
    });
    rig.receiver.script(|push| if sequence(push) == 5 { Reaction::Say(422) } else { Reaction::Take(Duration::ZERO) });
    rig.write(0, &[1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4], 10).await;
    let halted = async {
        rig.receiver.wait_applied(10).await;
        rig.wait_position(0, 5).await;
        while rig.position(0).halted.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    rig.run_until(options(), halted).await;
    // Its group is behind it, and nobody else.
    assert_eq!(rig.position(0).halted.keys().copied().collect::<Vec<_>>(), [5]);
    let mut applied: Vec<_> = rig.receiver.applied().iter().map(|applied| applied.2).collect();
    applied.sort_unstable();
    assert_eq!(applied, [0, 1, 2, 3, 4, 6, 7, 8, 10, 11]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_repeats_only_what_was_in_one_request() {
    let mut crashed = 0;
    for millis in 0..40 {
        let rig = Rig::new(1, 1).await;
        rig.receiver.take_many(5, all);
        rig.write(0, &[1; 30], 10).await;
        let crash = tokio::time::sleep(Duration::from_millis(millis));
        rig.run_until(options(), crash).await;
        let before = rig.receiver.applied().len();
        crashed += usize::from(before > 0 && before < 30);
        rig.run_until(options(), rig.wait_position(0, 30)).await;
        assert_exact(&rig.receiver.applied(), 1, 30);
    }
    assert!(crashed > 0);
}
