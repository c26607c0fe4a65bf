//! A lane as its owner holds it: its state with its readers, or, while it stands still for good,
//! the cursor that is carried along.

use std::collections::BTreeMap;

use crate::log::{Append, Bounds, Error, Fetched, Reader};
use crate::metrics;
use crate::order::Violated;
use crate::record::cursor::LaneCursor;
use crate::record::{Batch, Epoch, Offset, Partition, Timestamp};
use crate::topics::Topics;

use super::batches::{Batches, ItemsWanted};
use super::dispatch::Sending;
use super::lane::{LaneState, Need};
use super::loads::Loads;

/// One lane of an owner.
pub(super) struct Seat {
    pub(super) lane: Partition,
    hold: Hold,
    /// The readers, while nobody waits for them.
    pub(super) input: Option<Box<dyn Reader>>,
    pub(super) results: Option<Box<dyn Reader>>,
    pub(super) commands: Option<Box<dyn Reader>>,
    ledger_end: Offset,
    /// Why the lane cannot go on: it is restored from its last cursor, halted.
    pub(super) defect: Option<String>,
    /// How many messages were held back for an operator when that was last told.
    halts_told: usize,
    metrics: metrics::Lane,
}

enum Hold {
    Going(Box<LaneState>),
    Halted(Box<LaneCursor>),
}

impl Seat {
    pub(super) fn going(state: LaneState, ledger_end: Offset) -> Self {
        Self::new(state.lane, Hold::Going(Box::new(state)), ledger_end)
    }

    pub(super) fn halted(lane: Partition, cursor: LaneCursor) -> Self {
        let reason = cursor.halted.as_deref().unwrap_or_default();
        tracing::error!(%lane, reason, "the lane stands still: see `seriatim lanes show`, then `lanes accept`");
        Self::new(lane, Hold::Halted(Box::new(cursor)), Offset::ZERO)
    }

    fn new(lane: Partition, hold: Hold, ledger_end: Offset) -> Self {
        Self {
            lane,
            hold,
            input: None,
            results: None,
            commands: None,
            ledger_end,
            defect: None,
            halts_told: 0,
            metrics: metrics::lane(lane),
        }
    }

    pub(super) fn state(&self) -> Option<&LaneState> {
        match &self.hold {
            Hold::Going(state) => Some(state),
            Hold::Halted(_) => None,
        }
    }

    pub(super) fn state_mut(&mut self) -> Option<&mut LaneState> {
        match &mut self.hold {
            Hold::Going(state) => Some(state),
            Hold::Halted(_) => None,
        }
    }

    /// Takes the readers, both at the lane's positions.
    pub(super) fn open(
        &mut self,
        input: Result<Box<dyn Reader>, Error>,
        results: Result<Box<dyn Reader>, Error>,
        commands: Result<Box<dyn Reader>, Error>,
    ) -> Result<(), Error> {
        self.input = self.unless_lost(input)?;
        self.results = self.unless_lost(results)?;
        self.commands = self.unless_lost(commands)?;
        Ok(())
    }

    /// Admits, judges and releases as far as that goes now. Says whether something besides
    /// releases has to be committed.
    pub(super) fn work(&mut self, epoch: Epoch, now: Timestamp) -> bool {
        let Hold::Going(state) = &mut self.hold else { return false };
        let worked = state.advance_and_release(epoch, now).and_then(|()| {
            // What was withdrawn leaves at once.
            if state.coordinate(now) { state.advance_and_release(epoch, now) } else { Ok(()) }
        });
        match worked {
            Ok(()) => state.halted.is_some() || state.limit_due() || state.has_news(),
            Err(violated) => {
                self.found_defect(&violated);
                false
            }
        }
    }

    /// A violated invariant stops the lane, never the process: what is committed is right, what
    /// is in memory is not to be trusted.
    fn found_defect(&mut self, violated: &Violated) {
        metrics::invariant_violations(violated.invariant.id()).inc();
        tracing::error!(lane = %self.lane, %violated, "an invariant does not hold: the lane halts");
        self.defect = Some(violated.to_string());
    }

    fn halt(&mut self, reason: String) {
        if self.defect.is_none() && self.state().is_some() {
            tracing::error!(lane = %self.lane, reason, "the lane halts");
            // Restored, so that what it has lost besides is found.
            self.defect = Some(reason);
        }
    }

