//! What a verb does to a lane. It raises the record's round, so that results of earlier rounds no
//! longer count, and gives the new round its result, or has it worked on again.

use base64::Engine as _;

use crate::order::Standing;
use crate::record::control::{Action, Verb};
use crate::record::{BatchBuilder, Name, Offset, ResultHeaders, Round, Source, Status, Timestamp, error_json};

use super::entry::{Outcome, SKIPPED};
use super::lane::{LaneState, Need};

impl LaneState {
    /// Whether verbs can be judged: the input was read again through every record released before, or as far as it
    /// can be.
    pub(super) fn may_execute(&self) -> bool {
        self.order.caught_up() || (self.damage().is_some() && self.input.is_empty())
    }

    /// Executes a verb but for [`Action::Accept`]; says of how many targets it was true. Results
    /// that it makes go into `results`, in the same commit as the cursor that holds the rounds.
    pub(super) fn execute(&mut self, verb: &Verb, now: Timestamp, results: &mut BatchBuilder) -> usize {
        match &verb.action {
            Action::Retry { targets } => targets.iter().filter(|target| self.retry(**target, now)).count(),
            Action::Skip { targets } => {
                let error = error_json("skipped", format_args!("{}: {}", verb.by, verb.reason));
                let skip = |(target, headers): (_, ResultHeaders<'_>)| {
                    let headers =
                        ResultHeaders { error: Some(error.as_bytes()), status: Some(Status::Failed), ..headers };
                    push(results, target, None, headers, Some(SKIPPED));
                };
                targets.iter().filter_map(|target| self.raise(*target)).map(skip).count()
            }
            Action::Replace { target, body, content_type } => {
                let Ok(body) = base64::engine::general_purpose::STANDARD.decode(body) else { return 0 };
                let Some((offset, headers)) = self.raise(*target) else { return 0 };
                let content_type = content_type.as_ref().map(String::as_bytes);
                push(results, offset, Some(&body), ResultHeaders { content_type, ..headers }, None);
                1
            }
            Action::Accept => 0,
        }
    }

    fn retry(&mut self, target: (u64, u32), now: Timestamp) -> bool {
        let Some((offset, headers)) = self.raise(target) else { return false };
        self.overdue.reopened(offset, now);
        self.resend_after_commit.push((offset, headers.round));
        true
    }

    /// Raises the round of a record that stands as the operator saw it, and voids its result. The
    /// headers are those of a result of the new round.
    fn raise(&mut self, (offset, seen): (u64, u32)) -> Option<(Offset, ResultHeaders<'static>)> {
        let offset = Offset(offset);
        let Standing::Open { started: false, resolved } = self.order.standing(offset) else { return None };
        let entry = self.order.entry_mut(offset)?;
        // How a repeat ends follows from the input alone: no result counts for it, so no verb either.
        let is_repeat =
            matches!(&entry.outcome, Some(outcome) if !matches!(outcome, Outcome::Result(_) | Outcome::Refused(_)));
        if entry.round != Round(seen) || is_repeat {
            return None;
        }
        entry.round = Round(seen.checked_add(1)?);
        entry.retrying = None;
        let (round, check) = (entry.round, entry.check);
        if let Some(Outcome::Result(answer)) = entry.outcome.take() {
            // The ticket is taken out with the outcome, so it is done with once.
            let _ = self.needed_results.done(answer.ticket);
        }
        if resolved {
            // It stands open with no part gone, as asked just now.
            let _ = self.order.unresolve(offset);
        }
        self.memory.remove(offset);
        self.halts.remove(&offset);
        self.rounds.insert(offset, round);
        let source = Source { lane: self.lane, offset };
        Some((offset, ResultHeaders { round, ..ResultHeaders::new(source, check, Status::Done) }))
    }

    /// Work for raised rounds goes out only now that the cursor which holds them is committed. What
    /// is above the committed limit is left to its clock.
    pub(super) fn resend_committed(&mut self) {
        let due = self.resend_committing.drain(..).filter(|(offset, _)| *offset < self.committed_limit);
        self.needs.extend(due.map(|(offset, round)| Need::Resend(offset, round)));
    }
}

fn push(to: &mut BatchBuilder, offset: Offset, value: Option<&[u8]>, headers: ResultHeaders<'_>, kind: Option<&[u8]>) {
    let key = offset.to_string();
    to.push(Some(key.as_bytes()), value, |writer| {
        headers.encode(writer);
        if let Some(kind) = kind {
            writer.put(Name::Kind, kind);
        }
    });
}
