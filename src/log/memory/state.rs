//! Everything behind the lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::faults::{Dice, Fate, Faults, happens, wait};
use super::partition::{PartitionLog, Transaction};
use crate::log::{Append, Appending, Error, Offsets, Topic, TopicPartition, TopicShape};
use crate::record::{Batch, Offset, Partition, Timestamp, TopicId, TopicIds};

/// Who may write for one partition of one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence {
    /// The writer with this number.
    pub(super) writer: u64,
    /// All that its predecessors wrote can be read then.
    pub(super) settled: Instant,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) faults: Faults,
    pub(super) dice: Dice,
    pub(super) fences: BTreeMap<(Arc<str>, TopicPartition), Fence>,
    pub(super) positions: BTreeMap<(String, TopicPartition), Offset>,
    shapes: BTreeMap<Topic, TopicShape>,
    /// How often topics were made anew.
    lives: BTreeMap<Topic, u128>,
    partitions: BTreeMap<TopicPartition, PartitionLog>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            faults: Faults::default(),
            dice: Dice::new(seed),
            fences: BTreeMap::new(),
            positions: BTreeMap::new(),
            shapes: BTreeMap::new(),
            lives: BTreeMap::new(),
            partitions: BTreeMap::new(),
        }
    }

    pub(super) fn ensure(&mut self, topics: &[(Topic, TopicShape)]) -> Result<(), Error> {
        for (topic, shape) in topics {
            match self.shapes.get(topic) {
                Some(found) if found.partitions != shape.partitions => {
                    let (found, wanted) = (found.partitions, shape.partitions);
                    return Err(Error::Damaged(format!("topic {topic} has {found} partitions, not {wanted}")));
                }
                _ => {}
            }
        }
        for (topic, shape) in topics {
            self.shapes.entry(topic.clone()).or_insert_with(|| shape.clone());
            for partition in topic.partitions(shape.partitions) {
                self.partitions.entry(partition).or_insert_with(|| PartitionLog::new(shape.cleanup));
            }
        }
        Ok(())
    }

    pub(super) fn shape(&self, topic: &Topic) -> Option<TopicShape> {
        self.shapes.get(topic).cloned()
    }

    pub(super) fn partitions(&self, topics: &[Topic]) -> Result<Vec<TopicPartition>, Error> {
        let mut all = Vec::new();
        for topic in topics {
            let shape = self.shapes.get(topic).ok_or_else(|| unknown(&topic.partition(Partition(0))))?;
            all.extend(topic.partitions(shape.partitions));
        }
        Ok(all)
    }

    pub(super) fn partition(&mut self, of: &TopicPartition) -> Result<&mut PartitionLog, Error> {
        self.partitions.get_mut(of).ok_or_else(|| unknown(of))
    }

    pub(super) fn identities(&self, topics: &[Topic]) -> TopicIds {
        let known = topics.iter().filter(|topic| self.shapes.contains_key(*topic));
        known.map(|topic| (topic.as_str().to_owned(), self.identity(topic))).collect()
    }

    pub(super) fn identity(&self, topic: &Topic) -> TopicId {
        TopicId(self.lives.get(topic).copied().unwrap_or(0))
    }

    pub(super) fn recreate(&mut self, topic: &Topic) {
        *self.lives.entry(topic.clone()).or_default() += 1;
        self.positions.retain(|(_, of), _| of.topic != *topic);
        self.partitions.iter_mut().filter(|(of, _)| of.topic == *topic).for_each(|(_, log)| log.reset());
    }

    pub(super) fn delete(&mut self, topic: &Topic) {
        *self.lives.entry(topic.clone()).or_default() += 1;
        self.shapes.remove(topic);
        self.partitions.retain(|of, _| of.topic != *topic);
    }

    pub(super) fn is_gone(&self, topic: &Topic) -> bool {
        self.lives.contains_key(topic) && !self.shapes.contains_key(topic)
    }

    /// Something is asked of the log; it may be away.
    pub(super) fn look_up(&mut self) -> Result<(), Error> {
        let away = happens(&mut self.dice.lookup, self.faults.lookup_unavailable);
        if away { Err(Error::Unavailable("simulated: the log is away".to_owned())) } else { Ok(()) }
    }

    pub(super) fn append(&mut self, to: &TopicPartition, batch: &Batch, now: Timestamp) -> Result<Appending, Error> {
        self.partition(to)?;
        let Self { faults, dice, .. } = self;
        let rng = &mut dice.append;
        let fate =
            Fate::draw(rng, faults.append_unknown_written, faults.append_unknown_lost, faults.append_unavailable);
        let delay = wait(rng, &faults.append_delay);
        let acknowledge = wait(rng, &faults.acknowledge_delay);
        let twice = happens(rng, faults.append_duplicated);
        let at_once = rng.bool();
        if fate == Fate::Unavailable && at_once {
            return Err(refused());
        }
        let mut known = Instant::now() + delay;
        let mut offsets = Offsets::default();
        for _ in 0..if fate.is_written() { 1 + usize::from(twice) } else { 0 } {
            let (first, visible) = self.write(to, batch, now, delay)?;
            (offsets, known) = (Offsets::run(first, batch.len()), visible);
        }
        Ok(outcome(known + acknowledge, fate, offsets).boxed())
    }

    /// All or nothing; returns when the last of it can be read, and what is to be said of it.
    pub(super) fn commit(
        &mut self,
        appends: &[Append],
        now: Timestamp,
    ) -> Result<(Instant, Fate, Vec<Offsets>), Error> {
        for append in appends {
            self.partition(&append.to)?;
        }
        let Self { faults, dice, .. } = self;
        let rng = &mut dice.commit;
        let fate =
            Fate::draw(rng, faults.commit_unknown_written, faults.commit_unknown_lost, faults.commit_unavailable);
        let delay = wait(rng, &faults.commit_delay);
        let markers = faults.markers;
        let mut known = Instant::now() + delay;
        let mut offsets = Vec::with_capacity(appends.len());
        if fate.is_written() {
            for append in appends {
                let (first, visible) = self.write(&append.to, &append.batch, now, delay)?;
                offsets.push(Offsets::run(first, append.batch.len()));
                known = known.max(visible);
            }
            for append in appends.iter().filter(|_| markers) {
                self.partition(&append.to)?.skip(1);
            }
        }
        Ok((known, fate, offsets))
    }

    fn write(
        &mut self,
        to: &TopicPartition,
        batch: &Batch,
        now: Timestamp,
        delay: Duration,
    ) -> Result<(Offset, Instant), Error> {
        let hole = happens(&mut self.dice.holes, self.faults.hole);
        let hole = if hole { self.dice.holes.u64(0..=self.faults.hole_size) } else { 0 };
        let partition = self.partition(to)?;
        if hole > 0 {
            partition.skip(hole);
        }
        Ok(partition.append(batch, now, Instant::now() + delay))
    }
}

