//! The lane against an oracle that keeps everything and scans it for every answer.

#[path = "order_lane/steps.rs"]
mod steps;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use seriatim::order::{Admission, Group, Lane, Part, Released, Resume, Standing, Window};
use seriatim::record::Offset;
use steps::{Record, Step, input, step};

struct Run {
    lane: Lane<u64>,
    window: u64,
    records: Vec<Record>,
    /// How many records of the input this life has read.
    read: usize,
    read_to: u64,
    resolved: Vec<bool>,
    taken: Vec<Part>,
    parked: Vec<(u64, u32)>,
    limit: Offset,
    committed: (Resume, Vec<Record>),
}

impl Run {
    fn new(records: Vec<Record>, window: u64) -> Self {
        let resume = Resume::default();
        let lane = Lane::new(Window { records: window }, resume.clone());
        Self {
            limit: lane.limit(),
            lane,
            window,
            read: 0,
            read_to: 0,
            resolved: vec![false; records.len()],
            taken: Vec::new(),
            parked: Vec::new(),
            committed: (resume, records.clone()),
            records,
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Read => self.read(),
            Step::Resolve(pick) => self.resolve(self.any_offset(pick)),
            Step::Unresolve(pick) => self.unresolve(self.any_offset(pick)),
            Step::Take => drop(self.take()),
            Step::Release(pick) => self.pick_taken(pick).into_iter().for_each(|part| self.release(part)),
            Step::Park(pick) => self.pick_taken(pick).into_iter().for_each(|part| self.park(part)),
            Step::Unpark(pick) => self.unpark(self.any_offset(pick)),
            Step::SetWindow(window) => {
                self.lane.set_window(Window { records: window });
                self.window = window;
            }
            Step::Commit => self.commit(),
            Step::Crash => self.crash(),
            Step::Drain => self.drain(),
        }
        self.compare();
    }

    /// An offset that a record has, or its neighbour, or one beyond everything.
    fn any_offset(&self, pick: u16) -> u64 {
        let record = &self.records[usize::from(pick / 4) % self.records.len()];
        match pick % 16 {
            0 => record.offset + 1,
            1 => record.offset.saturating_sub(1),
            2 => u64::MAX,
            _ => record.offset,
        }
    }

    fn index(&self, offset: u64) -> Option<usize> {
        self.records.iter().position(|record| record.offset == offset)
    }

    /// Obeys the room, and goes beyond it only below the limit, as results there make a stage do.
    fn read(&mut self) {
        if self.lane.room() == 0 && Offset(self.read_to) >= self.lane.limit() {
            return;
        }
        let Some(record) = self.records.get(self.read).cloned() else {
            self.lane.pass_to(Offset(self.read_to + 3));
            self.read_to += 3;
            return;
        };
        self.lane.pass_to(Offset(record.offset.saturating_sub(1).max(self.read_to)));
        let offset = Offset(record.offset);
        let admission = if record.alone {
            self.lane.admit_alone(offset, record.offset).expect("in order")
        } else {
            self.lane.admit(offset, &record.groups, record.offset).expect("in order")
        };
        assert_eq!(admission == Admission::Released, record.released());
        self.read += 1;
        self.read_to = record.offset + 1;
    }

    fn resolve(&mut self, offset: u64) {
        let before = self.standing(offset);
        let right = if matches!(before, Standing::Open { resolved: false, .. }) { Ok(()) } else { Err(before) };
        assert_eq!(self.lane.resolve(Offset(offset)), right, "resolve {offset}");
        if let (Ok(()), Some(at)) = (right, self.index(offset)) {
            self.resolved[at] = true;
        }
    }

    fn unresolve(&mut self, offset: u64) {
        let before = self.standing(offset);
        let may = before == Standing::Open { resolved: true, started: false };
        assert_eq!(self.lane.unresolve(Offset(offset)), if may { Ok(()) } else { Err(before) }, "unresolve {offset}");
        if let (true, Some(at)) = (may, self.index(offset)) {
            self.resolved[at] = false;
            self.parked.retain(|(parked, _)| *parked != offset);
        }
    }

    fn take(&mut self) -> Option<Part> {
        let may = self.may_leave();
        let part = self.lane.next_ready();
        assert_eq!(part.is_some(), !may.is_empty(), "may leave: {may:?}");
        let part = part?;
        assert!(may.contains(&(part.offset.0, part.index)), "{part:?} may not leave, {may:?} may");
        self.taken.push(part);
        Some(part)
    }

    fn pick_taken(&mut self, pick: u16) -> Option<Part> {
        (!self.taken.is_empty()).then(|| self.taken.swap_remove(usize::from(pick) % self.taken.len()))
    }

