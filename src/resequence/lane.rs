//! One lane: merges the input, which says what order, with the results, which say what values.
//!
//! Pure: it is handed records in log order and the time, and keeps what it needs done by others
//! in [`LaneState::needs`]. The owner drives it; observers replay the logs through it read-only.

use std::collections::{BTreeMap, VecDeque};

use crate::order::{Group, Identities, Lane, Overdue, Released, Resume, Violated, Watermark, Window};
use crate::record::cursor::LaneCursor;
use crate::record::ledger::Voided;
use crate::record::{Batch, Epoch, Offset, Partition, Round, Timestamp};

use super::Options;
use super::batches::Batches;
use super::destinations::Destinations;
use super::dispatch::Dispatch;
use super::entry::Entry;
use super::memory::Memory;
use super::release::{Failed, Gathered};
use super::scope::Scope;

/// Why a cursor's lane cannot be gone on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor of lane {lane} is damaged: {reason}")]
pub struct DamagedCursor {
    lane: Partition,
    reason: String,
}

/// Something that only the shell can do for a lane; each is answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The input record at this offset, to be dead-lettered: `LaneState::input_fetched`.
    Input(Offset),
    /// The results from this position on, bodies forgotten for memory.
    Results,
    /// The input's stable end as of now.
    InputEnd,
    /// Sent again through the work topic, for this round.
    Resend(Offset, Round),
}

/// After a loss: to where the results are to be read to know which records below `input` have none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) results: Offset,
    pub(super) input: Offset,
    /// Only of records from before this.
    pub(super) before: Timestamp,
    /// Below it nothing is left to hasten.
    pub(super) hastened: Offset,
}

/// Why the input cannot be read on.
#[derive(Debug)]
struct Damage {
    reason: String,
    /// It is known that this is not because the input has lost its end.
    judged: bool,
}

/// A lane between its logs. See the module's documentation.
#[derive(Debug)]
pub struct LaneState {
    pub(super) lane: Partition,
    pub(super) options: Options,
    pub(super) destinations: Destinations,
    pub(super) order: Lane<Entry>,
    /// The scope in force, and the one that follows it from an offset on.
    pub(super) scope: Scope,
    pub(super) next_scope: Option<(Offset, Scope)>,
    pub(super) identities: Identities,
    pub(super) rounds: BTreeMap<Offset, Round>,
    pub(super) overdue: Overdue,
    pub(super) dispatch: Dispatch,
    /// Where the frontier is, and since when.
    frontier_since: (Offset, Timestamp),
    /// Input fetched and not yet admitted, results fetched and not yet judged.
    pub(super) input: VecDeque<Batch>,
    pub(super) input_next: Offset,
    pub(super) results: VecDeque<Batch>,
    pub(super) results_next: Offset,
    pub(super) needed_results: Watermark,
    /// The input is known to hold something at or after every offset below this one.
    pub(super) input_end: Offset,
    /// Records that failed and hold back their group until an operator acts: the error as JSON.
    pub(super) halts: BTreeMap<Offset, String>,
    pub(super) gathered: Gathered,
    /// Records of raised rounds to be sent out once their cursor is committed: in the commit
    /// under way, and in the next.
    pub(super) resend_committing: Vec<(Offset, Round)>,
    pub(super) resend_after_commit: Vec<(Offset, Round)>,
    /// Where the outputs of the part that leaves just now went: destination number and sequence.
    pub(super) sent: Vec<(usize, u64)>,
    /// How many parts leave with the commit under way.
    pub(super) committing_records: u64,
    /// What that commit dead-letters.
    pub(super) committing_failed: Option<Failed>,
    /// Records with an identity that are in the commit under way, and in the one gathered.
    pub(super) committing_identities: Vec<Offset>,
    pub(super) identified: Vec<Offset>,
    /// The result for which the input's end was asked, and the answer to the last such question.
    pub(super) asked_for: Option<Offset>,
    pub(super) ended: Option<(Offset, Offset)>,
    /// Records whose result came since memory was last looked after.
    pub(super) fresh: Vec<Offset>,
    /// The highest limit that any cursor record of this owner holds, answered or not.
    pub(super) attempted_limit: Offset,
    /// The limit that workers see: that of the last cursor known to be committed.
    pub(super) committed_limit: Offset,
    /// The raised rounds in that cursor.
    pub(super) committed_rounds: BTreeMap<u64, u32>,
    pub(super) memory: Memory,
    /// The cursor is near its budget: no more is admitted than was promised.
    pub(super) limit_frozen: bool,
    /// Results were lost: what has none is sent out again.
    pub(super) results_lost: Option<Lost>,
    committed_frontier: Offset,
    pub(super) sequences: Vec<u64>,
    /// Counters of topics that are no destination now. Kept: they may be again.
    pub(super) other_sequences: BTreeMap<String, u64>,
    /// The first sequence number of topics that do not begin with 0.
    pub(super) begins: BTreeMap<String, u64>,
    /// What the ledger says of records that the input has lost.
    pub(super) voided: Voided,
    /// Up to where former owners have read the input.
    read_before: Offset,
    pub(super) suppressed: BTreeMap<String, BTreeMap<(u64, u32), u64>>,
    pub(super) halted: Option<String>,
    /// Why the input cannot be read on: once all before that is released, the lane halts.
    damage: Option<Damage>,
    pub(super) needs: Vec<Need>,
    pub(super) duplicates: u64,
    pub(super) groups: Vec<Group>,
    /// The coordinator of the lane's batches; observers have none.
    pub(super) batches: Option<Box<Batches>>,
}

