//! Operators' verbs. A verb raises the record's round, so that results of earlier rounds no
//! longer count, and gives the new round its result, or has it worked on again.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;

use crate::log::{Append, Fetched};
use crate::order::Standing;
use crate::record::control::{Action, VERB, Verb};
use crate::record::{
    BatchBuilder, Name, Offset, Partition, ResultHeaders, Round, Source, Status, Timestamp, error_json,
};
use crate::topics::Topics;

use super::entry::Outcome;
use super::lane::{LaneState, Need};
use super::seat::Seat;

/// Marks the result that an operator's skip is, beside status `failed`, as passed over whatever the policy is.
pub(super) const SKIPPED: &[u8] = b"skipped";

impl LaneState {
    /// Whether verbs can be judged: the input was read again through every record released before.
    pub(super) fn may_execute(&self) -> bool {
        self.order.caught_up()
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
        let is_repeat = matches!(entry.outcome, Some(Outcome::Duplicate(_) | Outcome::KeyReused(_)));
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

    /// Work for raised rounds goes out only now that the cursor which holds them is committed.
    pub(super) fn resend_committed(&mut self) {
        let due = self.resend_committing.drain(..);
        self.needs.extend(due.map(|(offset, round)| Need::Resend(offset, round, round.0)));
    }
}

/// The control log's verbs, in order, each executed once its lane can judge it.
#[derive(Debug)]
pub(super) struct Verbs {
    /// Below it everything is executed.
    position: Offset,
    /// Where the control log has been read to.
    read_to: Offset,
    waiting: VecDeque<(Offset, Verb)>,
    /// Results that verbs made, by lane, for the next commit.
    results: BTreeMap<Partition, BatchBuilder>,
}

impl Verbs {
    pub(super) const fn new(position: Offset) -> Self {
        Self { position, read_to: position, waiting: VecDeque::new(), results: BTreeMap::new() }
    }

    /// The position in the control log that is right once the effects so far are committed.
    pub(super) const fn position(&self) -> Offset {
        self.position
    }

    /// Takes what was read of the control log. Claims, and what does not decode, are passed over.
    pub(super) fn add(&mut self, fetched: &Fetched) {
        for record in fetched.batches.iter().flatten() {
            if record.headers.get(Name::Kind) == Some(VERB) {
                match serde_json::from_slice(record.value.unwrap_or_default()) {
                    Ok(verb) => self.waiting.push_back((record.offset, verb)),
                    Err(error) => tracing::error!(offset = %record.offset, %error, "a verb does not decode, ignored"),
                }
            }
        }
        self.read_to = fetched.next;
        self.pass_to_next();
    }

    /// Executes what can be, in order. Says whether there is something to commit.
    pub(super) fn execute(&mut self, seats: &mut [Seat], now: Timestamp) -> bool {
        let mut executed = false;
        while let Some((offset, verb)) = self.waiting.front() {
            if let Some(state) = seats.iter_mut().find(|s| s.lane.0 == verb.lane).and_then(Seat::state_mut) {
                if !state.may_execute() {
                    break;
                }
                let acted = state.execute(verb, now, self.results.entry(Partition(verb.lane)).or_default());
                tracing::info!(%offset, lane = verb.lane, by = verb.by, reason = verb.reason, acted, "verb executed");
            } else if verb.action == Action::Accept {
                break;
            } else {
                tracing::warn!(%offset, lane = verb.lane, "a verb for a lane that stands still or is not here, ignored");
            }
            self.waiting.pop_front();
            self.pass_to_next();
            executed = true;
        }
        executed
    }

    /// The lane whose loss is to be accepted now, and where the verb is.
    pub(super) fn accepts(&self) -> Option<(Partition, Offset)> {
        let (offset, verb) = self.waiting.front()?;
        (verb.action == Action::Accept).then_some((Partition(verb.lane), *offset))
    }

    /// The results that verbs made, as appends of the commit that holds their rounds.
    pub(super) fn results(&mut self, topics: &Topics) -> Vec<Append> {
        let made = std::mem::take(&mut self.results).into_iter().filter(|(_, builder)| !builder.is_empty());
        made.map(|(lane, mut builder)| Append { to: topics.results.partition(lane), batch: builder.finish() }).collect()
    }

    fn pass_to_next(&mut self) {
        self.position = self.waiting.front().map_or(self.read_to, |(offset, _)| *offset);
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
