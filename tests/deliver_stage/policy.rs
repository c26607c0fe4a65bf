//! What becomes of refusals, pauses, losses and receivers in trouble.

use std::num::NonZeroU32;
use std::time::Duration;

use seriatim::deliver::{OnFailure, Options, Rate, Retry};
use seriatim::record::push::{HaltedItems, Held, PushAction};
use seriatim::record::{Offset, Partition};
use tokio::time::Instant;

use super::rig::{NAME, Reaction, Rig, assert_exact, assert_in_order};

const TAKE: Reaction = Reaction::Take(Duration::ZERO);

/// Refuses this sequence number, for as long as it is scripted so.
fn refuse(rig: &Rig, refused: u64, status: u16) {
    rig.receiver.script(move |push| {
        let sequence = push.provenance.expect("written by the rig").sequence.0;
        if sequence == refused { Reaction::Say(status) } else { TAKE }
    });
}

#[tokio::test(start_paused = true)]
async fn a_refused_item_halts_its_group_alone_also_for_the_next_owner_until_it_is_retried() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 2, 1, 2, 1, 2], 10).await;
    refuse(&rig, 2, 422);
    let halted = async {
        rig.receiver.wait_applied(4).await;
        rig.wait_position(0, 2).await;
        while rig.position(0).halted.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    rig.run_until(Rig::options(), halted).await;
    let reason = rig.position(0).halted.remove(&2).expect("it is named");
    assert_eq!(reason, "status 422: as scripted");
    // The next owner knows: it does not push the item again.
    let attempts = rig.receiver.seen().len();
    rig.run_until(Rig::options(), tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!(rig.receiver.seen().len(), attempts);
    rig.receiver.script(|_| TAKE);
    let retried = async {
        rig.order(0, PushAction::Retry(HaltedItems { lane: 0, offsets: vec![2] })).await;
        rig.receiver.wait_applied(6).await;
        rig.wait_position(0, 6).await;
    };
    rig.run_until(Rig::options(), retried).await;
    assert_in_order(&rig.receiver.seen());
    assert_exact(&rig.receiver.applied(), 1, 6);
    assert!(rig.position(0).halted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_halted_item_can_be_skipped() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 1, 1], 10).await;
    refuse(&rig, 1, 400);
    let done = async {
        rig.receiver.wait_seen(2).await;
        rig.order(0, PushAction::Skip(HaltedItems { lane: 0, offsets: Vec::new() })).await;
        // A verb is heard after what was committed before it: repeat it until it finds the halt.
        while rig.position(0).position < 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rig.order(0, PushAction::Skip(HaltedItems { lane: 0, offsets: vec![1] })).await;
        }
    };
    rig.run_until(Rig::options(), done).await;
    assert_eq!(rig.receiver.applied(), [(0, 1, 0), (0, 1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_item_is_dead_lettered_in_the_commit_that_counts_it() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 1, 1], 10).await;
    refuse(&rig, 1, 400);
    let options = Options { on_failure: OnFailure::DeadLetter, ..Rig::options() };
    rig.run_until(options, rig.wait_position(0, 3)).await;
    assert_eq!(rig.receiver.applied(), [(0, 1, 0), (0, 1, 2)]);
    let letters = rig.log.snapshot(&rig.topics.dead_letter.partition(Partition(0)));
    let [letter] = &letters[..] else { panic!("one letter, not {letters:?}") };
    let header = |name: &str| {
        let found = letter.headers.iter().rfind(|(n, _)| n == name.as_bytes()).expect(name);
        String::from_utf8(found.1.clone()).expect("text")
    };
    assert_eq!(letter.value.as_deref(), Some(&b"xxxxxxxxxx"[..]));
    assert_eq!(header("seriatim-source"), "0:1001");
    assert_eq!(header("seriatim-sequence"), "1");
    assert_eq!(header("seriatim-destination"), NAME);
    assert_eq!(header("seriatim-error"), r#"{"code":"push-refused","detail":"status 400: as scripted"}"#);
}

#[tokio::test(start_paused = true)]
async fn a_refused_item_is_skipped_and_so_is_one_whose_attempts_are_used_up() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 1, 1], 10).await;
    refuse(&rig, 1, 503);
    let retry = Retry { attempts: NonZeroU32::new(3), ..Retry::default() };
    let options = Options { on_failure: OnFailure::Skip, retry, ..Rig::options() };
    rig.run_until(options, rig.wait_position(0, 3)).await;
    assert_eq!(rig.receiver.applied(), [(0, 1, 0), (0, 1, 2)]);
    let attempts: Vec<_> = rig.receiver.seen().iter().map(|seen| (seen.sequence, seen.attempt)).collect();
    assert_eq!(attempts, [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_410_disables_the_destination_until_an_operator_resumes_it() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 1, 2], 10).await;
    refuse(&rig, 1, 410);
    let disabled = async {
        while !rig.cursor(0).held.contains_key(NAME) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let before = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        disabled.await;
    };
    rig.run_until(Rig::options(), before).await;
    assert!(matches!(&rig.cursor(0).held[NAME], Held::Disabled(reason) if reason.contains("410")));
    let attempts = rig.receiver.seen().len();
    rig.receiver.script(|_| TAKE);
    rig.run_until(Rig::options(), tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!(rig.receiver.seen().len(), attempts, "nothing goes to who wants nothing");
    let resumed = async {
        rig.order(0, PushAction::Resume).await;
        rig.receiver.wait_applied(3).await;
        rig.wait_position(0, 3).await;
    };
    rig.run_until(Rig::options(), resumed).await;
    assert_exact(&rig.receiver.applied(), 1, 3);
    assert!(rig.cursor(0).held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_everything_and_loses_nothing() {
    let rig = Rig::new(1, 1).await;
    let done = async {
        rig.write(0, &[1], 10).await;
        rig.receiver.wait_applied(1).await;
        rig.order(0, PushAction::Pause).await;
        while !rig.cursor(0).held.contains_key(NAME) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.write(0, &[1, 2], 10).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(rig.receiver.seen().len(), 1);
        rig.order(0, PushAction::Resume).await;
        rig.receiver.wait_applied(3).await;
    };
    rig.run_until(Rig::options(), done).await;
    assert_exact(&rig.receiver.applied(), 1, 3);
}

/// The pause between the first two attempts where the first is answered so.
async fn pause_after(reaction: Reaction) -> Duration {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1], 10).await;
    rig.receiver.script(move |push| if push.attempt == 1 { reaction.clone() } else { TAKE });
    rig.run_until(Rig::options(), rig.receiver.wait_seen(2)).await;
    let seen = rig.receiver.seen();
    seen[1].at - seen[0].at
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_where_it_is_longer_and_up_to_its_cap() {
    let later = |when: &str| pause_after(Reaction::Later(503, when.to_owned()));
    let seconds = |duration: Duration| (duration.as_millis() + 500) / 1000;
    assert_eq!(seconds(later("120").await), 120);
    assert!(later("0").await >= Duration::from_millis(500), "never sooner than the schedule");
    assert_eq!(seconds(later("86400").await), 3600);
    // The log's clock starts at 2023-11-14 22:13:20.
    let date = later("Tue, 14 Nov 2023 22:14:20 GMT").await;
    assert!((58..=60).contains(&seconds(date)), "{date:?}");
    assert!(pause_after(Reaction::Say(409)).await < Duration::from_secs(1));
    assert!(pause_after(Reaction::Lose).await < Duration::from_secs(1));
    let hung = pause_after(Reaction::Hang).await;
    assert!((15..=16).contains(&hung.as_secs()), "{hung:?}");
}

#[tokio::test(start_paused = true)]
async fn the_breaker_spares_a_receiver_that_is_down_and_everything_goes_when_it_is_back() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &(0..200).collect::<Vec<_>>(), 10).await;
    rig.receiver.script(|_| Reaction::Say(500));
    let done = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let attempts = rig.receiver.seen().len();
        assert!(attempts < 64 + 20, "{attempts} attempts in a minute of outage");
        let begun = Instant::now();
        rig.receiver.script(|_| TAKE);
        rig.receiver.wait_applied(200).await;
        let recovery = begun.elapsed();
        assert!(recovery < Duration::from_secs(100), "back after {recovery:?}");
    };
    rig.run_until(Rig::options(), done).await;
    assert_exact(&rig.receiver.applied(), 1, 200);
}

