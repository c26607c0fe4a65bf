//! The coordinator of a lane's staggered batches: commands in, items out, a window at a time.
//!
//! It lives in the lane's owner, who is the only one to write for the lane, so a batch needs no lock
//! and no second opinion. Whether an item goes out and how it ended is decided by the pure machine
//! in [`crate::order::batch`]; here stand the bodies, the records, and which input record is whose.
//!
//! An item is an ordinary record of the input, so that workers see nothing new. It is recognised by
//! its header when the owner reads it back, and ends when it leaves the lane: so its end is in the
//! same commit as its output, and `WorkAllDone` comes after the last one.
//!
//! # What if we die here?
//!
//! State, items on their way to the input, events, the position in the commands, and the cursor are
//! one atomic commit. There is one line between them and nothing, and these are all the places to die:
//!
//! 1. After a command was read, before the commit: it is read again, for the position is in the cursor.
//! 2. After items were generated in memory, before the commit: neither the items nor the high-water
//!    mark exist. The next owner generates them. None is skipped, none doubled.
//! 3. After that commit: both exist. The next owner knows each open item and finds its record in the
//!    input at or above the frontier, because an item that has not ended has not left.
//! 4. After an item's result was taken, before the commit that releases it: its output, its end and
//!    the state are all not there; the result is in the log, and the next owner takes the same one.
//! 5. After that commit: the item is no longer open, so whatever answers it later counts for nothing.
//! 6. In the middle of an upload's reading: the state says from where items above the high-water mark
//!    are read, and where the open ones stand.
//! 7. A commit that a log has torn, so that items are in the input and the state is not: an item that
//!    the state does not hold as open is passed over when it is read; generated again, it is another
//!    record. Where both are read after that, the first takes the place and the second is a repeat.
//! 8. Where an operator has accepted that input is lost, before the first commit of whoever executes that:
//!    the next owner executes it, too, from the same states, so that rounds go up once. In that commit the
//!    states say what goes out again; or, where the lane stands still for something else, the cursor goes
//!    on saying that items are lost.

mod active;
mod events;
mod load;
mod out;
mod upload;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use crate::log::{Fetched, Topic};
use crate::metrics;
use crate::order::Standing;
use crate::order::batch::{self, Event};
use crate::record::batches::{Command, Defaults, MOST_RUNNING, StartProcessing};
use crate::record::ledger::Outcome as Left;
use crate::record::{Batch, BatchBuilder, Offset, Partition, RecordRef, Timestamp, error_json, partition_of_key};
use crate::topics::Topics;

use super::Options;
use super::entry::{Entry, Item, Outcome};
use super::lane::LaneState;
use active::{Active, Answer};
use events::Events;
use out::Out;
pub(super) use upload::ItemsWanted;

/// The most bytes of starts of running batches that a lane holds; with [`MOST_RUNNING`] that bounds
/// what they take together.
const MOST_START_BYTES: usize = 64 << 20;

/// How many batches that ended are remembered: for their status, and so that their ids stay taken.
const ENDED_KEPT: usize = 1_000;

/// Bytes of a reason or a refusal that are kept, so that states stay small and events fit.
const LONGEST_TEXT: usize = 500;

/// The batches of one lane. Empty it costs a reader that waits, and nothing else.
#[derive(Debug)]
pub(super) struct Batches {
    lane: Partition,
    lanes: u32,
    defaults: Defaults,
    pub(super) now: Timestamp,
    active: BTreeMap<Arc<str>, Active>,
    /// Those that ended, the longest ago first.
    ended: VecDeque<Arc<str>>,
    commands: VecDeque<Batch>,
    /// Where the commands were read to, and below which all are executed.
    read_to: Offset,
    position: Offset,
    /// Which batch was refilled last: the one after it is next.
    refilled: Option<Arc<str>>,
    out: Out,
    metrics: Option<metrics::Batches>,
}

impl Batches {
    fn new(lane: Partition, topics: &Topics, options: &Options, position: Offset, events: Events) -> Self {
        Self {
            lane,
            lanes: topics.lanes,
            defaults: Defaults { window: options.batch_window, stall_after: options.deadline },
            now: Timestamp::default(),
            active: BTreeMap::new(),
            ended: VecDeque::new(),
            commands: VecDeque::new(),
            read_to: position,
            position,
            refilled: None,
            out: Out::new(lane, events),
            metrics: None,
        }
    }

