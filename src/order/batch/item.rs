//! What happens to single items.

use super::{Action, NEVER, Step, beyond_tolerance};
use crate::record::Round;
use crate::record::batches::{Completion, ItemState, ItemStatus, OnItemFailure, Open, Outcome, Phase, Selection};

impl Step {
    pub(super) fn answered(&mut self, index: u64, round: Round, succeeded: bool) {
        if !super::expects(&self.state, index, round) {
            return;
        }
        self.progress();
        if let Phase::Completing(_) = self.state.phase {
            self.state.completion = if succeeded { Completion::Succeeded } else { Completion::Failed };
        } else if succeeded {
            self.state.open.remove(&index);
            self.state.succeeded += 1;
            self.report(index, round, ItemStatus::Succeeded);
        } else {
            self.state.failed += 1;
            self.fail(index, round, ItemState::Failed);
        }
    }

    /// Items that run and whose time `is_over` have failed by that.
    pub(super) fn time_out(&mut self, is_over: impl Fn(i64) -> bool) {
        let over = self.state.open.iter().filter(|(_, open)| open.state == ItemState::Running && is_over(open.due));
        let over: Vec<(u64, Round)> = over.map(|(index, open)| (*index, Round(open.round))).collect();
        for (index, round) in over {
            self.actions.push(Action::Withdraw { index });
            self.state.timed_out += 1;
            self.progress();
            self.fail(index, round, ItemState::TimedOut);
        }
    }

    /// What becomes of an item that failed and is counted as such.
    fn fail(&mut self, index: u64, round: Round, how: ItemState) {
        let status = if how == ItemState::TimedOut { ItemStatus::TimedOut } else { ItemStatus::Failed };
        self.report(index, round, status);
        let intolerable = self.state.phase == Phase::Running && beyond_tolerance(&self.state);
        if intolerable && self.state.rules.on_failure == OnItemFailure::Hold {
            if let Some(open) = self.state.open.get_mut(&index) {
                open.state = how;
                open.due = NEVER;
            }
            return;
        }
        self.state.open.remove(&index);
        if intolerable {
            self.end(Outcome::Failed, Some("more items failed than are tolerated".to_owned()));
        }
    }

    /// Held items go out once more, in a round of their own.
    pub(super) fn retry(&mut self, which: &Selection) {
        for index in self.held(which) {
            let Some(open) = self.state.open.get_mut(&index) else { continue };
            let failures =
                if open.state == ItemState::TimedOut { &mut self.state.timed_out } else { &mut self.state.failed };
            *failures -= 1;
            open.state = ItemState::Again;
            open.round += 1;
            self.progress();
        }
    }

    /// What is out goes out again. In a round of its own, so that a record of it which was not lost counts for
    /// nothing: else, where items have an order, later ones that survived would leave before earlier ones.
    /// The final item has nothing behind it; of its records the first counts.
    pub(super) fn input_lost(&mut self) {
        if let Phase::Completing(_) = self.state.phase {
            self.actions.push(Action::Withdraw { index: self.state.total });
            return self.send_final_item();
        }
        let lost = self.state.open.iter_mut().filter(|(_, open)| open.state == ItemState::Running);
        self.actions.extend(lost.map(|(index, open)| {
            *open = Open { round: open.round + 1, state: ItemState::Again, due: NEVER };
            Action::Withdraw { index: *index }
        }));
        if self.actions.is_empty() {
            return;
        }
        if self.state.phase != Phase::Running {
            // No items go out any more.
            self.give_up_waiting();
        }
        self.progress();
    }

    /// Held items are given up.
    pub(super) fn discard(&mut self, which: &Selection) {
        for index in self.held(which) {
            let Some(open) = self.state.open.remove(&index) else { continue };
            let failures =
                if open.state == ItemState::TimedOut { &mut self.state.timed_out } else { &mut self.state.failed };
            *failures -= 1;
            self.state.discarded += 1;
            self.report(index, Round(open.round), ItemStatus::Discarded);
            self.progress();
        }
    }

    /// Held items keep how they failed; those that were to be done again are cancelled.
    pub(super) fn give_up_waiting(&mut self) {
        let waiting = self.state.open.extract_if(.., |_, open| open.state != ItemState::Running);
        let again: Vec<(u64, Round)> = waiting
            .filter(|(_, open)| open.state == ItemState::Again)
            .map(|(index, open)| (index, Round(open.round)))
            .collect();
        for (index, round) in again {
            self.state.cancelled += 1;
            self.report(index, round, ItemStatus::Cancelled);
        }
    }

    fn held(&self, which: &Selection) -> Vec<u64> {
        self.state.held().filter(|index| which.contains(*index)).collect()
    }

    fn report(&mut self, index: u64, round: Round, status: ItemStatus) {
        self.actions.push(Action::Report { index, round, status });
    }
}
