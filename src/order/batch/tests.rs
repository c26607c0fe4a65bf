//! What a batch does, by examples; for all that can happen there is the oracle.

mod oracle;

use super::{Event, next_due, wanted};
use crate::record::batches::{Mode, OnItemFailure, Outcome, Phase, Rules, Selection};
use crate::record::{Round, Timestamp};
use oracle::{Driver, finish};

fn run(mode: Mode, on_failure: OnItemFailure, total: u64, window: u32) -> Driver {
    let interval = if mode == Mode::Paced { 50 } else { 0 };
    Driver::new(Rules { mode, on_failure, window, interval, stall_after: 500, ..Rules::default() }, total)
}

fn refill(driver: &mut Driver) -> u64 {
    let before = driver.state.generated;
    driver.happen(Event::Refill { fresh: u64::MAX, again: Vec::new() });
    driver.state.generated - before
}

fn answer(driver: &mut Driver, index: u64, succeeded: bool) {
    driver.happen(Event::Answered { index, round: Round(0), succeeded });
}

#[test]
fn every_size_around_the_window_ends() {
    for mode in [Mode::Window, Mode::Barrier, Mode::Paced] {
        for total in [1, 9, 10, 11, 20, 21] {
            let mut driver = run(mode, OnItemFailure::Continue, total, 10);
            finish(&mut driver);
            assert_eq!((driver.state.succeeded, driver.state.phase), (total, Phase::Ended(Outcome::Completed)));
        }
    }
}

#[test]
fn a_window_is_refilled_in_chunks_and_a_barrier_when_all_are_done() {
    let mut driver = run(Mode::Window, OnItemFailure::Continue, 100, 10);
    assert_eq!(refill(&mut driver), 10);
    (0..4).for_each(|index| answer(&mut driver, index, true));
    assert_eq!(refill(&mut driver), 0);
    answer(&mut driver, 4, true);
    assert_eq!(refill(&mut driver), 5);

    let mut driver = run(Mode::Barrier, OnItemFailure::Continue, 100, 10);
    driver.happen(Event::Refill { fresh: 4, again: Vec::new() });
    assert_eq!(refill(&mut driver), 6, "the rest of the round");
    (0..9).for_each(|index| answer(&mut driver, index, true));
    assert_eq!(refill(&mut driver), 0);
    answer(&mut driver, 9, false);
    assert_eq!(refill(&mut driver), 10);
}

#[test]
fn a_paced_batch_follows_the_clock_and_makes_up_for_nothing() {
    let mut driver = run(Mode::Paced, OnItemFailure::Continue, 100, 10);
    assert_eq!(refill(&mut driver), 10);
    assert_eq!(next_due(&driver.state), Some(Timestamp(1_050)));
    driver.now = 1_049;
    assert_eq!(refill(&mut driver), 0);
    driver.now = 1_060;
    assert_eq!(refill(&mut driver), 10);
    assert_eq!(next_due(&driver.state), Some(Timestamp(1_100)));
    driver.now = 9_000;
    assert_eq!((refill(&mut driver), refill(&mut driver)), (10, 0));
    assert_eq!(driver.state.next_interval, 9_050);
}

#[test]
fn a_poison_item_costs_a_window_one_place_and_stalls_a_barrier() {
    let mut window = run(Mode::Window, OnItemFailure::Hold, 100, 10);
    refill(&mut window);
    answer(&mut window, 3, false);
    (4..10).for_each(|index| answer(&mut window, index, true));
    assert_eq!((refill(&mut window), window.stalls), (6, 0));

    let mut barrier = run(Mode::Barrier, OnItemFailure::Hold, 100, 2);
    refill(&mut barrier);
    answer(&mut barrier, 0, false);
    assert_eq!(barrier.stalls, 0);
    answer(&mut barrier, 1, true);
    assert_eq!((barrier.stalls, refill(&mut barrier)), (1, 0));
    barrier.happen(Event::Retry(Selection::All));
    barrier.happen(Event::Refill { fresh: 0, again: vec![0] });
    answer(&mut barrier, 0, true);
    assert_eq!(barrier.state.succeeded, 1, "an answer of the round before counts for nothing");
    barrier.happen(Event::Answered { index: 0, round: Round(1), succeeded: false });
    assert_eq!(barrier.stalls, 2);
    barrier.happen(Event::Discard(Selection::Items(vec![0])));
    assert_eq!((refill(&mut barrier), barrier.state.discarded, barrier.state.failed), (2, 1, 0));
}

