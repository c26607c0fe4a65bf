//! Questions to a lane; none changes its order.

use super::super::slots::{Slot, State};
use super::Lane;
use crate::record::Offset;

/// How an offset stands in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Below the frontier: released, or a hole, and done for good.
    Below,
    /// Not read yet.
    Unread,
    /// Passed over by the input: no committed record has this offset.
    Hole,
    /// Released above the frontier.
    Released,
    /// Admitted and not wholly released.
    Open {
        /// It has its result.
        resolved: bool,
        /// A part has left, before a restart perhaps, or is taken to leave now.
        started: bool,
    },
}

impl<E> Lane<E> {
    /// How an offset stands. O(log runs) where offsets have holes.
    #[must_use]
    pub fn standing(&self, offset: Offset) -> Standing {
        if offset < self.frontier() {
            return Standing::Below;
        }
        if offset >= self.read_to {
            return Standing::Unread;
        }
        match self.slot(offset) {
            None => Standing::Hole,
            Some(slot) if slot.released() => Standing::Released,
            Some(slot) => Standing::Open { resolved: slot.resolved, started: slot.started() },
        }
    }

    /// What the stage keeps of an open record.
    #[must_use]
    pub fn entry(&self, offset: Offset) -> Option<&E> {
        self.slot(offset)?.entry.as_ref()
    }

    /// As [`Lane::entry`], to be changed.
    pub fn entry_mut(&mut self, offset: Offset) -> Option<&mut E> {
        let ordinal = self.offsets.find(offset)?;
        self.slots.get_mut(ordinal)?.entry.as_mut()
    }

    /// The unreleased record at the frontier, which holds it back; `None` where everything that is
    /// read is released.
    #[must_use]
    pub fn blocking(&self) -> Option<(Offset, &E)> {
        let slot = self.slots.front()?;
        Some((slot.offset, slot.entry.as_ref()?))
    }

    /// The record that holds this one back: the head of the first group in which another record
    /// is before it. `None` where it waits for nothing but itself, and for what is not open.
    #[must_use]
    pub fn waits_for(&self, offset: Offset) -> Option<Offset> {
        let ordinal = self.offsets.find(offset)?;
        let heads = self.slots.links(ordinal).filter_map(|link| {
            let part = self.slots.part(link).filter(|part| part.state == State::Waiting)?;
            self.chains.get(&part.group).map(|chain| chain.head.ordinal())
        });
        let head = heads.into_iter().find(|head| *head != ordinal)?;
        self.slots.get(head).map(|slot| slot.offset)
    }

    /// The unreleased records in offset order, each with whether it has its result. A step per
    /// record of the span.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Offset, bool, &E)> {
        self.slots.iter_from(0).filter_map(seen)
    }

    /// As [`Lane::iter`], from an offset on.
    pub fn iter_from(&self, offset: Offset) -> impl DoubleEndedIterator<Item = (Offset, bool, &E)> {
        self.slots.iter_from(self.offsets.at_or_above(offset)).filter_map(seen)
    }

    /// As [`Lane::iter`], to change what the stage keeps.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (Offset, bool, &mut E)> {
        self.slots.iter_mut_from(0).filter_map(|slot| Some((slot.offset, slot.resolved, slot.entry.as_mut()?)))
    }

    fn slot(&self, offset: Offset) -> Option<&Slot<E>> {
        self.slots.get(self.offsets.find(offset)?)
    }
}

fn seen<E>(slot: &Slot<E>) -> Option<(Offset, bool, &E)> {
    Some((slot.offset, slot.resolved, slot.entry.as_ref()?))
}
