//! How many items go out, and when.

use super::{Action, MOST_OPEN, NEVER, Step};
use crate::record::Round;
use crate::record::batches::{BatchState, ItemState, Mode, Open, Phase};

impl Step {
    /// Sends out what waits for another round, then new items, as far as the mode lets it.
    pub(super) fn refill(&mut self, fresh: u64, again: &[u64]) {
        let due = self.item_due();
        for index in again {
            if let Some(open) = self.state.open.get_mut(index).filter(|open| open.state == ItemState::Again) {
                open.state = ItemState::Running;
                open.due = due;
                let round = Round(open.round);
                self.actions.push(Action::Generate { index: *index, round });
                self.progress();
            }
        }
        self.begin_round();
        let count = room(&self.state, self.now).min(fresh);
        for index in self.state.generated..self.state.generated + count {
            self.state.open.insert(index, Open { round: 0, state: ItemState::Running, due });
            self.actions.push(Action::Generate { index, round: Round(0) });
        }
        if count > 0 {
            self.state.generated += count;
            self.state.left = self.state.left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
            self.progress();
        }
    }

    /// Modes `barrier` and `paced` send out a window a round. Intervals that were slept through are
    /// not made up for, so that a return does not begin with a flood.
    fn begin_round(&mut self) {
        let (state, now) = (&mut self.state, self.now);
        if !is_round_due(state, now) {
            return;
        }
        state.left = state.rules.window;
        if state.rules.mode == Mode::Paced {
            state.next_interval = after(state.next_interval, state.rules.interval);
            if state.next_interval <= now {
                state.next_interval = after(now, state.rules.interval);
            }
        }
    }
}

fn is_round_due(state: &BatchState, now: i64) -> bool {
    match state.rules.mode {
        Mode::Window => false,
        Mode::Barrier => state.open.is_empty(),
        Mode::Paced => state.next_interval <= now,
    }
}

/// How many new items may go out now. In mode `window` none until half of them are done, so that
/// they go out in chunks, and progress is written once a chunk.
pub(super) fn room(state: &BatchState, now: i64) -> u64 {
    let window = u64::from(state.rules.window);
    let left = if is_round_due(state, now) { window } else { state.left.into() };
    let room = match state.rules.mode {
        Mode::Window => {
            let held = state.held().count() as u64;
            let (slots, running) = (window.saturating_sub(held), state.open.len() as u64 - held);
            if running * 2 <= slots { slots - running } else { 0 }
        }
        Mode::Barrier => left.min(window.saturating_sub(state.open.len() as u64)),
        Mode::Paced => MOST_OPEN.saturating_sub(state.open.len() as u64).min(left),
    };
    room.min(state.total - state.generated)
}

/// Whether new items could go out, now or by the clock, if nothing that is open moves.
pub(super) fn has_slots(state: &BatchState) -> bool {
    let open = state.open.len() as u64;
    let slots = match state.rules.mode {
        Mode::Window => u64::from(state.rules.window).saturating_sub(open),
        Mode::Barrier => u64::from(state.rules.window).saturating_sub(open).min(state.left.into()),
        Mode::Paced => MOST_OPEN.saturating_sub(open),
    };
    slots > 0 && state.generated < state.total
}

/// When a paced batch may go on, where the clock is what it waits for.
pub(super) fn next_interval(state: &BatchState) -> i64 {
    let waits = state.rules.mode == Mode::Paced
        && state.phase == Phase::Running
        && !state.paused
        && state.generated < state.total
        && (state.open.len() as u64) < MOST_OPEN;
    if waits { state.next_interval } else { NEVER }
}

/// A span after a time, both in milliseconds.
pub(super) fn after(time: i64, span: u64) -> i64 {
    time.saturating_add_unsigned(span)
}
