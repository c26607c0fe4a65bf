//! Fan-out: what of a lane is to be put on the work topic, what is on its way there, and how far
//! that is certain.
//!
//! Admitted records go out in input order, in turns: a turn is one append to each partition that
//! gets something, and the next one gathers until the log has acknowledged it, so that appends grow
//! with the load. A partition that does not answer holds up only what it was given. The position,
//! which the cursor holds, is the end of what is acknowledged without a gap: a new owner sends from
//! there, and what is below it is left to the clocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::order::{Ticket, Violated, Watermark};
use crate::record::{Batch, BatchBuilder, Offset, Partition, Timestamp};

use super::loads::Loads;

/// Input that waits to be sent, or whose append is under way, is held in memory: beyond this no more
/// is read. Enough for many turns of the largest size.
const MAX_BYTES: usize = 8 << 20;

/// A turn ends when the append to one partition has grown to this, so that logs need not split it.
const APPEND_BYTES: usize = 512 * 1024;

/// The next turn waits for this one's acknowledgements so long, then goes on with other partitions.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a partition did not take goes to another one after this.
const PAUSE: Duration = Duration::from_secs(1);

/// For so long nothing new goes to a partition that did not take something: a new leader of a
/// Kafka partition is found in less.
const SHUN: Duration = Duration::from_secs(30);

/// One append to the work topic. Its records are in input order.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    pub(super) to: Partition,
    pub(super) batch: Batch,
    pub(super) records: Vec<(Offset, Ticket)>,
}

impl Sending {
    /// Each record as an append of its own.
    pub(super) fn singles(&self) -> impl Iterator<Item = Self> {
        let singles = self.batch.singles().zip(&self.records);
        singles.map(|(batch, record)| Self { to: self.to, batch, records: vec![*record] })
    }
}

/// Admitted input in order, up to an offset.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    pub(super) until: Offset,
    bytes: usize,
}

/// What goes out at once, by partition.
#[derive(Debug, Default)]
pub(super) struct Turn {
    parts: BTreeMap<Partition, (BatchBuilder, Vec<(Offset, Ticket)>)>,
    again: Vec<Sending>,
    is_full: bool,
}