#[tokio::test(start_paused = true)]
async fn the_first_success_after_a_long_outage_lets_all_the_others_go() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &(0..10).collect::<Vec<_>>(), 10).await;
    let back = Instant::now() + Duration::from_secs(20_000);
    rig.receiver.script(move |_| if Instant::now() < back { Reaction::Say(503) } else { TAKE });
    let run = async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1000)).await;
        }
        rig.receiver.wait_applied(1).await;
        let begun = Instant::now();
        rig.receiver.wait_applied(10).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "the last came {:?} after the first", begun.elapsed());
    };
    tokio::select! {
        ended = rig.run(Rig::options(), "a", &tokio_util::sync::CancellationToken::new()) => panic!("{ended:?}"),
        () = run => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_day_loses_nothing_and_no_pause_exceeds_its_cap() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1; 5], 10).await;
    let begun = Instant::now();
    let day = Duration::from_secs(86_400);
    rig.receiver.script(move |_| if begun.elapsed() < day { Reaction::Say(503) } else { TAKE });
    let run = async {
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(3000)).await;
        }
        rig.receiver.wait_applied(5).await;
    };
    tokio::select! {
        ended = rig.run(Rig::options(), "a", &tokio_util::sync::CancellationToken::new()) => panic!("{ended:?}"),
        () = run => {}
    }
    let seen = rig.receiver.seen();
    assert!(seen.windows(2).all(|two| two[1].at - two[0].at <= Duration::from_secs(301)));
    assert_exact(&rig.receiver.applied(), 1, 5);
}

