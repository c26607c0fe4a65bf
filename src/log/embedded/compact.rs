//! Which stored batches of a compacted partition hold a record that is still the last of its key.

use std::collections::BTreeMap;

use crate::record::{Batch, Offset};

/// The live batches of one partition, by base offset.
#[derive(Debug, Default)]
pub(super) struct Compact {
    latest: BTreeMap<Vec<u8>, Offset>,
    live: BTreeMap<Offset, usize>,
}

impl Compact {
    /// Takes the newest batch into account; returns the bases of those that nobody needs any more.
    /// Records without a key are needed for ever.
    pub(super) fn add(&mut self, batch: &Batch) -> Vec<Offset> {
        let base = batch.base();
        let mut superseded = Vec::new();
        for record in batch {
            let former = record.key.and_then(|key| self.latest.insert(key.to_vec(), base));
            if former == Some(base) {
                continue;
            }
            *self.live.entry(base).or_default() += 1;
            let Some(former) = former else { continue };
            let left = self.live.get_mut(&former).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                self.live.remove(&former);
                superseded.push(former);
            }
        }
        superseded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Timestamp};

    fn batch(base: u64, keys: &[Option<&str>]) -> Batch {
        let mut builder = BatchBuilder::default();
        for key in keys {
            builder.push(key.map(str::as_bytes), None, |_| {});
        }
        builder.finish().placed(Offset(base), Timestamp(0))
    }

    #[test]
    fn a_batch_goes_when_its_last_needed_record_is_superseded() {
        let mut compact = Compact::default();
        assert_eq!(compact.add(&batch(0, &[Some("a"), Some("b"), Some("a")])), []);
        assert_eq!(compact.add(&batch(3, &[Some("a")])), []);
        assert_eq!(compact.add(&batch(4, &[Some("a"), Some("b")])), [Offset(3), Offset(0)]);
        assert_eq!(compact.add(&batch(6, &[None])), []);
        assert_eq!(compact.add(&batch(7, &[None, Some("a"), Some("b")])), [Offset(4)]);
    }
}
