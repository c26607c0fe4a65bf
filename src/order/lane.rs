//! The heart: which record of a lane may leave when.

mod check;
mod leave;
mod view;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};

use super::bits::Bits;
use super::group::{Group, Seeded};
use super::invariant::Violated;
use super::released::{Released, Rest};
use super::runs::Runs;
use super::slots::{Link, MAX_PARTS, Slots, State};
use crate::invariant;
use crate::record::Offset;

pub use view::Standing;

/// How many records of a lane may be admitted and not yet released. 0 counts as 1: the record at
/// the frontier is always admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The number of records.
    pub records: u64,
}

impl Window {
    /// How far beyond its window a lane may read, in windows, while a halted key or a slow record
    /// stays at the frontier and others are released above it. Enough that one key in sixteen may
    /// be slow without slowing the rest; few enough that the released set stays small in a cursor.
    pub const SPAN_WINDOWS: u64 = 16;

    const fn unreleased(self) -> u64 {
        if self.records == 0 { 1 } else { self.records }
    }

    const fn span(self) -> u64 {
        self.unreleased().saturating_mul(Self::SPAN_WINDOWS)
    }
}

/// Where a lane goes on: the durable part of its state. The default is the start of an empty lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The lowest input offset that is not yet released: input is read again from here.
    pub frontier: Offset,
    /// What is released at and above it.
    pub released: Released,
    /// The highest limit that workers were ever given, exclusive.
    pub limit: Offset,
}

/// One part of a record: the record's share in one sequence group. Handed out by
/// [`Lane::next_ready`]; means nothing to another lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The record's offset.
    pub offset: Offset,
    /// The group in whose order the part leaves.
    pub group: Group,
    /// The part's index among the record's parts, in the order in which they were admitted.
    pub index: u32,
    link: Link,
}

/// What became of an admitted record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// At least one of its parts has yet to leave.
    Admitted,
    /// It was wholly released before the restart; its entry is dropped.
    Released,
}

/// A group's parts that have not left, first and last; those between hang on each other.
#[derive(Clone, Copy, Debug)]
struct Chain {
    head: Link,
    tail: Link,
}

/// The records of a lane from the frontier to the last one read, and the order in which they leave.
///
/// A record has one part in each sequence group that it belongs to. A part may leave when its
/// record has a result and every earlier part of the same group has left. One algorithm serves all
/// scopes: the scope only names the groups.
///
/// Everything a record goes through is amortised O(1), at any depth: nothing scans the window and
/// nothing sorts. Two exceptions are bounded elsewhere: finding a record by its offset is O(log
/// runs) where the offsets have holes, and parking a part is O(log parked parts).
///
/// `E` is what the stage keeps per record. It lives in a ring that grows to the span, so large
/// payloads belong behind a pointer.
#[derive(Debug)]
pub struct Lane<E> {
    window: Window,
    slots: Slots<E>,
    offsets: Runs,
    chains: HashMap<Group, Chain, Seeded>,
    ready: VecDeque<Link>,
    parked: BTreeSet<Link>,
    /// Released records above the frontier.
    done: Bits,
    /// Records of which some parts have left and some have not.
    begun: Bits,
    /// What the resumed set says of records that are not yet read again.
    rest: Rest,
    read_to: Offset,
    unreleased: u64,
    /// The limit never goes below this.
    floor: Offset,
}

impl<E> Lane<E> {
    /// A lane that goes on where `resume` says: input has to be read from its frontier.
    #[must_use]
    pub fn new(window: Window, resume: Resume) -> Self {
        Self {
            window,
            slots: Slots::default(),
            offsets: Runs::default(),
            chains: HashMap::default(),
            ready: VecDeque::new(),
            parked: BTreeSet::new(),
            done: Bits::default(),
            begun: Bits::default(),
            rest: Rest::new(resume.released),
            read_to: resume.frontier,
            unreleased: 0,
            floor: resume.limit,
        }
    }

    /// Changes the window; what is admitted stays, and the limit does not go back.
    pub fn set_window(&mut self, window: Window) {
        self.floor = self.limit();
        self.window = window;
    }

