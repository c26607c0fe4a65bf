//! One turn of the writing thread: what was waiting becomes one atomic step of the store.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use fjall::OwnedWriteBatch;
use tokio::sync::OwnedSemaphorePermit;

use super::marks::{Found, Marks, weight};
use super::store::{encode, key};
use super::thread::{Append, Commit, Op, Removal, Reply, WritingThread};
use super::topics::{position_key, start_key};
use crate::log::{Error, Offsets, TopicPartition};
use crate::record::{Batch, Offset, Timestamp};

/// Appends to one partition are stored together up to this size: fewer keys, and readers get
/// batches worth their while even where records come one by one.
const MERGE: usize = 256 << 10;

pub(super) struct Turn<'a> {
    thread: &'a mut WritingThread,
    now: Timestamp,
    step: OwnedWriteBatch,
    /// By the partitions' indices, so that their order is the same every time.
    growing: BTreeMap<usize, Growing>,
    answers: Vec<Answer>,
    /// Given back when the turn is over.
    room: Vec<OwnedSemaphorePermit>,
}

/// What is to be said once the turn is durable.
enum Answer {
    Appended(Reply<Offsets>, Offsets),
    Committed(Reply<Vec<Offsets>>, Vec<Offsets>),
    Claimed(Reply<u64>, u64),
    Done(Reply<()>),
}

/// What a partition gets in this turn.
struct Growing {
    marks: Arc<Marks>,
    head: Found,
    /// Where this turn begins.
    first: Offset,
    /// Not yet stored: from here on.
    base: Offset,
    parts: Vec<Batch>,
    size: usize,
    stored: Vec<(Bytes, Batch)>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(thread: &'a mut WritingThread) -> Self {
        let step = thread.store.step();
        let now = Timestamp::system();
        Self { thread, now, step, growing: BTreeMap::new(), answers: Vec::new(), room: Vec::new() }
    }

    /// Takes an operation into the turn, or refuses it at once. An answer that nobody waits for
    /// is no trouble: what was asked is done all the same.
    pub(super) fn take(&mut self, op: Op) {
        match op {
            Op::Append { append, room, reply } => {
                self.room.push(room);
                let intake = self.thread.options.intake.contains(&append.to.at.topic);
                match self.thread.space.refuses_append(intake) {
                    Some(reason) => drop(reply.send(Err(Error::Unavailable(reason.to_owned())))),
                    None => {
                        let offsets = self.place(append);
                        self.answers.push(Answer::Appended(reply, offsets));
                    }
                }
            }
            Op::Commit { commit, room, reply } => {
                self.room.push(room);
                match self.commit(commit) {
                    Ok(offsets) => self.answers.push(Answer::Committed(reply, offsets)),
                    Err(e) => drop(reply.send(Err(e))),
                }
            }
            Op::Claim { place, reply } => match place.confirm() {
                Ok(()) => {
                    self.thread.next_writer += 1;
                    self.thread.fences.insert((place.group, place.partition), self.thread.next_writer);
                    self.answers.push(Answer::Claimed(reply, self.thread.next_writer));
                }
                Err(e) => drop(reply.send(Err(e))),
            },
            Op::Store { group, positions, reply } => {
                self.store(&group, positions);
                self.answers.push(Answer::Done(reply));
            }
            Op::Remove { removal, reply } => {
                self.remove(&removal);
                self.answers.push(Answer::Done(reply));
            }
        }
    }

    fn commit(&mut self, commit: Commit) -> Result<Vec<Offsets>, Error> {
        let Commit { place, writer, confirm, appends } = commit;
        if confirm {
            place.confirm()?;
        }
        let fence = (place.group, place.partition);
        if self.thread.fences.get(&fence) != Some(&writer) {
            let (group, partition) = fence;
            return Err(Error::Fenced(format!("another writer has claimed {partition} for group {group}")));
        }
        if let Some(reason) = self.thread.space.refuses_commits() {
            return Err(Error::Unavailable(reason.to_owned()));
        }
        Ok(appends.into_iter().map(|append| self.place(append)).collect())
    }

    fn store(&mut self, group: &str, positions: Vec<(TopicPartition, Offset)>) {
        for (of, offset) in &positions {
            self.thread.store.put_meta(&mut self.step, &position_key(group, of), *offset);
        }
        let mut known = self.thread.positions.lock().expect("no holder of this lock panics");
        known.extend(positions.into_iter().map(|(of, offset)| ((group.to_owned(), of), offset)));
    }

