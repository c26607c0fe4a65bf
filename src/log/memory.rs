//! A log in memory: deterministic, for simulation and tests.
//!
//! Its clock is tokio's, so that it follows a paused one; its chance is seeded, one stream a kind
//! of fault, so that the same seed on one thread gives the same history. Faults are off until
//! [`Memory::set_faults`] turns them on. Nothing here is durable, and nothing is written late: an
//! append takes its place at once and merely becomes visible, or known, later.

mod faults;
mod partition;
mod reader;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use tokio::time::Instant;

pub use faults::{Delay, Faults};
pub use state::OpenTransaction;

use self::reader::MemoryReader;
use self::state::State;
use super::group::{Groups, Patience, Seat};
use super::{Appending, Bounds, Error, Log, Membership, Reader, Topic, TopicPartition, TopicShape, Visibility};
use crate::record::{Batch, Offset, Timestamp, TopicIds};

/// What the clock shows when a log is made: a round moment of 2023, the same in every run.
const EPOCH: Timestamp = Timestamp(1_700_000_000_000);

/// The handle of a log in memory. Clones share the log, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    origin: Instant,
    groups: Arc<Groups>,
    state: Mutex<State>,
}

impl Shared {
    fn now(&self) -> Timestamp {
        let elapsed = self.origin.elapsed().as_millis();
        Timestamp(EPOCH.0 + i64::try_from(elapsed).expect("no run takes 292 million years"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

/// A record by itself, for tests to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place.
    pub offset: Offset,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Memory {
    /// An empty log without faults. `seed` decides all that chance will decide.
    ///
    /// # Panics
    ///
    /// Never; but its use outside of a tokio runtime with time does.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            origin: Instant::now(),
            groups: Arc::new(Groups::new(Patience::OF_A_BROKER)),
            state: Mutex::new(State::new(seed)),
        }))
    }

    /// From now on, these faults happen.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// Removes everything below `offset` from a partition, as retention or an operator does.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] where there is no such partition.
    pub fn delete_below(&self, of: &TopicPartition, offset: Offset) -> Result<(), Error> {
        self.0.lock().partition(of)?.delete_below(offset);
        Ok(())
    }

    /// Loses the batches that end above this offset, as after a power failure or an unclean election: what is appended
    /// next has their offsets.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] where there is no such partition.
    pub fn lose_end(&self, of: &TopicPartition, from: Offset) -> Result<(), Error> {
        self.0.lock().partition(of)?.lose_end(from);
        Ok(())
    }

    /// Has the next question for this partition's bounds answered as by somebody who led it before, and knows of it up
    /// to `end` only.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] where there is no such partition.
    pub fn answer_late(&self, of: &TopicPartition, end: Offset) -> Result<(), Error> {
        self.0.lock().partition(of)?.tell_end(end);
        Ok(())
    }

    /// Batches with an offset among these cannot be read any more, as on a disk that has gone bad.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] where there is no such partition.
    pub fn damage(&self, of: &TopicPartition, offsets: Range<Offset>) -> Result<(), Error> {
        self.0.lock().partition(of)?.damage(offsets);
        Ok(())
    }

    /// Compacts a partition now, whatever its topic's shape says.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] where there is no such partition.
    pub fn compact(&self, of: &TopicPartition) -> Result<(), Error> {
        self.0.lock().partition(of)?.compact();
        Ok(())
    }

    /// All committed records of a partition, those not yet visible included; none where it does not exist.
    #[must_use]
    pub fn snapshot(&self, of: &TopicPartition) -> Vec<Stored> {
        self.snapshot_from(of, Offset::ZERO)
    }

    /// As [`Memory::snapshot`], of the records at and after `from`.
    #[must_use]
    pub fn snapshot_from(&self, of: &TopicPartition, from: Offset) -> Vec<Stored> {
        self.0.lock().partition(of).map(|partition| partition.snapshot(from)).unwrap_or_default()
    }

    /// Makes a topic anew, empty, its offsets from 0, as if somebody had deleted and created it.
    /// Groups have no positions in it.
    pub fn recreate(&self, topic: &Topic) {
        self.0.lock().recreate(topic);
        self.0.groups.lose(topic);
    }

    /// Deletes a topic with all that it holds. [`Log::ensure`] makes it anew.
    pub fn delete(&self, topic: &Topic) {
        self.0.lock().delete(topic);
    }

    /// Appends a batch in a transaction that stays open, and so holds the partition's stable end,
    /// until the handle is committed, aborted or dropped, which aborts.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] where there is no such partition.
    pub fn append_uncommitted(&self, to: &TopicPartition, batch: &Batch) -> Result<OpenTransaction, Error> {
        let now = self.0.now();
        let transaction = self.0.lock().partition(to)?.open(batch, now);
        Ok(OpenTransaction::new(Arc::clone(&self.0), to.clone(), transaction))
    }
}

impl Log for Memory {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn ensure<'a>(&'a self, topics: &'a [(Topic, TopicShape)]) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.0.lock().ensure(topics)).boxed()
    }

    fn shape<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Option<TopicShape>, Error>> {
        ready(Ok(self.0.lock().shape(topic))).boxed()
    }

    fn identities<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<TopicIds, Error>> {
        ready(Ok(self.0.lock().identities(topics))).boxed()
    }

    fn is_gone(&self, topic: &Topic) -> bool {
        self.0.lock().is_gone(topic)
    }

    fn bounds<'a>(&'a self, of: &'a TopicPartition) -> BoxFuture<'a, Result<Bounds, Error>> {
        let mut state = self.0.lock();
        let bounds = state.look_up().and_then(|()| Ok(state.partition(of)?.bounds(Instant::now())));
        ready(bounds).boxed()
    }

    fn append<'a>(&'a self, to: &'a TopicPartition, batch: Batch) -> BoxFuture<'a, Result<Appending, Error>> {
        // Within the future: the place in the queue is taken when it is polled, not when it is made.
        async move { self.0.lock().append(to, &batch, self.0.now()) }.boxed()
    }

    fn read<'a>(
        &'a self,
        of: &'a TopicPartition,
        from: Offset,
        _: Visibility,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, Error>> {
        let mut state = self.0.lock();
        let opened = state.look_up().and_then(|()| Ok(state.partition(of)?.changed()));
        let reader = opened.map(|changed| MemoryReader::new(Arc::clone(&self.0), of.clone(), from, max_bytes, changed));
        ready(reader.map(|reader| Box::new(reader) as Box<dyn Reader>)).boxed()
    }

    fn join<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [Topic],
        _member: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Membership>, Error>> {
        async move {
            let partitions = self.0.lock().partitions(topics)?;
            let seat = Seat::join(&self.0.groups, Arc::clone(&self.0), group, partitions);
            Ok(Box::new(seat) as Box<dyn Membership>)
        }
        .boxed()
    }
}