    /// An operator has accepted that records of items which are out may be gone with the input, of which
    /// nothing is read yet.
    pub(super) fn input_lost(&mut self, now: Timestamp) {
        self.now = now;
        for id in self.active.keys().cloned().collect::<Vec<_>>() {
            self.happen(&id, Event::InputLost, None);
        }
    }

    /// Where commands are read on from.
    pub(super) const fn read_to(&self) -> Offset {
        self.read_to
    }

    /// Below this position every command is executed.
    pub(super) const fn position(&self) -> Offset {
        self.position
    }

    pub(super) fn wants_commands(&self) -> bool {
        self.commands.is_empty()
    }

    pub(super) fn add_commands(&mut self, fetched: Fetched) {
        self.commands.extend(fetched.batches);
        self.read_to = fetched.next;
    }

    /// The lowest offset of uploaded items that is still needed.
    pub(super) fn needed_items(&self) -> Option<u64> {
        self.active.values().filter_map(Active::needed_items).min()
    }

    /// A read of uploaded items that is to be made now, if any; each is asked for once.
    pub(super) fn wanted_items(&mut self) -> Option<ItemsWanted> {
        self.active.iter_mut().find_map(|(id, active)| active.wanted_items(id))
    }

    /// What such a read found, or why it failed for good.
    pub(super) fn items_read(&mut self, wanted: &ItemsWanted, fetched: Result<Fetched, String>) {
        let Some(active) = self.active.get_mut(&wanted.id) else { return };
        if let Err(reason) = active.items_read(wanted, fetched) {
            self.happen(&wanted.id, Event::Abort { reason: format!("its items cannot be read: {reason}") }, None);
        }
    }

    /// Events in the input that are not released, for the cursor.
    pub(super) fn pending_events(&self) -> Vec<(u64, u64, u64)> {
        self.out.events.runs()
    }

    /// Whether something has to be committed.
    pub(super) fn has_gathered(&self) -> bool {
        self.out.has_gathered()
    }

    /// Whether something of that goes to the events topic.
    pub(super) fn has_events(&self) -> bool {
        self.out.has_events()
    }