    fn remove(&mut self, Removal { from, bases, start }: &Removal) {
        // First, so that a reader who finds a batch gone can learn why.
        from.begin_at(*start);
        for base in bases {
            self.step.remove(&from.keyspace, key(from.at.partition, *base));
        }
        self.thread.store.put_meta(&mut self.step, &start_key(&from.at), *start);
    }

    fn place(&mut self, Append { to, batch }: Append) -> Offsets {
        if batch.is_empty() {
            return Offsets::default();
        }
        let now = self.now;
        let growing = self.growing.entry(to.index).or_insert_with(|| Growing::new(to, now));
        growing.push(batch)
    }

    /// Writes, tells the readers, syncs, tells them again, and answers. Where that fails the log
    /// has stopped before anybody learns that the outcome is unknown.
    pub(super) fn finish(mut self) -> ControlFlow<()> {
        if let Err(reason) = self.write() {
            self.thread.stop(&reason);
            return ControlFlow::Break(());
        }
        for answer in self.answers {
            match answer {
                Answer::Appended(reply, offsets) => drop(reply.send(Ok(offsets))),
                Answer::Committed(reply, offsets) => drop(reply.send(Ok(offsets))),
                Answer::Claimed(reply, writer) => drop(reply.send(Ok(writer))),
                Answer::Done(reply) => drop(reply.send(Ok(()))),
            }
        }
        ControlFlow::Continue(())
    }

    fn write(&mut self) -> Result<(), String> {
        for growing in self.growing.values_mut() {
            growing.store(&mut self.step);
        }
        if self.step.is_empty() {
            return Ok(());
        }
        let step = std::mem::replace(&mut self.step, self.thread.store.step());
        step.commit().map_err(|e| format!("writing failed: {e}"))?;
        for growing in self.growing.values_mut() {
            let stored = std::mem::take(&mut growing.stored);
            let weights: Vec<_> = stored.iter().map(|(_, batch)| weight(batch)).collect();
            growing.marks.wrote(stored.into_iter().map(|(_, batch)| batch), growing.head);
            weights.into_iter().for_each(|weight| self.thread.cache(&growing.marks, weight));
        }
        (self.thread.options.before_sync)().map_err(|e| format!("sync failed: {e}"))?;
        self.thread.store.sync().map_err(|e| format!("sync failed: {e}"))?;
        self.growing.values().for_each(|growing| growing.marks.synced());
        Ok(())
    }
}

impl Growing {
    fn new(marks: Arc<Marks>, now: Timestamp) -> Self {
        let head = marks.head(now);
        Self { marks, head, first: head.end, base: head.end, parts: Vec::new(), size: 0, stored: Vec::new() }
    }

    fn push(&mut self, batch: Batch) -> Offsets {
        if self.size + batch.frame().len() > MERGE {
            self.seal();
        }
        let offsets = Offsets::run(self.head.end, batch.len());
        self.head.end.0 += batch.len() as u64;
        self.size += batch.frame().len();
        self.parts.push(batch);
        offsets
    }

    /// Makes what has gathered one stored batch.
    fn seal(&mut self) {
        if self.parts.is_empty() {
            return;
        }
        self.stored.push(encode(self.base, self.head.stamped, self.head.bytes, &self.parts));
        self.head.bytes += self.size as u64;
        self.base = self.head.end;
        self.parts.clear();
        self.size = 0;
    }

    fn store(&mut self, step: &mut OwnedWriteBatch) {
        self.seal();
        let Self { marks, stored, .. } = self;
        let gone: Vec<_> = stored.iter().flat_map(|(_, batch)| marks.supersede(batch)).collect();
        let (new, old): (Vec<_>, Vec<_>) = gone.into_iter().partition(|base| *base >= self.first);
        // One step must not both put and remove a key: what is superseded at once is not put.
        for (value, batch) in stored.iter().filter(|(_, batch)| !new.contains(&batch.base())) {
            step.insert(&marks.keyspace, key(marks.at.partition, batch.base()), value.clone());
        }
        for base in old {
            step.remove(&marks.keyspace, key(marks.at.partition, base));
        }
    }
}
