//! Duplicates, found in log order.

use std::collections::{HashMap, VecDeque};

use super::Violated;
use super::group::Seeded;
use crate::invariant;
use crate::record::Offset;

/// What an identity says of the record that bears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No earlier record of the window bears it.
    First,
    /// An earlier record bears it, with the same fingerprint: the message was sent twice.
    Duplicate {
        /// The earlier record.
        of: Offset,
    },
    /// An earlier record bears it, with another fingerprint: the key was used for two messages.
    Reused {
        /// The earlier record.
        of: Offset,
    },
}

#[derive(Clone, Copy, Debug)]
struct Identity {
    offset: Offset,
    id: u128,
    fingerprint: u128,
}

/// The identities of a lane's last messages, in offset order.
///
/// A record is judged by the last `capacity` identities below its own offset; duplicates do not
/// count among them. Verdicts are therefore a function of the input alone: a new owner that has
/// [restored](Identities::restore) what the ledger holds from [`Identities::ledger_from`] on, and
/// then judges the input from the frontier, comes to the same ones, whatever order records were
/// released in. So identities below the frontier are kept for as long as such an owner would need
/// them, which is longer than judging new records does. Amortised O(1) per record; memory is
/// bounded by the capacity plus the lane's span.
#[derive(Debug)]
pub struct Identities {
    capacity: u64,
    /// Those below `judged_to` that are still needed, in offset order, and the number of the first.
    kept: VecDeque<Identity>,
    first: u64,
    /// How many of them are below the frontier.
    below_frontier: u64,
    frontier: Offset,
    judged_to: Offset,
    /// The number of the last record that bears an identity.
    numbers: HashMap<u128, u64, Seeded>,
    /// Restored ones, as they came, and at and above `judged_to`, in offset order.
    restored: Vec<Identity>,
    ahead: VecDeque<Identity>,
    /// Where in the ledger identities are recorded, in the ledger's order. Those no longer kept
    /// leave it once they are at the front; until then they are at most as many as the span holds.
    ledger: VecDeque<(Offset, Offset)>,
    /// Identities below this are no longer kept.
    kept_from: Offset,
    /// Where the next record to be recorded is looked for first.
    hint: u64,
}