#[tokio::test(start_paused = true)]
async fn what_retention_took_halts_the_lane_until_the_loss_is_accepted() {
    let rig = Rig::new(2, 1).await;
    for lane in [0, 1] {
        rig.write(lane, &[1; 4], 10).await;
    }
    rig.receiver.script(|push| if push.lane.0 == 0 { Reaction::Say(503) } else { TAKE });
    rig.run_until(Rig::options(), rig.receiver.wait_applied(4)).await;
    rig.log.delete_below(&rig.output(0), Offset(2)).expect("it exists");
    rig.receiver.script(|_| TAKE);
    let lost = async {
        while rig.position(0).lost.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.write(1, &[1], 10).await;
        rig.receiver.wait_applied(5).await;
        rig.order(0, PushAction::Accept { lane: 0 }).await;
        rig.receiver.wait_applied(7).await;
        rig.wait_position(0, 4).await;
    };
    rig.run_until(Rig::options(), lost).await;
    let applied: Vec<_> = rig.receiver.applied().into_iter().filter(|(lane, ..)| *lane == 0).collect();
    assert_eq!(applied, [(0, 1, 2), (0, 1, 3)]);
    assert_eq!(rig.position(0).lost, None);
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_halts_its_lane() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1; 4], 10).await;
    rig.run_until(Rig::options(), rig.wait_position(0, 4)).await;
    rig.log.recreate(&rig.topics.destinations[NAME]);
    let lost = async {
        while rig.position(0).lost.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    rig.run_until(Rig::options(), lost).await;
    assert!(rig.position(0).lost.expect("it is lost").contains("anew"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_cursor_halts_rather_than_pushing_everything_again() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1; 4], 10).await;
    rig.run_until(Rig::options(), rig.wait_position(0, 4)).await;
    rig.log.recreate(&rig.topics.cursors_deliver);
    rig.run_until(Rig::options(), tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!(rig.receiver.seen().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn damage_halts_the_lane_behind_all_that_lies_before_it_and_is_passed_over_when_accepted() {
    let rig = Rig::new(1, 1).await;
    for _ in 0..5 {
        rig.write(0, &[1], 10).await;
    }
    rig.log.damage(&rig.output(0), Offset(2)..Offset(3)).expect("it exists");
    rig.receiver.script(|_| Reaction::Take(Duration::from_millis(5)));
    let lost = async {
        while rig.position(0).lost.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    rig.run_until(Rig::options(), lost).await;
    assert_eq!((rig.receiver.applied().len(), rig.position(0).position), (2, 2), "what lies before it is pushed");
    // The next owner stands still there, too, until somebody accepts.
    let accepted = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(rig.receiver.applied().len(), 2);
        rig.order(0, PushAction::Accept { lane: 0 }).await;
        rig.wait_position(0, 5).await;
    };
    rig.run_until(Rig::options(), accepted).await;
    let sequences: Vec<_> = rig.receiver.applied().into_iter().map(|(_, _, sequence)| sequence).collect();
    assert_eq!(sequences, [0, 1, 3, 4]);
    assert_eq!(rig.position(0).lost, None);
}

/// Waits until the cursor says this of what holds the destination.
async fn wait_held(rig: &Rig, is: impl Fn(Option<&Held>) -> bool) {
    while !is(rig.cursor(0).held.get(NAME)) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_item_that_was_tried_most_is_told_until_it_is_taken() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 2, 2], 10).await;
    // 0 fails from the beginning, 1 later and less often; 2 stands behind it.
    rig.receiver.script(|push| match (push.provenance.expect("written by the rig").sequence.0, push.attempt) {
        (0, 1..=6) | (1, 1..=2) => Reaction::Say(409),
        _ => TAKE,
    });
    let told = async {
        wait_held(&rig, |held| matches!(held, Some(Held::Retrying(r)) if r.offset == 0 && r.attempts > 2)).await;
        let held = rig.cursor(0).held.remove(NAME);
        let Some(Held::Retrying(told)) = held else { panic!("{held:?}") };
        assert_eq!((told.lane, told.error.as_str(), told.down), (0, "status 409: as scripted", false));
        assert!(told.since < told.next, "{told:?}");
        wait_held(&rig, |held| held.is_none()).await;
        rig.receiver.wait_applied(3).await;
    };
    rig.run_until(Rig::options(), told).await;
    assert_exact(&rig.receiver.applied(), 1, 3);
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_holds_items_back_is_told() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1; 20], 10).await;
    let one = NonZeroU32::new(1).expect("not 0");
    let options = Options { rate: Some(Rate { items: one, per: Duration::from_secs(10) }), ..Rig::options() };
    let told = async {
        wait_held(&rig, |held| held == Some(&Held::Paced)).await;
        rig.receiver.wait_applied(20).await;
        wait_held(&rig, |held| held.is_none()).await;
    };
    rig.run_until(options, told).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_topic_for_dead_letters_a_refused_item_halts_its_group_alone() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1, 2, 1, 2], 10).await;
    refuse(&rig, 0, 400);
    rig.log.delete(&rig.topics.dead_letter);
    let options = Options { on_failure: OnFailure::DeadLetter, ..Rig::options() };
    let done = async {
        rig.receiver.wait_applied(2).await;
        while !rig.position(0).halted.get(&0).is_some_and(|reason| reason.contains("t.dead-letter was deleted")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    rig.run_until(options, done).await;
    assert_eq!(rig.receiver.applied(), [(0, 2, 1), (0, 2, 3)]);
}
