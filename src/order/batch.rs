//! A batch as a state machine: what happened in, the next state and what is to be done out.
//!
//! [`next`] is a pure function: no clock, no IO; the owner of the lane puts state and effects into
//! one atomic commit. A [`BatchState`] holds the truth about every item and grows with the window,
//! never with the number of items: those below the high-water mark that are not open are done for
//! good. No counter decides anything.
//!
//! - An item ends once. An answer counts only for an item that is open, running, and in the very
//!   round of the answer: duplicates, late ones and those of an earlier round change nothing.
//! - Failures up to the tolerance pass. Beyond it `stop` and `continue` end the batch as failed;
//!   `hold` keeps the item, which holds a place of the window, for an operator.
//! - A batch that ends early generates no more and waits for what is out; a deadline does not wait.
//! - What is out and lost is as if it had not been sent: it goes out again in its turn, and a batch that
//!   ends, which sends nothing more, gives it up.
//! - It has ended once every item has, and the final item, where one was asked for, after them.

mod item;
mod refill;

#[cfg(test)]
mod tests;

use crate::record::batches::{
    BatchState, Change, Completion, ItemState, ItemStatus, Mode, OnItemFailure, Open, Outcome, Phase, Rules, Selection,
};
use crate::record::{Round, Timestamp};

/// The most unfinished items of a paced batch: beyond it workers are so far behind the clock that
/// more would only wait, and the state has to stay small.
pub const MOST_OPEN: u64 = 10_000;

/// Stands for a time that never comes.
const NEVER: i64 = i64::MAX;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An item was answered.
    Answered {
        /// Which; one past the last is the final item.
        index: u64,
        /// The round that was answered.
        round: Round,
        /// Whether its work was done.
        succeeded: bool,
    },
    /// Time went on.
    TimePassed,
    /// There is room for items, and their bodies are at hand.
    Refill {
        /// How many new ones may be generated at most.
        fresh: u64,
        /// Which of those that wait for another round.
        again: Vec<u64>,
    },
    /// Asked for: generate no more and end.
    Cancel {
        /// Why, in words.
        reason: Option<String>,
    },
    /// The records of what is out are lost, or may be: what comes of those that survive counts for nothing
    /// any more, but for the final item.
    InputLost,
    /// Its items cannot be had: it ends as failed.
    Abort {
        /// Why, in words.
        reason: String,
    },
    /// Asked for: generate no more until resumed.
    Pause,
    /// Asked for: go on.
    Resume,
    /// Asked for: held items once more.
    Retry(Selection),
    /// Asked for: give held items up.
    Discard(Selection),
    /// Asked for: other rules from now on. What must not be is refused before it comes here.
    Change(Change),
}

/// Something that is to be done, in the commit that makes the new state durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an item out.
    Generate {
        /// Which; one past the last is the final item.
        index: u64,
        /// Its round.
        round: Round,
    },
    /// Say that an item ended so, or, where it is held, failed for now.
    Report {
        /// Which.
        index: u64,
        /// Its round.
        round: Round,
        /// How.
        status: ItemStatus,
    },
    /// Wait for its answer no longer: its place in the lane is free.
    Withdraw {
        /// Which; one past the last is the final item.
        index: u64,
    },
    /// Say that the batch cannot go on by itself.
    Stalled,
    /// Say that all is done.
    Done,
}

/// The state after `event`, and what is to be done with it. What makes no sense in this state
/// changes nothing.
#[must_use]
pub fn next(state: BatchState, event: Event, now: Timestamp) -> (BatchState, Vec<Action>) {
    let mut step = Step { state, now: now.0, actions: Vec::new() };
    if !step.state.has_ended() {
        step.happened(event);
        step.end_where_due();
        step.note_stall();
    }
    (step.state, step.actions)
}

/// A batch of `total` items that begins now.
#[must_use]
pub fn begin(rules: Rules, total: u64, now: Timestamp) -> BatchState {
    BatchState { rules, total, started_at: now.0, progress_at: now.0, next_interval: now.0, ..BatchState::default() }
}