impl Turn {
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn add(&mut self, to: Partition, record: (Offset, Ticket), write: impl FnOnce(&mut BatchBuilder)) {
        let (builder, records) = self.parts.entry(to).or_default();
        write(builder);
        records.push(record);
        self.is_full |= builder.size() >= APPEND_BYTES;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Dispatch {
    fan_out: bool,
    /// Below it a former owner has sent whatever had to be sent.
    from: Offset,
    /// Nothing is sent before the results are judged to here: most of what a former owner sent
    /// beyond its last cursor may be answered already.
    results_to: Offset,
    pending: VecDeque<Pending>,
    /// Of what is pending, under way or failed.
    bytes: usize,
    position: Watermark,
    committed: Offset,
    news: bool,
    under_way: BTreeSet<Partition>,
    turn_began: Timestamp,
    /// What was not taken, and when it goes to another partition.
    failed: Vec<(Timestamp, Sending)>,
    shunned: BTreeMap<Partition, Timestamp>,
    /// Where records without a result were sent to again.
    again: BTreeMap<Offset, Vec<Partition>>,
    /// Sent for the first time, and without a result.
    outstanding: u64,
    /// Partitions of records that have their results now, to be told to the loads.
    freed: Vec<Partition>,
}

impl Dispatch {
    /// Goes on above what a former owner had sent.
    pub(super) fn new(fan_out: bool, frontier: Offset, dispatched: Offset) -> Self {
        let from = if fan_out { dispatched.max(frontier) } else { dispatched };
        Self {
            fan_out,
            from,
            results_to: Offset::ZERO,
            pending: VecDeque::new(),
            bytes: 0,
            position: Watermark::new(from),
            committed: from,
            news: false,
            under_way: BTreeSet::new(),
            turn_began: Timestamp(0),
            failed: Vec::new(),
            shunned: BTreeMap::new(),
            again: BTreeMap::new(),
            outstanding: 0,
            freed: Vec::new(),
        }
    }

    /// Nothing is sent before the results are judged up to here.
    pub(super) const fn after_results(&mut self, end: Offset) {
        self.results_to = end;
    }

    /// Whether a record is for this owner to be sent, or was sent before, or is read by the workers.
    pub(super) fn will_send(&self, offset: Offset) -> bool {
        self.fan_out && offset >= self.from
    }

    /// Takes input that was admitted up to `until`.
    pub(super) fn add(&mut self, batch: Batch, until: Offset) {
        if self.will_send(until) && until > batch.base() {
            let bytes = batch.frame().len();
            self.bytes += bytes;
            self.pending.push_back(Pending { batch, until, bytes });
        }
    }

    /// For observers, who send nothing.
    pub(super) fn forget_pending(&mut self) {
        self.bytes -= self.pending.drain(..).map(|pending| pending.bytes).sum::<usize>();
    }

    /// Whether more input may be read.
    pub(super) const fn has_room(&self) -> bool {
        self.bytes < MAX_BYTES
    }

    /// How many records that were sent have no result.
    pub(super) const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Every record below it that had to be sent is in the log.
    pub(super) fn position(&self) -> Offset {
        self.position.low()
    }

    /// A cursor with this position is committed.
    pub(super) const fn committed(&mut self, position: Offset) {
        self.committed = position;
    }

    /// The position is worth a commit, if no release has carried it meanwhile: what was sent above
    /// the committed one is sent again by the next owner.
    pub(super) fn note_position(&mut self) {
        self.news |= self.fan_out && self.position() > self.committed;
    }

    /// Whether the position is to be committed; says so once.
    pub(super) const fn takes_news(&mut self) -> bool {
        std::mem::replace(&mut self.news, false)
    }

    /// A record has its result; the partition to which it went first has one less, and so have those
    /// to which it went again.
    pub(super) fn answered(&mut self, offset: Offset, sent: Option<Partition>) {
        self.outstanding -= u64::from(sent.is_some());
        self.freed.extend(sent);
        if !self.again.is_empty() {
            self.freed.extend(self.again.remove(&offset).into_iter().flatten());
        }
    }

    /// Tells what has been answered since the last time.
    pub(super) fn settle(&mut self, loads: &mut Loads) {
        self.freed.drain(..).for_each(|partition| loads.answered(partition));
    }

    /// Whether a turn may begin now, the results being judged to `judged_to`.
    pub(super) fn may_begin(&mut self, judged_to: Offset, now: Timestamp) -> bool {
        if judged_to >= self.results_to {
            self.results_to = Offset::ZERO;
        }
        let has_work = !self.pending.is_empty() || self.failed.iter().any(|(due, _)| *due <= now);
        let is_over = self.under_way.is_empty() || now.since(self.turn_began) >= PATIENCE;
        // Without room no input is read, for which a result may wait.
        has_work && is_over && (self.results_to == Offset::ZERO || !self.has_room())
    }

    /// The next of the input that waits.
    pub(super) fn next(&mut self) -> Option<Pending> {
        self.pending.pop_front()
    }

    /// All of it was sent, or has no need to be.
    pub(super) fn done_with(&mut self, pending: &Pending) {
        self.bytes -= pending.bytes;
        self.position.pass_to(pending.until);
    }

    /// The records from an offset on are still to be sent.
    pub(super) fn put_back(&mut self, pending: &Pending, from: Offset) {
        let (batch, until) = (pending.batch.skip_to(from), pending.until);
        let bytes = batch.frame().len().min(pending.bytes);
        self.bytes -= pending.bytes - bytes;
        self.position.pass_to(from);
        self.pending.push_front(Pending { batch, until, bytes });
    }

    /// A record goes to the least loaded partition; `None` where none takes anything just now.
    pub(super) fn place(&mut self, loads: &mut Loads) -> Option<Partition> {
        let (under_way, shunned) = (&self.under_way, &self.shunned);
        let partition = loads.take_least(|p| under_way.contains(&p) || shunned.contains_key(&p));
        let partition = partition.or_else(|| loads.take_least(|p| under_way.contains(&p)))?;
        self.outstanding += 1;
        Some(partition)
    }

    /// A record is on its way, in input order.
    pub(super) fn sends(&mut self, offset: Offset) -> Result<Ticket, Violated> {
        self.position.push(offset)
    }

    /// The partition to which a record goes again: the least loaded but for the one to which it
    /// went last, because whoever holds that one may be why there is no result.
    pub(super) fn place_again(&mut self, offset: Offset, sent: Option<Partition>, loads: &mut Loads) -> Partition {
        let last = self.again.get(&offset).and_then(|sent| sent.last().copied()).or(sent);
        let shunned = &self.shunned;
        let partition = loads.take_least(|p| Some(p) == last || shunned.contains_key(&p));
        let partition = partition.or_else(|| loads.take_least(|p| Some(p) == last));
        let partition = partition.or_else(|| loads.take_least(|_| false)).unwrap_or_default();
        self.again.entry(offset).or_default().push(partition);
        partition
    }

    /// Puts into the turn what was not taken and may be tried elsewhere.
    pub(super) fn add_failed(&mut self, turn: &mut Turn, loads: &Loads, now: Timestamp) {
        self.shunned.retain(|_, until| *until > now);
        for (due, sending) in std::mem::take(&mut self.failed) {
            let (under_way, shunned) = (&self.under_way, &self.shunned);
            let to = loads.least(|p| under_way.contains(&p) || shunned.contains_key(&p));
            match to.or_else(|| loads.least(|p| under_way.contains(&p))).filter(|_| due <= now) {
                Some(to) => {
                    self.under_way.insert(to);
                    turn.again.push(Sending { to, ..sending });
                }
                None => self.failed.push((due, sending)),
            }
        }
    }

    /// The appends of a turn, which are under way from now on.
    pub(super) fn begin(&mut self, turn: Turn, now: Timestamp) -> Vec<Sending> {
        let mut sendings = turn.again;
        for (to, (mut builder, records)) in turn.parts {
            let batch = builder.finish();
            self.bytes += batch.frame().len();
            self.under_way.insert(to);
            sendings.push(Sending { to, batch, records });
        }
        if !sendings.is_empty() {
            self.turn_began = now;
        }
        sendings
    }

    /// The log has an append, or what it holds is left to the clocks.
    pub(super) fn acknowledged(&mut self, sending: &Sending) -> Result<(), Violated> {
        self.under_way.remove(&sending.to);
        self.bytes -= sending.batch.frame().len();
        sending.records.iter().try_for_each(|(_, ticket)| self.position.done(*ticket))
    }

    /// An append was not taken, or nobody knows: it goes elsewhere, in pieces where it may be a
    /// single record that is refused.
    pub(super) fn not_taken(&mut self, sending: Sending, in_pieces: bool, now: Timestamp) {
        self.under_way.remove(&sending.to);
        if in_pieces {
            self.failed.extend(sending.singles().map(|single| (now, single)));
        } else {
            self.shunned.insert(sending.to, now.after(SHUN));
            self.failed.push((now.after(PAUSE), sending));
        }
    }
}
