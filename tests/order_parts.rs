//! Identities, watermark, backoff and breaker against what they are defined to do.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use seriatim::order::{Backoff, Breaker, BreakerPolicy, Identities, Pass, Verdict, Watermark, retry_after};
use seriatim::record::Offset;

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/order_parts.txt"))),
        ..ProptestConfig::default()
    }
}

/// A ledger entry as a release writes it: position, and the identities of first messages.
type Ledger = Vec<(Offset, u128, u128)>;

/// A lane's owner as far as identities go: judges the input in order, releases in any order, and
/// is replaced by one that knows the cursor and the ledger only.
struct Owner {
    capacity: usize,
    /// Offset, id, fingerprint.
    input: Vec<(Offset, u128, u128)>,
    ledger: Ledger,
    released: Vec<bool>,
    identities: Identities,
    judged: usize,
    frontier: usize,
}

impl Owner {
    fn new(input: Vec<(Offset, u128, u128)>, capacity: usize) -> Self {
        let released = vec![false; input.len()];
        let identities = Identities::new(capacity);
        Self { capacity, input, ledger: Vec::new(), released, identities, judged: 0, frontier: 0 }
    }

    /// From the definition: the last `capacity` first messages below decide.
    fn verdict(&self, at: usize) -> Verdict {
        let mut firsts: Vec<usize> = Vec::new();
        for record in 0..=at {
            let (_, id, fingerprint) = self.input[record];
            let window = firsts.iter().rev().take(self.capacity);
            let earlier = window.copied().find(|earlier| self.input[*earlier].1 == id);
            let verdict = match earlier.map(|earlier| self.input[earlier]) {
                None => Verdict::First,
                Some((of, _, same)) if same == fingerprint => Verdict::Duplicate { of },
                Some((of, _, _)) => Verdict::Reused { of },
            };
            if record == at {
                return verdict;
            }
            if verdict == Verdict::First {
                firsts.push(record);
            }
        }
        unreachable!("the last record returns")
    }

    fn judge(&mut self) {
        let Some(&(offset, id, fingerprint)) = self.input.get(self.judged) else { return };
        let verdict = self.identities.judge(offset, id, fingerprint).expect("in order");
        assert_eq!(verdict, self.verdict(self.judged), "verdict on {offset}");
        self.judged += 1;
    }

    fn release(&mut self, pick: usize) {
        let waiting: Vec<usize> = (self.frontier..self.judged).filter(|at| !self.released[*at]).collect();
        if waiting.is_empty() {
            return;
        }
        let at = waiting[pick % waiting.len()];
        self.released[at] = true;
        if self.verdict(at) == Verdict::First {
            let position = Offset(self.ledger.len() as u64);
            self.ledger.push(self.input[at]);
            self.identities.recorded(self.input[at].0, position).expect("in order");
        }
        self.advance();
    }

    fn advance(&mut self) {
        while self.frontier < self.judged && self.released[self.frontier] {
            self.frontier += 1;
        }
        self.identities.advance(self.frontier_offset());
    }

    fn frontier_offset(&self) -> Offset {
        let next = self.judged.checked_sub(1).map_or(Offset(0), |last| self.input[last].0.next());
        if self.frontier < self.judged { self.input[self.frontier].0 } else { next }
    }

    /// The new owner reads the ledger from the cursor's position.
    fn restart(&mut self) {
        let from = self.identities.ledger_from().unwrap_or(Offset(self.ledger.len() as u64));
        let frontier = self.frontier_offset();
        self.identities = Identities::new(self.capacity);
        let positions = (0..).map(Offset);
        for (position, &(offset, id, fingerprint)) in positions.zip(&self.ledger).skip_while(|(at, _)| *at < from) {
            self.identities.restore(offset, id, fingerprint, position);
        }
        self.identities.advance(frontier);
        self.judged = self.frontier;
    }

