//! A lane as its logs show it now: what its owner's memory holds, found out by anybody.
//!
//! The input is read from the frontier and the results from their position, through the same
//! decisions as the owner's, but nothing is released. Costs a window of records.

use std::time::Duration;

use super::{cursor, probe};
use crate::log::{Error, Log, Reader, TopicPartition};
use crate::metrics::Role;
use crate::order::Standing;
use crate::record::cursor::LaneCursor;
use crate::record::{Offset, Partition, Source, Timestamp};
pub use crate::resequence::Options;
use crate::resequence::{Destinations, Entry, LaneState, OnFailure, Scope};
use crate::takeover;
use crate::topics::Topics;

/// Bytes read at once of either log.
const READ_BYTES: usize = 1024 * 1024;

/// A lane at one moment.
#[derive(Debug)]
pub struct Live {
    /// The lane.
    pub lane: Partition,
    /// The epoch of its owner.
    pub epoch: u64,
    /// The control log's position: every verb below it is executed.
    pub control: u64,
    /// What its owner committed last.
    pub cursor: LaneCursor,
    /// Up to where the input can be read.
    pub input_end: Offset,
    /// Where it really ends: higher while transactions are open on it, which hold up all behind them.
    pub held_up_to: Offset,
    /// When this was looked at.
    pub now: Timestamp,
    state: LaneState,
    on_failure: OnFailure,
    /// Whether the whole lane is one sequence group.
    one_group: bool,
}

/// What a message that is not released waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It is beyond the limit up to which workers may work: for the window.
    Window,
    /// Workers may work on it and have not answered.
    Work,
    /// An attempt failed, another follows.
    Retry {
        /// Which attempt failed, from 1.
        attempt: u32,
        /// Who made it.
        worker: String,
        /// Why it failed, JSON.
        error: String,
    },
    /// It is done and waits for this offset to leave; `None` where it is just about to.
    Turn(Option<Offset>),
    /// It failed, and its turn has not come: it waits for this offset.
    FailedTurn(Option<Offset>, String),
    /// It failed and holds back its group until an operator acts.
    Operator(String),
}

/// A message that is admitted and not released.
#[derive(Clone, Debug)]
pub struct Message {
    /// Which.
    pub source: Source,
    /// Its round, which a verb has to name.
    pub round: u32,
    /// How long ago the log took it.
    pub age: Duration,
    /// What it waits for.
    pub waiting: Waiting,
}

/// Looks at a lane; `None` where none has ever owned it.
///
/// # Errors
///
/// Those of the log, and [`Error::Damaged`] for a cursor that this program cannot read.
pub async fn lane(log: &dyn Log, topics: &Topics, options: &Options, lane: Partition) -> Result<Option<Live>, Error> {
    let Some(owner) = cursor::of_lane(log, topics, lane).await? else { return Ok(None) };
    let Some(cursor) = owner.lanes.get(&lane.0).cloned() else { return Ok(None) };
    let destinations = Destinations::new(&topics.destinations);
    let state = LaneState::resume(lane, &cursor, options, &destinations).map_err(|e| Error::Damaged(e.to_string()))?;
    let bounds = log.bounds(&topics.input.partition(lane)).await?;
    let (input_end, held_up_to) = (bounds.stable_end, bounds.end);
    let (epoch, control, on_failure) = (owner.epoch, owner.control, options.on_failure);
    let (now, one_group) = (log.now(), options.by == Scope::Lane);
    let mut live = Live { lane, epoch, control, cursor, input_end, held_up_to, now, state, on_failure, one_group };
    if live.cursor.halted.is_none() {
        live.replay(log, topics).await?;
    }
    Ok(Some(live))
}

/// Why a lane without a cursor stands still; `None` where it has one, or has had no owner yet.
///
/// # Errors
///
/// Those of the log.
pub async fn lost_cursor(log: &dyn Log, topics: &Topics, lane: Partition) -> Result<Option<String>, Error> {
    let control = topics.control_of(lane);
    let known = cursor::of_lane(log, topics, lane).await?.is_some();
    if known || takeover::is_first(log, Role::Resequence, &control).await? {
        return Ok(None);
    }
    let cursors = topics.cursors_resequence.partition(control.partition);
    let lanes: Vec<String> = topics.lanes_of(control.partition).map(|lane| lane.to_string()).collect();
    Ok(Some(format!(
        "{cursors} holds no cursor any more, so that nobody knows what was released: to accept that means, for lane(s) {}, \
         to work on and release again every message that the input still has",
        lanes.join(", ")
    )))
}