impl LaneState {
    /// Goes on from a cursor; an empty one is the beginning.
    ///
    /// # Errors
    ///
    /// [`DamagedCursor`], where the cursor holds what no owner writes.
    pub fn resume(
        lane: Partition,
        cursor: &LaneCursor,
        options: &Options,
        destinations: &Destinations,
    ) -> Result<Self, DamagedCursor> {
        let damaged = |reason: String| DamagedCursor { lane, reason };
        let released =
            Released::from_runs(cursor.released.clone(), cursor.partly.clone()).map_err(|e| damaged(e.to_string()))?;
        let scope = if cursor.order.is_empty() { options.by.clone() } else { cursor.order.parse().map_err(damaged)? };
        let (frontier, results, limit) = (Offset(cursor.frontier), Offset(cursor.results), Offset(cursor.limit));
        // Nothing at or above the limit has been worked on, so none of it can have left.
        let changed = || (scope != options.by).then_some(limit.max(Offset(cursor.frontier)));
        let next_from = cursor.next_order.as_ref().map(|(from, _)| Offset(*from)).or_else(changed);
        let next_scope = next_from.map(|from| (from, options.by.clone()));
        let mut sequences = cursor.sequences.clone();
        let numbered = (0..destinations.len())
            .map(|number| sequences.remove(destinations.topic(number).as_str()).unwrap_or(0))
            .collect();
        Ok(Self {
            lane,
            order: Lane::new(Window { records: options.window }, Resume { frontier, released, limit }),
            scope,
            next_scope,
            identities: Identities::new(options.identities),
            rounds: cursor.rounds.iter().map(|(o, r)| (Offset(*o), Round(*r))).collect(),
            overdue: Overdue::new(options.deadline),
            dispatch: Dispatch::new(options.fan_out, frontier, Offset(cursor.dispatched)),
            frontier_since: (frontier, Timestamp(cursor.frontier_since)),
            input: VecDeque::new(),
            input_next: frontier,
            results: VecDeque::new(),
            results_next: results,
            needed_results: Watermark::new(results),
            input_end: frontier,
            halts: BTreeMap::new(),
            gathered: Gathered::default(),
            resend_committing: Vec::new(),
            resend_after_commit: Vec::new(),
            sent: Vec::new(),
            committing_records: 0,
            committing_failed: None,
            committing_identities: Vec::new(),
            identified: Vec::new(),
            asked_for: None,
            ended: None,
            fresh: Vec::new(),
            attempted_limit: limit,
            committed_limit: limit,
            committed_rounds: cursor.rounds.clone(),
            memory: Memory::new(options.memory),
            limit_frozen: false,
            results_lost: None,
            committed_frontier: frontier,
            sequences: numbered,
            other_sequences: sequences,
            begins: cursor.begins.clone(),
            voided: cursor.voided.clone(),
            read_before: Offset(cursor.read_to),
            suppressed: cursor.suppressed.clone(),
            halted: cursor.halted.clone(),
            damage: None,
            needs: Vec::new(),
            duplicates: 0,
            groups: Vec::new(),
            batches: None,
            options: options.clone(),
            destinations: destinations.clone(),
        })
    }