    /// Takes input. What was read before damage is still released.
    pub(super) fn input_read(&mut self, reader: Box<dyn Reader>, fetched: Result<Fetched, Error>) -> Result<(), Error> {
        let lane = self.lane;
        self.input = Some(reader);
        match (fetched, self.state_mut()) {
            (Ok(fetched), Some(state)) => state.add_input(fetched.batches, fetched.next),
            (Err(Error::Damaged(reason)), Some(state)) => {
                tracing::error!(%lane, reason, "the input cannot be read on: the lane halts there");
                state.meets_damage(reason);
            }
            (fetched, _) => drop(self.unless_lost(fetched)?),
        }
        Ok(())
    }

    pub(super) fn results_read(
        &mut self,
        reader: Box<dyn Reader>,
        fetched: Result<Fetched, Error>,
    ) -> Result<(), Error> {
        self.results = Some(reader);
        if let Some(fetched) = self.unless_lost(fetched)?
            && let Some(state) = self.state_mut()
        {
            state.add_results(fetched.batches, fetched.next);
        }
        Ok(())
    }

    pub(super) fn commands_read(
        &mut self,
        reader: Box<dyn Reader>,
        fetched: Result<Fetched, Error>,
    ) -> Result<(), Error> {
        self.commands = Some(reader);
        let Some(fetched) = self.unless_lost(fetched)? else { return Ok(()) };
        if let Some(batches) = self.batches_mut() {
            batches.add_commands(fetched);
        }
        Ok(())
    }

    /// Takes items of an upload. That they are gone ends their batch, not the lane.
    pub(super) fn items_read(&mut self, wanted: &ItemsWanted, fetched: Result<Fetched, Error>) -> Result<(), Error> {
        let fetched = match fetched {
            Err(error @ (Error::Lost { .. } | Error::Damaged(_))) => Err(error.to_string()),
            Err(error) => return Err(error),
            Ok(fetched) => Ok(fetched),
        };
        if let Some(batches) = self.batches_mut() {
            batches.items_read(wanted, fetched);
        }
        Ok(())
    }

    fn batches_mut(&mut self) -> Option<&mut Batches> {
        self.state_mut()?.batches.as_deref_mut()
    }

    pub(super) fn commands_position(&self) -> Offset {
        self.state().and_then(|state| state.batches.as_ref()).map_or(Offset::ZERO, |batches| batches.read_to())
    }

    pub(super) fn wanted_commands(&mut self) -> Option<Box<dyn Reader>> {
        let wants = self.state()?.batches.as_ref()?.wants_commands();
        (self.defect.is_none() && wants).then(|| self.commands.take())?
    }

    pub(super) fn wanted_items(&mut self) -> Option<ItemsWanted> {
        self.batches_mut()?.wanted_items()
    }

    /// Takes what a sweep read; says whether it has to go on.
    pub(super) fn results_swept(&mut self, fetched: Result<Fetched, Error>) -> Result<bool, Error> {
        let Some(fetched) = self.unless_lost(fetched)? else { return Ok(false) };
        let Some(state) = self.state_mut() else { return Ok(false) };
        Ok(state.results_swept(&fetched.batches, fetched.next))
    }

    /// A sweep could not even begin to read.
    pub(super) fn sweep_failed(&mut self, error: Error) -> Result<(), Error> {
        self.unless_lost::<()>(Err(error)).map(drop)
    }

    pub(super) fn input_fetched(&mut self, offset: Offset, record: Result<Option<Batch>, Error>) -> Result<(), Error> {
        match self.unless_lost(record)? {
            Some(Some(record)) => {
                if let Some(state) = self.state_mut() {
                    state.input_fetched(offset, record);
                }
            }
            Some(None) => self.halt(format!("input record {offset} is gone: retention overtook the lane")),
            None => {}
        }
        Ok(())
    }

    pub(super) fn input_ends(&mut self, input: Bounds, asked_for: Option<Offset>) {
        let Some(state) = self.state_mut() else { return };
        state.input_ends(input.stable_end, asked_for);
        if let Some(reason) = state.damage_ends(input.end) {
            self.halt(reason);
        }
    }

