//! Which records have been out for too long.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::runs::Runs;
use crate::record::{Offset, Timestamp};

/// A record that was sent again waits twice as long for its result as before, up to 2^4 deadlines:
/// often enough that a lost one is found within hours, seldom enough that a worker that is merely
/// slow is not buried under copies.
const MAX_DOUBLINGS: u32 = 4;

/// The clocks of records that were sent out and have no result yet.
///
/// A record's clock starts when it is the head, or when a record sent after it has a result: before
/// that it may simply not have had its turn. Sent after means a higher offset; where work is spread
/// over partitions, keep one `Overdue` for each of them. Times are timestamps of records, so that a
/// new owner that reads the same logs comes to the same clocks. Amortised O(1) per record, and
/// O(log clocks that run) for one whose clock starts before its result is there.
#[derive(Debug)]
pub struct Overdue {
    deadline: Duration,
    /// From the frontier on, and the number of the first.
    sent: VecDeque<Sent>,
    first: u64,
    offsets: Runs,
    /// Those below this number have a result or a running clock.
    started_to: u64,
    running: BTreeSet<(Timestamp, Offset)>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    offset: Offset,
    due: Option<Timestamp>,
    resends: u32,
    resolved: bool,
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
            started_to: 0,
            running: BTreeSet::new(),
        }
    }

    /// A record is sent out. Offsets increase; one that does not is left out.
    pub fn admitted(&mut self, offset: Offset) {
        if offset >= self.offsets.end() && offset.0 < u64::MAX {
            self.offsets.push(offset);
            self.sent.push_back(Sent { offset, due: None, resends: 0, resolved: false });
        }
    }

    /// A record has its result, stamped `at`: its clock stops, those of all sent before it start.
    pub fn resolved(&mut self, offset: Offset, at: Timestamp) {
        let Some(number) = self.number(offset) else { return };
        self.stop(number);
        while self.started_to < number {
            self.start(self.started_to, at);
            self.started_to += 1;
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
        self.started_to = self.started_to.max(self.first);
        self.offsets.advance(self.first);
    }

    fn start(&mut self, number: u64, at: Timestamp) {
        let Some(&Sent { offset, due: None, resends, resolved: false }) = self.get(number) else { return };
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
        Timestamp(at.0.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
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