    /// The lowest position that is needed, from the definition.
    fn check_ledger_from(&self) {
        let firsts = |range: std::ops::Range<usize>| range.filter(|at| self.verdict(*at) == Verdict::First);
        let below: Vec<usize> = firsts(0..self.frontier).collect();
        let above = firsts(self.frontier..self.input.len()).filter(|at| self.released[*at] && self.capacity > 0);
        let needed = below.into_iter().rev().take(self.capacity).chain(above);
        let position = |at: usize| self.ledger.iter().position(|entry| entry.0 == self.input[at].0);
        let lowest = needed.filter_map(position).min().map(|position| Offset(position as u64));
        assert_eq!(self.identities.ledger_from(), lowest);
    }
}

#[derive(Clone, Debug)]
enum Life {
    Judge,
    Release(usize),
    Restart,
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn verdicts_are_a_function_of_the_input(
        input in prop::collection::vec((1_u64..4, 0_u128..9, 0_u128..2), 1..50),
        capacity in 0_usize..6,
        lives in prop::collection::vec(prop_oneof![
            5 => Just(Life::Judge),
            5 => (0_usize..8).prop_map(Life::Release),
            1 => Just(Life::Restart),
        ], 0..120),
    ) {
        let mut offset = 0;
        let place = |(gap, id, fingerprint)| { offset += gap; (Offset(offset), id, fingerprint) };
        let mut owner = Owner::new(input.into_iter().map(place).collect(), capacity);
        for life in lives {
            match life {
                Life::Judge => owner.judge(),
                Life::Release(pick) => owner.release(pick),
                Life::Restart => owner.restart(),
            }
            owner.check_ledger_from();
        }
    }

    #[test]
    fn everything_below_the_watermark_is_done(
        gaps in prop::collection::vec(0_u64..4, 1..60),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..120),
    ) {
        let mut watermark = Watermark::new(Offset(0));
        let mut waiting = Vec::new();
        let mut next = 0;
        let mut gaps = gaps.into_iter();
        for pick in picks {
            if let Some(gap) = gaps.next() {
                watermark.pass_to(Offset(next + gap));
                watermark.pass_to(Offset(next));
                next += gap;
                prop_assert!(watermark.low() <= Offset(next));
                waiting.push((next, watermark.push(Offset(next)).expect("in order")));
                next += 1;
            } else if waiting.is_empty() {
                break;
            }
            if pick.index(3) > 0 || gaps.len() == 0 {
                let (_, ticket) = waiting.swap_remove(pick.index(waiting.len()));
                watermark.done(ticket).expect("it waits");
            }
            let low = waiting.iter().map(|(offset, _)| *offset).min().unwrap_or(next);
            prop_assert_eq!(watermark.low(), Offset(low));
        }
    }

    #[test]
    fn waits_double_within_floor_and_cap(
        base in 0_u64..100_000,
        cap in 0_u64..10_000_000,
        attempts in 0_u32..80,
        attempt in 0_u32..80,
        entropy in any::<u64>(),
    ) {
        let (base, cap) = (Duration::from_micros(base), Duration::from_micros(cap));
        let backoff = Backoff { base, cap, attempts };
        let delay = backoff.delay(attempt, entropy);
        prop_assert_eq!(delay.is_none(), attempt >= attempts);
        let Some(delay) = delay else { return Ok(()) };
        let least = backoff.delay(attempt, 0).expect("as many attempts are left");
        let most = backoff.delay(attempt, u64::MAX).expect("as many attempts are left");
        prop_assert!(least <= delay && delay <= most && most <= cap.max(least), "{least:?} {delay:?} {most:?}");
        prop_assert!(most <= least.mul_f64(1.5) + Duration::from_nanos(1));
        prop_assert!(most <= cap + Duration::from_nanos(2));
        if attempt == 0 {
            prop_assert_eq!(delay, Duration::ZERO);
        } else {
            let factor = 2_u128.pow(attempt - 1);
            let doubled = base.as_nanos().saturating_mul(factor).min((cap - cap / 3).as_nanos());
            prop_assert_eq!(least.as_nanos(), doubled);
        }
    }

    #[test]
    fn a_hint_lengthens_a_wait_up_to_the_cap(
        schedule in 0_u64..100,
        hint in proptest::option::of(0_u64..200),
        cap in 0_u64..150,
    ) {
        let wait = retry_after(Duration::from_secs(schedule), hint.map(Duration::from_secs), Duration::from_secs(cap));
        prop_assert_eq!(wait.as_secs(), schedule.max(hint.map_or(0, |hint| hint.min(cap))));
    }

    /// While it fails, one probe at a time goes, never before its wait, and waits grow to the cap;
    /// once it works, a probe finds out and everything goes.
    #[test]
    fn a_breaker_probes_alone_and_closes_again(
        failures in 1_u32..4,
        wait in 1_u64..50,
        factor in 1_u64..40,
        events in prop::collection::vec((0_u64..60, 0_u8..4, proptest::option::of(0_u64..3_000)), 1..80),
    ) {
        let (wait, cap) = (Duration::from_millis(wait), Duration::from_millis(wait * factor));
        let mut breaker = Breaker::new(BreakerPolicy { failures, wait, cap });
        let mut now = Duration::ZERO;
        let (mut probe, mut opened, mut hinted) = (None, None::<Duration>, Duration::ZERO);
        for (later, event, hint) in events {
            now += Duration::from_millis(later);
            match event {
                0 | 1 => {
                    let was_open = breaker.is_open();
                    match breaker.try_pass(now) {
                        Pass::Go => prop_assert!(!was_open),
                        Pass::Probe => {
                            prop_assert!(was_open && now >= opened.unwrap_or_default() + wait);
                            prop_assert!(now >= hinted);
                            prop_assert!(probe.is_none_or(|before| now >= before + wait), "two probes at once");
                            prop_assert!(matches!(breaker.try_pass(now), Pass::Wait(until) if until > now));
                            probe = Some(now);
                        }
                        Pass::Wait(until) => prop_assert!(was_open && until > now && until <= now + cap),
                    }
                }
                2 => {
                    breaker.success(now);
                    if !breaker.is_open() {
                        (probe, opened, hinted) = (None, None, Duration::ZERO);
                    }
                }
                _ => {
                    let (was_open, hint) = (breaker.is_open(), hint.map(Duration::from_millis));
                    breaker.failure(now, hint);
                    hinted = hinted.max(now + hint.unwrap_or_default().min(cap));
                    if breaker.is_open() && (!was_open || probe.take().is_some()) {
                        opened = Some(now);
                    }
                    if !breaker.is_open() {
                        hinted = Duration::ZERO;
                    }
                }
            }
        }
        let probing = breaker.is_open();
        now += cap;
        prop_assert_eq!(breaker.try_pass(now), if probing { Pass::Probe } else { Pass::Go });
        breaker.success(now);
        prop_assert_eq!(breaker.try_pass(now), Pass::Go);
    }
}

