//! Claims, and commits under their fence.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::faults::{Fate, disturbance, happens};
use super::state::{Fence, State, refused, uncertain};
use crate::log::group::{Backend, Disturbance, Place};
use crate::log::{Append, Error, Offsets, TopicPartition, Writer};
use crate::record::Offset;

impl Backend for Shared {
    fn claim(self: Arc<Self>, place: Place) -> BoxFuture<'static, Result<Box<dyn Writer>, Error>> {
        async move {
            let (number, settled) = self.lock().fence(&place)?;
            // What the former writer had begun is decided before the new one looks around.
            sleep_until(settled).await;
            Ok(Box::new(MemoryWriter { shared: self, place, number, spent: false }) as Box<dyn Writer>)
        }
        .boxed()
    }

    fn stored<'a>(
        &'a self,
        group: &'a str,
        partition: &'a TopicPartition,
    ) -> BoxFuture<'a, Result<Option<Offset>, Error>> {
        let mut state = self.lock();
        let key = (group.to_owned(), partition.clone());
        let stored = state.look_up().map(|()| state.positions.get(&key).copied());
        ready(stored).boxed()
    }

    fn store<'a>(
        &'a self,
        group: &'a str,
        positions: &'a [(TopicPartition, Offset)],
    ) -> BoxFuture<'a, Result<(), Error>> {
        let mut state = self.lock();
        let stored = state.look_up().map(|()| {
            let positions = positions.iter().map(|(of, offset)| ((group.to_owned(), of.clone()), *offset));
            state.positions.extend(positions);
        });
        ready(stored).boxed()
    }

    fn disturb(&self) -> Option<Disturbance> {
        let mut state = self.lock();
        let State { faults, dice, .. } = &mut *state;
        disturbance(&mut dice.group, faults)
    }
}

impl State {
    /// Makes a new writer the only one; returns its number, and when all that others wrote can be read.
    fn fence(&mut self, place: &Place) -> Result<(u64, Instant), Error> {
        if happens(&mut self.dice.commit, self.faults.claim_unavailable) {
            return Err(refused());
        }
        place.confirm()?;
        let key = (Arc::clone(&place.group), place.partition.clone());
        let fence = self.fences.entry(key).or_insert_with(|| Fence { writer: 0, settled: Instant::now() });
        fence.writer += 1;
        Ok((fence.writer, fence.settled))
    }

    /// The fence of a place, while it is that of the writer with this number.
    fn fenced_by(&mut self, place: &Place, writer: u64) -> Result<&mut Fence, Error> {
        let key = (Arc::clone(&place.group), place.partition.clone());
        self.fences.get_mut(&key).filter(|fence| fence.writer == writer).ok_or_else(|| {
            Error::Fenced(format!("another writer has claimed {} for group {}", place.partition, place.group))
        })
    }
}

struct MemoryWriter {
    shared: Arc<Shared>,
    place: Place,
    number: u64,
    /// After an error, or a commit that nobody waited for.
    spent: bool,
}

impl MemoryWriter {
    async fn write(&mut self, appends: Vec<Append>) -> Result<Vec<Offsets>, Error> {
        if self.spent {
            return Err(Error::Fenced(format!("the writer of {} has failed before: claim anew", self.place.partition)));
        }
        let (known, fate, offsets) = self.begin(&appends)?;
        self.spent = true;
        sleep_until(known).await;
        match fate {
            Fate::Done => {
                self.spent = false;
                Ok(offsets)
            }
            Fate::UnknownWritten | Fate::UnknownLost => Err(uncertain()),
            Fate::Unavailable => Err(refused()),
        }
    }

    fn begin(&mut self, appends: &[Append]) -> Result<(Instant, Fate, Vec<Offsets>), Error> {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        state.fenced_by(&self.place, self.number)?;
        let begun = state.commit(appends, now)?;
        let fence = state.fenced_by(&self.place, self.number)?;
        fence.settled = fence.settled.max(begun.0);
        Ok(begun)
    }
}

impl Writer for MemoryWriter {
    fn commit_claim(&mut self, appends: Vec<Append>) -> BoxFuture<'_, Result<Vec<Offsets>, Error>> {
        async move {
            self.place.confirm()?;
            self.write(appends).await
        }
        .boxed()
    }

    fn commit(&mut self, appends: Vec<Append>) -> BoxFuture<'_, Result<Vec<Offsets>, Error>> {
        self.write(appends).boxed()
    }
}
