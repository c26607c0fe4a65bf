//! One assigned partition: what was read of it, what is being worked on, how far it is answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::answered::Answered;
use crate::log::{Fetched, TopicPartition};
use crate::record::{Batch, Name, Offset, Partition, RecordRef, ResultHeaders, Round, Source, check};

/// A partition is read ahead by this at most, or by one batch: enough to keep a core busy between
/// two reads, and little where hundreds of partitions are assigned.
pub(super) const FETCH_BYTES: usize = 256 * 1024;

/// One assignment of one partition. Never used again after it is revoked, so that what belongs to
/// an earlier assignment is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FeedId(pub(super) u64);

/// What hangs on an input partition.
#[derive(Debug, Default)]
pub(super) struct LaneState {
    /// Nothing at or above it may be begun.
    pub(super) limit: Offset,
    /// The raised rounds of unreleased records.
    pub(super) rounds: BTreeMap<u64, u32>,
    /// Records that had a result of their current round when the lane was assigned.
    pub(super) answered: BTreeSet<(Offset, u32)>,
}

/// Which kind of partition it is.
#[derive(Debug)]
pub(super) enum Kind {
    /// An input partition.
    Lane(LaneState),
    /// A partition of the work topic.
    Work(Option<Backlog>),
}

/// What was in a partition of the work topic when it was assigned: others may have worked on it.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) end: Offset,
    pub(super) answered: Arc<Answered>,
}

/// A record to be worked on.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) feed: FeedId,
    /// Its place in the feed, which for a lane is that of its source.
    pub(super) offset: Offset,
    pub(super) source: Source,
    pub(super) check: u32,
    pub(super) round: Round,
    /// The attempt to come, from 1.
    pub(super) attempt: u32,
    /// The one record.
    pub(super) record: Batch,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) id: FeedId,
    pub(super) at: TopicPartition,
    pub(super) kind: Kind,
    /// What was read and is not begun yet, in order.
    queue: VecDeque<Batch>,
    /// Everything below was read.
    next: Offset,
    /// Begun, and without a durable result.
    open: BTreeSet<Offset>,
    /// The position that the group has stored.
    pub(super) stored: Option<Offset>,
}

impl Feed {
    pub(super) fn new(id: FeedId, at: TopicPartition, kind: Kind, stored: Option<Offset>) -> Self {
        Self { id, at, kind, queue: VecDeque::new(), next: Offset::ZERO, open: BTreeSet::new(), stored }
    }

    /// Where reading should begin: where it was, else at the group's position.
    pub(super) fn wanted(&self) -> Option<Offset> {
        if self.next > Offset::ZERO { Some(self.next) } else { self.stored }
    }

    /// Whether nothing is waiting to be begun.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Reading begins here.
    pub(super) fn begin_at(&mut self, position: Offset) {
        self.next = position;
    }

    /// Takes what a reader found.
    pub(super) fn extend(&mut self, fetched: Fetched) {
        self.next = fetched.next;
        self.queue.extend(fetched.batches.into_iter().filter(|batch| !batch.is_empty()));
    }

    /// Whether more should be read.
    pub(super) fn is_hungry(&self) -> bool {
        self.queue.iter().map(|batch| batch.frame().len()).sum::<usize>() < FETCH_BYTES / 2
    }

    /// The position up to which everything is answered durably.
    pub(super) fn position(&self) -> Offset {
        let waiting = self.queue.front().and_then(|batch| batch.iter().next()).map(|record| record.offset);
        [self.open.first().copied(), waiting].into_iter().flatten().min().unwrap_or(self.next)
    }

    /// The position, where the group has stored a lower one or none.
    pub(super) fn advanced(&self) -> Option<Offset> {
        Some(self.position()).filter(|position| *position > self.stored.unwrap_or_default())
    }

    /// The result of this one is durable.
    pub(super) fn answered(&mut self, offset: Offset) {
        self.open.remove(&offset);
    }

    /// The next record that may be begun; it is open from now on.
    pub(super) fn take(&mut self) -> Option<Task> {
        loop {
            let front = self.queue.front_mut()?;
            let next = front.iter().next().expect("empty batches are not queued").offset;
            if matches!(&self.kind, Kind::Lane(lane) if next >= lane.limit) {
                return None;
            }
            let record = front.pop_first().expect("as above");
            if front.is_empty() {
                self.queue.pop_front();
            }
            if let Some(task) = self.judge(record) {
                self.open.insert(task.offset);
                return Some(task);
            }
        }
    }

    /// The task that a record is, `None` where there is nothing to do for it.
    fn judge(&mut self, record: Batch) -> Option<Task> {
        let (id, lane) = (self.id, self.at.partition);
        let read = record.iter().next().expect("batches of one record");
        let (offset, source, check, round) = match &mut self.kind {
            Kind::Lane(state) => Self::of_lane(state, lane, &read)?,
            Kind::Work(backlog) => match ResultHeaders::decode(read.headers) {
                Ok(headers) => {
                    drop(backlog.take_if(|backlog| read.offset >= backlog.end));
                    if backlog.as_ref().is_some_and(|backlog| backlog.answered.has(&headers)) {
                        return None;
                    }
                    (read.offset, headers.source, headers.check, headers.round)
                }
                Err(reason) => {
                    tracing::warn!(at = %self.at, offset = %read.offset, %reason, "not a work record, passed over");
                    return None;
                }
            },
        };
        Some(Task { feed: id, offset, source, check, round, attempt: 1, record })
    }

