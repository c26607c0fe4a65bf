//! The invariants of a lane, checked the slow way.

use std::collections::BTreeMap;

use super::super::slots::{Link, State};
use super::{Group, Lane, Violated};
use crate::invariant;
use crate::record::Offset;

impl<E> Lane<E> {
    /// Checks every invariant of the lane. O(span), for tests and simulation.
    ///
    /// # Errors
    ///
    /// The first that is broken.
    pub fn self_check(&self) -> Result<(), Violated> {
        self.check_counts()?;
        self.check_chains()?;
        self.check_ready()?;
        self.check_released()?;
        self.check_offsets()
    }

    fn check_counts(&self) -> Result<(), Violated> {
        let front = self.slots.front();
        invariant!(FrontierUnreleased, front.is_none_or(|slot| !slot.released()), "{} is released", self.frontier());
        let unreleased = self.slots.iter_from(0).filter(|slot| !slot.released()).count() as u64;
        invariant!(CountsAgree, unreleased == self.unreleased, "{unreleased}, not {}, unreleased", self.unreleased);
        for (ordinal, slot) in (self.slots.start()..).zip(self.slots.iter_from(0)) {
            let count = |wanted: &dyn Fn(State) -> bool| self.states(ordinal).filter(|state| wanted(*state)).count();
            let open = count(&|state| state != State::Left);
            let taken = count(&|state| state == State::Taken);
            let counted = (usize::from(slot.open), usize::from(slot.taken)) == (open, taken);
            let same = counted && slot.entry.is_some() == (open > 0);
            invariant!(CountsAgree, same, "{}: {open} open, {taken} taken", slot.offset);
        }
        Ok(())
    }

    fn check_chains(&self) -> Result<(), Violated> {
        let mut chains: BTreeMap<Group, Vec<Link>> = BTreeMap::new();
        for link in self.links() {
            let Some(part) = self.slots.part(link).filter(|part| part.state != State::Left) else { continue };
            if part.alone {
                invariant!(HeadsOnly, part.state != State::Waiting && part.next.is_none(), "{link:?} is alone");
            } else {
                chains.entry(part.group).or_default().push(link);
            }
        }
        invariant!(
            ChainsInOrder,
            chains.len() == self.chains.len(),
            "{} chains, not {}",
            self.chains.len(),
            chains.len()
        );
        for (group, links) in chains {
            let head = self.chains.get(&group).map(|chain| chain.head);
            let next = |link: &Link| self.slots.part(*link).and_then(|part| part.next);
            let walked: Vec<Link> = std::iter::successors(head, next).take(links.len() + 1).collect();
            let ends = self.chains.get(&group).map(|chain| chain.tail) == links.last().copied();
            invariant!(ChainsInOrder, walked == links && ends, "{group:?}: {walked:?}, not {links:?}");
            for (at, link) in links.into_iter().enumerate() {
                let waiting = self.slots.part(link).is_some_and(|part| part.state == State::Waiting);
                invariant!(HeadsOnly, waiting == (at > 0), "{link:?} is at {at} of {group:?}");
            }
        }
        Ok(())
    }

    fn check_ready(&self) -> Result<(), Violated> {
        for link in self.links() {
            let Some(part) = self.slots.part(link) else { continue };
            let resolved = self.slots.get(link.ordinal()).is_some_and(|slot| slot.resolved);
            let queued = self.ready.iter().filter(|ready| **ready == link).count();
            let parked = self.parked.contains(&link);
            let right = match part.state {
                State::Ready => resolved && queued == 1 && !parked,
                State::Parked => resolved && queued == 0 && parked,
                State::Taken => resolved && queued == 0 && !parked,
                State::Head => !resolved && queued == 0 && !parked,
                State::Waiting | State::Left => queued == 0 && !parked,
            };
            invariant!(NothingForgotten, right, "{link:?}: {:?}, {queued} queued, parked {parked}", part.state);
        }
        let known = self.ready.iter().chain(&self.parked).all(|link| self.slots.part(*link).is_some());
        invariant!(NothingForgotten, known, "a part is queued or parked that is gone");
        Ok(())
    }

    fn check_released(&self) -> Result<(), Violated> {
        for (ordinal, slot) in (self.slots.start()..).zip(self.slots.iter_from(0)) {
            let done = self.done.contains(ordinal) == slot.released();
            let begun = self.begun.contains(ordinal) == (slot.open > 0 && slot.open < slot.parts);
            invariant!(ReleasedSetAgrees, done && begun, "{}: {} of {} open", slot.offset, slot.open, slot.parts);
        }
        let (set, released) = (self.done.count(), self.span() - self.unreleased);
        invariant!(ReleasedSetAgrees, set == released, "{set} in the set, {released} released");
        Ok(())
    }

    fn check_offsets(&self) -> Result<(), Violated> {
        let mut last = None;
        for (ordinal, slot) in (self.slots.start()..).zip(self.slots.iter_from(0)) {
            let offset = slot.offset;
            invariant!(OffsetsFound, last < Some(offset) && offset < self.read_to, "{offset} behind {last:?}");
            invariant!(OffsetsFound, self.offsets.find(offset) == Some(ordinal), "{offset} is not found");
            let before = offset.0.checked_sub(1).map(Offset);
            let hole = before.filter(|before| last.is_some_and(|last| last < *before));
            invariant!(OffsetsFound, hole.is_none_or(|hole| self.offsets.find(hole).is_none()), "{hole:?} is found");
            last = Some(offset);
        }
        Ok(())
    }

    fn links(&self) -> impl Iterator<Item = Link> + '_ {
        (self.slots.start()..self.slots.end()).flat_map(|ordinal| self.slots.links(ordinal))
    }

    fn states(&self, ordinal: u64) -> impl Iterator<Item = State> + '_ {
        self.slots.links(ordinal).filter_map(|link| self.slots.part(link).map(|part| part.state))
    }
}