#[test]
fn a_cancel_generates_nothing_more_and_waits_for_what_is_out() {
    let mut driver = run(Mode::Window, OnItemFailure::Continue, 1_000_000, 10);
    refill(&mut driver);
    driver.happen(Event::Cancel { reason: Some("enough".to_owned()) });
    assert_eq!((refill(&mut driver), driver.state.status(), driver.done), (0, "cancelling", 0));
    (0..10).for_each(|index| answer(&mut driver, index, true));
    assert_eq!((driver.state.cancelled, driver.state.status(), driver.done), (999_990, "cancelled", 1));
}

#[test]
fn silence_is_said_once_and_progress_ends_it() {
    let mut driver = run(Mode::Window, OnItemFailure::Continue, 5, 2);
    refill(&mut driver);
    assert_eq!(next_due(&driver.state), Some(Timestamp(1_500)));
    driver.now = 1_500;
    driver.happen(Event::TimePassed);
    driver.happen(Event::TimePassed);
    assert!(driver.state.stalled);
    assert_eq!((driver.stalls, next_due(&driver.state)), (1, None));
    answer(&mut driver, 0, true);
    assert!(!driver.state.stalled);
}

#[test]
fn what_was_out_when_the_input_was_lost_goes_out_again_and_its_former_record_counts_for_nothing() {
    let mut driver = run(Mode::Window, OnItemFailure::Hold, 20, 4);
    refill(&mut driver);
    answer(&mut driver, 0, true);
    answer(&mut driver, 2, false);
    driver.happen(Event::InputLost);
    assert_eq!(wanted(&driver.state, Timestamp(driver.now)).1, [1, 3], "what is held stays so");
    assert_eq!(driver.state.held().collect::<Vec<_>>(), [2]);
    answer(&mut driver, 1, true);
    assert_eq!(driver.state.succeeded, 1, "it may have survived");
    driver.happen(Event::Refill { fresh: 0, again: vec![1, 3] });
    driver.happen(Event::InputLost);
    driver.happen(Event::Refill { fresh: 0, again: vec![1, 3] });
    for round in 0..3 {
        driver.happen(Event::Answered { index: 1, round: Round(round), succeeded: true });
        assert_eq!(driver.state.succeeded, if round < 2 { 1 } else { 2 });
    }
}

#[test]
fn a_paused_batch_sends_what_was_lost_when_it_is_resumed() {
    let mut driver = run(Mode::Barrier, OnItemFailure::Continue, 20, 4);
    refill(&mut driver);
    driver.happen(Event::Pause);
    driver.happen(Event::InputLost);
    assert_eq!((driver.state.status(), wanted(&driver.state, Timestamp(driver.now))), ("paused", (0, Vec::new())));
    driver.happen(Event::Resume);
    assert_eq!(wanted(&driver.state, Timestamp(driver.now)), (0, vec![0, 1, 2, 3]));
}

#[test]
fn a_batch_that_ends_waits_for_nothing_that_is_lost() {
    let mut driver = run(Mode::Window, OnItemFailure::Continue, 1_000, 10);
    driver.state.rules.completion = true;
    refill(&mut driver);
    answer(&mut driver, 0, true);
    driver.happen(Event::Cancel { reason: None });
    driver.happen(Event::InputLost);
    assert_eq!((driver.state.cancelled, driver.state.phase), (999, Phase::Completing(Outcome::Cancelled)));
    driver.happen(Event::InputLost);
    driver.happen(Event::Answered { index: 1_000, round: Round(0), succeeded: true });
    assert_eq!(driver.state.phase, Phase::Ended(Outcome::Cancelled));
}
