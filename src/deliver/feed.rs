//! One partition of one destination's topic: which of its items may go, and how far it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::options::{Options, Order, Progress};
use crate::log::{Reader, TopicPartition};
use crate::metrics;
use crate::order::{Admission, Group, Lane, Part, Released, Resume, Violated, Window};
use crate::record::push::{HALTED_KEPT, PushPosition, REASON_KEPT, Replaying};
use crate::record::{Batch, BatchBuilder, Offset, OutputHeaders, RecordRef, Sequence, Timestamp, TopicId, group_hash};

/// The sequence group of records without provenance.
const STRANGERS: Group = Group(u64::MAX);

/// The sequence group of all items of a lane.
const LANE: Group = Group(0);

/// An item that was read and is not done.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: Option<Sequence>,
    pub(super) timestamp: Timestamp,
    /// Attempts made by this owner.
    pub(super) attempts: u32,
    /// An operator passes it over.
    pub(super) skip: bool,
    /// It was in a request that failed as a whole: it goes alone, so that it is known which of them did.
    pub(super) alone: bool,
    /// The record alone, with everything it has; not held when memory is short.
    pub(super) record: Option<Batch>,
}

/// See the module's documentation.
pub(super) struct Feed {
    /// The index of its destination.
    pub(super) target: usize,
    pub(super) at: TopicPartition,
    /// Distinguishes the lives before and after an accepted loss: outcomes of a former one are void.
    pub(super) life: u32,
    /// At rest, while nobody reads with it.
    pub(super) reader: Option<Box<dyn Reader>>,
    pub(super) reading: bool,
    /// Pushes and loads of its items under way.
    pub(super) under_way: usize,
    /// Why nothing is pushed from here.
    pub(super) lost: Option<String>,
    /// The topic that the position is about, where it is not the one that is there now.
    about: Option<TopicId>,
    /// Why nothing can be read from where it is read to; what lies before is pushed first.
    damage: Option<String>,
    /// Begins nothing: an order waits until nothing is under way.
    pub(super) quiet: bool,
    /// What is pushed once more.
    pub(super) replay: Option<Replaying>,
    /// Whether that is a defect of this program: what is in memory is not to be trusted then.
    broken: bool,
    /// Refused items that hold their groups, those of a former owner included.
    pub(super) halted: BTreeMap<Offset, String>,
    order: Order,
    lane: Lane<Entry>,
    /// All that was ever done is below.
    done_to: Offset,
    gate: Gate,
    /// Taken parts to be tried at a time; the number tells equal times apart.
    delayed: BTreeMap<(Instant, u64), Part>,
    ticket: u64,
    held_bytes: usize,
    memory: usize,
    /// One above the highest sequence number read.
    next_sequence: Option<Sequence>,
    done_below: Option<Sequence>,
    /// What `done_below` will be, and the position, once the commit under way is durable.
    proposed: Option<Sequence>,
    pub(super) committed: Offset,
    pub(super) metrics: metrics::Destination,
}

/// Holds a group's next item back until its last one's acknowledgement is committed.
#[derive(Debug, Default)]
struct Gate {
    open: bool,
    /// Groups with an acknowledgement that is in no commit yet, and in the one under way.
    gathering: BTreeSet<Group>,
    committing: BTreeSet<Group>,
    waiting: Vec<Part>,
}

impl Gate {
    fn is_empty(&self) -> bool {
        self.gathering.is_empty() && self.committing.is_empty() && self.waiting.is_empty()
    }

    fn is_shut(&self, group: Group) -> bool {
        !self.open && (self.gathering.contains(&group) || self.committing.contains(&group))
    }
}

impl Feed {
    pub(super) fn new(
        target: usize,
        at: TopicPartition,
        position: PushPosition,
        options: &Options,
        metrics: metrics::Destination,
    ) -> Self {
        let frontier = Offset(position.position);
        let (released, lost) = match Released::from_runs(position.done, Vec::new()) {
            Ok(released) => (released, position.lost),
            Err(error) => (Released::default(), Some(format!("the cursor is damaged: {error}"))),
        };
        Self {
            target,
            at,
            life: 0,
            reader: None,
            reading: false,
            under_way: 0,
            lost,
            about: position.about,
            damage: None,
            quiet: false,
            replay: position.replay.filter(|replay| replay.until > frontier.0),
            broken: false,
            halted: position.halted.into_iter().map(|(offset, reason)| (Offset(offset), reason)).collect(),
            order: options.order,
            done_to: frontier,
            lane: Lane::new(Window { records: options.window }, Resume { frontier, released, limit: Offset::ZERO }),
            gate: Gate { open: options.progress == Progress::Batch, ..Gate::default() },
            delayed: BTreeMap::new(),
            ticket: 0,
            held_bytes: 0,
            memory: options.memory,
            next_sequence: None,
            done_below: None,
            proposed: None,
            committed: frontier,
            metrics,
        }
    }

