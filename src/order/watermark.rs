//! The low end of what is done in a log that is worked on out of order.

use std::collections::VecDeque;

use super::Violated;
use crate::invariant;
use crate::record::Offset;

/// One position that is waited for; give it back to [`Watermark::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// Positions of a log that are read in order and done with in any order; everything below
/// [`Watermark::low`] is done. Amortised O(1) per position.
#[derive(Debug)]
pub struct Watermark {
    positions: VecDeque<(Offset, bool)>,
    first: u64,
    next: Offset,
}

impl Watermark {
    /// Starts where everything below `next` is done.
    #[must_use]
    pub const fn new(next: Offset) -> Self {
        Self { positions: VecDeque::new(), first: 0, next }
    }

    /// The record at `offset` is read and has yet to be done.
    ///
    /// # Errors
    ///
    /// [`Violated`] for an offset that was read or passed before.
    pub fn push(&mut self, offset: Offset) -> Result<Ticket, Violated> {
        let next = self.next;
        invariant!(PositionsIncrease, offset >= next && offset.0 < u64::MAX, "{offset} was read, {next} was next");
        self.positions.push_back((offset, false));
        self.next = offset.next();
        Ok(Ticket(self.first + self.positions.len() as u64 - 1))
    }

    /// The position is done.
    ///
    /// # Errors
    ///
    /// [`Violated`] if it was done before.
    pub fn done(&mut self, ticket: Ticket) -> Result<(), Violated> {
        let at = ticket.0.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let position = at.and_then(|at| self.positions.get_mut(at)).filter(|(_, done)| !*done);
        invariant!(TicketsKnown, position.is_some(), "{ticket:?} is not waited for");
        if let Some((_, done)) = position {
            *done = true;
        }
        while self.positions.pop_front_if(|(_, done)| *done).is_some() {
            self.first += 1;
        }
        Ok(())
    }

    /// Nothing below `next` is left to be read; one that was passed already changes nothing.
    pub fn pass_to(&mut self, next: Offset) {
        self.next = self.next.max(next);
    }

    /// The lowest position that is not done; where all are, the next one to read.
    #[must_use]
    pub fn low(&self) -> Offset {
        self.positions.front().map_or(self.next, |(offset, _)| *offset)
    }
}
