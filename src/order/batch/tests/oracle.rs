//! The state machine against an oracle that keeps the full list of items.

use proptest::prelude::*;

use super::super::{Action, Event, MOST_OPEN, begin, expects, next, next_due, wanted};
use crate::record::batches::{BatchState, Change, ItemStatus, Mode, OnItemFailure, Phase, Rules, Selection};
use crate::record::{Round, Timestamp};

/// An item, as somebody who remembers each of them sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Item {
    Pending,
    Running { round: u32, due: i64 },
    Held { round: u32, timed_out: bool },
    Again { round: u32 },
    Ended(ItemStatus),
}

const CANCELLED: Item = Item::Ended(ItemStatus::Cancelled);

/// Drives a batch and keeps the list.
pub(super) struct Driver {
    pub(super) state: BatchState,
    pub(super) items: Vec<Item>,
    pub(super) now: i64,
    pub(super) done: u32,
    pub(super) final_item: bool,
    pub(super) stalls: u32,
    pub(super) most_running: usize,
}

impl Driver {
    pub(super) fn new(rules: Rules, total: u64) -> Self {
        let items = vec![Item::Pending; usize::try_from(total).expect("it is small")];
        let state = begin(rules, total, Timestamp(1_000));
        Self { state, items, now: 1_000, done: 0, final_item: false, stalls: 0, most_running: 0 }
    }

    pub(super) fn happen(&mut self, event: Event) {
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
pub(super) fn finish(driver: &mut Driver) {
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
