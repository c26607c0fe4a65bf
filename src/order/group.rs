//! Sequence groups, and how they are hashed.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A sequence group: the hash of a key, a header's value or a destination's name, or one number
/// for the whole lane, or the offset where each record stands alone. Two groups that happen to
/// have one hash are kept in one order, which is more order than was asked for, never less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u64);

/// Hashes a [`Group`] or an identity with one folded multiplication under a random seed.
///
/// Groups come from keys that strangers choose, and their hash is public (it is on every output),
/// so whoever knew how they fall into buckets could make all of them fall into one. The seed, drawn
/// once per lane, prevents that. It does not harm replay: nothing depends on the order in a map.
#[derive(Clone, Debug)]
pub(super) struct Seeded {
    mask: u64,
    factor: u64,
}

impl Default for Seeded {
    fn default() -> Self {
        let state = RandomState::new();
        // Odd, so that the low half of the product is a permutation.
        Self { mask: state.hash_one(0_u64), factor: state.hash_one(1_u64) | 1 }
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.mask, factor: self.factor }
    }
}

#[derive(Debug)]
pub(super) struct Folded {
    state: u64,
    factor: u64,
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.state ^ value) * u128::from(self.factor);
        #[allow(clippy::cast_possible_truncation)] // both halves are folded together
        let folded = product as u64 ^ (product >> 64) as u64;
        self.state = folded;
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // both halves are taken
    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }
}