    fn of_lane(state: &mut LaneState, lane: Partition, record: &RecordRef<'_>) -> Option<(Offset, Source, u32, Round)> {
        if record.headers.get(Name::Event).is_some() {
            // An event of a batch, which the owner sends on.
            return None;
        }
        let check = check(record);
        // Nothing below is asked for again.
        while state.answered.first().is_some_and(|(offset, _)| *offset < record.offset) {
            state.answered.pop_first();
        }
        if state.answered.contains(&(record.offset, check)) {
            return None;
        }
        let round = Round(state.rounds.get(&record.offset.0).copied().unwrap_or(0));
        Some((record.offset, Source { lane, offset: record.offset }, check, round))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Topic;
    use crate::record::{BatchBuilder, Status, Timestamp};

    fn lane(limit: u64) -> Feed {
        let kind = Kind::Lane(LaneState { limit: Offset(limit), ..LaneState::default() });
        Feed::new(FeedId(1), Topic::from("in").partition(Partition(0)), kind, None)
    }

    /// Records at these offsets, each with its offset as its value.
    fn batch(offsets: &[u64]) -> Batch {
        let base = (Offset(offsets[0]), Timestamp(0));
        let mut builder = BatchBuilder::default();
        for offset in offsets {
            let value = offset.to_string();
            builder.push_at(base, (Offset(*offset), Timestamp(0)), None, Some(value.as_bytes()), |_| {});
        }
        builder.finish_at(base.0, base.1)
    }

    fn taken(feed: &mut Feed) -> Vec<u64> {
        std::iter::from_fn(|| feed.take()).map(|task| task.offset.0).collect()
    }

    #[test]
    fn nothing_is_begun_at_or_above_the_limit_and_holes_cost_nothing() {
        let mut feed = lane(12);
        feed.extend(Fetched { batches: vec![batch(&[3, 5]), batch(&[11, 12, 20])], next: Offset(25) });
        assert_eq!(taken(&mut feed), [3, 5, 11]);
        let Kind::Lane(state) = &mut feed.kind else { unreachable!("it is a lane") };
        state.limit = Offset(13);
        assert_eq!(taken(&mut feed), [12]);
    }

    #[test]
    fn the_position_is_the_lowest_that_is_not_answered() {
        let mut feed = lane(10);
        feed.begin_at(Offset(2));
        assert_eq!(feed.position(), Offset(2));
        feed.extend(Fetched { batches: vec![batch(&[3, 5, 9])], next: Offset(12) });
        assert_eq!(feed.position(), Offset(3));
        assert_eq!(taken(&mut feed), [3, 5, 9]);
        feed.answered(Offset(5));
        assert_eq!(feed.position(), Offset(3));
        feed.answered(Offset(3));
        assert_eq!(feed.position(), Offset(9));
        feed.answered(Offset(9));
        assert_eq!(feed.position(), Offset(12));
    }

    #[test]
    fn what_is_answered_with_the_right_check_is_passed_over() {
        let mut feed = lane(10);
        let records = batch(&[1, 2, 3]);
        let checks: Vec<_> = records.iter().map(|record| (record.offset, check(&record))).collect();
        let Kind::Lane(state) = &mut feed.kind else { unreachable!("it is a lane") };
        state.answered = BTreeSet::from([checks[0], (Offset(2), checks[1].1 ^ 1), checks[2]]);
        state.rounds.insert(2, 4);
        feed.extend(Fetched { batches: vec![records], next: Offset(4) });
        let task = feed.take().expect("the second has no right answer");
        assert_eq!((task.offset, task.round, task.check), (Offset(2), Round(4), checks[1].1));
        assert!(feed.take().is_none());
        assert_eq!(feed.position(), Offset(2));
    }

    #[test]
    fn work_records_name_their_source_and_garbage_is_passed_over() {
        let source = Source::from((Partition(7), Offset(99)));
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(b"garbage"), |_| {});
        builder.push(None, Some(b"v"), |h| {
            ResultHeaders { status: None, round: Round(2), ..ResultHeaders::new(source, 5, Status::Done) }.encode(h);
        });
        let mut feed = Feed::new(FeedId(1), Topic::from("work").partition(Partition(3)), Kind::Work(None), None);
        feed.extend(Fetched { batches: vec![builder.finish()], next: Offset(2) });
        let task = feed.take().expect("the second is a work record");
        assert_eq!((task.offset, task.source, task.check, task.round), (Offset(1), source, 5, Round(2)));
        feed.answered(Offset(1));
        assert_eq!(feed.position(), Offset(2));
    }
}