/// Whether an answer to this item, in this round, would count.
#[must_use]
pub fn expects(state: &BatchState, index: u64, round: Round) -> bool {
    match state.phase {
        Phase::Completing(_) => index == state.total && round == Round(0),
        Phase::Running | Phase::Ending(_) => {
            state.open.get(&index).is_some_and(|open| open.state == ItemState::Running && open.round == round.0)
        }
        Phase::Ended(_) => false,
    }
}

/// To how many items a retry or a discard of these would apply now: to those that are held.
#[must_use]
pub fn applies_to(state: &BatchState, which: &Selection) -> u64 {
    let takes = state.phase == Phase::Running;
    state.held().filter(|index| takes && which.contains(*index)).count() as u64
}

/// How many new items a refill would send out now, and which of those that wait for another round.
#[must_use]
pub fn wanted(state: &BatchState, now: Timestamp) -> (u64, Vec<u64>) {
    if state.phase != Phase::Running || state.paused {
        return (0, Vec::new());
    }
    let again = state.open.iter().filter(|(_, open)| open.state == ItemState::Again);
    (refill::room(state, now.0), again.map(|(index, _)| *index).collect())
}

/// When time alone changes something next; `None` where it never does. A step per open item.
#[must_use]
pub fn next_due(state: &BatchState) -> Option<Timestamp> {
    let rules = &state.rules;
    let after = |from: i64, span: Option<u64>| span.map_or(NEVER, |span| from.saturating_add_unsigned(span));
    let due = match state.phase {
        Phase::Ended(_) => NEVER,
        Phase::Completing(_) => match state.completion {
            Completion::Running(due) => due,
            Completion::None | Completion::Succeeded | Completion::Failed => NEVER,
        },
        Phase::Running | Phase::Ending(_) => {
            let running = state.open.values().filter(|open| open.state == ItemState::Running);
            let items = running.map(|open| open.due).min().unwrap_or(NEVER);
            let stall = if can_stall(state) { after(state.progress_at, Some(rules.stall_after)) } else { NEVER };
            items.min(after(state.started_at, rules.deadline)).min(stall).min(refill::next_interval(state))
        }
    };
    (due != NEVER).then_some(Timestamp(due))
}

/// One step of one batch.
struct Step {
    state: BatchState,
    now: i64,
    actions: Vec<Action>,
}

impl Step {
    fn happened(&mut self, event: Event) {
        let running = self.state.phase == Phase::Running;
        match event {
            Event::Answered { index, round, succeeded } => self.answered(index, round, succeeded),
            Event::TimePassed => self.time_passed(),
            Event::Refill { fresh, again } if running && !self.state.paused => self.refill(fresh, &again),
            Event::Cancel { reason } => self.end(Outcome::Cancelled, reason),
            Event::InputLost => self.input_lost(),
            Event::Abort { reason } => self.end(Outcome::Failed, Some(reason)),
            Event::Pause if running => self.state.paused = true,
            Event::Resume if self.state.paused => {
                self.state.paused = false;
                self.progress();
            }
            Event::Retry(which) if running => self.retry(&which),
            Event::Discard(which) if running => self.discard(&which),
            Event::Change(change) => {
                if let Ok(rules) = change.apply(&self.state.rules) {
                    self.state.next_interval = self.state.next_interval.min(refill::after(self.now, rules.interval));
                    self.state.left = self.state.left.min(rules.window);
                    self.state.rules = rules;
                }
            }
            Event::Refill { .. } | Event::Pause | Event::Resume | Event::Retry(_) | Event::Discard(_) => {}
        }
    }

    /// Something was generated or finished.
    fn progress(&mut self) {
        self.state.progress_at = self.now;
        self.state.stalled = false;
    }