    fn release(&mut self, part: Part) {
        let at = self.index(part.offset.0).expect("only records of the input leave");
        let record = &mut self.records[at];
        let group = if record.alone { Group(record.offset) } else { record.groups[part.index as usize] };
        assert_eq!(part.group, group);
        assert!(!std::mem::replace(&mut record.left[part.index as usize], true), "{part:?} left twice");
        let entry = self.lane.release(part).expect("it was taken");
        assert_eq!(entry, record.released().then_some(record.offset));
    }

    fn park(&mut self, part: Part) {
        self.lane.park(part).expect("it was taken");
        self.parked.push((part.offset.0, part.index));
    }

    fn unpark(&mut self, offset: u64) {
        let before = self.parked.len();
        self.parked.retain(|(parked, _)| *parked != offset);
        assert_eq!(self.lane.unpark(Offset(offset)), before - self.parked.len());
    }

    fn commit(&mut self) {
        let (frontier, released, limit) = (self.lane.frontier(), self.lane.released(), self.lane.limit());
        let decoded = Released::from_runs(released.runs().to_vec(), released.partial().to_vec());
        assert_eq!(decoded.as_ref(), Ok(&released));
        self.committed = (Resume { frontier, released, limit }, self.records.clone());
    }

    fn crash(&mut self) {
        let (resume, records) = self.committed.clone();
        self.lane = Lane::new(Window { records: self.window }, resume.clone());
        self.records = records;
        self.read = self.records.iter().take_while(|record| record.offset < resume.frontier.0).count();
        self.read_to = resume.frontier.0;
        self.limit = resume.limit;
        self.resolved.fill(false);
        self.taken.clear();
        self.parked.clear();
    }

    fn drain(&mut self) {
        while let Some(part) = self.take() {
            self.taken.pop();
            self.release(part);
        }
    }

    /// By the definition: resolved, not gone, not held, and nothing earlier of its group is left.
    fn may_leave(&self) -> Vec<(u64, u32)> {
        let mut seen = Vec::new();
        let mut may = Vec::new();
        for (at, record) in self.records[..self.read].iter().enumerate() {
            for (index, group) in (0_u32..).zip(&record.groups) {
                if record.left[index as usize] {
                    continue;
                }
                let part = (record.offset, index);
                let held = self.parked.contains(&part) || self.is_taken(part);
                if !seen.contains(group) && self.resolved[at] && !held {
                    may.push(part);
                }
                seen.push(*group);
            }
        }
        may
    }

    fn is_taken(&self, part: (u64, u32)) -> bool {
        self.taken.iter().any(|taken| (taken.offset.0, taken.index) == part)
    }

    fn frontier(&self) -> u64 {
        let unreleased = self.records[..self.read].iter().find(|record| !record.released());
        unreleased.map_or(self.read_to, |record| record.offset)
    }

    fn standing(&self, offset: u64) -> Standing {
        if offset < self.frontier() {
            return Standing::Below;
        }
        if offset >= self.read_to {
            return Standing::Unread;
        }
        let Some(at) = self.index(offset) else { return Standing::Hole };
        let record = &self.records[at];
        let parts = 0..u32::try_from(record.groups.len()).expect("at most 64");
        match record.released() {
            true => Standing::Released,
            false => Standing::Open {
                resolved: self.resolved[at],
                started: parts.into_iter().any(|i| record.left[i as usize] || self.is_taken((offset, i))),
            },
        }
    }

    fn waits_for(&self, at: usize) -> Option<Offset> {
        let record = &self.records[at];
        let blocked = |(index, group): (usize, &Group)| {
            let waits = |earlier: &&Record| {
                let parts = earlier.groups.iter().zip(&earlier.left);
                parts.into_iter().any(|(other, left)| other == group && !left)
            };
            if record.left[index] { None } else { self.records[..at].iter().find(waits) }
        };
        record.groups.iter().enumerate().find_map(blocked).map(|earlier| Offset(earlier.offset))
    }

    /// Everything that can be asked, against what the oracle finds by scanning.
    fn compare(&mut self) {
        self.lane.self_check().expect("the invariants hold");
        let frontier = self.frontier();
        assert_eq!((self.lane.frontier(), self.lane.read_to()), (Offset(frontier), Offset(self.read_to)));
        self.compare_released(frontier);
        self.compare_room();
        let read = &self.records[..self.read];
        let open: Vec<_> = (0..self.read).filter(|at| !read[*at].released()).collect();
        let seen = |at: &usize| (Offset(read[*at].offset), self.resolved[*at], &read[*at].offset);
        assert!(self.lane.iter().eq(open.iter().map(seen)));
        assert_eq!(self.lane.blocking().map(|(offset, _)| offset), open.first().map(|at| Offset(read[*at].offset)));
        for record in read {
            for offset in [record.offset.saturating_sub(1), record.offset, record.offset + 1] {
                assert_eq!(self.lane.standing(Offset(offset)), self.standing(offset), "standing of {offset}");
                let above = open.iter().filter(|at| read[**at].offset >= offset).map(seen);
                assert!(self.lane.iter_from(Offset(offset)).eq(above), "from {offset}");
            }
        }
        for at in open {
            assert_eq!(self.lane.waits_for(Offset(read[at].offset)), self.waits_for(at));
        }
        let mut parked = self.parked.clone();
        parked.sort_unstable();
        assert!(self.lane.parked().map(|part| (part.offset.0, part.index)).eq(parked));
    }