    /// Takes in the next committed record of the input. `groups` names the group of each of its 1
    /// to 64 parts, the same and in the same order whenever the record is read; a group named twice
    /// (two destinations with one hash) gives two parts that leave one after the other.
    ///
    /// Never refused for lack of [`Lane::room`]: a result below the limit may make the stage read
    /// on. Parts that left before a restart are not offered again.
    ///
    /// # Errors
    ///
    /// [`Violated`] for an offset below [`Lane::read_to`] and for 0 or more than 64 parts.
    pub fn admit(&mut self, offset: Offset, groups: &[Group], entry: E) -> Result<Admission, Violated> {
        let (ordinal, left) = self.take_in(offset, groups, entry)?;
        for (index, &group) in groups.iter().enumerate() {
            if left >> index & 1 == 0 {
                self.append_to_chain(group, Link::new(ordinal, index));
            }
        }
        Ok(self.admission(ordinal))
    }

    /// As [`Lane::admit`], of a record that is a group of its own, [`Group`] of its offset: nothing
    /// holds it back and it holds nothing back. Costs no look-up.
    ///
    /// # Errors
    ///
    /// [`Violated`] for an offset below [`Lane::read_to`].
    pub fn admit_alone(&mut self, offset: Offset, entry: E) -> Result<Admission, Violated> {
        let (ordinal, _) = self.take_in(offset, &[Group(offset.0)], entry)?;
        if let Some(part) = self.slots.part_mut(Link::new(ordinal, 0)).filter(|part| part.state == State::Waiting) {
            (part.state, part.alone) = (State::Head, true);
        }
        Ok(self.admission(ordinal))
    }

    fn admission(&self, ordinal: u64) -> Admission {
        let open = self.slots.get(ordinal).is_some_and(|slot| !slot.released());
        if open { Admission::Admitted } else { Admission::Released }
    }

    /// Gives a record its place, its parts without one in their groups; gives its ordinal and which
    /// of its parts have left.
    fn take_in(&mut self, offset: Offset, groups: &[Group], entry: E) -> Result<(u64, u64), Violated> {
        let next = self.read_to;
        invariant!(OffsetsIncrease, offset >= next && offset.0 < u64::MAX, "{offset} was read, {next} was next");
        invariant!(PartsInRange, (1..=MAX_PARTS).contains(&groups.len()), "{offset} has {} parts", groups.len());
        let ordinal = self.slots.end();
        let all = u64::MAX >> (MAX_PARTS - groups.len());
        let left = self.rest.take(ordinal) & all;
        self.offsets.push(offset);
        self.read_to = offset.next();
        if left == all {
            self.slots.push(offset, groups, left, None);
            self.released_at(ordinal);
            return Ok((ordinal, left));
        }
        self.slots.push(offset, groups, left, Some(entry));
        self.unreleased += 1;
        if left != 0 {
            self.begun.insert(ordinal);
        }
        Ok((ordinal, left))
    }

    fn append_to_chain(&mut self, group: Group, link: Link) {
        match self.chains.entry(group) {
            Entry::Vacant(vacant) => {
                vacant.insert(Chain { head: link, tail: link });
                if let Some(part) = self.slots.part_mut(link) {
                    part.state = State::Head;
                }
            }
            Entry::Occupied(mut chain) => {
                let chain = chain.get_mut();
                if let Some(tail) = self.slots.part_mut(chain.tail) {
                    tail.next = Some(link);
                }
                chain.tail = link;
            }
        }
    }

    /// The input was read through below `next`, and holds no further committed record there.
    /// A `next` that was passed already changes nothing.
    pub fn pass_to(&mut self, next: Offset) {
        self.read_to = self.read_to.max(next);
    }

