//! One lane: merges the input, which says what order, with the results, which say what values.
//!
//! Pure: it is handed records in log order and the time, and keeps what it needs done by others
//! in [`LaneState::needs`]. The owner drives it; observers replay the logs through it read-only.

use std::collections::{BTreeMap, VecDeque};

use crate::order::{
    Admission, Group, Identities, Lane, Overdue, Released, Resume, Verdict, Violated, Watermark, Window,
};
use crate::record::cursor::LaneCursor;
use crate::record::ledger::Identity;
use crate::record::{Batch, Epoch, Name, Offset, Partition, RecordRef, Round, Timestamp, check, error_json};

use super::Options;
use super::destinations::Destinations;
use super::entry::{Entry, Outcome};
use super::memory::Memory;
use super::release::Gathered;
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
    /// The input's stable end as of now: [`LaneState::input_ends`].
    InputEnd,
    /// Sent again through the work topic, for this round; the number differs from that of the last time.
    Resend(Offset, Round, u32),
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
    pub(super) memory: Memory,
    /// The cursor is near its budget: no more is admitted than was promised.
    pub(super) limit_frozen: bool,
    resends: u32,
    committed_frontier: Offset,
    pub(super) sequences: Vec<u64>,
    /// Counters of topics that are no destination now. Kept: they may be again.
    pub(super) other_sequences: BTreeMap<String, u64>,
    pub(super) suppressed: BTreeMap<String, BTreeMap<(u64, u32), u64>>,
    pub(super) halted: Option<String>,
    pub(super) needs: Vec<Need>,
    pub(super) duplicates: u64,
    groups: Vec<Group>,
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
        let limit = Offset(cursor.limit);
        let next_scope = match &cursor.next_order {
            Some((from, _)) => Some((Offset(*from), options.by.clone())),
            // Nothing at or above the limit has been worked on, so none of it can have left.
            None if scope != options.by => Some((limit.max(Offset(cursor.frontier)), options.by.clone())),
            None => None,
        };
        let mut sequences = cursor.sequences.clone();
        let numbered = (0..destinations.len())
            .map(|number| sequences.remove(destinations.topic(number).as_str()).unwrap_or(0))
            .collect();
        let (frontier, results) = (Offset(cursor.frontier), Offset(cursor.results));
        Ok(Self {
            lane,
            order: Lane::new(Window { records: options.window }, Resume { frontier, released, limit }),
            scope,
            next_scope,
            identities: Identities::new(options.identities),
            rounds: cursor.rounds.iter().map(|(o, r)| (Offset(*o), Round(*r))).collect(),
            overdue: Overdue::new(options.deadline),
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
            committing_identities: Vec::new(),
            identified: Vec::new(),
            asked_for: None,
            ended: None,
            fresh: Vec::new(),
            attempted_limit: limit,
            committed_limit: limit,
            memory: Memory::new(options.memory),
            limit_frozen: false,
            resends: 0,
            committed_frontier: frontier,
            sequences: numbered,
            other_sequences: sequences,
            suppressed: cursor.suppressed.clone(),
            halted: cursor.halted.clone(),
            needs: Vec::new(),
            duplicates: 0,
            groups: Vec::new(),
            options: options.clone(),
            destinations: destinations.clone(),
        })
    }

    /// Whether the input should be read on: everything fetched is admitted.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.halted.is_none() && self.input.is_empty()
    }

    /// Whether the results should be read on: everything fetched is judged.
    #[must_use]
    pub fn wants_results(&self) -> bool {
        self.halted.is_none() && self.results.is_empty()
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
        if let Some((offset, entry)) = self.order.blocking()
            && entry.outcome.is_none()
        {
            self.overdue.head(offset, now);
        }
        Ok(())
    }

    /// Admits fetched input while there is room.
    fn admit_input(&mut self) -> Result<(), Violated> {
        while let Some(batch) = self.input.pop_front() {
            let mut admitted_to = batch.base();
            for record in &batch {
                // What is below a published limit is admitted whatever the window is now: its
                // result may come before that of the head, and nothing waits unjudged.
                let room = self.order.room() > 0 || record.offset < self.attempted_limit;
                if !room || !self.scope_admits(record.offset) {
                    self.input.push_front(batch.skip_to(admitted_to));
                    return Ok(());
                }
                self.admit(&record)?;
                admitted_to = record.offset.next();
            }
        }
        // Whatever was fetched is admitted: between its last record and the next position are holes only.
        self.order.pass_to(self.input_next);
        Ok(())
    }

    /// Whether a record may be admitted under the scope in force; changes over where that is due.
    fn scope_admits(&mut self, offset: Offset) -> bool {
        match &self.next_scope {
            Some((from, next)) if offset >= *from => {
                if self.order.unreleased() > 0 {
                    return false;
                }
                self.scope = next.clone();
                self.next_scope = None;
                true
            }
            _ => true,
        }
    }

    fn admit(&mut self, record: &RecordRef<'_>) -> Result<(), Violated> {
        let offset = record.offset;
        let (mask, refused) = match self.destinations.mask(record.headers.get(Name::Destination)) {
            Ok(mask) => (mask, None),
            Err(unknown) => (1, Some(Outcome::Refused(error_json("unknown-destination", unknown)))),
        };
        self.scope.groups(record, mask, &mut self.groups);
        let identity = record.headers.get(Name::Id).map(|id| Identity::of(id, record.value));
        let (identity, repeated) = self.judge_identity(offset, identity)?;
        let round = self.rounds.get(&offset).copied().unwrap_or_default();
        // What could not be worked on at first may be by now, where an operator has had a say.
        let outcome = repeated.or(refused.filter(|_| round == Round(0)));
        let settled = outcome.is_some();
        let entry = Entry {
            check: check(record),
            round,
            timestamp: record.timestamp,
            destinations: mask,
            key: record.key.map(Into::into),
            identity: identity.map(Box::new),
            outcome,
            retrying: None,
            input: None,
        };
        if self.order.admit(offset, &self.groups, entry)? == Admission::Admitted {
            if settled {
                // It was admitted just now and has no result yet.
                let _ = self.order.resolve(offset);
            } else {
                self.overdue.admitted(offset);
            }
        }
        Ok(())
    }

    /// The identity of a message that is the first with it, or how it ends because it is not.
    fn judge_identity(
        &mut self,
        offset: Offset,
        identity: Option<Identity>,
    ) -> Result<(Option<Identity>, Option<Outcome>), Violated> {
        let Some(identity) = identity else { return Ok((None, None)) };
        Ok(match self.identities.judge(offset, identity.id, identity.fingerprint)? {
            Verdict::First => (Some(identity), None),
            Verdict::Duplicate { of } => {
                self.duplicates += 1;
                (None, Some(Outcome::Duplicate(of)))
            }
            Verdict::Reused { of } => (None, Some(Outcome::KeyReused(of))),
        })
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
        let asked = std::mem::take(&mut self.needs).contains(&Need::InputEnd);
        if asked {
            self.input_ends(input_end);
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
        let frontier = self.order.frontier();
        self.overdue.forget_below(frontier);
        self.identities.advance(frontier);
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
        moved || !self.resend_after_commit.is_empty()
    }

    /// Asks for the records that are overdue to be sent out again.
    pub(super) fn send_overdue(&mut self, now: Timestamp) {
        for offset in self.overdue.due(now) {
            if offset >= self.committed_limit {
                // Nobody may have worked on it yet, so its time begins only now.
                self.overdue.retrying(offset, now);
                continue;
            }
            if let Some(entry) = self.order.entry(offset) {
                self.resends = self.resends.wrapping_add(1);
                self.needs.push(Need::Resend(offset, entry.round, self.resends));
            }
            self.overdue.resent(offset, now);
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
