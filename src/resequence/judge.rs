//! Which result counts: the first valid one in results-log order, for every reader, after every
//! restart. Valid is a pure function of the logs.

use crate::metrics::{self, Dropped};
use crate::order::{Standing, Ticket, Violated};
use crate::record::{Batch, Name, Offset, RecordRef, ResultHeaders, Status};

use super::entry::{Answer, Outcome, Retrying};
use super::lane::{LaneState, Need};

/// What is to be done with a result.
enum Verdict {
    /// It counts, for this record.
    Accepted(Offset),
    /// It does not, and never will.
    Dropped(Dropped),
    /// It says that work goes on, and resolves nothing.
    Noted,
    /// The input has to be read through this offset first.
    Unread(Offset),
}

/// The longest text that is kept of what a worker says about itself: enough to recognise it.
const MAX_NOTE: usize = 2048;

impl LaneState {
    /// Judges fetched results in log order, up to one that has to wait for the input.
    pub(super) fn judge_results(&mut self) -> Result<(), Violated> {
        while let Some(batch) = self.results.pop_front() {
            for single in batch.singles() {
                let Some(record) = single.first() else { continue };
                let verdict = self.judge(&record);
                if let Verdict::Unread(offset) = verdict {
                    self.results.push_front(batch.skip_to(record.offset));
                    self.wait_for_input(offset, record.offset);
                    return Ok(());
                }
                let ticket = self.needed_results.push(record.offset)?;
                match verdict {
                    Verdict::Accepted(offset) => self.accept(offset, &record, single.clone(), ticket),
                    Verdict::Dropped(reason) => {
                        metrics::dropped_results(reason).inc();
                        self.needed_results.done(ticket)?;
                    }
                    Verdict::Noted | Verdict::Unread(_) => self.needed_results.done(ticket)?,
                }
            }
        }
        self.needed_results.pass_to(self.results_next);
        Ok(())
    }

    fn judge(&mut self, record: &RecordRef<'_>) -> Verdict {
        let Ok(headers) = ResultHeaders::decode(record.headers) else { return Verdict::Dropped(Dropped::Stranger) };
        let offset = headers.source.offset;
        if headers.source.lane != self.lane {
            return Verdict::Dropped(Dropped::Stranger);
        }
        match self.order.standing(offset) {
            Standing::Unread
                if offset < self.attempted_limit
                    && !self.beyond_input(offset, record.offset)
                    && !self.is_behind_damage(offset) =>
            {
                return Verdict::Unread(offset);
            }
            Standing::Unread | Standing::Hole => return Verdict::Dropped(Dropped::Stranger),
            Standing::Below | Standing::Released => return Verdict::Dropped(Dropped::Released),
            Standing::Open { .. } => {}
        }
        let Some(entry) = self.order.entry_mut(offset) else { return Verdict::Dropped(Dropped::Released) };
        if entry.check != headers.check {
            return Verdict::Dropped(Dropped::Check);
        }
        if entry.round != headers.round {
            return Verdict::Dropped(Dropped::Round);
        }
        if entry.outcome.is_some() {
            return Verdict::Dropped(Dropped::Second);
        }
        if headers.status == Some(Status::Retrying) {
            entry.retrying = Some(Box::new(Retrying {
                attempt: headers.attempt.unwrap_or(0),
                worker: note(headers.worker),
                error: note(headers.error),
            }));
            self.overdue.retrying(offset, record.timestamp);
            return Verdict::Noted;
        }
        Verdict::Accepted(offset)
    }

    fn accept(&mut self, offset: Offset, record: &RecordRef<'_>, single: Batch, ticket: Ticket) {
        self.overdue.resolved(offset, record.timestamp);
        let error = (record.headers.get(Name::Status) == Some(Status::Failed.as_str().as_bytes()))
            .then(|| note(record.headers.get(Name::Error)).into_boxed_str());
        let answer = Answer { error, position: record.offset, body: Some(single), ticket };
        if let Some(entry) = self.order.entry_mut(offset) {
            entry.outcome = Some(Outcome::Result(answer));
            self.dispatch.answered(offset, entry.sent.take());
        }
        // It stands open, as judged just now.
        let _ = self.order.resolve(offset);
        self.fresh.push(offset);
    }

    /// Whether the input, asked for the result at `position`, ends at or below `offset`. The answer
    /// holds for that result only: the input of a later one may have been written since.
    fn beyond_input(&self, offset: Offset, position: Offset) -> bool {
        self.ended.is_some_and(|(asked_for, end)| asked_for == position && offset >= end)
    }

    /// Asks where the input ends, unless reading is known to get to `offset`.
    fn wait_for_input(&mut self, offset: Offset, position: Offset) {
        if offset >= self.input_end && self.asked_for != Some(position) {
            self.asked_for = Some(position);
            self.needs.push(Need::InputEnd);
        }
    }

    /// The result for which the input's end is to be found out now, if any.
    pub(super) const fn asked_for(&self) -> Option<Offset> {
        self.asked_for
    }

    /// The input's stable end, looked up after `asked_for` was what was asked: an older answer says
    /// nothing of a result that came since. Judge on with [`LaneState::advance`].
    pub(super) fn input_ends(&mut self, stable_end: Offset, asked_for: Option<Offset>) {
        self.input_end = self.input_end.max(stable_end);
        if let Some(position) = asked_for.filter(|_| asked_for == self.asked_for) {
            self.asked_for = None;
            self.ended = Some((position, stable_end));
        }
    }
}

fn note(text: Option<&[u8]>) -> String {
    let text = text.unwrap_or_default();
    String::from_utf8_lossy(&text[..text.len().min(MAX_NOTE)]).into_owned()
}