    fn time_passed(&mut self) {
        let deadline = self.state.rules.deadline.map(|span| refill::after(self.state.started_at, span));
        let draining = matches!(self.state.phase, Phase::Running | Phase::Ending(_));
        if draining && deadline.is_some_and(|deadline| deadline <= self.now) {
            self.end(Outcome::Failed, Some("its deadline has passed".to_owned()));
            self.time_out(|_| true);
        }
        let now = self.now;
        self.time_out(|due| due <= now);
        if let (Phase::Completing(_), Completion::Running(due)) = (self.state.phase, self.state.completion)
            && due <= self.now
        {
            self.actions.push(Action::Withdraw { index: self.state.total });
            self.state.completion = Completion::Failed;
        }
    }

    /// Ends the batch before its end; what is out may finish, what is held or to be done again is
    /// given up. Asked for again, or once it ends anyway, this changes nothing.
    fn end(&mut self, outcome: Outcome, reason: Option<String>) {
        if self.state.phase != Phase::Running {
            return;
        }
        self.state.phase = Phase::Ending(outcome);
        self.state.paused = false;
        self.state.reason = reason;
        self.state.cancelled += self.state.total - self.state.generated;
        self.give_up_waiting();
        self.progress();
    }

    /// Goes on to the final item, or to the end, once every item is done.
    fn end_where_due(&mut self) {
        let outcome = match self.state.phase {
            Phase::Running if self.state.generated == self.state.total => Outcome::Completed,
            Phase::Ending(outcome) => outcome,
            Phase::Completing(outcome) if final_item_has_ended(&self.state) => return self.done(outcome),
            Phase::Running | Phase::Completing(_) | Phase::Ended(_) => return,
        };
        if !self.state.open.is_empty() {
            return;
        }
        if !self.state.rules.completion {
            return self.done(outcome);
        }
        self.state.paused = false;
        self.state.phase = Phase::Completing(outcome);
        self.send_final_item();
    }

    fn send_final_item(&mut self) {
        self.state.completion = Completion::Running(self.item_due());
        self.actions.push(Action::Generate { index: self.state.total, round: Round(0) });
    }

    fn done(&mut self, outcome: Outcome) {
        self.state.phase = Phase::Ended(outcome);
        self.state.stalled = false;
        self.state.ended_at = Some(self.now);
        self.actions.push(Action::Done);
    }

    /// Says once that nothing goes on: everything that is out is held, or nothing has finished for long.
    fn note_stall(&mut self) {
        let state = &self.state;
        let blocked = can_stall(state) && !state.open.is_empty() && !refill::has_slots(state);
        let blocked = blocked && state.open.values().all(Open::is_held);
        let silent = can_stall(state) && refill::after(state.progress_at, state.rules.stall_after) <= self.now;
        if blocked || silent {
            self.state.stalled = true;
            self.actions.push(Action::Stalled);
        }
    }

    fn item_due(&self) -> i64 {
        self.state.rules.item_timeout.map_or(NEVER, |span| refill::after(self.now, span))
    }
}

/// Whether it could be waiting for somebody, and not just for the clock, without having said so.
fn can_stall(state: &BatchState) -> bool {
    let waits_for_the_clock = state.open.is_empty() && state.rules.mode == Mode::Paced;
    state.phase == Phase::Running && !state.paused && !state.stalled && !waits_for_the_clock
}

fn final_item_has_ended(state: &BatchState) -> bool {
    matches!(state.completion, Completion::Succeeded | Completion::Failed)
}

/// Whether the failures so far are more than the batch tolerates.
fn beyond_tolerance(state: &BatchState) -> bool {
    let rules = &state.rules;
    let failures = state.failed + state.timed_out;
    let by_count = rules.tolerated_count.map(|count| failures > count);
    // Exact: both numbers are far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let by_share = rules.tolerated_percentage.map(|share| failures as f64 * 100.0 > share * state.total as f64);
    match (by_count, by_share) {
        (None, None) => rules.on_failure != OnItemFailure::Continue,
        (by_count, by_share) => by_count.unwrap_or(false) || by_share.unwrap_or(false),
    }
}
