//! What can go wrong, how often, and the chance that decides.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use crate::log::group::Disturbance;

/// A wait that happens to some.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delay {
    /// How likely it is, 0 to 1.
    pub chance: f64,
    /// How long it takes, drawn evenly.
    pub range: Range<Duration>,
}

impl Delay {
    /// A wait that everything has.
    #[must_use]
    pub const fn always(range: Range<Duration>) -> Self {
        Self { chance: 1.0, range }
    }
}

/// What goes wrong. All probabilities are from 0 to 1 and per call; the default is: nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Until an append can be read.
    pub append_delay: Delay,
    /// From there until it is acknowledged.
    pub acknowledge_delay: Delay,
    /// The outcome of an append is unknown, and it was written.
    pub append_unknown_written: f64,
    /// The outcome of an append is unknown, and it was not written.
    pub append_unknown_lost: f64,
    /// An append is refused, at once or after a while.
    pub append_unavailable: f64,
    /// An append is there twice, as a broker that lost track of a producer's numbers may leave it.
    pub append_duplicated: f64,
    /// Until a commit can be read, and is acknowledged.
    pub commit_delay: Delay,
    /// The outcome of a commit is unknown, and it was written.
    pub commit_unknown_written: f64,
    /// The outcome of a commit is unknown, and it was not written.
    pub commit_unknown_lost: f64,
    /// A commit is refused.
    pub commit_unavailable: f64,
    /// A claim is refused, to be tried again.
    pub claim_unavailable: f64,
    /// Bounds, stored positions and opening a reader are refused, to be tried again.
    pub lookup_unavailable: f64,
    /// Until a reader hands out what is there.
    pub read_delay: Delay,
    /// A reader hands out all it found as one batch with holes inside.
    pub regrouped: f64,
    /// Offsets are left out before a batch.
    pub hole: f64,
    /// How many are left out, at most.
    pub hole_size: u64,
    /// Every commit uses up one more offset of each partition, as a transaction's marker does.
    pub markers: bool,
    /// Per heartbeat: a member has to let go of everything, and gets a share again.
    pub rebalance: f64,
    /// Per heartbeat: a member loses everything, and may come back.
    pub expulsion: f64,
    /// Per heartbeat: a member loses everything for good, and has to join anew.
    pub fence: f64,
}

impl Faults {
    /// A mix in the manner of swarm testing: each kind of fault takes part or not by the toss of
    /// a coin, and those that do are rare, frequent or in between.
    #[must_use]
    pub fn mixed(rng: &mut Rng) -> Self {
        let mut chance = |most: f64| if rng.bool() { most * rng.f64() * rng.f64() } else { 0.0 };
        let mut faults = Self {
            append_unknown_written: chance(0.2),
            append_unknown_lost: chance(0.2),
            append_unavailable: chance(0.3),
            append_duplicated: chance(0.1),
            commit_unknown_written: chance(0.2),
            commit_unknown_lost: chance(0.2),
            commit_unavailable: chance(0.3),
            claim_unavailable: chance(0.5),
            lookup_unavailable: chance(0.3),
            regrouped: chance(1.0),
            hole: chance(0.5),
            rebalance: chance(0.3),
            expulsion: chance(0.2),
            fence: chance(0.1),
            ..Self::default()
        };
        let mut delay = |most: u64| {
            let most = Duration::from_millis(rng.u64(1..=most));
            if rng.bool() { Delay { chance: rng.f64(), range: Duration::ZERO..most } } else { Delay::default() }
        };
        faults.append_delay = delay(500);
        faults.acknowledge_delay = delay(500);
        faults.commit_delay = delay(500);
        faults.read_delay = delay(200);
        faults.hole_size = rng.u64(1..100);
        faults.markers = rng.bool();
        faults
    }
}

/// One stream of chance a kind of draw, so that more of one kind does not shift the others.
#[derive(Debug)]
pub(super) struct Dice {
    pub(super) append: Rng,
    pub(super) commit: Rng,
    pub(super) lookup: Rng,
    pub(super) read: Rng,
    pub(super) holes: Rng,
    pub(super) group: Rng,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut root = Rng::with_seed(seed);
        Self {
            append: root.fork(),
            commit: root.fork(),
            lookup: root.fork(),
            read: root.fork(),
            holes: root.fork(),
            group: root.fork(),
        }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    UnknownWritten,
    UnknownLost,
    Unavailable,
}

impl Fate {
    pub(super) const fn is_written(self) -> bool {
        matches!(self, Self::Done | Self::UnknownWritten)
    }

    pub(super) fn draw(rng: &mut Rng, unknown_written: f64, unknown_lost: f64, unavailable: f64) -> Self {
        let draw = rng.f64();
        if draw < unknown_written {
            Self::UnknownWritten
        } else if draw < unknown_written + unknown_lost {
            Self::UnknownLost
        } else if draw < unknown_written + unknown_lost + unavailable {
            Self::Unavailable
        } else {
            Self::Done
        }
    }
}

pub(super) fn happens(rng: &mut Rng, chance: f64) -> bool {
    rng.f64() < chance
}

pub(super) fn wait(rng: &mut Rng, delay: &Delay) -> Duration {
    if !happens(rng, delay.chance) {
        return Duration::ZERO;
    }
    let span = delay.range.end.saturating_sub(delay.range.start);
    delay.range.start + span.mul_f64(rng.f64())
}

pub(super) fn disturbance(rng: &mut Rng, faults: &Faults) -> Option<Disturbance> {
    let draw = rng.f64();
    if draw < faults.fence {
        Some(Disturbance::Fence)
    } else if draw < faults.fence + faults.expulsion {
        Some(Disturbance::Expulsion)
    } else {
        (draw < faults.fence + faults.expulsion + faults.rebalance).then_some(Disturbance::Rebalance)
    }
}