    /// Retention that overtook the lane, or damage in its logs, halts it, and it alone; it is never
    /// moved on in silence.
    fn unless_lost<T>(&mut self, read: Result<T, Error>) -> Result<Option<T>, Error> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(error @ (Error::Lost { .. } | Error::Damaged(_))) => {
                self.halt(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn wanted_input(&mut self) -> Option<Box<dyn Reader>> {
        (self.defect.is_none() && self.state()?.wants_input()).then(|| self.input.take())?
    }

    pub(super) fn wanted_results(&mut self) -> Option<Box<dyn Reader>> {
        (self.defect.is_none() && self.state()?.wants_results()).then(|| self.results.take())?
    }

    pub(super) fn needs(&mut self) -> Vec<Need> {
        self.state_mut().map(|state| std::mem::take(&mut state.needs)).unwrap_or_default()
    }

    /// The appends to the work topic that are to be made now.
    pub(super) fn send_out(&mut self, loads: &mut Loads, now: Timestamp) -> Vec<Sending> {
        if self.defect.is_some() {
            return Vec::new();
        }
        let Hold::Going(state) = &mut self.hold else { return Vec::new() };
        state.send_out(loads, now).unwrap_or_else(|violated| {
            self.found_defect(&violated);
            Vec::new()
        })
    }

    /// The log has answered one of these appends.
    pub(super) fn sent(&mut self, sending: Sending, result: Result<(), Error>, now: Timestamp) {
        let Hold::Going(state) = &mut self.hold else { return };
        if result.is_ok() {
            self.metrics.dispatched.inc_by(sending.records.len() as u64);
        }
        if let Err(violated) = state.sent(sending, result, now) {
            self.found_defect(&violated);
        }
    }

    /// Nothing is sent to the workers before the results are judged up to here.
    pub(super) fn send_after(&mut self, results_end: Offset) {
        if let Some(state) = self.state_mut() {
            state.dispatch.after_results(results_end);
        }
    }

    /// Has what was sent to the workers committed, where no release has carried it.
    pub(super) fn note_position(&mut self) {
        if let Some(state) = self.state_mut() {
            state.dispatch.note_position();
        }
    }

    pub(super) fn has_gathered(&self) -> bool {
        self.state().is_some_and(|state| {
            !state.gathered.is_empty() || state.batches.as_ref().is_some_and(|batches| batches.has_gathered())
        })
    }

    pub(super) fn form_commit(&mut self, topics: &Topics) -> (Vec<Append>, LaneCursor) {
        match &mut self.hold {
            Hold::Going(state) => {
                let appends = state.appends(topics);
                state.commit_begins();
                (appends, state.snapshot(self.ledger_end))
            }
            Hold::Halted(cursor) => (Vec::new(), (**cursor).clone()),
        }
    }

    /// The commit went through, with the lane's ledger record at this offset where there was one.
    pub(super) fn committed(&mut self, cursor: &LaneCursor, ledger: Option<Offset>) {
        if let Some(offset) = ledger {
            self.ledger_end = offset.next();
        }
        let Hold::Going(state) = &mut self.hold else { return };
        self.metrics.released.inc_by(state.released_by_commit());
        if let Err(violated) = state.committed(cursor, ledger) {
            self.found_defect(&violated);
        } else if cursor.halted.is_some() {
            *self = Self::halted(self.lane, cursor.clone());
        }
    }

    /// Near the cursor's budget limits stop rising, so that what is admitted can still be described.
    pub(super) fn cursor_is_tight(&mut self, tight: bool) {
        if let Some(state) = self.state_mut() {
            state.limit_frozen = tight;
        }
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let state = self.state()?;
        let batches = state.batches.as_ref().and_then(|batches| batches.next_due());
        [state.overdue.next_due(), batches].into_iter().flatten().min()
    }

    /// Asks for what is overdue to be sent again, and refreshes the gauges.
    pub(super) fn time_passed(&mut self, now: Timestamp) {
        let metrics = &self.metrics;
        let Hold::Going(state) = &mut self.hold else {
            metrics.halted.set(1);
            return;
        };
        state.send_overdue(now);
        if let Some(batches) = &mut state.batches {
            batches.gauge();
        }
        state.dispatch.note_position();
        metrics.duplicates.inc_by(std::mem::take(&mut state.duplicates));
        metrics.lag_records.set(gauge(state.lag()));
        tell_halts(self.lane, &state.halts, &mut self.halts_told);
        metrics.halted.set(gauge(state.halts.len() as u64));
        metrics.limit_reached.set((state.order.room() == 0).into());
        metrics.outstanding.set(gauge(state.dispatch.outstanding()));
        metrics.buffer_bytes.set(gauge(state.memory.bytes() as u64));
        let oldest = state.order.blocking().map_or(0.0, |(_, entry)| now.since(entry.timestamp).as_secs_f64());
        metrics.oldest_unreleased_seconds.set(oldest);
    }
}

/// One line when a message has begun to hold others back, however many more do.
fn tell_halts(lane: Partition, halts: &BTreeMap<Offset, String>, told: &mut usize) {
    let before = std::mem::replace(told, halts.len());
    if let Some((first, error)) = halts.first_key_value()
        && halts.len() > before
    {
        let messages = halts.len();
        tracing::warn!(%lane, messages, %first, error, "failed, and held back for an operator: `seriatim why` tells");
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        metrics::forget_lane(self.lane);
        metrics::forget_batches(self.lane);
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
