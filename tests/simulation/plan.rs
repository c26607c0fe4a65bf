//! What one seed stands for: the shape of the pipeline, its limits, who takes part and what goes wrong.

use std::num::NonZeroUsize;
use std::time::Duration;

use fastrand::Rng;
use seriatim::log::memory::Faults;
use seriatim::resequence::{self, OnFailure};
use seriatim::{deliver, work};

use crate::batching::{self, Asked};
use crate::chance::{Chance, happens, pick, scattered};

/// The destinations that a pipeline may have, `default` always among them.
pub(crate) const DESTINATIONS: [&str; 3] = ["a", "b", "default"];

/// One run, as its seed has drawn it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) lanes: u32,
    pub(crate) control_partitions: u32,
    pub(crate) destinations: Vec<&'static str>,
    pub(crate) order: resequence::Options,
    pub(crate) work: work::Options,
    /// Of the work topic.
    pub(crate) work_partitions: u32,
    pub(crate) push: Pushing,
    pub(crate) batches: Vec<Asked>,
    pub(crate) owners: usize,
    pub(crate) workers: usize,
    pub(crate) deliverers: usize,
    /// Workers in other languages, who take part in the group.
    pub(crate) foreigners: usize,
    pub(crate) producers: usize,
    /// Of each producer.
    pub(crate) messages: usize,
    /// The largest body.
    pub(crate) body: usize,
    /// How long things go wrong.
    pub(crate) chaos: Duration,
    /// What goes wrong with the log, at worst.
    pub(crate) faults: Faults,
    pub(crate) trouble: Trouble,
}

/// How results are pushed, and to whom.
#[derive(Debug)]
pub(crate) struct Pushing {
    pub(crate) options: deliver::Options,
    /// Nothing is held back on the way, so that only the item in doubt can come again; else the
    /// network may deliver long after the sender has given up, or died.
    pub(crate) at_once: bool,
    /// Receivers are away for minutes.
    pub(crate) outages: bool,
    /// Receivers refuse some items for good.
    pub(crate) poison: bool,
}

/// What goes wrong beside the log. A seed has a random half of it.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// Processes die at any await.
    pub(crate) crashes: bool,
    /// Processes stand still for up to two minutes, and go on as if nothing had been.
    pub(crate) freezes: bool,
    /// Processes are asked to end in good order.
    pub(crate) drains: bool,
    /// How many polls a process has before something befalls it, at most.
    pub(crate) polls: u64,
    /// Whoever writes nonsense to the results.
    pub(crate) strangers: bool,
    /// Operators who act on whatever they see.
    pub(crate) operators: bool,
    /// Producers with transactions, some of which they abort.
    pub(crate) transactions: bool,
    /// Work that is never answered.
    pub(crate) lost_work: bool,
    /// Work that takes long.
    pub(crate) slow_work: bool,
    /// Messages that always fail.
    pub(crate) poison: bool,
    /// Messages that fail for a while.
    pub(crate) flaky: bool,
    /// Workers that nobody can reach.
    pub(crate) unreachable: bool,
}

impl Plan {
    pub(crate) fn draw(chance: Chance) -> Self {
        let mut rng = chance.stream("plan");
        let mut spread = chance.stream("plan of the fan-out");
        let fan_out = spread.bool();
        let lanes = rng.u32(1..=4);
        let mut destinations = DESTINATIONS.to_vec();
        if rng.bool() {
            destinations = vec!["default"];
        }
        let (batches, batch_events) = batching::draw(&mut chance.stream("plan of the batches"), &destinations);
        Self {
            lanes,
            control_partitions: rng.u32(1..=lanes.min(2)),
            destinations,
            batches,
            order: resequence::Options { fan_out, batch_events, ..order(&mut chance.stream("plan of the order")) },
            work: work::Options { fan_out, ..working(&mut chance.stream("plan of the work")) },
            work_partitions: pick(&mut spread, &[1, 2, 3, 16]),
            foreigners: if fan_out { spread.usize(0..=1) } else { 0 },
            owners: rng.usize(1..=3),
            workers: rng.usize(1..=3),
            deliverers: chance.stream("plan of the deliverers").usize(0..=2),
            push: pushing(&mut chance.stream("plan of the pushes")),
            producers: rng.usize(1..=3),
            messages: pick(&mut rng, &[5, 20, 60, 120]),
            body: pick(&mut rng, &[0, 20, 300]),
            chaos: scattered(&mut rng, Duration::from_secs(5), Duration::from_secs(180)),
            faults: Faults::mixed(&mut chance.stream("plan of the faults")),
            trouble: Trouble::draw(&mut chance.stream("plan of the trouble")),
        }
    }
}

