//! Events on their way to a destination, where one gets them beside the events topic.
//!
//! Such an event is put into the input in the commit that makes it true, as items are, and leaves
//! from there without work: so it has a place in the lane, a sequence number and a line in the ledger
//! like any output, and is pushed exactly as they are. The owner knows those it has sent by number,
//! so that nobody else's count, nor those of a commit that a log has torn.

use std::collections::BTreeMap;

use crate::record::batches::EventType;
use crate::record::{Epoch, EventMark, Offset};

use super::super::BatchEvents;

type Id = (u64, u64);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Events {
    to: Option<BatchEvents>,
    epoch: u64,
    /// The number of the next one.
    next: u64,
    /// Those that are not released, with their record where it was read.
    pending: BTreeMap<Id, Option<Offset>>,
}

impl Events {
    /// Goes on with what a cursor holds, in a new epoch.
    pub(super) fn new(to: Option<BatchEvents>, epoch: Epoch, runs: &[(u64, u64, u64)]) -> Self {
        let of_run = |(epoch, first, count): &(u64, u64, u64)| {
            let epoch = *epoch;
            (*first..first.saturating_add(*count)).map(move |number| ((epoch, number), None))
        };
        Self { to, epoch: epoch.0, next: 0, pending: runs.iter().flat_map(of_run).collect() }
    }

    /// Where an event of this type goes, and how it is marked; `None` where it goes nowhere.
    pub(super) fn send(&mut self, kind: EventType) -> Option<(&str, EventMark<'static>)> {
        let to = self.to.as_ref().filter(|to| to.items || kind != EventType::WorkOrderCompleted)?;
        let id = (self.epoch, self.next);
        self.next += 1;
        self.pending.insert(id, None);
        Some((&to.destination, EventMark { id, kind: kind.as_str() }))
    }

    /// Takes the record at `offset` for this event; `false` where it is none that an owner has sent,
    /// or another record was taken for it.
    pub(super) fn claim(&mut self, id: Id, offset: Offset) -> bool {
        self.pending.get_mut(&id).is_some_and(|at| *at.get_or_insert(offset) == offset)
    }

    /// The record at `offset` has left.
    pub(super) fn left(&mut self, id: Id, offset: Offset) {
        if self.pending.get(&id) == Some(&Some(offset)) {
            self.pending.remove(&id);
        }
    }

    /// Those that are not released, as a cursor holds them.
    pub(super) fn runs(&self) -> Vec<(u64, u64, u64)> {
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        for (epoch, number) in self.pending.keys() {
            match runs.last_mut() {
                Some((of, first, count)) if of == epoch && *first + *count == *number => *count += 1,
                _ => runs.push((*epoch, *number, 1)),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(epoch: u64, runs: &[(u64, u64, u64)]) -> Events {
        let to = BatchEvents { destination: "hooks".to_owned(), items: false };
        Events::new(Some(to), Epoch(epoch), runs)
    }

    #[test]
    fn only_what_an_owner_has_sent_counts_and_only_once() {
        let mut first = events(3, &[]);
        assert_eq!(first.send(EventType::WorkOrderCompleted), None, "items are not asked for");
        for number in 0..3 {
            let mark = EventMark { id: (3, number), kind: "WorkAllDone" };
            assert_eq!(first.send(EventType::WorkAllDone), Some(("hooks", mark)));
        }
        assert!(!first.claim((3, 3), Offset(1)), "forged");
        assert!(first.claim((3, 1), Offset(2)) && first.claim((3, 1), Offset(2)));
        assert!(!first.claim((3, 1), Offset(4)), "a second record of the same event");
        first.left((3, 1), Offset(4));
        assert_eq!(first.runs(), [(3, 0, 3)]);
        first.left((3, 1), Offset(2));
        assert_eq!(first.runs(), [(3, 0, 1), (3, 2, 1)]);

        let mut next = events(7, &first.runs());
        next.send(EventType::BatchStalled);
        assert_eq!(next.runs(), [(3, 0, 1), (3, 2, 1), (7, 0, 1)]);
        assert!(!next.claim((3, 1), Offset(9)), "it has left");
        assert!(next.claim((3, 2), Offset(10)));
    }
}