    /// How many more records may be admitted now. At least 1 where nothing at the frontier waits to
    /// be released, and never less than what was read before a restart and has to be read again.
    #[must_use]
    pub fn room(&self) -> u64 {
        let by_window = self.window.unreleased().saturating_sub(self.unreleased);
        let by_span = self.window.span().saturating_sub(self.span());
        let again = self.rest.end().map_or(0, |end| end.saturating_sub(self.slots.end()));
        by_window.min(by_span).max(again)
    }

    /// The offset below which workers may work, exclusive: what is read plus the room, counted as
    /// if offsets were dense, so that holes make it too low and never too high. It never goes back,
    /// nor below the one resumed with.
    #[must_use]
    pub fn limit(&self) -> Offset {
        self.floor.max(Offset(self.read_to.0.saturating_add(self.room())))
    }

    /// The lowest offset that is not yet released; all below is done for good.
    #[must_use]
    pub fn frontier(&self) -> Offset {
        self.slots.front().map_or(self.read_to, |slot| slot.offset)
    }

    /// The next offset that is not yet read.
    #[must_use]
    pub const fn read_to(&self) -> Offset {
        self.read_to
    }

    /// Whether the input has been read again through the highest record of the resumed set. Until
    /// then it is not known of which records parts have left, and an operator's verb has to wait.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.rest.end().is_none()
    }

    /// How many records are admitted and not yet wholly released.
    #[must_use]
    pub const fn unreleased(&self) -> u64 {
        self.unreleased
    }

    /// How many records are read at and above the frontier, released ones included.
    #[must_use]
    pub fn span(&self) -> u64 {
        self.slots.len()
    }

    /// What is released above the frontier, for the cursor. Costs a step per run, and one per 64
    /// records of the span.
    #[must_use]
    pub fn released(&self) -> Released {
        let frontier = self.slots.start();
        let mut released = Released::default();
        self.done.append_to(&mut released, frontier);
        for ordinal in self.begun.iter() {
            released.push_partial(ordinal - frontier, self.parts_left(ordinal));
        }
        self.rest.append_to(&mut released, frontier);
        released
    }

    fn parts_left(&self, ordinal: u64) -> u64 {
        let left = |link: &Link| self.slots.part(*link).is_some_and(|part| part.state == State::Left);
        self.slots.links(ordinal).filter(left).fold(0, |mask, link| mask | 1 << link.index())
    }

    /// A record is wholly released: the frontier passes it, now or once it gets there.
    fn released_at(&mut self, ordinal: u64) {
        self.done.insert(ordinal);
        while self.slots.front().is_some_and(super::slots::Slot::released) {
            self.done.remove(self.slots.start());
            self.slots.pop_front();
        }
        let start = self.slots.start();
        self.done.advance(start);
        self.begun.advance(start);
        self.offsets.advance(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: [Group; 1] = [Group(0)];

    fn leave(lane: &mut Lane<u64>) -> Vec<(u64, u32)> {
        let mut left = Vec::new();
        while let Some(part) = lane.next_ready() {
            lane.release(part).expect("it was just taken");
            left.push((part.offset.0, part.index));
        }
        lane.self_check().expect("invariants hold");
        left
    }

    fn lane(window: u64) -> Lane<u64> {
        Lane::new(Window { records: window }, Resume::default())
    }

    #[test]
    fn results_in_any_order_leave_in_input_order() {
        let mut lane = lane(10);
        for offset in [0, 2, 1_000_000, 1_000_001] {
            lane.admit(Offset(offset), &LANE, offset).expect("in order");
        }
        lane.resolve(Offset(1_000_001)).expect("open");
        lane.resolve(Offset(2)).expect("open");
        assert_eq!(leave(&mut lane), []);
        assert_eq!(lane.waits_for(Offset(2)), Some(Offset(0)));
        assert_eq!(lane.blocking(), Some((Offset(0), &0)));
        lane.resolve(Offset(0)).expect("open");
        assert_eq!(leave(&mut lane), [(0, 0), (2, 0)]);
        assert_eq!(lane.standing(Offset(1)), Standing::Below);
        assert_eq!(lane.standing(Offset(999_999)), Standing::Below);
        lane.resolve(Offset(1_000_000)).expect("open");
        assert_eq!(leave(&mut lane), [(1_000_000, 0), (1_000_001, 0)]);
        assert_eq!(lane.frontier(), Offset(1_000_002));
        lane.pass_to(Offset(1_000_009));
        assert_eq!(lane.frontier(), Offset(1_000_009));
    }

    #[test]
    fn a_message_stuck_for_one_destination_delays_only_that_one() {
        let (a, b) = (Group(1), Group(2));
        let mut lane = lane(10);
        lane.admit(Offset(0), &[a], 0).expect("in order");
        lane.admit(Offset(1), &[a, b], 1).expect("in order");
        lane.admit(Offset(2), &[b], 2).expect("in order");
        lane.resolve(Offset(1)).expect("open");
        lane.resolve(Offset(2)).expect("open");
        assert_eq!(leave(&mut lane), [(1, 1), (2, 0)]);
        assert_eq!(lane.standing(Offset(1)), Standing::Open { resolved: true, started: true });
        assert_eq!(lane.unresolve(Offset(1)), Err(Standing::Open { resolved: true, started: true }));
        let released = lane.released();
        assert_eq!((released.runs(), released.partial()), (&[(2, 1)][..], &[(1, 0b10)][..]));

        let resume = Resume { frontier: lane.frontier(), released, limit: lane.limit() };
        let mut again = Lane::new(Window { records: 10 }, resume.clone());
        assert_eq!(again.released(), resume.released);
        for (offset, groups) in [(0, &[a][..]), (1, &[a, b]), (2, &[b])] {
            again.admit(Offset(offset), groups, offset).expect("in order");
            assert_eq!(again.released(), resume.released);
        }
        assert!(again.caught_up());
        assert_eq!(again.standing(Offset(2)), Standing::Released);
        again.resolve(Offset(1)).expect("open");
        assert_eq!(leave(&mut again), []);
        again.resolve(Offset(0)).expect("open");
        assert_eq!(leave(&mut again), [(0, 0), (1, 0)]);
        assert_eq!(again.frontier(), Offset(3));
        assert!(again.released().is_empty());
    }

    #[test]
    fn a_parked_head_is_offered_again_only_when_asked_for() {
        let mut lane = lane(10);
        for offset in 0..2 {
            lane.admit(Offset(offset), &LANE, offset).expect("in order");
            lane.resolve(Offset(offset)).expect("open");
        }
        let head = lane.next_ready().expect("the head is ready");
        assert_eq!(lane.unresolve(Offset(0)), Err(Standing::Open { resolved: true, started: true }));
        lane.park(head).expect("it was just taken");
        assert_eq!((lane.next_ready(), lane.parked().collect()), (None, vec![head]));
        lane.unresolve(Offset(0)).expect("nothing has left");
        assert_eq!((lane.unpark(Offset(0)), lane.next_ready()), (0, None));
        lane.resolve(Offset(0)).expect("open");
        assert_eq!(leave(&mut lane), [(0, 0), (1, 0)]);
    }

    #[test]
    fn the_window_counts_records_and_the_span_is_bounded() {
        let mut lane = lane(2);
        assert_eq!((lane.room(), lane.limit()), (2, Offset(2)));
        lane.admit(Offset(5), &[Group(5)], 5).expect("in order");
        assert_eq!((lane.room(), lane.limit()), (1, Offset(7)));
        for offset in 6..37 {
            assert!(lane.room() > 0, "{offset}");
            lane.admit(Offset(offset), &[Group(offset)], offset).expect("in order");
            lane.resolve(Offset(offset)).expect("open");
            leave(&mut lane);
        }
        assert_eq!((lane.span(), lane.room(), lane.limit()), (32, 0, Offset(37)));
        lane.set_window(Window { records: 1 });
        assert_eq!((lane.room(), lane.limit()), (0, Offset(37)));
        lane.resolve(Offset(5)).expect("open");
        leave(&mut lane);
        assert_eq!((lane.frontier(), lane.room(), lane.limit()), (Offset(37), 1, Offset(38)));
    }
}
