//! From offsets to ordinals, whatever the holes.

use std::collections::VecDeque;

use crate::record::Offset;

/// Runs of consecutive offsets. Where offsets are dense there is one run and a lookup is a
/// subtraction; with holes it is O(log runs), a hole of any size counting once.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    runs: VecDeque<Run>,
    end: Offset,
    /// The ordinal that the next record gets.
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    offset: Offset,
    ordinal: u64,
}

impl Runs {
    /// The offset after the last record.
    pub(super) const fn end(&self) -> Offset {
        self.end
    }

    /// Appends the next record.
    #[inline]
    pub(super) fn push(&mut self, offset: Offset) {
        if offset != self.end || self.runs.is_empty() {
            self.runs.push_back(Run { offset, ordinal: self.next });
        }
        self.end = offset.next();
        self.next += 1;
    }

    /// Forgets runs that lie wholly below `ordinal`.
    #[inline]
    pub(super) fn advance(&mut self, ordinal: u64) {
        while self.runs.get(1).is_some_and(|second| second.ordinal <= ordinal) {
            self.runs.pop_front();
        }
    }

    /// The record at `offset`, if there is one; may lie below what [`Runs::advance`] was told.
    #[inline]
    pub(super) fn find(&self, offset: Offset) -> Option<u64> {
        let (run, end) = self.run_before(offset)?;
        let ordinal = run.ordinal + (offset.0 - run.offset.0);
        (ordinal < end).then_some(ordinal)
    }

    /// The first record at or above `offset`, or the ordinal that the next one will get.
    pub(super) fn at_or_above(&self, offset: Offset) -> u64 {
        match self.run_before(offset) {
            Some((run, end)) => end.min(run.ordinal + (offset.0 - run.offset.0)),
            None => self.runs.front().map_or(self.next, |run| run.ordinal),
        }
    }

    /// The last run that starts at or below `offset`, with the ordinal at which it ends.
    #[inline]
    fn run_before(&self, offset: Offset) -> Option<(Run, u64)> {
        let last = *self.runs.back()?;
        if last.offset <= offset {
            return Some((last, self.next));
        }
        let at = self.runs.partition_point(|run| run.offset <= offset).checked_sub(1)?;
        Some((self.runs[at], self.runs[at + 1].ordinal))
    }
}
