//! From a result to the way out.

use super::super::slots::{Link, MAX_PARTS, State};
use super::super::{Invariant, violated};
use super::{Lane, Part, Standing, Violated};
use crate::invariant;
use crate::record::Offset;

impl<E> Lane<E> {
    /// The record at `offset` has its result: its parts become ready as they get to the heads of
    /// their groups.
    ///
    /// # Errors
    ///
    /// How the offset stands, where it is not an open record without a result; nothing changes.
    pub fn resolve(&mut self, offset: Offset) -> Result<(), Standing> {
        let standing = || self.standing(offset);
        let ordinal = self.offsets.find(offset).ok_or_else(standing)?;
        let slot = match self.slots.get_mut(ordinal) {
            Some(slot) if !slot.resolved && !slot.released() => slot,
            _ => return Err(self.standing(offset)),
        };
        slot.resolved = true;
        for link in self.slots.links(ordinal) {
            self.shift(link, State::Head, State::Ready);
        }
        Ok(())
    }

    /// Takes a record's result back, as an operator's retry does. Its parked and ready parts wait
    /// for a new result.
    ///
    /// # Errors
    ///
    /// How the offset stands, where it is not an open, resolved record of which no part has left
    /// or is about to leave; nothing changes.
    pub fn unresolve(&mut self, offset: Offset) -> Result<(), Standing> {
        let standing = || self.standing(offset);
        let ordinal = self.offsets.find(offset).ok_or_else(standing)?;
        let slot = match self.slots.get_mut(ordinal) {
            Some(slot) if slot.resolved && !slot.started() => slot,
            _ => return Err(self.standing(offset)),
        };
        slot.resolved = false;
        for link in self.slots.links(ordinal) {
            self.shift(link, State::Parked, State::Head);
            self.shift(link, State::Ready, State::Head);
            self.parked.remove(&link);
        }
        // Usually empty: a stage takes what is ready before it obeys an operator.
        self.ready.retain(|link| link.ordinal() != ordinal);
        Ok(())
    }

    /// Takes the part that became ready first. Within a group parts come strictly in input order:
    /// the next one only after [`Lane::release`] of this one. The caller owes a `release` or a
    /// [`Lane::park`].
    pub fn next_ready(&mut self) -> Option<Part> {
        let link = self.ready.pop_front()?;
        let slot = self.slots.get_mut(link.ordinal())?;
        slot.taken += 1;
        let offset = slot.offset;
        let part = self.slots.part_mut(link)?;
        part.state = State::Taken;
        Some(part_of(offset, part.group, link))
    }

    /// A part from [`Lane::next_ready`] has left for good; the next part of its group may become
    /// ready. Gives the entry back if it was the record's last part.
    ///
    /// # Errors
    ///
    /// [`Violated`] for a part that is not taken.
    pub fn release(&mut self, part: Part) -> Result<Option<E>, Violated> {
        let link = part.link;
        let next = self.take_back(part, State::Left)?;
        self.behead(part, next);
        let ordinal = link.ordinal();
        let Some(slot) = self.slots.get_mut(ordinal) else { return Ok(None) };
        slot.open -= 1;
        if slot.open > 0 {
            self.begun.insert(ordinal);
            return Ok(None);
        }
        let entry = slot.entry.take();
        if slot.parts > 1 {
            self.begun.remove(ordinal);
        }
        self.unreleased -= 1;
        self.released_at(ordinal);
        Ok(entry)
    }

