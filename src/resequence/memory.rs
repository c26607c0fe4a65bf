//! The byte budget of results that wait for a predecessor.
//!
//! Past the budget the bodies with the highest offsets are forgotten, because their turn is
//! farthest away; their positions are kept, and they are read again in one sequential sweep when
//! their turn has come. The results are read on meanwhile: the head's may be behind.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Batch, Offset};

use super::entry::Outcome;
use super::lane::{LaneState, Need};

/// The results of one lane that are held in memory, and those that are not.
#[derive(Debug)]
pub(super) struct Memory {
    budget: usize,
    bytes: usize,
    /// Held bodies by input offset, with their size.
    held: BTreeMap<Offset, usize>,
    /// Forgotten bodies by input offset, with their position on the results partition and size.
    forgotten: BTreeMap<Offset, (Offset, usize)>,
    /// What the sweep that is under way looks for: input offsets by position, and where it is.
    sweep: BTreeMap<Offset, Offset>,
    /// Records whose turn has come and whose body the sweep under way does not look for.
    wanted: BTreeSet<Offset>,
}

impl Memory {
    pub(super) const fn new(budget: usize) -> Self {
        Self {
            budget,
            bytes: 0,
            held: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            sweep: BTreeMap::new(),
            wanted: BTreeSet::new(),
        }
    }

    /// Bytes of held bodies.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn hold(&mut self, offset: Offset, size: usize) {
        self.bytes += size;
        self.held.insert(offset, size);
    }

    /// Forgets about a record that has left, or whose result was voided.
    pub(super) fn remove(&mut self, offset: Offset) {
        if self.held.is_empty() && self.forgotten.is_empty() {
            return;
        }
        if let Some(size) = self.held.remove(&offset) {
            self.bytes -= size;
        }
        self.forgotten.remove(&offset);
        self.wanted.remove(&offset);
    }
}

impl LaneState {
    /// Looks after the results that came and did not leave at once: gives them frames of their
    /// own, so that no fetched batch is kept alive by one of its records, and keeps to the budget.
    pub(super) fn settle_memory(&mut self) {
        for offset in std::mem::take(&mut self.fresh) {
            if let Some(body) = self.body_mut(offset)
                && let Some(batch) = body
            {
                let detached = batch.detached();
                let size = detached.frame().len();
                *body = Some(detached);
                self.memory.hold(offset, size);
            }
        }
        while self.memory.bytes > self.memory.budget {
            // The lowest one is never forgotten, so that the head can always leave.
            if self.memory.held.len() <= 1 {
                break;
            }
            let Some((offset, size)) = self.memory.held.pop_last() else { break };
            self.memory.bytes -= size;
            if let Some(position) = self.forget_body(offset) {
                self.memory.forgotten.insert(offset, (position, size));
            }
        }
    }

    /// Starts a sweep for the forgotten bodies from `offset` on, as many as half the budget holds;
    /// after the one under way, where there is one.
    pub(super) fn recall(&mut self, offset: Offset) {
        self.memory.wanted.insert(offset);
        if !self.memory.sweep.is_empty() {
            return;
        }
        let mut room = self.memory.budget / 2;
        for (offset, (position, size)) in self.memory.forgotten.range(offset..) {
            if *size > room && !self.memory.sweep.is_empty() {
                break;
            }
            room = room.saturating_sub(*size);
            self.memory.sweep.insert(*position, *offset);
        }
        if !self.memory.sweep.is_empty() {
            self.needs.push(Need::Results);
        }
    }

    /// Where the sweep asked for with [`Need::Results`] begins; `None` once it has found everything.
    #[must_use]
    pub fn sweep_position(&self) -> Option<Offset> {
        self.memory.sweep.keys().next().copied()
    }

    /// Takes results read by the sweep; `next` is where it goes on. Says whether it has to.
    pub fn results_swept(&mut self, batches: &[Batch], next: Offset) -> bool {
        for single in batches.iter().flat_map(Batch::singles) {
            let Some(position) = single.first().map(|record| record.offset) else { continue };
            if let Some(offset) = self.memory.sweep.remove(&position) {
                self.restore_body(offset, position, &single);
            }
        }
        // What should have been below was removed from the log meanwhile; the lane is told by its reader.
        self.memory.sweep.retain(|position, _| *position >= next);
        if !self.memory.sweep.is_empty() {
            return true;
        }
        if let Some(offset) = self.memory.wanted.first().copied() {
            self.recall(offset);
        }
        false
    }

    fn restore_body(&mut self, offset: Offset, position: Offset, single: &Batch) {
        let Some(Outcome::Result(answer)) = self.order.entry_mut(offset).and_then(|e| e.outcome.as_mut()) else {
            return; // It left, or was sent round again, meanwhile.
        };
        if answer.position == position && answer.body.is_none() {
            let body = single.detached();
            self.memory.forgotten.remove(&offset);
            self.memory.wanted.remove(&offset);
            self.memory.hold(offset, body.frame().len());
            answer.body = Some(body);
            self.order.unpark(offset);
        }
    }

    fn body_mut(&mut self, offset: Offset) -> Option<&mut Option<Batch>> {
        match self.order.entry_mut(offset)?.outcome.as_mut()? {
            Outcome::Result(answer) => Some(&mut answer.body),
            _ => None,
        }
    }

    fn forget_body(&mut self, offset: Offset) -> Option<Offset> {
        match self.order.entry_mut(offset)?.outcome.as_mut()? {
            Outcome::Result(answer) => answer.body.take().map(|_| answer.position),
            _ => None,
        }
    }
}
