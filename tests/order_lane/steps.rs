//! What an input may hold, and what may happen to it.

use proptest::prelude::*;
use seriatim::order::Group;

/// A committed record of the input and what the oracle knows of its parts.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) offset: u64,
    pub(crate) groups: Vec<Group>,
    /// Admitted as a group of its own, whatever its offset has in common with the groups of others.
    pub(crate) alone: bool,
    pub(crate) left: Vec<bool>,
}

impl Record {
    pub(crate) fn released(&self) -> bool {
        self.left.iter().all(|left| *left)
    }
}

/// What happens next. Numbers pick among what there is, modulo.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Read,
    /// Any offset at all, strangers' among them.
    Resolve(u16),
    Unresolve(u16),
    Take,
    Release(u16),
    Park(u16),
    Unpark(u16),
    SetWindow(u64),
    Commit,
    /// All that is not committed is lost.
    Crash,
    /// Everything that may leave does.
    Drain,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Read),
        8 => any::<u16>().prop_map(Step::Resolve),
        1 => any::<u16>().prop_map(Step::Unresolve),
        6 => Just(Step::Take),
        5 => any::<u16>().prop_map(Step::Release),
        2 => any::<u16>().prop_map(Step::Park),
        1 => any::<u16>().prop_map(Step::Unpark),
        1 => (0_u64..6).prop_map(Step::SetWindow),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
        1 => Just(Step::Drain),
    ]
}

/// Every scope is a way of naming groups.
fn groups() -> impl Strategy<Value = Vec<Vec<Group>>> {
    let some = |group: std::ops::Range<u64>, parts| prop::collection::vec(group.prop_map(Group), parts);
    let records = 1..60_usize;
    prop_oneof![
        prop::collection::vec(Just(vec![Group(0)]), records.clone()),
        prop::collection::vec(some(0..3, 1..2), records.clone()),
        prop::collection::vec(some(0..4, 1..6), records.clone()),
        prop::collection::vec(some(0..70, 60..65), 1..8),
        records.prop_map(|count| (0..count as u64).map(|offset| vec![Group(offset)]).collect()),
    ]
}

pub(crate) fn input() -> impl Strategy<Value = Vec<Record>> {
    let gaps = prop::collection::vec(prop_oneof![6 => Just(0_u64), 3 => 1..4_u64, 1 => Just(1_000_000)], 60);
    let alone = prop::collection::vec(prop::bool::weighted(0.2), 60);
    (groups(), gaps, alone).prop_map(|(groups, gaps, alone)| {
        let mut offset = 0;
        let record = |((groups, gap), alone): ((Vec<Group>, u64), bool)| {
            offset += gap;
            // To the oracle it has a group that nobody else has.
            let groups = if alone { vec![Group(u64::MAX - offset)] } else { groups };
            let left = vec![false; groups.len()];
            offset += 1;
            Record { offset: offset - 1, groups, alone, left }
        };
        groups.into_iter().zip(gaps).zip(alone).map(record).collect()
    })
}