    /// Whether the input should be read on: everything fetched is admitted, and what is to be sent
    /// to the workers does not pile up.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.halted.is_none() && self.damage.is_none() && self.input.is_empty() && self.dispatch.has_room()
    }

    /// Whether the results should be read on: everything fetched is judged.
    #[must_use]
    pub fn wants_results(&self) -> bool {
        self.halted.is_none() && self.results.is_empty()
    }

    /// Up to where the input was read, by this owner or one before.
    pub(super) fn read_to(&self) -> Offset {
        self.order.read_to().max(self.read_before)
    }

    /// Where to read the input from.
    #[must_use]
    pub const fn input_position(&self) -> Offset {
        self.input_next
    }

    /// Where to read the results from.
    #[must_use]
    pub const fn results_position(&self) -> Offset {
        self.results_next
    }

    /// Takes fetched input; `next` is where reading goes on.
    pub fn add_input(&mut self, batches: Vec<Batch>, next: Offset) {
        self.input.extend(batches);
        self.input_next = next;
        self.input_end = self.input_end.max(next);
    }

    /// The input cannot be read on from where it was read to; for observers, nor can the results.
    pub fn meets_damage(&mut self, reason: String) {
        self.damage = Some(Damage { reason, judged: false });
        self.needs.push(Need::InputEnd);
    }

    /// Why the input cannot be read on, if so.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_ref().map(|damage| damage.reason.as_str())
    }

    /// Whether the record at `offset` lies behind damage, and so cannot be read.
    pub(super) fn is_behind_damage(&self, offset: Offset) -> bool {
        self.damage.is_some() && offset >= self.input_next
    }

    /// Halts once nothing is left before the damage.
    fn halt_at_damage(&mut self) {
        let ready = self.order.unreleased() == 0 && self.input.is_empty();
        if let Some(damage) = self.damage.take_if(|damage| damage.judged && ready) {
            self.halted = Some(damage.reason);
        }
    }

    /// Where the input ends, asked because it cannot be read on. Says why the lane has to halt now: what was made anew,
    /// or has lost its end, cannot be sent to workers again either, so that waiting for it would be in vain.
    pub(super) fn damage_ends(&mut self, end: Offset) -> Option<String> {
        let damage = self.damage.as_mut()?;
        damage.judged = true;
        (end < self.input_next).then(|| damage.reason.clone())
    }

    /// Takes fetched results; `next` is where reading goes on.
    pub fn add_results(&mut self, batches: Vec<Batch>, next: Offset) {
        self.results.extend(batches);
        self.results_next = next;
    }

    /// Admits and judges as much of what was fetched as can be now.
    ///
    /// # Errors
    ///
    /// [`Violated`], where an invariant does not hold: the lane must halt.
    pub fn advance(&mut self, now: Timestamp) -> Result<(), Violated> {
        self.admit_input()?;
        self.judge_results()?;
        self.note_frontier(now);
        if let Some((offset, entry)) = self.order.blocking()
            && entry.outcome.is_none()
        {
            self.overdue.head(offset, self.frontier_since.1.max(entry.timestamp));
        }
        Ok(())
    }

    /// Remembers since when the frontier is where it is, and forgets the clocks below it.
    fn note_frontier(&mut self, now: Timestamp) {
        let frontier = self.order.frontier();
        if frontier > self.frontier_since.0 {
            self.frontier_since = (frontier, now);
            self.overdue.forget_below(frontier);
        }
    }

    /// Since when the frontier is where it is.
    pub(super) const fn frontier_since(&self) -> Timestamp {
        self.frontier_since.1
    }

    /// The limit up to which workers may work, as it should be published now. It stays at the
    /// cut-over to another scope: results from beyond it could not be judged before that.
    pub(super) fn limit(&self) -> Offset {
        if self.limit_frozen {
            return self.attempted_limit;
        }
        let cut_over = self.next_scope.as_ref().map_or(Offset(u64::MAX), |(from, _)| *from);
        self.order.limit().min(cut_over).max(self.attempted_limit)
    }

    /// As [`LaneState::advance`], for observers: the input is taken to end at `input_end`, and
    /// bodies are forgotten like an owner's. Says whether another round may find more.
    ///
    /// # Errors
    ///
    /// [`Violated`], where an invariant does not hold.
    pub fn replay(&mut self, now: Timestamp, input_end: Offset) -> Result<bool, Violated> {
        self.advance(now)?;
        self.settle_memory();
        self.dispatch.forget_pending();
        let asked = std::mem::take(&mut self.needs).contains(&Need::InputEnd);
        if asked {
            self.input_ends(input_end, self.asked_for);
        }
        Ok(asked)
    }

    /// Admits, judges and releases as far as that goes now.
    ///
    /// # Errors
    ///
    /// [`Violated`], where an invariant does not hold: the lane must halt.
    pub(super) fn advance_and_release(&mut self, epoch: Epoch, now: Timestamp) -> Result<(), Violated> {
        if self.halted.is_some() {
            return Ok(());
        }
        if let Some(batches) = &mut self.batches {
            batches.now = now;
        }
        loop {
            self.advance(now)?;
            let before = self.gathered.records();
            self.release(epoch)?;
            // What left made room for input that is here already.
            if self.gathered.records() == before || self.input.is_empty() {
                break;
            }
        }
        self.settle_memory();
        self.note_frontier(now);
        self.identities.advance(self.order.frontier());
        self.halt_at_damage();
        Ok(())
    }

    /// Whether the frontier moved without a release, over holes or records released before, and
    /// nothing is coming that would carry it.
    pub(super) fn has_news(&mut self) -> bool {
        let frontier = self.order.frontier();
        let idle = self.order.unreleased() == 0 && self.input.is_empty();
        let moved = idle && frontier > self.committed_frontier;
        if moved {
            self.committed_frontier = frontier;
        }
        moved || self.dispatch.takes_news() || !self.resend_after_commit.is_empty()
    }

    /// Asks for the records that are overdue to be sent out again.
    pub(super) fn send_overdue(&mut self, now: Timestamp) {
        self.hasten_lost(now);
        for offset in self.overdue.due(now) {
            let Some(round) = self.order.entry(offset).map(|entry| entry.round) else {
                self.overdue.resent(offset, now);
                continue;
            };
            if offset >= self.committed_limit || round != self.committed_round(offset) {
                // Nobody may have worked on it yet, or in this round, so its time begins only now.
                self.overdue.retrying(offset, now);
                continue;
            }
            self.needs.push(Need::Resend(offset, round));
            self.overdue.resent(offset, now);
        }
    }

    /// After a loss of results nobody may be at work on records without one: they are overdue as
    /// soon as they are below the limit.
    fn hasten_lost(&mut self, now: Timestamp) {
        let judged_to = if self.results.is_empty() { self.results_next } else { Offset::ZERO };
        let Some(lost) = self.results_lost.as_mut().filter(|lost| lost.results <= judged_to) else { return };
        let below = lost.input.min(self.committed_limit).min(self.order.read_to());
        let long_ago = now.before(self.options.deadline);
        for (offset, _, entry) in self.order.iter_from(lost.hastened).take_while(|(offset, ..)| *offset < below) {
            if entry.outcome.is_none() && entry.timestamp < lost.before {
                self.overdue.reopened(offset, long_ago);
            }
        }
        lost.hastened = lost.hastened.max(below);
        if below >= lost.input {
            self.results_lost = None;
        }
    }

    /// The input record asked for with [`Need::Input`].
    pub(super) fn input_fetched(&mut self, offset: Offset, record: Batch) {
        if let Some(entry) = self.order.entry_mut(offset) {
            entry.input = Some(record);
            self.order.unpark(offset);
        }
    }

    /// How far the frontier is behind the input, in offsets, as far as the input's end is known.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.input_end.max(self.order.read_to()).0 - self.order.frontier().0
    }

    /// The lane's records in order, for observers.
    #[must_use]
    pub const fn order(&self) -> &Lane<Entry> {
        &self.order
    }
}
