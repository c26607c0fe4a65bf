//! A set of ordinals in a sliding span, one bit each.

use std::collections::VecDeque;

use super::released::Released;

const WORD: u64 = u64::BITS as u64;

/// Ordinals at or above an advancing start. Insertion, removal and advancing are amortised O(1)
/// in any order, which sorted runs are not; reading the runs out costs a step for every 64 ordinals of
/// the span and one for every run: 2,500 words, about a microsecond, for 16 windows of 10,000.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    /// The number of the first word: ordinals from `first * 64`.
    first: u64,
    words: VecDeque<u64>,
    count: u64,
}

impl Bits {
    /// How many ordinals are in the set.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn contains(&self, ordinal: u64) -> bool {
        self.index(ordinal).and_then(|at| self.words.get(at)).is_some_and(|word| word & bit(ordinal) != 0)
    }

    /// Adds an ordinal at or above the start.
    pub(super) fn insert(&mut self, ordinal: u64) {
        let Some(at) = self.index(ordinal) else { return };
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.count += u64::from(self.words[at] & bit(ordinal) == 0);
        self.words[at] |= bit(ordinal);
    }

    pub(super) fn remove(&mut self, ordinal: u64) {
        if let Some(word) = self.index(ordinal).and_then(|at| self.words.get_mut(at)) {
            self.count -= u64::from(*word & bit(ordinal) != 0);
            *word &= !bit(ordinal);
        }
    }

    /// Moves the start up to the word of `ordinal`; all below were removed before.
    #[inline]
    pub(super) fn advance(&mut self, ordinal: u64) {
        if self.count == 0 {
            self.words.clear();
            self.first = ordinal / WORD;
        }
        while self.first < ordinal / WORD {
            self.words.pop_front();
            self.first += 1;
        }
    }

    /// The set's runs, made relative to `frontier`.
    pub(super) fn append_to(&self, released: &mut Released, frontier: u64) {
        if self.count == 0 {
            return;
        }
        for (number, &word) in (self.first..).zip(&self.words) {
            let mut rest = word;
            while rest != 0 {
                let start = rest.trailing_zeros();
                let length = (rest >> start).trailing_ones();
                released.push_run(number * WORD + u64::from(start) - frontier, u64::from(length));
                // Adding the run's lowest bit carries through the whole run and clears it.
                rest &= rest.wrapping_add(1 << start);
            }
        }
    }

    /// The ordinals in increasing order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let words = if self.count == 0 { 0 } else { self.words.len() };
        (self.first..).zip(self.words.iter().take(words)).flat_map(|(number, &word)| {
            let clear_lowest = |rest: &u64| Some(rest & (rest - 1)).filter(|rest| *rest != 0);
            let lowest = move |rest: u64| number * WORD + u64::from(rest.trailing_zeros());
            std::iter::successors(Some(word).filter(|word| *word != 0), clear_lowest).map(lowest)
        })
    }

    fn index(&self, ordinal: u64) -> Option<usize> {
        usize::try_from((ordinal / WORD).checked_sub(self.first)?).ok()
    }
}

const fn bit(ordinal: u64) -> u64 {
    1 << (ordinal % WORD)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Many words wide, which the lane's own properties are too slow for.
        #[test]
        fn a_sliding_set_is_a_set(steps in prop::collection::vec((0_u8..6, 0_u64..400, 1_u64..150), 0..60)) {
            let (mut bits, mut set, mut start) = (Bits::default(), BTreeSet::new(), 0);
            for (step, ordinal, length) in steps {
                let range = start + ordinal..start + ordinal + length;
                match step {
                    0..=2 => range.for_each(|ordinal| {
                        bits.insert(ordinal);
                        set.insert(ordinal);
                    }),
                    3 | 4 => range.for_each(|ordinal| {
                        bits.remove(ordinal);
                        set.remove(&ordinal);
                    }),
                    _ => {
                        start += ordinal;
                        set.range(..start).for_each(|below| bits.remove(*below));
                        set = set.split_off(&start);
                        bits.advance(start);
                    }
                }
                prop_assert!(bits.iter().eq(set.iter().copied()));
                prop_assert_eq!(bits.count(), set.len() as u64);
                prop_assert!((start..start + 600).all(|ordinal| bits.contains(ordinal) == set.contains(&ordinal)));
                let mut released = Released::default();
                bits.append_to(&mut released, start);
                prop_assert!((0..600).all(|at| released.contains(at) == set.contains(&(start + at))));
                prop_assert!(released.runs().windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0));
            }
        }
    }
}