async fn outcome(known: Instant, fate: Fate, offsets: Offsets) -> Result<Offsets, Error> {
    sleep_until(known).await;
    match fate {
        Fate::Done => Ok(offsets),
        Fate::UnknownWritten | Fate::UnknownLost => Err(uncertain()),
        Fate::Unavailable => Err(refused()),
    }
}

pub(super) fn uncertain() -> Error {
    Error::Unknown("simulated: no answer came".to_owned())
}

pub(super) fn refused() -> Error {
    Error::Unavailable("simulated: the log refuses for now".to_owned())
}

fn unknown(at: &TopicPartition) -> Error {
    Error::Rejected { at: at.clone(), reason: "there is no such partition; create the topic first".to_owned() }
}

/// A transaction that somebody else has left open. Dropping it aborts.
pub struct OpenTransaction {
    shared: Arc<Shared>,
    partition: TopicPartition,
    transaction: Transaction,
    commit: bool,
}

impl OpenTransaction {
    pub(super) fn new(shared: Arc<Shared>, partition: TopicPartition, transaction: Transaction) -> Self {
        Self { shared, partition, transaction, commit: false }
    }

    /// Its records can be read now.
    pub fn commit(mut self) {
        self.commit = true;
    }

    /// Its records stay a hole.
    pub fn abort(self) {
        drop(self);
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        // Of a partition that is gone nothing is open.
        if let Ok(partition) = self.shared.lock().partition(&self.partition) {
            partition.finish(self.transaction, self.commit);
        }
    }
}

impl fmt::Debug for OpenTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenTransaction({} on {})", self.transaction, self.partition)
    }
}
