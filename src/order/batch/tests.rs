//! The state machine against an oracle that keeps the full list of items.

use proptest::prelude::*;

use super::{Action, Event, MOST_OPEN, begin, expects, next, next_due, wanted};
use crate::record::batches::{BatchState, Change, ItemStatus, Mode, OnItemFailure, Outcome, Phase, Rules, Selection};
use crate::record::{Round, Timestamp};

/// An item, as somebody who remembers each of them sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Pending,
    Running { round: u32, due: i64 },
    Held { round: u32, timed_out: bool },
    Again { round: u32 },
    Ended(ItemStatus),
}

const CANCELLED: Item = Item::Ended(ItemStatus::Cancelled);

/// Drives a batch and keeps the list.
struct Driver {
    state: BatchState,
    items: Vec<Item>,
    now: i64,
    done: u32,
    final_item: bool,
    stalls: u32,
    most_running: usize,
}

impl Driver {
    fn new(rules: Rules, total: u64) -> Self {
        let items = vec![Item::Pending; usize::try_from(total).expect("it is small")];
        let state = begin(rules, total, Timestamp(1_000));
        Self { state, items, now: 1_000, done: 0, final_item: false, stalls: 0, most_running: 0 }
    }

    fn happen(&mut self, event: Event) {
        let before = std::mem::take(&mut self.items);
        self.items = self.expected(before, &event);
        let was = self.state.clone();
        let (is_refill, is_lost) = (matches!(event, Event::Refill { .. }), event == Event::InputLost);
        let (state, actions) = next(std::mem::take(&mut self.state), event, Timestamp(self.now));
        self.state = state;
        for action in actions {
            self.act(action, &was, is_refill, is_lost);
        }
        if is_lost {
            self.check_nothing_lost_is_waited_for(&was);
        }
        self.check(&was);
    }

    /// What the event makes of each item; what goes out is taken from the actions, and checked there.
    fn expected(&self, mut items: Vec<Item>, event: &Event) -> Vec<Item> {
        let running = self.state.phase == Phase::Running;
        if self.state.has_ended() {
            return items;
        }
        match event {
            Event::Answered { index, round, succeeded } => {
                let Some(item) = items.get_mut(usize::try_from(*index).expect("small")) else { return items };
                if matches!(item, Item::Running { round: r, .. } if *r == round.0) {
                    *item = Item::Ended(ItemStatus::Succeeded);
                    if !succeeded {
                        self.fail(&mut items, usize::try_from(*index).expect("small"), round.0, false);
                    }
                }
            }
            Event::TimePassed => {
                let over = self
                    .state
                    .rules
                    .deadline
                    .is_some_and(|d| self.state.started_at + i64::try_from(d).expect("small") <= self.now);
                if over && !matches!(self.state.phase, Phase::Completing(_)) {
                    give_up(&mut items);
                    for item in &mut items {
                        if matches!(item, Item::Running { .. }) {
                            *item = Item::Ended(ItemStatus::TimedOut);
                        }
                    }
                }
                for at in 0..items.len() {
                    if let Item::Running { round, due } = items[at]
                        && due <= self.now
                    {
                        self.fail(&mut items, at, round, true);
                    }
                }
            }
            Event::Cancel { .. } if running => give_up(&mut items),
            Event::InputLost => {
                for item in &mut items {
                    if let Item::Running { round, .. } = *item {
                        *item = if running { Item::Again { round: round + 1 } } else { CANCELLED };
                    }
                }
            }
            Event::Retry(which) if running => each_held(&mut items, which, |round, _| Item::Again { round: round + 1 }),
            Event::Discard(which) if running => {
                each_held(&mut items, which, |_, _| Item::Ended(ItemStatus::Discarded));
            }
            _ => {}
        }
        items
    }

    /// One more item has failed: it is held, or tolerated, or the end of the batch.
    fn fail(&self, items: &mut [Item], at: usize, round: u32, timed_out: bool) {
        items[at] = Item::Ended(if timed_out { ItemStatus::TimedOut } else { ItemStatus::Failed });
        let rules = &self.state.rules;
        if self.state.phase != Phase::Running || !tolerance_is_used_up(rules, items) {
            return;
        }
        if rules.on_failure == OnItemFailure::Hold {
            items[at] = Item::Held { round, timed_out };
        } else {
            give_up(items);
        }
    }

