//! One batch that runs: its state, where its items come from, and which records they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::out::Out;
use super::upload::{ItemsWanted, Uploaded};
use crate::log::Fetched;
use crate::order::batch::{self, Action, Event};
use crate::record::batches::{
    APPLIED_KEPT, BatchRecord, BatchState, EventType, ItemStatus, Items, Request, StartProcessing, all_done, stalled,
    work_order, work_order_completed,
};
use crate::record::{Offset, Round, Timestamp};

/// How many of the items that a batch is blocked by its event names.
const NAMED_BLOCKERS: usize = 100;

/// Where items come from.
#[derive(Debug)]
enum Source {
    Template(String),
    Listed(Vec<String>),
    Uploaded(Uploaded),
}

/// A batch that has not ended.
#[derive(Debug)]
pub(super) struct Active {
    /// The offset of its start.
    start: Offset,
    /// The offset of the last command that was executed.
    pub(super) commanded: Offset,
    /// See [`BatchRecord::applied`].
    applied: BTreeMap<u64, u64>,
    pub(super) state: BatchState,
    request: Option<Request>,
    source: Source,
    /// The final item, JSON, where one is asked for.
    completion: Option<String>,
    ordered: bool,
    /// The input records of the items that are out, as far as they were read.
    pub(super) claims: BTreeMap<u64, Offset>,
    /// When time alone changes something; kept up by [`Active::settle_due`].
    pub(super) due: Option<Timestamp>,
    due_is_known: bool,
    /// Something has changed since it was last looked at whether items can go out.
    pub(super) look: bool,
    /// Bytes of its start.
    pub(super) size: usize,
}

/// How an item's record left the lane.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// Where it stood in the input.
    pub(super) source: Offset,
    /// Where its result stands, if it has one.
    pub(super) result: Option<Offset>,
    /// Why it failed, JSON, if it did.
    pub(super) error: Option<&'a str>,
}

impl Active {
    pub(super) fn new(offset: Offset, state: BatchState, start: &StartProcessing, size: usize) -> Self {
        let source = match start.source() {
            Items::Template(_, template) => Source::Template(template),
            Items::Listed(items) => Source::Listed(items),
            Items::Uploaded(upload) => Source::Uploaded(Uploaded::new(upload)),
        };
        Self {
            start: offset,
            commanded: offset,
            applied: BTreeMap::new(),
            state,
            request: start.request.clone(),
            source,
            completion: start.completion.as_ref().map(|item| item.get().to_owned()),
            ordered: start.ordered,
            claims: BTreeMap::new(),
            due: None,
            due_is_known: false,
            look: true,
            size,
        }
    }

    /// Goes on where a record says.
    pub(super) fn resume(record: BatchRecord, start: &StartProcessing, size: usize) -> Self {
        let mut active = Self::new(Offset(record.start), record.state, start, size);
        active.commanded = Offset(record.commanded);
        active.applied = record.applied;
        if let Source::Uploaded(uploaded) = &mut active.source {
            uploaded.resume(record.items, record.bodies);
        }
        active
    }

    /// The state as it is to be written.
    pub(super) fn record(&self) -> BatchRecord {
        let (items, bodies) = match &self.source {
            Source::Uploaded(uploaded) => (uploaded.position().0, uploaded.bodies().clone()),
            Source::Template(_) | Source::Listed(_) => (0, BTreeMap::new()),
        };
        BatchRecord {
            start: self.start.0,
            commanded: self.commanded.0,
            applied: self.applied.clone(),
            request: self.request.clone(),
            state: self.state.clone(),
            items,
            bodies,
        }
    }

    /// Remembers to how many items a command applied.
    pub(super) fn note_applied(&mut self, command: Offset, items: u64) {
        self.applied.insert(command.0, items);
        if self.applied.len() > APPLIED_KEPT {
            self.applied.pop_first();
        }
    }

    pub(super) fn needed_items(&self) -> Option<u64> {
        match &self.source {
            Source::Uploaded(uploaded) => Some(uploaded.needed().0),
            Source::Template(_) | Source::Listed(_) => None,
        }
    }

    pub(super) fn wanted_items(&mut self, id: &Arc<str>) -> Option<ItemsWanted> {
        match &mut self.source {
            Source::Uploaded(uploaded) => uploaded.wanted(id, &self.state),
            Source::Template(_) | Source::Listed(_) => None,
        }
    }