    /// When time alone changes something next.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.active.values().filter_map(|active| active.due).min()
    }

    /// Executes commands, lets time pass, and sends out what there is room for.
    fn work(&mut self) {
        while let Some(batch) = self.commands.pop_front() {
            for record in &batch {
                self.execute(&record);
            }
        }
        self.position = self.read_to;
        if self.active.is_empty() {
            return;
        }
        let now = self.now;
        let due = self.active.iter().filter(|(_, active)| active.due.is_some_and(|due| due <= now));
        for id in due.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.happen(&id, Event::TimePassed, None);
        }
        self.refill();
        for active in self.active.values_mut() {
            active.settle_due(now);
        }
    }

    fn execute(&mut self, record: &RecordRef<'_>) {
        let value = record.value.unwrap_or_default();
        let refusal = match Command::decode(value) {
            Ok(Command::Start(start)) => self.start(record.offset, &start, value),
            Ok(command) => self.steer(record.offset, &command),
            Err(reason) => Err(reason),
        };
        if let Err(detail) = refusal {
            let id = String::from_utf8_lossy(record.key.unwrap_or_default());
            tracing::warn!(lane = %self.lane, offset = %record.offset, %id, detail, "a batch's command is refused");
            self.out.refused(&id, &shortened(&detail));
        }
    }

    fn start(&mut self, offset: Offset, start: &StartProcessing, value: &[u8]) -> Result<(), String> {
        let mut rules = start.rules(self.defaults).map_err(|refused| refused.to_string())?;
        let total = start.total().map_err(|refused| refused.to_string())?;
        if partition_of_key(start.id.as_bytes(), self.lanes) != self.lane {
            return Err("it is in the wrong partition: the batch's id, as the key, picks it".to_owned());
        }
        let id: Arc<str> = start.id.as_str().into();
        if self.active.contains_key(&id) || self.ended.contains(&id) {
            return Err("a batch of this id exists".to_owned());
        }
        let held: usize = self.active.values().map(|active| active.size).sum();
        let full = self.active.len() >= MOST_RUNNING || held + value.len() > MOST_START_BYTES;
        // What is not begun has no final item either, which would have it stay.
        rules.completion &= !full;
        let state = batch::begin(rules, total, self.now);
        self.active.insert(id.clone(), Active::new(offset, state, start, value.len()));
        self.out.started(&id, value);
        if full {
            let reason = "too many batches run in this lane; start it again later, under another id".to_owned();
            self.happen(&id, Event::Abort { reason }, None);
        }
        Ok(())
    }

    fn steer(&mut self, offset: Offset, command: &Command) -> Result<(), String> {
        let id: Arc<str> = command.id().into();
        let Some(active) = self.active.get_mut(&id) else {
            return Err("there is no batch of this id that has not ended".to_owned());
        };
        active.commanded = offset;
        self.out.changed(&id);
        if let Command::Retry { which, .. } | Command::Discard { which, .. } = command {
            active.note_applied(offset, batch::applies_to(&active.state, which));
        }
        let event = match command.clone() {
            Command::Start(_) => return Ok(()),
            Command::Cancel { reason, .. } => Event::Cancel { reason: reason.map(|reason| shortened(&reason)) },
            Command::Pause { .. } => Event::Pause,
            Command::Resume { .. } => Event::Resume,
            Command::Retry { which, .. } => Event::Retry(which),
            Command::Discard { which, .. } => Event::Discard(which),
            Command::Change { change, .. } => {
                change.apply(&active.state.rules).map_err(|refused| refused.to_string())?;
                Event::Change(change)
            }
        };
        self.happen(&id, event, None);
        Ok(())
    }

    /// Sends items out, each batch in its turn, as many as one commit should carry.
    fn refill(&mut self) {
        if !self.active.values().any(|active| active.look) {
            return;
        }
        let last: Arc<str> = self.refilled.clone().unwrap_or_else(|| "".into());
        let after = self.active.range::<str, _>((Excluded(&*last), Unbounded));
        let turn =
            after.chain(self.active.range::<str, _>((Unbounded, Included(&*last)))).filter(|(_, active)| active.look);
        for id in turn.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let room = self.out.room();
            let Some(active) = self.active.get_mut(&id).filter(|_| room > 0) else { break };
            let (fresh, again) = active.available(self.now, room);
            if fresh == 0 && again.is_empty() {
                active.look = false;
                continue;
            }
            self.happen(&id, Event::Refill { fresh, again }, None);
            self.refilled = Some(id);
        }
    }

    fn happen(&mut self, id: &Arc<str>, event: Event, answer: Option<&Answer<'_>>) {
        let Some(active) = self.active.get_mut(id) else { return };
        active.happen(id, event, answer, self.now, &mut self.out);
        self.out.count(self.lane, &mut self.metrics);
        if active.state.has_ended()
            && let Some(active) = self.active.remove(id)
        {
            self.out.ended(id, &active.record());
            self.ended.push_back(id.clone());
            while self.ended.len() > ENDED_KEPT {
                self.ended.pop_front().iter().for_each(|id| self.out.forgotten(id));
            }
        }
    }

    /// Takes the record at `offset` for an item that is out. Refused where the batch does not wait
    /// for the item, or has it already, at the offset given.
    fn claim(&mut self, item: &Item, offset: Offset) -> Result<(), Option<Offset>> {
        let active = self.active.get_mut(&*item.id).ok_or(None)?;
        if !batch::expects(&active.state, item.index, item.round) {
            return Err(None);
        }
        match *active.claims.entry(item.index).or_insert(offset) {
            claimed if claimed == offset => Ok(()),
            claimed => Err(Some(claimed)),
        }
    }

    /// The item's record leaves; where it was the one that the batch waits for, the item has ended.
    fn answered(&mut self, item: &Item, answer: &Answer<'_>) {
        let Some((id, active)) = self.active.get_key_value(&*item.id) else { return };
        if active.claims.get(&item.index) != Some(&answer.source) {
            return;
        }
        let id = id.clone();
        let event = Event::Answered { index: item.index, round: item.round, succeeded: answer.error.is_none() };
        self.happen(&id, event, Some(answer));
    }

    /// Adds what was gathered to the commit that is formed.
    pub(super) fn write(&mut self, topics: &Topics, add: &mut impl FnMut(&Topic, &mut BatchBuilder)) {
        let active = &self.active;
        self.out.write(topics, |id| active.get(id).map(Active::record), add);
    }

    /// Refreshes the gauges; a lane that never had a batch shows none.
    pub(super) fn gauge(&mut self) {
        if self.active.is_empty() && self.metrics.is_none() {
            return;
        }
        let metrics = self.metrics.get_or_insert_with(|| metrics::batches(self.lane));
        let states = || self.active.values().map(|active| &active.state);
        metrics.active.set(i64::try_from(self.active.len()).unwrap_or(i64::MAX));
        metrics.stalled.set(i64::try_from(states().filter(|state| state.stalled).count()).unwrap_or(i64::MAX));
        let open: usize = states().map(|state| state.open.len()).sum();
        metrics.open_items.set(i64::try_from(open).unwrap_or(i64::MAX));
    }
}