impl Identities {
    /// An empty window of `capacity` identities; with 0 nothing is ever a duplicate.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity as u64,
            kept: VecDeque::new(),
            first: 0,
            below_frontier: 0,
            frontier: Offset::ZERO,
            judged_to: Offset::ZERO,
            numbers: HashMap::default(),
            restored: Vec::new(),
            ahead: VecDeque::new(),
            ledger: VecDeque::new(),
            kept_from: Offset::ZERO,
            hint: 0,
        }
    }

    /// Judges the next record of the input that bears an identity. `id` and `fingerprint` have to
    /// be strong hashes: two messages with equal ones are taken for one.
    ///
    /// # Errors
    ///
    /// [`Violated`] unless `offset` is above all that were judged.
    pub fn judge(&mut self, offset: Offset, id: u128, fingerprint: u128) -> Result<Verdict, Violated> {
        let next = self.judged_to;
        invariant!(IdentitiesIncrease, offset >= next && offset.0 < u64::MAX, "{offset} was judged, {next} was next");
        self.keep_restored_below(offset);
        self.judged_to = offset.next();
        let verdict = self.look_up(id, fingerprint);
        self.ahead.pop_front_if(|ahead| ahead.offset == offset);
        if verdict == Verdict::First && self.capacity > 0 {
            self.keep(Identity { offset, id, fingerprint });
        }
        Ok(verdict)
    }

    fn look_up(&self, id: u128, fingerprint: u128) -> Verdict {
        let end = self.first + self.kept.len() as u64;
        let in_window = |number: &&u64| **number >= self.first && end - **number <= self.capacity;
        let earlier = self.numbers.get(&id).filter(in_window).and_then(|number| self.numbered(*number));
        match earlier {
            None => Verdict::First,
            Some(earlier) if earlier.fingerprint == fingerprint => Verdict::Duplicate { of: earlier.offset },
            Some(earlier) => Verdict::Reused { of: earlier.offset },
        }
    }

    /// Takes in what a ledger entry at position `ledger` says of a record that was no duplicate.
    /// Call it for all entries from the cursor's position on, in the ledger's order, before the
    /// first [`Identities::judge`]; a torn transaction may have left one twice.
    pub fn restore(&mut self, offset: Offset, id: u128, fingerprint: u128, ledger: Offset) {
        self.restored.push(Identity { offset, id, fingerprint });
        self.ledger.push_back((ledger, offset));
    }

    /// The record at `offset`, judged [`Verdict::First`], is released by the ledger entry at
    /// position `ledger`. Of no effect for any other record, duplicates among them.
    ///
    /// # Errors
    ///
    /// [`Violated`] unless ledger positions come in increasing order.
    pub fn recorded(&mut self, offset: Offset, ledger: Offset) -> Result<(), Violated> {
        let last = self.ledger.back().map_or(Offset::ZERO, |(position, _)| *position);
        invariant!(IdentitiesIncrease, ledger >= last, "recorded at {ledger} after {last}");
        let hinted = self.numbered(self.hint).is_some_and(|kept| kept.offset == offset);
        let number = if hinted { self.hint } else { self.number_of(offset) };
        if self.numbered(number).is_some_and(|kept| kept.offset == offset) {
            self.hint = number + 1;
            self.ledger.push_back((ledger, offset));
        }
        Ok(())
    }

    /// The frontier has moved: of the identities below it only the last `capacity` are kept.
    pub fn advance(&mut self, frontier: Offset) {
        if frontier <= self.frontier {
            return;
        }
        self.frontier = frontier;
        self.keep_restored_below(frontier);
        self.judged_to = self.judged_to.max(frontier);
        while self.numbered(self.first + self.below_frontier).is_some_and(|kept| kept.offset < frontier) {
            self.below_frontier += 1;
        }
        while self.below_frontier > self.capacity {
            self.forget_first();
        }
        while self.ledger.pop_front_if(|(_, offset)| *offset < self.kept_from).is_some() {}
    }

    /// The lowest ledger position from which a new owner has to restore, so that it knows the last
    /// `capacity` identities below the frontier, and where those released above it are recorded.
    /// `None`: nothing that is in the ledger is needed.
    #[must_use]
    pub fn ledger_from(&self) -> Option<Offset> {
        self.ledger.front().map(|(position, _)| *position)
    }

    fn keep(&mut self, identity: Identity) {
        self.numbers.insert(identity.id, self.first + self.kept.len() as u64);
        self.kept.push_back(identity);
    }

    fn forget_first(&mut self) {
        let Some(forgotten) = self.kept.pop_front() else { return };
        if self.numbers.get(&forgotten.id) == Some(&self.first) {
            self.numbers.remove(&forgotten.id);
        }
        self.first += 1;
        self.below_frontier -= 1;
        self.kept_from = self.kept.front().map_or(forgotten.offset.next(), |first| first.offset);
    }

    /// Restored records need not be judged again: those below `offset` count as they are.
    fn keep_restored_below(&mut self, offset: Offset) {
        if !self.restored.is_empty() {
            self.sort_restored();
        }
        while let Some(identity) = self.ahead.pop_front_if(|ahead| ahead.offset < offset) {
            self.judged_to = identity.offset.next();
            self.keep(identity);
        }
    }

    /// Once per take-over: the ledger is in the order of release.
    fn sort_restored(&mut self) {
        let mut all: Vec<Identity> = std::mem::take(&mut self.ahead).into();
        all.append(&mut self.restored);
        all.retain(|identity| identity.offset >= self.judged_to);
        all.sort_by_key(|identity| identity.offset);
        all.dedup_by_key(|identity| identity.offset);
        self.ahead = all.into();
    }

    fn numbered(&self, number: u64) -> Option<&Identity> {
        self.kept.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn number_of(&self, offset: Offset) -> u64 {
        self.first + self.kept.partition_point(|kept| kept.offset < offset) as u64
    }
}
