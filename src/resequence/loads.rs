//! How much each partition of the work topic holds that has no result yet.

use std::collections::BTreeSet;

use crate::record::Partition;

/// Counts over all lanes of one owner; what other owners put there it does not know.
///
/// The one with the least gets the next record, among equals the one that has waited longest for
/// one. O(log partitions) a record.
#[derive(Debug)]
pub(super) struct Loads {
    /// By partition.
    loads: Vec<Load>,
    by_load: BTreeSet<(Load, Partition)>,
    turns: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    outstanding: u64,
    /// When it last got one, counted in records.
    turn: u64,
}

impl Loads {
    pub(super) fn new(partitions: u32) -> Self {
        let by_load = (0..partitions).map(|number| (Load::default(), Partition(number))).collect();
        Self { loads: vec![Load::default(); partitions as usize], by_load, turns: 0 }
    }

    /// The partition with the least among those not to be avoided, which then has one more; `None`
    /// where all are to be avoided.
    pub(super) fn take_least(&mut self, avoid: impl Fn(Partition) -> bool) -> Option<Partition> {
        let partition = self.least(avoid)?;
        self.turns += 1;
        let turn = self.turns;
        self.change(partition, |load| Load { outstanding: load.outstanding + 1, turn });
        Some(partition)
    }

    /// The partition with the least among those not to be avoided.
    pub(super) fn least(&self, avoid: impl Fn(Partition) -> bool) -> Option<Partition> {
        self.by_load.iter().map(|(_, partition)| *partition).find(|partition| !avoid(*partition))
    }

    /// A record that was put there has its result.
    pub(super) fn answered(&mut self, partition: Partition) {
        self.change(partition, |load| Load { outstanding: load.outstanding.saturating_sub(1), ..load });
    }

    fn change(&mut self, partition: Partition, change: impl FnOnce(Load) -> Load) {
        let Some(load) = self.loads.get_mut(partition.0 as usize) else { return };
        self.by_load.remove(&(*load, partition));
        *load = change(*load);
        self.by_load.insert((*load, partition));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_least_loaded_gets_the_next_one(
            partitions in 1u32..6,
            steps in proptest::collection::vec((0u32..8, 0u32..64), 0..200),
        ) {
            let mut loads = Loads::new(partitions);
            let mut naive: Vec<(u64, u64)> = vec![(0, 0); partitions as usize];
            for (turn, (step, mask)) in (1..).zip(steps) {
                if step < 5 {
                    let avoid = |p: usize| mask >> p & 1 == 1;
                    let least = (0..naive.len()).filter(|p| !avoid(*p)).min_by_key(|p| naive[*p]);
                    let taken = loads.take_least(|p| avoid(p.0 as usize));
                    prop_assert_eq!(taken.map(|p| p.0 as usize), least);
                    if let Some(least) = least {
                        naive[least] = (naive[least].0 + 1, turn);
                    }
                } else {
                    let partition = mask % partitions;
                    loads.answered(Partition(partition));
                    let load = &mut naive[partition as usize].0;
                    *load = load.saturating_sub(1);
                }
            }
        }
    }
}