    pub(super) fn items_read(&mut self, wanted: &ItemsWanted, fetched: Result<Fetched, String>) -> Result<(), String> {
        self.look = true;
        match &mut self.source {
            Source::Uploaded(uploaded) => uploaded.read(wanted, &fetched?, &self.state),
            Source::Template(_) | Source::Listed(_) => Ok(()),
        }
    }

    /// How many new items can go out now, and which of those that wait for another round: at most
    /// `room` together.
    pub(super) fn available(&self, now: Timestamp, room: usize) -> (u64, Vec<u64>) {
        let (mut fresh, mut again) = batch::wanted(&self.state, now);
        let waiting = again.len();
        if let Source::Uploaded(uploaded) = &self.source {
            fresh = fresh.min(uploaded.fresh() as u64);
            again.retain(|index| uploaded.has_again(*index));
        }
        again.truncate(room);
        if self.ordered && again.len() < waiting {
            // New ones come after all that were out before them.
            fresh = 0;
        }
        (fresh.min((room - again.len()) as u64), again)
    }

    /// Lets something happen to the batch, and gathers what is to be done.
    pub(super) fn happen(
        &mut self,
        id: &Arc<str>,
        event: Event,
        answer: Option<&Answer<'_>>,
        now: Timestamp,
        out: &mut Out,
    ) {
        let (state, actions) = batch::next(std::mem::take(&mut self.state), event, now);
        self.state = state;
        self.look = true;
        self.due_is_known = false;
        for action in actions {
            self.act(id, action, answer, out);
        }
        out.changed(id);
    }

    fn act(&mut self, id: &Arc<str>, action: Action, answer: Option<&Answer<'_>>, out: &mut Out) {
        match action {
            Action::Generate { index, round } => self.generate(id, index, round, out),
            Action::Report { index, round, status } => {
                let answer = answer.filter(|_| matches!(status, ItemStatus::Succeeded | ItemStatus::Failed));
                self.settled(index);
                out.reported(status);
                let source = answer.map(|answer| out.source(answer.source));
                let result = answer.and_then(|answer| answer.result).map(|result| result.0);
                let error = answer.and_then(|answer| answer.error);
                let event = work_order_completed(id, (index, round.0), status, source, result, error);
                out.event(EventType::WorkOrderCompleted, id, &event);
            }
            Action::Withdraw { index } => out.withdrawn.extend(self.claims.remove(&index)),
            Action::Stalled => {
                let blockers: Vec<u64> = self.state.held().take(NAMED_BLOCKERS).collect();
                tracing::warn!(%id, ?blockers, "a batch is stalled");
                out.event(EventType::BatchStalled, id, &stalled(id, &blockers));
            }
            Action::Done => out.event(EventType::WorkAllDone, id, &all_done(id, &self.state, None)),
        }
    }

    /// An item was answered or given up: its record is not waited for, and its body is needed only
    /// while it is open.
    fn settled(&mut self, index: u64) {
        self.claims.remove(&index);
        if let Source::Uploaded(uploaded) = &mut self.source
            && !self.state.open.contains_key(&index)
        {
            uploaded.settled(index);
        }
    }

    fn generate(&mut self, id: &Arc<str>, index: u64, round: Round, out: &mut Out) {
        let body = if index == self.state.total {
            all_done(id, &self.state, Some(self.completion.as_deref().unwrap_or("null")))
        } else {
            let item = match &mut self.source {
                Source::Template(template) => Some(template.clone()),
                Source::Listed(items) => usize::try_from(index).ok().and_then(|index| items.get(index).cloned()),
                Source::Uploaded(uploaded) => uploaded.take(index),
            };
            // Only what is available is asked for.
            let item = item.unwrap_or_else(|| "null".to_owned());
            work_order(id, index, round.0, &item)
        };
        out.item(id, index, round, self.ordered, &body);
    }

    /// Finds out when time alone changes something. What is due by now has happened already, or
    /// waits for something else.
    pub(super) fn settle_due(&mut self, now: Timestamp) {
        if !self.due_is_known {
            self.due_is_known = true;
            self.due = batch::next_due(&self.state).filter(|due| *due > now);
        }
    }
}