    fn act(&mut self, action: Action, was: &BatchState, is_refill: bool, is_lost: bool) {
        match action {
            Action::Generate { index, .. } if index == self.state.total => {
                let lost = is_lost && matches!(was.phase, Phase::Completing(_));
                assert_eq!(self.final_item, lost, "one final item, and another one if it is lost");
                assert!(self.state.rules.completion, "where one is asked for");
                assert!(self.items.iter().all(|item| matches!(item, Item::Ended(_))), "it is the last");
                self.final_item = true;
            }
            Action::Generate { index, round } => {
                assert!(is_refill, "items go out by refills only");
                assert!(was.phase == Phase::Running && !was.paused);
                let at = usize::try_from(index).expect("small");
                match self.items[at] {
                    Item::Pending => {
                        assert_eq!(round, Round(0));
                        assert!(at == 0 || self.items[at - 1] != Item::Pending, "in index order");
                    }
                    Item::Again { round: wanted } => assert_eq!(round, Round(wanted)),
                    other => panic!("item {index} went out while {other:?}"),
                }
                let due =
                    self.state.rules.item_timeout.map_or(i64::MAX, |t| self.now + i64::try_from(t).expect("small"));
                self.items[at] = Item::Running { round: round.0, due };
            }
            Action::Done => self.done += 1,
            Action::Stalled => self.stalls += 1,
            Action::Report { .. } | Action::Withdraw { .. } => {}
        }
    }

    /// No answer to what was out counts; a final item that was out is out again.
    fn check_nothing_lost_is_waited_for(&self, was: &BatchState) {
        for (index, open) in &was.open {
            assert!(!expects(&self.state, *index, Round(open.round)), "item {index} is lost");
        }
        let expected = matches!(was.phase, Phase::Completing(_)) || self.state.phase != was.phase;
        assert!(expected || !expects(&self.state, was.total, Round(0)), "there is no final item");
        if let Phase::Completing(_) = was.phase {
            assert!(expects(&self.state, was.total, Round(0)) && self.final_item);
        }
    }

    /// The list and the state agree, and the state is small.
    fn check(&mut self, was: &BatchState) {
        let of = |wanted: fn(&Item) -> bool| self.items.iter().filter(|item| wanted(item)).count() as u64;
        let counts = self.state.counts();
        let sum = counts.pending + counts.running + counts.succeeded + counts.failed + counts.timed_out;
        assert_eq!(sum + counts.discarded + counts.cancelled, counts.total, "{counts:?}");
        assert_eq!(counts.pending, of(|i| *i == Item::Pending));
        assert_eq!(counts.running, of(|i| matches!(i, Item::Running { .. } | Item::Again { .. })));
        assert_eq!(counts.succeeded, of(|i| *i == Item::Ended(ItemStatus::Succeeded)));
        let failed = |i: &Item| matches!(i, Item::Ended(ItemStatus::Failed) | Item::Held { timed_out: false, .. });
        assert_eq!(counts.failed, of(failed));
        let late = |i: &Item| matches!(i, Item::Ended(ItemStatus::TimedOut) | Item::Held { timed_out: true, .. });
        assert_eq!(counts.timed_out, of(late));
        assert_eq!(counts.discarded, of(|i| *i == Item::Ended(ItemStatus::Discarded)));
        assert_eq!(counts.cancelled, of(|i| *i == Item::Ended(ItemStatus::Cancelled)));
        let unfinished = |i: &Item| matches!(i, Item::Running { .. } | Item::Again { .. } | Item::Held { .. });
        assert_eq!(
            self.state.open.len() as u64,
            of(unfinished),
            "the state holds what is unfinished, and nothing else"
        );
        if self.state.open.len() > was.open.len() {
            let most = if self.state.rules.mode == Mode::Paced { MOST_OPEN } else { self.state.rules.window.into() };
            assert!(self.state.open.len() as u64 <= most, "the window holds");
        }
        self.most_running = self.most_running.max(self.state.open.len());
        let ended = self.items.iter().all(|item| matches!(item, Item::Ended(_)));
        let ended = ended && (!self.state.rules.completion || self.state.has_ended());
        assert_eq!(self.done > 0, ended, "all done exactly when everything is");
        assert!(self.done <= 1, "all done is said once");
        assert_eq!(self.state.has_ended(), self.done == 1);
    }
}

fn tolerated(rules: &Rules, total: u64) -> u64 {
    let share = rules.tolerated_percentage.map(|share| {
        (0..=total).take_while(|n| *n as f64 * 100.0 <= share * total as f64).last().expect("zero is tolerated")
    });
    let otherwise = if rules.on_failure == OnItemFailure::Continue { total } else { 0 };
    match (rules.tolerated_count, share) {
        (None, None) => otherwise,
        (count, share) => count.unwrap_or(u64::MAX).min(share.unwrap_or(u64::MAX)),
    }
}

fn tolerance_is_used_up(rules: &Rules, items: &[Item]) -> bool {
    let failures = items
        .iter()
        .filter(|item| matches!(item, Item::Ended(ItemStatus::Failed | ItemStatus::TimedOut) | Item::Held { .. }));
    failures.count() as u64 > tolerated(rules, items.len() as u64)
}