impl Trouble {
    fn draw(rng: &mut Rng) -> Self {
        let polls = 1 << rng.u32(4..14);
        let mut toss = || rng.bool();
        Self {
            polls,
            crashes: toss(),
            freezes: toss(),
            drains: toss(),
            strangers: toss(),
            operators: toss(),
            transactions: toss(),
            lost_work: toss(),
            slow_work: toss(),
            poison: toss(),
            flaky: toss(),
            unreachable: toss(),
        }
    }
}

fn order(rng: &mut Rng) -> resequence::Options {
    let by = pick(rng, &["lane", "destination", "key", "header:tenant", "none"]);
    resequence::Options {
        by: by.parse().expect("these are orders"),
        on_failure: pick(rng, &[OnFailure::Halt, OnFailure::DeadLetter, OnFailure::Skip]),
        window: pick(rng, &[1, 1, 2, 3, 4, 7, 16, 64, 512, 4096]),
        memory: pick(rng, &[1, 200, 2_000, 20_000, 256 << 20]),
        deadline: scattered(rng, Duration::from_millis(100), Duration::from_secs(60)),
        identities: pick(rng, &[1, 3, 10, 100, 100_000]),
        ..resequence::Options::default()
    }
}

fn pushing(rng: &mut Rng) -> Pushing {
    use deliver::{OnFailure, Progress, Retry};
    let mut options = deliver::Options::new("https://receiver.example");
    options.timeout = scattered(rng, Duration::from_millis(300), Duration::from_secs(5));
    options.progress = pick(rng, &[Progress::Item, Progress::Item, Progress::Batch]);
    options.on_failure = pick(rng, &[OnFailure::Halt, OnFailure::DeadLetter, OnFailure::Skip]);
    options.retry = Retry { backoff: Duration::from_millis(50), cap: Duration::from_secs(3), attempts: None };
    options.concurrency = pick(rng, &[NonZeroUsize::MIN, NonZeroUsize::MIN.saturating_add(3), options.concurrency]);
    options.window = pick(rng, &[1, 2, 5, 10_000]);
    options.memory = pick(rng, &[1, 500, 8 << 20]);
    Pushing { options, at_once: rng.bool(), outages: rng.bool(), poison: rng.bool() }
}

fn working(rng: &mut Rng) -> work::Options {
    work::Options {
        concurrency: pick(rng, &[1, 2, 5, 50]),
        timeout: scattered(rng, Duration::from_millis(300), Duration::from_secs(20)),
        retry: work::Retry {
            attempts: rng.u32(1..=4),
            backoff: Duration::from_millis(50),
            cap: Duration::from_secs(1),
        },
        ..work::Options::for_pipeline("t")
    }
}

/// What goes wrong with the log in the next window of time: calm in one of four, else a part of
/// what the seed has.
pub(crate) fn weather(rng: &mut Rng, worst: &Faults) -> Faults {
    if happens(rng, 0.25) {
        return Faults::default();
    }
    let mut keep = |chance: f64| if rng.bool() { chance } else { 0.0 };
    Faults {
        append_unknown_written: keep(worst.append_unknown_written),
        append_unknown_lost: keep(worst.append_unknown_lost),
        append_unavailable: keep(worst.append_unavailable),
        append_duplicated: keep(worst.append_duplicated),
        commit_unknown_written: keep(worst.commit_unknown_written),
        commit_unknown_lost: keep(worst.commit_unknown_lost),
        commit_unavailable: keep(worst.commit_unavailable),
        claim_unavailable: keep(worst.claim_unavailable),
        lookup_unavailable: keep(worst.lookup_unavailable),
        rebalance: keep(worst.rebalance),
        expulsion: keep(worst.expulsion),
        fence: keep(worst.fence),
        ..worst.clone()
    }
}