/// The mutant that a model of the protocol found: a position of the identities that ignores those
/// released above the frontier makes a second restart call a first message a duplicate, or a
/// duplicate a first message.
#[test]
fn identities_released_above_the_frontier_survive_two_restarts() {
    let mut owner = Owner::new((0..6).map(|at| (Offset(at), u128::from(at % 5), 0)).collect(), 4);
    for _ in 0..4 {
        owner.judge();
    }
    // The last of the four, then the first three: its ledger entry lies below theirs.
    owner.release(3);
    owner.restart();
    for _ in 0..4 {
        owner.judge();
    }
    for _ in 0..3 {
        owner.release(0);
    }
    assert_eq!(owner.identities.ledger_from(), Some(Offset(0)));
    owner.restart();
    owner.judge();
    owner.judge();
}

#[test]
fn a_torn_transactions_copy_of_a_ledger_entry_counts_once() {
    let mut identities = Identities::new(2);
    for (position, offset) in [(0, 0), (1, 1), (2, 0), (3, 1), (4, 2)] {
        identities.restore(Offset(offset), offset.into(), 0, Offset(position));
    }
    identities.advance(Offset(3));
    assert_eq!(identities.ledger_from(), Some(Offset(1)));
    assert_eq!(identities.judge(Offset(3), 0, 0), Ok(Verdict::First));
    assert_eq!(identities.judge(Offset(4), 2, 0), Ok(Verdict::Duplicate { of: Offset(2) }));
}