fn give_up(items: &mut [Item]) {
    for item in items {
        *item = match *item {
            Item::Pending | Item::Again { .. } => Item::Ended(ItemStatus::Cancelled),
            Item::Held { timed_out: true, .. } => Item::Ended(ItemStatus::TimedOut),
            Item::Held { timed_out: false, .. } => Item::Ended(ItemStatus::Failed),
            other => other,
        };
    }
}

fn each_held(items: &mut [Item], which: &Selection, then: impl Fn(u32, bool) -> Item) {
    for (index, item) in items.iter_mut().enumerate() {
        if let Item::Held { round, timed_out } = *item
            && which.contains(index as u64)
        {
            *item = then(round, timed_out);
        }
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let mode = prop_oneof![Just(Mode::Window), Just(Mode::Barrier), Just(Mode::Paced)];
    let on_failure = prop_oneof![Just(OnItemFailure::Continue), Just(OnItemFailure::Stop), Just(OnItemFailure::Hold)];
    let maybe = |range: std::ops::Range<u64>| proptest::option::weighted(0.3, range);
    let times = (maybe(20..200), maybe(200..2_000));
    let tolerance = (maybe(0..5), proptest::option::weighted(0.3, 0.0..100.0f64));
    (mode, on_failure, 1u32..12, tolerance, times, any::<bool>()).prop_map(
        |(mode, on_failure, window, (tolerated_count, tolerated_percentage), (item_timeout, deadline), completion)| {
            let interval = if mode == Mode::Paced { 50 } else { 0 };
            Rules {
                mode,
                window,
                interval,
                on_failure,
                tolerated_count,
                tolerated_percentage,
                item_timeout,
                deadline,
                stall_after: 500,
                completion,
                ordered: false,
            }
        },
    )
}

fn events() -> impl Strategy<Value = Vec<(u8, u64, u64, bool)>> {
    proptest::collection::vec((0u8..42, 0u64..40, 0u64..3, proptest::bool::weighted(0.8)), 0..120)
}

fn event(driver: &Driver, (kind, index, round, succeeded): (u8, u64, u64, bool)) -> Event {
    let which = || if succeeded { Selection::All } else { Selection::Items(vec![index]) };
    let round = Round(u32::try_from(round).expect("small"));
    match kind {
        0 => Event::Cancel { reason: None },
        1 => Event::Pause,
        2 | 3 => Event::Resume,
        4 | 5 => Event::Retry(which()),
        6 | 7 => Event::Discard(which()),
        8 => Event::Change(Change { window: Some(index + 1), ..Change::default() }),
        9..16 => Event::TimePassed,
        16..28 => {
            let (fresh, again) = wanted(&driver.state, Timestamp(driver.now));
            Event::Refill { fresh: fresh.min(index), again }
        }
        // Most answers are for items that are out; the others are duplicates, late, or never asked for.
        28..36 => {
            let open: Vec<_> = driver.state.open.iter().collect();
            let picked = open.get(usize::try_from(index).expect("small") % open.len().max(1));
            let (index, round) = picked.map_or((driver.state.total, Round(0)), |(i, open)| (**i, Round(open.round)));
            Event::Answered { index, round, succeeded }
        }
        36..40 => Event::Answered { index, round, succeeded },
        _ => Event::InputLost,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_batch_does_what_somebody_who_remembers_every_item_expects(
        rules in rules(), total in 1u64..40, events in events(),
    ) {
        let mut driver = Driver::new(rules, total);
        for raw in events {
            driver.now += i64::try_from(raw.1).expect("small");
            let event = event(&driver, raw);
            driver.happen(event);
        }
        finish(&mut driver);
        prop_assert_eq!(driver.done, 1);
        prop_assert_eq!(driver.final_item, driver.state.rules.completion);
    }
}

/// Goes on as an owner does, with a worker that succeeds and an operator that discards what is held.
fn finish(driver: &mut Driver) {
    for _ in 0..10_000 {
        if driver.state.has_ended() {
            return;
        }
        driver.happen(Event::Resume);
        driver.happen(Event::Discard(Selection::All));
        let (fresh, again) = wanted(&driver.state, Timestamp(driver.now));
        driver.happen(Event::Refill { fresh, again });
        let total = driver.state.total;
        let open: Vec<(u64, u32)> = driver.state.open.iter().map(|(index, open)| (*index, open.round)).collect();
        for (index, round) in open.into_iter().chain([(total, 0)]) {
            if expects(&driver.state, index, Round(round)) {
                driver.happen(Event::Answered { index, round: Round(round), succeeded: true });
            }
        }
        if let Some(due) = next_due(&driver.state) {
            driver.now = driver.now.max(due.0);
            driver.happen(Event::TimePassed);
        }
    }
    panic!("it never ends: {:?}", driver.state);
}

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