    /// Takes in what was read.
    pub(super) fn admit(&mut self, batches: &[Batch], next: Offset) {
        for record in batches.iter().flatten() {
            if let Some(reason) = self.gap_before(record) {
                return self.lose(reason);
            }
            if let Err(violated) = self.admit_one(record) {
                return self.broken(&violated);
            }
        }
        self.lane.pass_to(next);
    }

    /// Why a record cannot be what is next. It would say of those that are missing that they are done.
    fn gap_before(&self, record: RecordRef<'_>) -> Option<String> {
        let next = self.next_sequence?;
        let Sequence(found) = OutputHeaders::decode(record.headers)?.sequence;
        let is_gap = found > next.0;
        is_gap.then(|| format!("{}: sequence {found} stands where {} was next: was it made anew?", self.at, next.0))
    }

    fn admit_one(&mut self, record: RecordRef<'_>) -> Result<(), Violated> {
        let provenance = OutputHeaders::decode(record.headers);
        let sequence = provenance.map(|from| from.sequence);
        if let Some(sequence) = sequence {
            // The first record read stands at the position, and all below that is done.
            self.done_below.get_or_insert(sequence);
            self.next_sequence = self.next_sequence.max(Some(sequence.next()));
        }
        let entry =
            Entry { sequence, timestamp: record.timestamp, attempts: 0, skip: false, alone: false, record: None };
        let admission = match self.group(record, provenance.as_ref()) {
            Some(group) => self.lane.admit(record.offset, &[group], entry)?,
            None => self.lane.admit_alone(record.offset, entry)?,
        };
        if admission == Admission::Released {
            self.done_to = record.offset.next();
            return Ok(());
        }
        self.keep(record);
        // An item is its own result: it is ready as soon as its turn comes.
        let _ = self.lane.resolve(record.offset);
        Ok(())
    }

    /// The sequence group of a record; `None` where it is one of its own.
    fn group(&self, record: RecordRef<'_>, provenance: Option<&OutputHeaders>) -> Option<Group> {
        match self.order {
            Order::Group => Some(provenance.map_or(STRANGERS, |from| Group(from.group))),
            Order::Lane => Some(LANE),
            Order::Key => Some(Group(group_hash(record.key))),
            Order::None => None,
        }
    }