    /// The set holds what has left, whether this life has read it or not.
    fn compare_released(&self, frontier: u64) {
        let released = self.lane.released();
        let above = self.records.iter().filter(|record| record.offset >= frontier);
        for (ordinal, record) in (0..).zip(above) {
            assert_eq!(released.contains(ordinal), record.released(), "{record:?} in {released:?}");
            let mask = record.left.iter().rev().fold(0_u64, |mask, left| mask << 1 | u64::from(*left));
            let partial = if record.released() || mask == 0 { None } else { Some((ordinal, mask)) };
            assert_eq!(released.partial().iter().find(|(at, _)| *at == ordinal).copied(), partial);
        }
        let touching = released.runs().windows(2).any(|pair| pair[0].0 + pair[0].1 >= pair[1].0);
        assert!(!touching, "{released:?} is not packed");
        assert!(released.highest() < Some(self.records.len() as u64));
    }

    fn compare_room(&mut self) {
        let (room, limit) = (self.lane.room(), self.lane.limit());
        let span = self.records[..self.read].iter().filter(|record| record.offset >= self.frontier()).count() as u64;
        let unreleased = self.records[..self.read].iter().filter(|record| !record.released()).count() as u64;
        assert_eq!((self.lane.span(), self.lane.unreleased()), (span, unreleased));
        if self.lane.caught_up() {
            let window = self.window.max(1);
            assert_eq!(room, window.saturating_sub(unreleased).min((16 * window).saturating_sub(span)));
        }
        assert!(room > 0 || self.lane.caught_up(), "what was read before is not read again");
        assert!(room > 0 || unreleased > 0, "an empty lane takes nothing");
        assert!(limit >= self.limit, "the limit went from {} back to {limit}", self.limit);
        assert!(limit == self.limit || limit.0 <= self.read_to + room, "{limit} is beyond what may be judged");
        self.limit = limit;
    }

    /// Without further faults everything leaves, although the reader stops where there is no room.
    fn finish(&mut self) {
        for _ in 0..=self.records.len() {
            let offsets: Vec<u64> = self.records[..self.read].iter().map(|record| record.offset).collect();
            for offset in offsets {
                self.unpark(offset);
                if matches!(self.standing(offset), Standing::Open { resolved: false, .. }) {
                    self.resolve(offset);
                }
            }
            for part in std::mem::take(&mut self.taken) {
                self.release(part);
            }
            self.drain();
            let before = self.read;
            self.apply(&Step::Read);
            assert!(self.read > before || self.read == self.records.len(), "stuck at {}", self.read_to);
        }
        assert!(self.records.iter().all(Record::released), "something never left");
        assert!(self.lane.released().is_empty() && self.lane.caught_up());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/order_lane.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_lost_repeated_or_out_of_order(
        records in input(),
        window in 0_u64..8,
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut run = Run::new(records, window);
        for step in &steps {
            run.apply(step);
        }
        run.finish();
    }

    #[test]
    fn decoded_sets_are_refused_or_kept_as_they_are(
        full in prop::collection::vec((0_u64..40, 0_u64..5), 0..6),
        partial in prop::collection::vec((0_u64..40, 0_u64..3), 0..4),
        extreme in any::<bool>(),
    ) {
        let mut full = full;
        if extreme {
            full.push((u64::MAX - 1, 2));
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut valid = !extreme && partial.is_sorted_by(|a, b| a.0 < b.0) && full.is_sorted_by(|a, b| a.0 < b.0);
        for &(start, length) in full.iter().filter(|_| !extreme) {
            valid &= length > 0 && (start..start + length).all(|ordinal| seen.insert(ordinal));
        }
        valid &= partial.iter().all(|&(ordinal, mask)| mask != 0 && seen.insert(ordinal));
        let released = Released::from_runs(full.clone(), partial.clone());
        prop_assert_eq!(released.is_ok(), valid, "{:?}", released);
        if let Ok(released) = released {
            prop_assert_eq!(released.runs(), full);
            prop_assert_eq!(released.highest(), seen.last().copied());
        }
    }
}

#[test]
fn a_hole_of_a_million_costs_nothing() {
    let mut lane = Lane::new(Window { records: 4 }, Resume::default());
    for record in 0..4_u64 {
        lane.admit(Offset(record << 40), &[Group(record)], ()).expect("in order");
    }
    assert_eq!((lane.span(), lane.room()), (4, 0));
    lane.resolve(Offset(3 << 40)).expect("open");
    let part = lane.next_ready().expect("it stands alone");
    lane.release(part).expect("it was taken");
    assert_eq!(lane.released().runs(), [(3, 1)]);
}
