//! The lane's state as its cursor holds it, and what a commit that went through means for it.

use crate::order::Violated;
use crate::record::cursor::LaneCursor;
use crate::record::{Offset, TopicIds};

use super::lane::LaneState;

impl LaneState {
    /// The cursor that is right once everything gathered so far is committed with it.
    pub(super) fn snapshot(&mut self, ledger_end: Offset) -> LaneCursor {
        let limit = self.limit();
        self.attempted_limit = self.attempted_limit.max(limit);
        let released = self.order.released();
        let mut sequences = self.other_sequences.clone();
        for (number, next) in self.sequences.iter().enumerate() {
            sequences.insert(self.destinations.topic(number).as_str().to_owned(), *next);
        }
        // Identities that leave with this very commit are in the ledger at or after its end now.
        let identities = self.identities.ledger_from().unwrap_or(ledger_end).min(ledger_end);
        LaneCursor {
            frontier: self.order.frontier().0,
            frontier_since: self.frontier_since().0,
            read_to: self.read_to().0,
            released: released.runs().to_vec(),
            partly: released.partial().to_vec(),
            results: self.needed_results.low().0,
            limit: limit.0,
            dispatched: self.dispatch.position().0,
            sequences,
            begins: self.begins.clone(),
            rounds: self.rounds.iter().map(|(offset, round)| (offset.0, round.0)).collect(),
            identities: identities.0,
            voided: self.voided.clone(),
            order: self.scope.to_string(),
            next_order: self.next_scope.as_ref().map(|(from, scope)| (from.0, scope.to_string())),
            suppressed: self.suppressed.clone(),
            batches: self.batches.as_ref().map_or(0, |batches| batches.position().0),
            batch_items: self.batches.as_ref().and_then(|batches| batches.needed_items()),
            events: self.batches.as_ref().map_or_else(Vec::new, |batches| batches.pending_events()),
            // The batches know it, and this is committed with their states.
            items_lost: false,
            halted: self.halted.clone(),
            lost_from: None,
            about: TopicIds::new(),
        }
    }

    /// Whether workers stand at the published limit although there is room for more.
    pub(super) fn limit_due(&self) -> bool {
        self.order.read_to() >= self.attempted_limit && self.limit() > self.attempted_limit
    }

    /// Marks the identities of what is being committed; they are in the ledger from `position` on.
    pub(super) fn commit_begins(&mut self) {
        debug_assert!(self.committing_identities.is_empty(), "one commit at a time");
        std::mem::swap(&mut self.committing_identities, &mut self.identified);
        std::mem::swap(&mut self.resend_committing, &mut self.resend_after_commit);
    }

    /// The commit of this cursor went through; its ledger record is at `ledger`, where there was one.
    pub(super) fn committed(&mut self, cursor: &LaneCursor, ledger: Option<Offset>) -> Result<(), Violated> {
        self.committed_limit = Offset(cursor.limit);
        self.dispatch.committed(Offset(cursor.dispatched));
        self.committed_rounds.clone_from(&cursor.rounds);
        for offset in std::mem::take(&mut self.committing_identities) {
            if let Some(position) = ledger {
                self.identities.recorded(offset, position)?;
            }
        }
        self.resend_committed();
        self.tell_dead_letters();
        Ok(())
    }

    /// How many parts left with the commit that went through just now; counted once.
    pub(super) fn released_by_commit(&mut self) -> u64 {
        std::mem::take(&mut self.committing_records)
    }

    /// Whether everything admitted has left and nothing waits to be judged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.order.unreleased() == 0 && self.results.is_empty() && self.gathered.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::log::Topic;
    use crate::record::Partition;
    use crate::resequence::Options;
    use crate::resequence::destinations::Destinations;

    #[test]
    fn an_owner_that_begins_at_the_frontier_remembers_how_far_others_have_read() {
        let destinations = Destinations::new(&BTreeMap::from([("default".to_owned(), Topic::from("t.output"))]));
        let cursor = LaneCursor { frontier: 3, read_to: 50, ..LaneCursor::default() };
        let resumed = LaneState::resume(Partition(0), &cursor, &Options::default(), &destinations);
        let mut state = resumed.expect("nothing is damaged");
        assert_eq!(state.input_position(), Offset(3));
        assert_eq!(state.read_to(), Offset(50));
        assert_eq!(state.snapshot(Offset::ZERO).read_to, 50);
    }
}
