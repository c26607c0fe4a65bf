//! Crashes, freezes, take-overs and commits of unknown outcome.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::future::{BoxFuture, poll_fn};
use seriatim::deliver;
use seriatim::log::memory::{Delay, Faults};
use tokio_util::sync::CancellationToken;

use super::rig::{Reaction, Rig, assert_exact, assert_in_order};

type Run = BoxFuture<'static, Result<(), deliver::Error>>;

/// Polls a run so many times and then drops it; true if it was still running.
async fn crash_after(mut run: Run, polls: usize, done: impl Future<Output = ()>) -> bool {
    let mut left = polls;
    let crash = poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        match run.as_mut().poll(context) {
            Poll::Ready(ended) => panic!("it ended: {ended:?}"),
            Poll::Pending => Poll::Pending,
        }
    });
    tokio::select! {
        biased;
        () = crash => true,
        () = done => false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_await_repeats_only_the_item_in_doubt() {
    let mut crashed = 0;
    for polls in 1.. {
        let rig = Rig::new(1, 1).await;
        let slow = Duration::from_millis(1)..Duration::from_millis(20);
        rig.log.set_faults(Faults { commit_delay: Delay::always(slow), markers: true, ..Faults::default() });
        rig.write(0, &[1, 2, 1, 3, 1, 2, 3, 3, 2, 1], 10).await;
        let mut rng = fastrand::Rng::with_seed(polls as u64);
        rig.receiver.script(move |_| match rng.u8(0..5) {
            0 => Reaction::Lose,
            1 => Reaction::Say(500),
            _ => Reaction::Take(Duration::from_millis(rng.u64(0..30))),
        });
        let run = rig.run(Rig::options(), "a", &CancellationToken::new());
        if !crash_after(run, polls, rig.receiver.wait_applied(10)).await {
            break;
        }
        crashed += 1;
        rig.run_until(Rig::options(), rig.receiver.wait_applied(10)).await;
        assert_in_order(&rig.receiver.seen());
        assert_exact(&rig.receiver.applied(), 1, 10);
    }
    assert!(crashed > 30, "only {crashed} places to crash");
}

#[tokio::test(start_paused = true)]
async fn commits_of_unknown_outcome_and_a_restless_group_change_nothing() {
    for seed in 0..60 {
        let rig = Rig::new(4, 2).await;
        let groups: Vec<u64> = (0..40).map(|n| n % 5).collect();
        for lane in 0..4 {
            rig.write(lane, &groups, 10).await;
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        rig.log.set_faults(Faults { append_delay: Delay::default(), ..Faults::mixed(&mut rng) });
        rig.receiver.script(move |_| match rng.u8(0..6) {
            0 => Reaction::Lose,
            1 => Reaction::Say(503),
            _ => Reaction::Take(Duration::from_millis(rng.u64(0..300))),
        });
        let drain = CancellationToken::new();
        let (a, b) = (rig.run(Rig::options(), "a", &drain), rig.run(Rig::options(), "b", &drain));
        let applied = async {
            tokio::time::timeout(Duration::from_secs(600), rig.receiver.wait_applied(100)).await.ok();
            rig.log.set_faults(Faults::default());
            tokio::time::timeout(Duration::from_secs(3600), rig.receiver.wait_applied(160)).await
        };
        tokio::select! {
            biased;
            ended = a => panic!("a ended: {ended:?}"),
            ended = b => panic!("b ended: {ended:?}"),
            applied = applied => assert!(applied.is_ok(), "seed {seed} is stuck at {}", rig.receiver.applied().len()),
        }
        assert_exact(&rig.receiver.applied(), 4, 40);
    }
}

/// A run that stands still while it is frozen.
struct Freezer(Run, Arc<AtomicBool>);

impl Future for Freezer {
    type Output = Result<(), deliver::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        if self.1.load(Ordering::Relaxed) { Poll::Pending } else { self.0.as_mut().poll(context) }
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_frozen_pushes_nothing_behind_its_successor() {
    for seed in 0..40 {
        let rig = Rig::new(1, 1).await;
        rig.write(0, &[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3], 10).await;
        let mut rng = fastrand::Rng::with_seed(seed);
        let freeze_at = rng.u64(1..2000);
        rig.receiver.script(move |_| Reaction::Take(Duration::from_millis(rng.u64(0..1000))));
        let frozen = Arc::new(AtomicBool::new(false));
        let drain = CancellationToken::new();
        let a = Freezer(rig.run(Rig::options(), "a", &drain), frozen.clone());
        let (thaw, thawed) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
        let script = async {
            tokio::time::sleep(Duration::from_millis(freeze_at)).await;
            frozen.store(true, Ordering::Relaxed);
            let epoch = rig.receiver.seen().last().map_or(0, |seen| seen.epoch);
            thaw.notify_one();
            // The successor pushes.
            while rig.receiver.seen().last().is_none_or(|seen| seen.epoch == epoch) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let before = rig.receiver.seen().len();
            frozen.store(false, Ordering::Relaxed);
            thawed.notify_one();
            rig.receiver.wait_applied(12).await;
            let late = rig.receiver.seen().into_iter().skip(before).find(|seen| seen.epoch <= epoch);
            assert!(late.is_none(), "seed {seed}: {late:?} was begun after the thaw");
        };
        let b = async {
            thaw.notified().await;
            rig.run(Rig::options(), "b", &drain).await
        };
        let a = async {
            tokio::pin!(a);
            loop {
                tokio::select! {
                    biased;
                    ended = &mut a => return ended,
                    // Something has to poll it when it thaws.
                    () = thawed.notified() => {}
                }
            }
        };
        tokio::select! {
            biased;
            ended = a => panic!("a ended: {ended:?}"),
            ended = b => panic!("b ended: {ended:?}"),
            done = tokio::time::timeout(Duration::from_secs(600), script) => assert!(done.is_ok(), "seed {seed} is stuck"),
        }
        assert_exact(&rig.receiver.applied(), 1, 12);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_process_takes_its_share_over_without_a_repeat() {
    let rig = Rig::new(4, 4).await;
    for lane in 0..4 {
        rig.write(lane, &[1; 50], 10).await;
    }
    rig.receiver.script(|_| Reaction::Take(Duration::from_millis(50)));
    let drain = CancellationToken::new();
    let b = async {
        rig.receiver.wait_applied(40).await;
        rig.run(Rig::options(), "b", &drain).await
    };
    tokio::select! {
        biased;
        ended = rig.run(Rig::options(), "a", &drain) => panic!("a ended: {ended:?}"),
        ended = b => panic!("b ended: {ended:?}"),
        done = tokio::time::timeout(Duration::from_secs(60), rig.receiver.wait_applied(200)) => done.expect("it is stuck"),
    }
    assert_in_order(&rig.receiver.seen());
    assert_exact(&rig.receiver.applied(), 4, 50);
    assert_eq!(rig.receiver.seen().len(), 200, "what was under way was finished before it moved");
    let epochs: std::collections::BTreeSet<_> =
        rig.receiver.seen().iter().map(|seen| (seen.lane, seen.epoch)).collect();
    assert!(epochs.len() > 4, "nothing moved");
}
