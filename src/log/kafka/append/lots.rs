//! Which appends are handed to librdkafka, and which wait for those before them.
//!
//! An idempotent producer may have five requests of a partition under way, but librdkafka counts the
//! records in them against that (`rktp_msgs_inflight`, in 2.12.1): after five records nothing follows
//! before all of them are answered. What it is given meanwhile makes its thread ask without a pause whether it
//! may be sent yet. Held here until then, it costs nothing, and all of it leaves in one request.
//!
//! An append's `delivery.timeout.ms` begins when it is handed over. It waits here as long as those before it at
//! most, so it is answered within twice that time.

use std::collections::BTreeMap;

use crate::log::TopicPartition;
use crate::record::Batch;

/// With so many records of a partition under way librdkafka sends nothing more of it.
const AT_ONCE: usize = 5;

/// An append, by its number.
pub(super) type Numbered = (usize, Batch);

#[derive(Default)]
pub(super) struct Lots(BTreeMap<TopicPartition, Lot>);

/// What of one partition is not answered yet. Nothing is held while there is room for more under way.
#[derive(Default)]
struct Lot {
    under_way: usize,
    held: Vec<Numbered>,
}

impl Lots {
    /// Gives the append back where it may be handed over now.
    pub(super) fn begin(&mut self, to: &TopicPartition, append: Numbered) -> Option<Numbered> {
        if !self.0.contains_key(to) {
            self.0.insert(to.clone(), Lot::default());
        }
        let lot = self.0.get_mut(to).expect("it was just looked for");
        if lot.under_way >= AT_ONCE {
            lot.held.push(append);
            return None;
        }
        lot.under_way += append.1.len();
        Some(append)
    }

    /// An append of so many records is answered. Returns what may be handed over now, in order.
    pub(super) fn end(&mut self, to: &TopicPartition, records: usize) -> Vec<Numbered> {
        let Some(lot) = self.0.get_mut(to) else { return Vec::new() };
        lot.under_way = lot.under_way.saturating_sub(records);
        if lot.under_way >= AT_ONCE {
            return Vec::new();
        }
        let held = std::mem::take(&mut lot.held);
        lot.under_way += held.iter().map(|(_, batch)| batch.len()).sum::<usize>();
        if lot.under_way == 0 {
            self.0.remove(to);
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::log::Topic;
    use crate::record::{BatchBuilder, Partition};

    fn batch(records: usize) -> Batch {
        let mut builder = BatchBuilder::default();
        (0..records).for_each(|_| builder.push(None, None, |_| {}));
        builder.finish()
    }

    proptest! {
        /// Appends of a partition are handed over in order, each once, as soon as there is room.
        #[test]
        fn appends_leave_in_order_and_none_stays(steps in prop::collection::vec((0..3_u32, 0..9_usize), 0..200)) {
            let mut lots = Lots::default();
            let mut sent: BTreeMap<u32, VecDeque<Numbered>> = BTreeMap::new();
            let mut due: BTreeMap<u32, VecDeque<usize>> = BTreeMap::new();
            let of = |partition| Topic::from("t").partition(Partition(partition));
            let ends = (0..3).flat_map(|partition| (0..200).map(move |_| (partition, 0)));
            for (id, (partition, records)) in steps.into_iter().chain(ends).enumerate() {
                let sent = sent.entry(partition).or_default();
                let due = due.entry(partition).or_default();
                let released = if records > 0 {
                    due.push_back(id);
                    lots.begin(&of(partition), (id, batch(records))).into_iter().collect()
                } else if let Some((_, batch)) = sent.pop_front() {
                    lots.end(&of(partition), batch.len())
                } else {
                    Vec::new()
                };
                for append in released {
                    prop_assert_eq!(Some(append.0), due.pop_front());
                    sent.push_back(append);
                }
                let under_way: usize = sent.iter().map(|(_, batch)| batch.len()).sum();
                prop_assert!(due.is_empty() || under_way >= AT_ONCE);
            }
            prop_assert!(due.values().all(VecDeque::is_empty));
            prop_assert!(lots.0.is_empty());
        }
    }
}