impl LaneState {
    /// Coordinates the lane's batches; says whether places were freed, so that more may leave.
    pub(super) fn coordinate(&mut self, now: Timestamp) -> bool {
        let Some(batches) = self.batches.as_deref_mut().filter(|_| self.halted.is_none()) else { return false };
        batches.now = now;
        if !self.limit_frozen {
            batches.work();
        }
        let withdrawn = std::mem::take(&mut batches.out.withdrawn);
        for offset in &withdrawn {
            self.withdraw(*offset, error_json("timed-out", "the batch waits for this item no longer"));
        }
        !withdrawn.is_empty()
    }

    /// A record of the input that is an item takes its place in its batch; one that no batch waits
    /// for is passed over.
    pub(super) fn claim_item(&mut self, offset: Offset) {
        let Some(item) = self.order.entry(offset).and_then(|entry| entry.item.clone()) else { return };
        let Some(batches) = self.batches.as_deref_mut() else { return };
        match batches.claim(&item, offset) {
            Ok(()) => {}
            Err(Some(of)) => self.pass_over(offset, Outcome::Duplicate(of)),
            Err(None) => {
                let reason = error_json("no-open-item", "no batch waits for this item");
                self.pass_over(offset, Outcome::Withdrawn(reason));
            }
        }
    }

    fn pass_over(&mut self, offset: Offset, outcome: Outcome) {
        self.duplicates += 1;
        self.settle_item(offset, outcome);
    }

    fn withdraw(&mut self, offset: Offset, reason: String) {
        // One that has its result leaves with it, and nobody counts it.
        if self.order.standing(offset) == (Standing::Open { resolved: false, started: false }) {
            self.settle_item(offset, Outcome::Withdrawn(reason));
        }
    }

    fn settle_item(&mut self, offset: Offset, outcome: Outcome) {
        self.overdue.settled(offset);
        if let Some(entry) = self.order.entry_mut(offset) {
            entry.outcome = Some(outcome);
            self.dispatch.answered(offset, entry.sent.take());
        }
        // It stands open without a result, as the caller knows.
        let _ = self.order.resolve(offset);
    }

    /// A record of the input that is an event leaves as it is, if the owner has sent it here.
    pub(super) fn claim_event(&mut self, record: &RecordRef<'_>) {
        let offset = record.offset;
        let Some(id) = self.order.entry(offset).and_then(|entry| entry.event) else { return };
        // Observers take the owner's word for it.
        let claimed = self.batches.as_deref_mut().is_none_or(|batches| batches.out.events.claim(id, offset));
        if claimed {
            self.settle_item(offset, Outcome::Event(single(record)));
        } else {
            let reason = error_json("no-such-event", "no owner has sent this event, or it was sent before");
            self.pass_over(offset, Outcome::Withdrawn(reason));
        }
    }

    /// A record has left with this outcome; without one it was sent.
    pub(super) fn item_left(&mut self, entry: &Entry, offset: Offset, outcome: Option<&Left>) {
        let Some(batches) = self.batches.as_deref_mut() else { return };
        if let Some(id) = entry.event {
            batches.out.events.left(id, offset);
        }
        let Some(item) = &entry.item else { return };
        let error = match outcome {
            None | Some(Left::Sent(_) | Left::Empty) => None,
            Some(Left::Skipped(error) | Left::DeadLettered(error)) => Some(error.as_str()),
            Some(Left::Partly(_) | Left::Duplicate(_)) => return,
        };
        let result = match &entry.outcome {
            Some(Outcome::Result(answer)) => Some(answer.position),
            _ => None,
        };
        batches.answered(item, &Answer { source: offset, result, error });
    }
}

/// A record of its own, at its place.
fn single(record: &RecordRef<'_>) -> Batch {
    let (at, mut builder) = ((record.offset, record.timestamp), BatchBuilder::default());
    builder.push_at(at, at, record.key, record.value, |to| to.put_all(record.headers));
    builder.finish_at(record.offset, record.timestamp)
}

/// At most so much of what strangers wrote is kept in states and events.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_TEXT)].to_owned()
}
