//! Which records have been out for too long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::runs::Runs;
use crate::record::{Offset, Partition, Timestamp};

/// A record that was sent again waits twice as long for its result as before, up to 2^4 deadlines:
/// often enough that a lost one is found within hours, seldom enough that a worker that is merely
/// slow is not buried under copies.
const MAX_DOUBLINGS: u32 = 4;

/// The clocks of records that were sent out and have no result yet.
///
/// A record's clock starts when it is the head, or when a record sent after it has a result: before
/// that it may simply not have had its turn. Of records that workers read from the input, sent after
/// means a higher offset; where work is spread over partitions, later in the same partition. What
/// was admitted and not sent to any partition counts as sent before whatever is sent after that.
/// Times are timestamps of records, so that a new owner that reads the same logs comes to the same
/// clocks. Amortised O(1) per record, and O(log clocks that run) for one whose clock starts before
/// its result is there.
#[derive(Debug)]
pub struct Overdue {
    deadline: Duration,
    /// From the frontier on, and the number of the first.
    sent: VecDeque<Sent>,
    first: u64,
    offsets: Runs,
    /// The last record sent to each partition, and the last one that was sent to none.
    last: BTreeMap<Partition, u64>,
    last_unplaced: Option<u64>,
    /// Records without a result that were sent again, with those that they were sent behind.
    again: BTreeMap<u64, Vec<u64>>,
    running: BTreeSet<(Timestamp, Offset)>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    offset: Offset,
    due: Option<Timestamp>,
    resends: u32,
    resolved: bool,
    /// The one sent just before it, to the same partition where it was sent to one.
    before: Option<u64>,
    /// A record sent after it has a result, so that its clock, and those before it, were started.
    passed: bool,
}

