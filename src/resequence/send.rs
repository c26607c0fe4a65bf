//! Which records of a lane go out to the workers now, to which partition, and what becomes of that.

#[cfg(test)]
mod tests;

use crate::log::Error;
use crate::order::Violated;
use crate::record::{Offset, Partition, RecordRef, Round, Source, Timestamp};

use super::dispatch::{Pending, Sending, Turn};
use super::lane::LaneState;
use super::loads::Loads;
use super::work_record;

impl LaneState {
    /// The appends to the work topic that are to be made now. Nothing goes out above the committed
    /// limit, or in a round that no committed cursor holds.
    ///
    /// # Errors
    ///
    /// [`Violated`], where an invariant does not hold: the lane must halt.
    pub(super) fn send_out(&mut self, loads: &mut Loads, now: Timestamp) -> Result<Vec<Sending>, Violated> {
        self.dispatch.settle(loads);
        let judged_to = if self.results.is_empty() { self.results_next } else { Offset::ZERO };
        if self.halted.is_some() || !self.dispatch.may_begin(judged_to, now) {
            return Ok(Vec::new());
        }
        let mut turn = Turn::default();
        self.dispatch.add_failed(&mut turn, loads, now);
        while let Some(pending) = self.dispatch.next() {
            if let Some(from) = self.send_pending(&pending, &mut turn, loads, now)? {
                self.dispatch.put_back(&pending, from);
                break;
            }
            self.dispatch.done_with(&pending);
        }
        Ok(self.dispatch.begin(turn, now))
    }

    /// Adds admitted records to the turn; where it has to stop, says at which.
    fn send_pending(
        &mut self,
        pending: &Pending,
        turn: &mut Turn,
        loads: &mut Loads,
        now: Timestamp,
    ) -> Result<Option<Offset>, Violated> {
        for record in pending.batch.iter().take_while(|record| record.offset < pending.until) {
            if record.offset >= self.committed_limit || turn.is_full() || !self.send(&record, turn, loads, now)? {
                return Ok(Some(record.offset));
            }
        }
        Ok(None)
    }

    /// Adds a record to the turn, unless there is no need. `false`: no partition takes anything now.
    fn send(
        &mut self,
        record: &RecordRef<'_>,
        turn: &mut Turn,
        loads: &mut Loads,
        now: Timestamp,
    ) -> Result<bool, Violated> {
        let offset = record.offset;
        let committed = self.committed_round(offset);
        // A former owner has sent it, or has released it.
        let entry = self.order.entry_mut(offset).filter(|_| self.dispatch.will_send(offset));
        let Some(entry) = entry else { return Ok(true) };
        if entry.outcome.is_some() {
            self.overdue.admitted(offset);
            self.overdue.settled(offset);
            return Ok(true);
        }
        if entry.round != committed {
            // It goes out with the commit of its new round, or has its result there.
            self.overdue.admitted(offset);
            self.overdue.head(offset, now);
            return Ok(true);
        }
        let Some(partition) = self.dispatch.place(loads) else { return Ok(false) };
        entry.sent = Some(partition);
        let (source, check) = (Source { lane: self.lane, offset }, entry.check);
        let ticket = self.dispatch.sends(offset)?;
        turn.add(partition, (offset, ticket), |to| work_record::write(to, record, source, committed, check));
        self.overdue.sent(offset, partition);
        if offset == self.order.frontier() {
            self.overdue.head(offset, now);
        }
        Ok(true)
    }

    /// The round of a record that the last committed cursor holds.
    pub(super) fn committed_round(&self, offset: Offset) -> Round {
        Round(self.committed_rounds.get(&offset.0).copied().unwrap_or(0))
    }

    /// Where a record goes again; `None` where that is no longer needed.
    pub(super) fn resend_to(&mut self, offset: Offset, loads: &mut Loads) -> Option<Partition> {
        let entry = self.order.entry(offset).filter(|entry| entry.outcome.is_none())?;
        let sent = entry.sent;
        let partition = self.dispatch.place_again(offset, sent, loads);
        if self.options.fan_out {
            self.overdue.sent_again(offset, partition);
        }
        Some(partition)
    }

    /// The log has answered an append. What it did not take goes to another partition; a record
    /// that it will never take is left to its clock, and to an operator.
    ///
    /// # Errors
    ///
    /// [`Violated`], where an invariant does not hold: the lane must halt.
    pub(super) fn sent(&mut self, sending: Sending, result: Result<(), Error>, now: Timestamp) -> Result<(), Violated> {
        let Err(error) = result else { return self.dispatch.acknowledged(&sending) };
        // From now on it is not certain that somebody is at work on them.
        sending.records.iter().for_each(|(offset, _)| self.overdue.head(*offset, now));
        let is_refused = matches!(error, Error::Rejected { .. });
        let (lane, partition, records) = (self.lane, sending.to, sending.records.len());
        if is_refused && records == 1 {
            tracing::error!(%lane, offset = %sending.records[0].0, %error, "the work topic does not take a record");
            return self.dispatch.acknowledged(&sending);
        }
        tracing::warn!(%lane, %partition, records, %error, "work could not be sent, it goes to another partition");
        self.dispatch.not_taken(sending, is_refused, now);
        Ok(())
    }
}
