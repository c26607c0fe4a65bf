//! The ring of records from the frontier to the last one read.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use super::Group;
use crate::record::Offset;

/// Most parts that a record may have: one bit each in a mask of a cursor.
pub const MAX_PARTS: usize = 64;

const INDEX_BITS: u32 = MAX_PARTS.trailing_zeros();

/// Names one part of one record: ordinal and index, ordered as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link(NonZeroU64);

impl Link {
    pub(super) fn new(ordinal: u64, index: usize) -> Self {
        // Ordinals are counted one by one from 0: no process lives to see 2^58 of them.
        let packed = ordinal << INDEX_BITS | index as u64;
        Self(NonZeroU64::MIN.saturating_add(packed))
    }

    pub(super) const fn ordinal(self) -> u64 {
        (self.0.get() - 1) >> INDEX_BITS
    }

    #[allow(clippy::cast_possible_truncation)] // 6 bits are left
    pub(super) const fn index(self) -> usize {
        ((self.0.get() - 1) % MAX_PARTS as u64) as usize
    }
}

/// Where a part is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Behind another part of its group.
    Waiting,
    /// At the head of its group; its record has no result yet.
    Head,
    /// At the head, with a result, in the queue of ready parts.
    Ready,
    /// Offered, and not yet said to have left or to be parked.
    Taken,
    /// At the head, held back by the stage.
    Parked,
    /// Gone.
    Left,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PartSlot {
    pub(super) group: Group,
    /// The next part of the group.
    pub(super) next: Option<Link>,
    pub(super) state: State,
    /// Whether no other record is in its group, so that no chain holds it.
    pub(super) alone: bool,
}

#[derive(Debug)]
pub(super) struct Slot<E> {
    pub(super) entry: Option<E>,
    pub(super) offset: Offset,
    /// The first part; most records have no other.
    first: PartSlot,
    /// Where the other parts begin, counted over the lane's life.
    others: u64,
    pub(super) parts: u8,
    /// Parts that have not left; none: the record is released.
    pub(super) open: u8,
    pub(super) taken: u8,
    pub(super) resolved: bool,
}

impl<E> Slot<E> {
    /// Whether a part has left or is about to.
    pub(super) const fn started(&self) -> bool {
        self.taken > 0 || self.open < self.parts
    }

    pub(super) const fn released(&self) -> bool {
        self.open == 0
    }
}

/// Slots by ordinal, and the further parts of those that have several, in one ring each: both are
/// filled at the end and emptied at the frontier, so that no record allocates.
#[derive(Debug)]
pub(super) struct Slots<E> {
    first: u64,
    slots: VecDeque<Slot<E>>,
    first_other: u64,
    others: VecDeque<PartSlot>,
}

impl<E> Default for Slots<E> {
    fn default() -> Self {
        Self { first: 0, slots: VecDeque::new(), first_other: 0, others: VecDeque::new() }
    }
}

impl<E> Slots<E> {
    /// The ordinal of the frontier's record.
    pub(super) const fn start(&self) -> u64 {
        self.first
    }

    /// The ordinal that the next record gets.
    pub(super) fn end(&self) -> u64 {
        self.first + self.len()
    }

    pub(super) fn len(&self) -> u64 {
        self.slots.len() as u64
    }

    #[inline]
    pub(super) fn get(&self, ordinal: u64) -> Option<&Slot<E>> {
        self.slots.get(usize::try_from(ordinal.checked_sub(self.first)?).ok()?)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, ordinal: u64) -> Option<&mut Slot<E>> {
        self.slots.get_mut(usize::try_from(ordinal.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn front(&self) -> Option<&Slot<E>> {
        self.slots.front()
    }

    /// Appends a record whose parts named in `left` have left; the others are `Waiting`.
    /// `groups` holds 1 to 64.
    #[inline]
    pub(super) fn push(&mut self, offset: Offset, groups: &[Group], left: u64, entry: Option<E>) {
        let part = |(index, &group): (usize, &Group)| PartSlot {
            group,
            alone: false,
            next: None,
            state: if left >> index & 1 == 1 { State::Left } else { State::Waiting },
        };
        let others = self.first_other + self.others.len() as u64;
        self.others.extend(groups.iter().enumerate().skip(1).map(part));
        let first = part((0, &groups[0]));
        let parts = u8::try_from(groups.len()).unwrap_or(u8::MAX);
        let all = u64::MAX >> (MAX_PARTS - groups.len());
        let open = parts - u8::try_from((left & all).count_ones()).unwrap_or(parts);
        self.slots.push_back(Slot { entry, offset, first, others, parts, open, taken: 0, resolved: false });
    }

    /// Forgets the frontier's record.
    #[inline]
    pub(super) fn pop_front(&mut self) {
        let Some(slot) = self.slots.pop_front() else { return };
        self.first += 1;
        for _ in 1..slot.parts {
            self.others.pop_front();
            self.first_other += 1;
        }
    }

    #[inline]
    pub(super) fn part(&self, link: Link) -> Option<&PartSlot> {
        let slot = self.get(link.ordinal())?;
        match link.index() {
            0 => Some(&slot.first),
            index if index < slot.parts.into() => self.others.get(self.other(slot.others, index)),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn part_mut(&mut self, link: Link) -> Option<&mut PartSlot> {
        let index = link.index();
        if index == 0 {
            return self.get_mut(link.ordinal()).map(|slot| &mut slot.first);
        }
        let slot = self.get(link.ordinal())?;
        let at = self.other(slot.others, index);
        if index < slot.parts.into() { self.others.get_mut(at) } else { None }
    }

    /// The links of a record's parts.
    #[inline]
    pub(super) fn links(&self, ordinal: u64) -> impl Iterator<Item = Link> + use<E> {
        let parts = self.get(ordinal).map_or(0, |slot| slot.parts);
        (0..usize::from(parts)).map(move |index| Link::new(ordinal, index))
    }

    /// Slots from an ordinal on.
    pub(super) fn iter_from(&self, ordinal: u64) -> impl DoubleEndedIterator<Item = &Slot<E>> {
        self.slots.range(self.position(ordinal)..)
    }

    pub(super) fn iter_mut_from(&mut self, ordinal: u64) -> impl DoubleEndedIterator<Item = &mut Slot<E>> {
        let from = self.position(ordinal);
        self.slots.range_mut(from..)
    }

    fn position(&self, ordinal: u64) -> usize {
        usize::try_from(ordinal.saturating_sub(self.first)).map_or(self.slots.len(), |at| at.min(self.slots.len()))
    }

    #[allow(clippy::cast_possible_truncation)] // a distance within the ring
    fn other(&self, others: u64, index: usize) -> usize {
        (others - self.first_other) as usize + index - 1
    }
}
