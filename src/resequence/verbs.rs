//! The queue of operators' verbs, as they stand on the control log.

use std::collections::{BTreeMap, VecDeque};

use crate::log::{Append, Fetched};
use crate::record::control::{Action, VERB, Verb};
use crate::record::{BatchBuilder, Name, Offset, Partition, Timestamp};
use crate::topics::Topics;

use super::seat::Seat;

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
                let Verb { lane, action, by, reason } = verb;
                tracing::info!(lane, %action, by, reason, acted, at = %offset, "an operator's order");
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