impl Overdue {
    /// No records yet; each has `deadline` for its result once its clock runs.
    #[must_use]
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            sent: VecDeque::new(),
            first: 0,
            offsets: Runs::default(),
            last: BTreeMap::new(),
            last_unplaced: None,
            again: BTreeMap::new(),
            running: BTreeSet::new(),
        }
    }

    /// A record is for workers to be read from the input, or was sent out nobody knows where.
    /// Offsets increase over both kinds; one that does not is left out.
    pub fn admitted(&mut self, offset: Offset) {
        let number = self.push(offset, self.last_unplaced);
        self.last_unplaced = number.or(self.last_unplaced);
    }

    /// A record is sent out to this partition. Offsets increase over both kinds; one that does not
    /// is left out.
    pub fn sent(&mut self, offset: Offset, to: Partition) {
        if let Some(number) = self.push(offset, self.last_in(to)) {
            self.last.insert(to, number);
        }
    }

    /// A record is sent once more, to this partition: its result will tell of what is there before it.
    pub fn sent_again(&mut self, offset: Offset, to: Partition) {
        let number = self.number(offset).filter(|number| self.get(*number).is_some_and(|sent| !sent.resolved));
        if let (Some(number), Some(last)) = (number, self.last_in(to)) {
            self.again.entry(number).or_default().push(last);
        }
    }

    fn last_in(&self, partition: Partition) -> Option<u64> {
        self.last.get(&partition).copied().or(self.last_unplaced)
    }

    fn push(&mut self, offset: Offset, before: Option<u64>) -> Option<u64> {
        if offset < self.offsets.end() || offset.0 == u64::MAX {
            return None;
        }
        self.offsets.push(offset);
        self.sent.push_back(Sent { offset, due: None, resends: 0, resolved: false, before, passed: false });
        Some(self.first + self.sent.len() as u64 - 1)
    }

    /// A record has its result, stamped `at`: its clock stops, those of all sent before it start.
    pub fn resolved(&mut self, offset: Offset, at: Timestamp) {
        let Some(number) = self.number(offset) else { return };
        self.stop(number);
        let mut behind = self.again.remove(&number).unwrap_or_default();
        behind.extend(self.get(number).and_then(|sent| sent.before));
        behind.into_iter().for_each(|last| self.pass(last, at));
    }

    /// A record sent after this one has a result: its clock starts, and those of all before it.
    fn pass(&mut self, last: u64, at: Timestamp) {
        let mut next = Some(last);
        while let Some(number) = next {
            let Some(sent) = self.get_mut(number).filter(|sent| !sent.passed) else { break };
            sent.passed = true;
            next = sent.before;
            self.start(number, at);
        }
    }

    /// A record's end was known before it was sent: its clock does not run, and says nothing of others.
    pub fn settled(&mut self, offset: Offset) {
        if let Some(number) = self.number(offset) {
            self.stop(number);
        }
    }

    /// A record is the one that others wait for since `at`: its clock starts unless it runs.
    pub fn head(&mut self, offset: Offset, at: Timestamp) {
        if let Some(number) = self.number(offset) {
            self.start(number, at);
        }
    }

    /// A worker says at `at` that it is still at it: a running clock starts anew.
    pub fn retrying(&mut self, offset: Offset, at: Timestamp) {
        let Some(sent) = self.number(offset).and_then(|number| self.get(number)) else { return };
        if let Some(due) = sent.due {
            self.run(offset, due.max(self.after(at, sent.resends)));
        }
    }

    /// A record's result was taken back, and it is sent out again at `at`: its clock starts as if
    /// for the first time.
    pub fn reopened(&mut self, offset: Offset, at: Timestamp) {
        let Some(number) = self.number(offset) else { return };
        self.stop(number);
        if let Some(sent) = self.get_mut(number) {
            (sent.resolved, sent.resends) = (false, 0);
        }
        self.start(number, at);
    }

    /// The records that have to be sent again, head first. They stay due until
    /// [`Overdue::resent`] or a result. O(n log n) in their number.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<Offset> {
        let due = self.running.iter().take_while(|(due, _)| *due <= now);
        let mut offsets: Vec<Offset> = due.map(|(_, offset)| *offset).collect();
        offsets.sort_unstable();
        offsets
    }

    /// When the next record is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.running.first().map(|(due, _)| *due)
    }

    /// A record was sent again at `now`: it has twice the time it had before.
    pub fn resent(&mut self, offset: Offset, now: Timestamp) {
        let Some(sent) = self.number(offset).and_then(|number| self.get_mut(number)) else { return };
        if sent.resolved {
            return;
        }
        sent.resends = sent.resends.saturating_add(1);
        let resends = sent.resends;
        self.run(offset, self.after(now, resends));
    }

    /// Forgets the records below the frontier.
    pub fn forget_below(&mut self, frontier: Offset) {
        while self.sent.front().is_some_and(|sent| sent.offset < frontier) {
            self.stop(self.first);
            self.sent.pop_front();
            self.first += 1;
        }
        self.offsets.advance(self.first);
        while self.again.first_key_value().is_some_and(|(number, _)| *number < self.first) {
            self.again.pop_first();
        }
    }

    fn start(&mut self, number: u64, at: Timestamp) {
        let Some(&Sent { offset, due: None, resends, resolved: false, .. }) = self.get(number) else { return };
        self.run(offset, self.after(at, resends));
    }

    /// Sets a clock, whether it ran before or not.
    fn run(&mut self, offset: Offset, due: Timestamp) {
        let Some(sent) = self.number(offset).and_then(|number| self.get_mut(number)) else { return };
        if let Some(before) = sent.due.replace(due) {
            self.running.remove(&(before, offset));
        }
        self.running.insert((due, offset));
    }

    fn stop(&mut self, number: u64) {
        let Some(sent) = self.get_mut(number) else { return };
        sent.resolved = true;
        if let Some(due) = sent.due.take() {
            let offset = sent.offset;
            self.running.remove(&(due, offset));
        }
    }

    fn after(&self, at: Timestamp, resends: u32) -> Timestamp {
        let wait = self.deadline.saturating_mul(1 << resends.min(MAX_DOUBLINGS));
        at.after(wait)
    }

    fn number(&self, offset: Offset) -> Option<u64> {
        self.offsets.find(offset).filter(|number| *number >= self.first)
    }

    fn get(&self, number: u64) -> Option<&Sent> {
        self.sent.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Sent> {
        self.sent.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}