impl Live {
    async fn replay(&mut self, log: &dyn Log, topics: &Topics) -> Result<(), Error> {
        let (input, results) = (topics.input.partition(self.lane), topics.results.partition(self.lane));
        let results_end = log.bounds(&results).await?.stable_end;
        let mut inputs = probe::open(log, &input, self.state.input_position(), READ_BYTES).await?;
        let mut answers = probe::open(log, &results, self.state.results_position(), READ_BYTES).await?;
        loop {
            let mut read = false;
            if self.state.wants_input() && inputs.position() < self.input_end {
                match self.read_input(&mut *inputs, &input).await {
                    Err(Error::Damaged(reason)) => self.state.meets_damage(reason),
                    fetched => read |= fetched?,
                }
            }
            if self.state.wants_results() && answers.position() < results_end {
                match self.read_results(&mut *answers, &results).await {
                    // The owner is about to halt for it.
                    Err(Error::Damaged(reason)) => {
                        self.state.meets_damage(reason);
                        return Ok(());
                    }
                    fetched => read |= fetched?,
                }
            }
            let asked = self.state.replay(self.now, self.input_end).map_err(|e| Error::Damaged(e.to_string()))?;
            if !read && !asked {
                return Ok(());
            }
        }
    }

    async fn read_input(&mut self, reader: &mut dyn Reader, of: &TopicPartition) -> Result<bool, Error> {
        let fetched = probe::next(reader, of).await?;
        self.state.add_input(fetched.batches, fetched.next);
        Ok(true)
    }

    async fn read_results(&mut self, reader: &mut dyn Reader, of: &TopicPartition) -> Result<bool, Error> {
        let fetched = probe::next(reader, of).await?;
        self.state.add_results(fetched.batches, fetched.next);
        Ok(true)
    }

    /// Why a log of the lane cannot be read on, if so: the lane halts, where it is the input when all
    /// before that is released.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        self.state.damage()
    }

    /// The messages that are admitted and not released, in input order.
    pub fn messages(&self) -> impl Iterator<Item = Message> + '_ {
        self.state.order().iter().map(|(offset, _, entry)| self.message(offset, entry))
    }

    /// The message at `offset`: `None` where it is released, or no message at all.
    #[must_use]
    pub fn find(&self, offset: Offset) -> Option<Message> {
        match self.state.order().standing(offset) {
            Standing::Open { .. } => Some(self.message(offset, self.state.order().entry(offset)?)),
            _ => None,
        }
    }

    /// The message at the frontier, which holds back the lane's cursor.
    #[must_use]
    pub fn blocking(&self) -> Option<Message> {
        self.state.order().blocking().map(|(offset, entry)| self.message(offset, entry))
    }

    /// The message that waits for an operator and so holds back the one at `offset`: that one itself, or
    /// one that has to leave before it. `None` where that is not so, or cannot be told because the
    /// message is beyond what is read and its group not known.
    #[must_use]
    pub fn held_by(&self, offset: Offset) -> Option<Message> {
        let order = self.state.order();
        let head = match order.standing(offset) {
            Standing::Open { .. } => order.waits_for(offset).unwrap_or(offset),
            Standing::Unread if self.one_group => order.blocking()?.0,
            _ => return None,
        };
        self.find(head).filter(|message| matches!(message.waiting, Waiting::Operator(_)))
    }

    fn message(&self, offset: Offset, entry: &Entry) -> Message {
        let source = Source { lane: self.lane, offset };
        let age = self.now.since(entry.timestamp);
        Message { source, round: entry.round.0, age, waiting: self.waiting(offset, entry) }
    }

    fn waiting(&self, offset: Offset, entry: &Entry) -> Waiting {
        if entry.outcome.is_none() {
            return match &entry.retrying {
                Some(retrying) => Waiting::Retry {
                    attempt: retrying.attempt,
                    worker: retrying.worker.clone(),
                    error: retrying.error.clone(),
                },
                None if offset.0 >= self.cursor.limit => Waiting::Window,
                None => Waiting::Work,
            };
        }
        let before = self.state.order().waits_for(offset).filter(|before| *before != offset);
        match (self.state.failure(entry), before) {
            (None, before) => Waiting::Turn(before),
            (Some(error), None) if self.on_failure == OnFailure::Halt => Waiting::Operator(error),
            (Some(error), before) => Waiting::FailedTurn(before, error),
        }
    }
}