    /// The parts behind a taken one in its group, in order, as long as their records have results:
    /// those that may leave with it in one go. A step each.
    pub fn behind(&self, taken: Part) -> impl Iterator<Item = Part> + '_ {
        let next = move |link: Link| self.slots.part(link)?.next;
        std::iter::successors(next(taken.link), move |link| next(*link)).map_while(|link| {
            let slot = self.slots.get(link.ordinal()).filter(|slot| slot.resolved)?;
            Some(part_of(slot.offset, self.slots.part(link)?.group, link))
        })
    }

    /// Takes a part that stood behind one which was released just now, ahead of what else is
    /// ready. False where it is not the next of its group, or has become ready before.
    pub fn take_next(&mut self, part: Part) -> bool {
        if self.ready.back() != Some(&part.link) {
            return false;
        }
        self.ready.pop_back();
        if let Some(slot) = self.slots.get_mut(part.link.ordinal()) {
            slot.taken += 1;
        }
        self.shift(part.link, State::Ready, State::Taken);
        true
    }

    /// A part from [`Lane::next_ready`] cannot leave now: it keeps the head of its group, and is
    /// offered again after [`Lane::unpark`].
    ///
    /// # Errors
    ///
    /// [`Violated`] for a part that is not taken.
    pub fn park(&mut self, part: Part) -> Result<(), Violated> {
        self.take_back(part, State::Parked)?;
        self.parked.insert(part.link);
        Ok(())
    }

    /// Makes the parked parts of a record ready again; says how many there were.
    pub fn unpark(&mut self, offset: Offset) -> usize {
        let Some(ordinal) = self.offsets.find(offset) else { return 0 };
        let record = Link::new(ordinal, 0)..=Link::new(ordinal, MAX_PARTS - 1);
        let links: Vec<Link> = self.parked.range(record).copied().collect();
        for link in &links {
            self.parked.remove(link);
            self.shift(*link, State::Parked, State::Ready);
        }
        links.len()
    }

    /// The parked parts, in offset order.
    pub fn parked(&self) -> impl Iterator<Item = Part> + '_ {
        self.parked.iter().filter_map(|&link| {
            let offset = self.slots.get(link.ordinal())?.offset;
            Some(part_of(offset, self.slots.part(link)?.group, link))
        })
    }

    /// Moves a part from one state to another, if it is in the first; what gets ready is queued.
    fn shift(&mut self, link: Link, from: State, to: State) {
        if let Some(part) = self.slots.part_mut(link)
            && part.state == from
        {
            part.state = to;
            if to == State::Ready {
                self.ready.push_back(link);
            }
        }
    }

    /// Ends the state `Taken` of a part; gives the link to the next of its group.
    fn take_back(&mut self, taken: Part, to: State) -> Result<Option<Link>, Violated> {
        let unknown = || violated(Invariant::LeavesOnce, format_args!("{} has no such part", taken.offset));
        let part = self.slots.part_mut(taken.link).ok_or_else(unknown)?;
        invariant!(
            LeavesOnce,
            part.state == State::Taken,
            "{}: {:?} when it was to be {to:?}",
            taken.offset,
            part.state
        );
        part.state = to;
        let next = part.next;
        if let Some(slot) = self.slots.get_mut(taken.link.ordinal()) {
            slot.taken -= 1;
        }
        Ok(next)
    }

    /// The head of a group has left: the next in its chain takes its place.
    fn behead(&mut self, part: Part, next: Option<Link>) {
        let Some(next) = next else {
            if self.slots.part(part.link).is_some_and(|slot| !slot.alone) {
                self.chains.remove(&part.group);
            }
            return;
        };
        if let Some(chain) = self.chains.get_mut(&part.group) {
            chain.head = next;
        }
        let resolved = self.slots.get(next.ordinal()).is_some_and(|slot| slot.resolved);
        self.shift(next, State::Waiting, if resolved { State::Ready } else { State::Head });
    }
}

fn part_of(offset: Offset, group: super::Group, link: Link) -> Part {
    let index = u32::try_from(link.index()).unwrap_or(u32::MAX);
    Part { offset, group, index, link }
}

#[cfg(test)]
mod tests {
    use super::super::{Group, Resume, Window};
    use super::*;

    #[test]
    fn those_behind_a_taken_part_can_be_taken_as_soon_as_it_has_left() {
        let mut lane = Lane::new(Window { records: 10 }, Resume::default());
        for (offset, group) in [(0, 1), (1, 2), (2, 1), (3, 1), (4, 1)] {
            lane.admit(Offset(offset), &[Group(group)], offset).expect("in order");
        }
        for offset in [0, 1, 2, 3] {
            lane.resolve(Offset(offset)).expect("open");
        }
        let first = lane.next_ready().expect("it is the head");
        // The one without a result ends it.
        let behind: Vec<_> = lane.behind(first).collect();
        assert_eq!(behind.iter().map(|part| part.offset.0).collect::<Vec<_>>(), [2, 3]);
        assert!(!lane.take_next(behind[0]), "what it stands behind has not left");
        lane.release(first).expect("it was taken");
        assert!(!lane.take_next(behind[1]), "it is not the next");
        assert!(lane.take_next(behind[0]) && !lane.take_next(behind[0]), "once");
        assert_eq!(lane.next_ready().map(|part| part.offset), Some(Offset(1)));
        lane.release(behind[0]).expect("it was taken");
        assert_eq!(lane.next_ready().map(|part| part.offset), Some(Offset(3)));
    }
}
