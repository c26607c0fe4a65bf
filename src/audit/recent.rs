//! What was last seen under a key, for as many keys as memory allows.

use std::collections::HashMap;
use std::hash::Hash;

/// Keys kept. A group or an output is asked for again within the span of its lane, 16 windows:
/// 160,000 records by default. At some 50 bytes a key this is 25 to 50 MiB a destination at most.
pub(super) const KEPT: usize = 500_000;

/// The source offset last seen under each key; those with the lowest are forgotten first.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    seen: HashMap<K, (u64, V)>,
    kept: usize,
    /// What was forgotten had offsets up to here.
    forgotten: Option<u64>,
}

impl<K: Eq + Hash, V: Copy> Recent<K, V> {
    pub(super) fn new(kept: usize) -> Self {
        Self { seen: HashMap::new(), kept, forgotten: None }
    }

    /// Notes what is seen under the key now, and gives what was before.
    pub(super) fn see(&mut self, key: K, offset: u64, value: V) -> Option<(u64, V)> {
        if self.seen.len() >= 2 * self.kept {
            self.forget();
        }
        self.seen.insert(key, (offset, value))
    }

    /// Whether something with this offset may have been forgotten, so that its key's silence says
    /// nothing.
    pub(super) fn may_have_forgotten(&self, offset: u64) -> bool {
        self.forgotten.is_some_and(|up_to| offset <= up_to)
    }

    /// Forgets the lower half.
    fn forget(&mut self) {
        let mut offsets: Vec<u64> = self.seen.values().map(|(offset, _)| *offset).collect();
        let middle = offsets.len() / 2;
        let (_, up_to, _) = offsets.select_nth_unstable(middle);
        let up_to = *up_to;
        self.seen.retain(|_, (offset, _)| *offset > up_to);
        self.forgotten = self.forgotten.max(Some(up_to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_that_is_known() {
        let mut recent = Recent::new(10);
        for key in 0..1_000u64 {
            assert_eq!(recent.see(key, key, ()), None);
            assert!(recent.seen.len() <= 20);
        }
        assert_eq!(recent.see(995, 2_000, ()), Some((995, ())));
        assert!(recent.may_have_forgotten(3) && !recent.may_have_forgotten(995));
    }
}