    /// The next item that may be tried now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Part> {
        if self.lost.is_some() || self.quiet {
            return None;
        }
        while let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= now) {
            let part = first.remove();
            if !self.gate.is_shut(part.group) {
                return Some(part);
            }
            self.gate.waiting.push(part);
        }
        while let Some(part) = self.lane.next_ready() {
            if self.gate.is_shut(part.group) {
                self.gate.waiting.push(part);
            } else if self.halted.contains_key(&part.offset) {
                self.park(part);
            } else {
                return Some(part);
            }
        }
        None
    }

    /// The items behind a taken one in its group that may go with it.
    pub(super) fn behind(&self, part: Part, most: usize) -> Vec<Part> {
        let behind = self.lane.behind(part).take(most);
        behind.take_while(|part| !self.halted.contains_key(&part.offset) && self.may_share(*part)).collect()
    }

    /// Whether an item may go together with others: all of it is at hand, and its place in the order is known.
    pub(super) fn may_share(&self, part: Part) -> bool {
        let entry = self.lane.entry(part.offset);
        entry.is_some_and(|entry| !entry.skip && !entry.alone && entry.record.is_some() && entry.sequence.is_some())
    }

    /// Takes an item that stood behind the one which was finished just now.
    pub(super) fn take_next(&mut self, part: Part) -> bool {
        self.lane.take_next(part)
    }

    /// When the first of the delayed items is to be tried.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().filter(|_| self.lost.is_none() && !self.quiet).map(|((at, _), _)| *at)
    }

    /// A taken item is to be tried at `at`.
    pub(super) fn delay(&mut self, part: Part, at: Instant) {
        self.ticket += 1;
        self.delayed.insert((at, self.ticket), part);
    }

    /// A taken item is done for good: acknowledged, dead-lettered or skipped.
    pub(super) fn finish(&mut self, part: Part) {
        match self.lane.release(part) {
            Ok(entry) => {
                self.done_to = self.done_to.max(part.offset.next());
                self.held_bytes -= entry.and_then(|entry| entry.record).map_or(0, |record| record.frame().len());
                self.gate.gathering.insert(part.group);
            }
            Err(violated) => self.broken(&violated),
        }
    }

    /// A taken item is refused and holds its group.
    pub(super) fn halt(&mut self, part: Part, mut reason: String) {
        reason.truncate(reason.floor_char_boundary(REASON_KEPT));
        self.halted.insert(part.offset, reason);
        self.park(part);
    }

    fn park(&mut self, part: Part) {
        if let Err(violated) = self.lane.park(part) {
            self.broken(&violated);
        }
    }

    /// Whether an operator's word on this item has to wait until the item is read again.
    pub(super) fn is_unread(&self, offset: Offset) -> bool {
        self.halted.contains_key(&offset) && offset >= self.lane.read_to()
    }

    /// Ends a halt: the item is tried again, or passed over.
    pub(super) fn resume(&mut self, offset: Offset, skip: bool) {
        if self.halted.remove(&offset).is_some() {
            if let Some(entry) = self.lane.entry_mut(offset) {
                entry.skip = skip;
                entry.attempts = 0;
            }
            self.lane.unpark(offset);
        }
    }

    /// An item's record, if it is held in memory.
    pub(super) fn record(&self, part: Part) -> Option<Batch> {
        self.lane.entry(part.offset)?.record.clone()
    }

    pub(super) fn entry(&mut self, part: Part) -> Option<&mut Entry> {
        self.lane.entry_mut(part.offset)
    }

    /// Holds an item's record in memory.
    fn keep(&mut self, record: RecordRef<'_>) {
        if let Some(entry) = self.lane.entry_mut(record.offset).filter(|entry| entry.record.is_none()) {
            let record = alone(record);
            self.held_bytes += record.frame().len();
            entry.record = Some(record);
        }
    }

    /// Holds a record that is wanted now, and as many behind it as memory allows.
    pub(super) fn keep_from(&mut self, wanted: Offset, batches: &[Batch]) {
        for record in batches.iter().flatten().filter(|record| record.offset >= wanted) {
            if record.offset == wanted || self.held_bytes < self.memory {
                self.keep(record);
            }
        }
    }

    /// Whether to read on. An item that is known to be halted is read whatever the window is now: an
    /// operator's word on it has to find it.
    pub(super) fn wants_more(&self) -> bool {
        let halted = self.halted.last_key_value().is_some_and(|(last, _)| self.is_unread(*last));
        let room = halted || self.lane.room() > 0;
        !self.reading && self.lost.is_none() && self.damage.is_none() && room && self.held_bytes < self.memory
    }

    /// Whether records that a former owner is known to have done are still to be read again.
    pub(super) fn is_behind(&self) -> bool {
        !self.lane.caught_up()
    }

    /// Whether memory is full and nothing of it is about to leave: all waits behind items that are
    /// halted or to be tried later.
    pub(super) fn is_stuck(&self) -> bool {
        let moving = self.under_way > 0 || !self.gate.is_empty();
        self.held_bytes >= self.memory && !moving
    }

    /// Forgets the records of the items that come last, so that reading may go on where nothing
    /// that is held can leave. Amortised: it frees at least half of what was held.
    pub(super) fn shed(&mut self) {
        for (_, _, entry) in self.lane.iter_mut().rev() {
            if self.held_bytes <= self.memory / 2 {
                break;
            }
            self.held_bytes -= entry.record.take().map_or(0, |record| record.frame().len());
        }
    }

    pub(super) const fn read_to(&self) -> Offset {
        self.lane.read_to()
    }

    pub(super) fn frontier(&self) -> Offset {
        self.lane.frontier()
    }

    /// Whether items that were read are not done.
    pub(super) fn has_items(&self) -> bool {
        self.lane.blocking().is_some()
    }

    /// The replay that an item is part of.
    pub(super) fn replay_of(&self, offset: Offset) -> Option<Arc<str>> {
        self.replay.as_ref().filter(|replay| offset.0 < replay.until).map(|replay| replay.id.as_str().into())
    }

    pub(super) const fn done_below(&self) -> Option<Sequence> {
        self.done_below
    }

    /// The position to be committed. What is acknowledged from here on is for the next commit.
    pub(super) fn begin_commit(&mut self) -> Option<PushPosition> {
        let frontier = self.lane.frontier();
        self.halted = self.halted.split_off(&frontier);
        self.replay = self.replay.take().filter(|replay| replay.until > frontier.0);
        self.gate.committing = std::mem::take(&mut self.gate.gathering);
        let below = self.lane.blocking().map_or(self.next_sequence, |(_, entry)| entry.sequence);
        self.proposed = self.done_below.max(below);
        self.committed = frontier;
        self.position()
    }

    /// The durable form of how far this is; `None` where only what was committed before counts.
    pub(super) fn position(&self) -> Option<PushPosition> {
        let halted = self.halted.iter().take(HALTED_KEPT).map(|(at, reason)| (at.0, reason.clone())).collect();
        let (position, done) = (self.lane.frontier().0, self.lane.released().runs().to_vec());
        (!self.broken).then(|| PushPosition {
            position,
            done,
            halted,
            lost: self.lost.clone(),
            about: self.about,
            replay: self.replay.clone(),
        })
    }

    /// The commit is durable: groups that waited for it go on.
    pub(super) fn end_commit(&mut self, now: Instant) {
        self.gate.committing.clear();
        self.done_below = self.done_below.max(self.proposed);
        for part in std::mem::take(&mut self.gate.waiting) {
            if self.gate.is_shut(part.group) {
                self.gate.waiting.push(part);
            } else {
                self.delay(part, now);
            }
        }
    }

    /// Where to go on from, so that everything that was done from `from` on is pushed once more under
    /// `id`; `None` where nothing there was. What was never pushed comes behind, in each group.
    pub(super) fn again_from(&self, from: Offset, id: String) -> Option<PushPosition> {
        let until = self.replay.as_ref().map_or(self.done_to.0, |replay| replay.until.max(self.done_to.0));
        let before = self.position()?;
        let replay = Some(Replaying { id, until });
        (from.0 < until).then(|| PushPosition {
            position: before.position.min(from.0),
            done: Vec::new(),
            replay,
            ..before
        })
    }

    /// Starts a new life at `position`, after a loss was accepted or for a replay.
    pub(super) fn restart(&mut self, position: PushPosition, options: &Options) {
        let life = self.life + 1;
        *self = Self { life, ..Self::new(self.target, self.at.clone(), position, options, self.metrics.clone()) };
    }

    /// Stands still until an operator accepts.
    pub(super) fn lose(&mut self, mut reason: String) {
        tracing::error!(at = %self.at, reason, "halted: nothing is pushed from here");
        reason.truncate(reason.floor_char_boundary(REASON_KEPT));
        self.lost = Some(reason);
    }

    /// The topic cannot be read on from where it is read to.
    pub(super) fn meets_damage(&mut self, reason: String) {
        tracing::error!(at = %self.at, reason, "what lies before this is pushed, then nothing from here");
        self.damage = Some(reason);
    }

    /// Stands still at damage once nothing before it is left, so that an operator who accepts it passes over the
    /// damage and nothing else. Says whether it has come to that just now.
    pub(super) fn stops_at_damage(&mut self) -> bool {
        let Some(reason) = self.damage.take_if(|_| self.lane.unreleased() == 0) else { return false };
        self.lose(reason);
        true
    }

    fn broken(&mut self, violated: &Violated) {
        metrics::invariant_violations(violated.invariant.id()).inc();
        self.broken = true;
        self.lose(violated.to_string());
    }

    /// Moves the gauges. `end` is where the topic ends now.
    pub(super) fn show(&self, end: Offset, now: Timestamp) {
        let lag = end.0.saturating_sub(self.lane.frontier().0);
        self.metrics.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
        let oldest = self.lane.blocking().map_or(Duration::ZERO, |(_, entry)| now.since(entry.timestamp));
        self.metrics.oldest_seconds.set(oldest.as_secs_f64());
    }

    pub(super) fn show_halted(&self) {
        let halted = self.halted.len() + usize::from(self.lost.is_some());
        self.metrics.halted.set(i64::try_from(halted).unwrap_or(i64::MAX));
    }
}

/// A record by itself, copied: it does not keep the batch alive that it came in.
fn alone(record: RecordRef<'_>) -> Batch {
    let mut builder = BatchBuilder::default();
    let at = (record.offset, record.timestamp);
    builder.push_at(at, at, record.key, record.value, |h| h.put_all(record.headers));
    builder.finish_at(record.offset, record.timestamp)
}
