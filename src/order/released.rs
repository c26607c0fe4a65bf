//! The released-above-frontier set that every cursor carries.

use std::collections::VecDeque;

/// What is released at and above a frontier, by ordinal: 0 is the first committed record at or
/// above it, 1 the next, so that holes in the offsets cost nothing.
///
/// Wholly released records are run-length coded; those of which only some parts have left are
/// listed with a mask of these parts (bit n is part n).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    full: Vec<(u64, u64)>,
    partial: Vec<(u64, u64)>,
}

/// Why decoded numbers are no released set. A cursor with such a set is corrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReleased {
    /// A run of no records.
    #[error("a run of released records is empty")]
    EmptyRun,
    /// A run that ends above the highest number.
    #[error("a run of released records overflows")]
    Overflow,
    /// Runs or partial entries that are not in increasing order, or overlap.
    #[error("released records are not in increasing order")]
    Unordered,
    /// A partial entry of which no part has left.
    #[error("a partly released record has no released part")]
    EmptyMask,
    /// A record both wholly and partly released.
    #[error("a record is both wholly and partly released")]
    Contradiction,
}

impl Released {
    /// Builds the set from decoded runs `(first ordinal, length)` and partial entries
    /// `(ordinal, mask)`, both in increasing order. Input is untrusted; nothing is allocated by it.
    pub fn from_runs(full: Vec<(u64, u64)>, partial: Vec<(u64, u64)>) -> Result<Self, InvalidReleased> {
        let mut end = None;
        for &(start, length) in &full {
            if length == 0 {
                return Err(InvalidReleased::EmptyRun);
            }
            if end.is_some_and(|end| start < end) {
                return Err(InvalidReleased::Unordered);
            }
            end = Some(start.checked_add(length).ok_or(InvalidReleased::Overflow)?);
        }
        if partial.iter().any(|&(_, mask)| mask == 0) {
            return Err(InvalidReleased::EmptyMask);
        }
        if partial.iter().any(|&(ordinal, _)| ordinal == u64::MAX) {
            return Err(InvalidReleased::Overflow);
        }
        if !partial.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(InvalidReleased::Unordered);
        }
        let set = Self { full, partial };
        if set.partial.iter().any(|&(ordinal, _)| set.contains(ordinal)) {
            return Err(InvalidReleased::Contradiction);
        }
        Ok(set)
    }

    /// Wholly released records as `(first ordinal, length)`, increasing and disjoint.
    #[must_use]
    pub fn runs(&self) -> &[(u64, u64)] {
        &self.full
    }

    /// Partly released records as `(ordinal, mask of released parts)`, increasing.
    #[must_use]
    pub fn partial(&self) -> &[(u64, u64)] {
        &self.partial
    }

    /// Whether nothing above the frontier is released.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.partial.is_empty()
    }

    /// The highest ordinal in the set, partly released records included.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        let full = self.full.last().map(|&(start, length)| start + (length - 1));
        full.max(self.partial.last().map(|&(ordinal, _)| ordinal))
    }

    /// Whether the record is wholly released. O(log runs).
    #[must_use]
    pub fn contains(&self, ordinal: u64) -> bool {
        let after = self.full.partition_point(|&(start, _)| start <= ordinal);
        after.checked_sub(1).is_some_and(|at| ordinal - self.full[at].0 < self.full[at].1)
    }

    /// Appends a run behind all others, joined to the last where they touch.
    pub(super) fn push_run(&mut self, start: u64, length: u64) {
        match self.full.last_mut() {
            Some(last) if last.0 + last.1 == start => last.1 += length,
            _ => self.full.push((start, length)),
        }
    }

    pub(super) fn push_partial(&mut self, ordinal: u64, mask: u64) {
        self.partial.push((ordinal, mask));
    }
}

/// The part of a resumed set whose records have not been read again yet. Ordinals are absolute:
/// those of the resumed frontier.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    full: VecDeque<(u64, u64)>,
    partial: VecDeque<(u64, u64)>,
}

impl Rest {
    pub(super) fn new(released: Released) -> Self {
        Self { full: released.full.into(), partial: released.partial.into() }
    }

    /// The parts of the next record that left in a former life. Ordinals are asked for one by one.
    #[inline]
    pub(super) fn take(&mut self, ordinal: u64) -> u64 {
        if self.full.is_empty() && self.partial.is_empty() { 0 } else { self.take_slowly(ordinal) }
    }

    fn take_slowly(&mut self, ordinal: u64) -> u64 {
        if let Some((start, length)) = self.full.front_mut()
            && *start == ordinal
        {
            *start += 1;
            *length -= 1;
            if *length == 0 {
                self.full.pop_front();
            }
            return u64::MAX;
        }
        self.partial.pop_front_if(|(at, _)| *at == ordinal).map_or(0, |(_, mask)| mask)
    }

    /// One above the highest ordinal that is left.
    pub(super) fn end(&self) -> Option<u64> {
        let full = self.full.back().map(|&(start, length)| start + length);
        full.max(self.partial.back().map(|&(ordinal, _)| ordinal + 1))
    }

    /// Appends what is left, made relative to `frontier`.
    pub(super) fn append_to(&self, released: &mut Released, frontier: u64) {
        for &(start, length) in &self.full {
            released.push_run(start - frontier, length);
        }
        for &(ordinal, mask) in &self.partial {
            released.push_partial(ordinal - frontier, mask);
        }
    }
}
