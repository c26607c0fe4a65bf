//! A log that notes when somebody has joined a group through it, which is when a role is ready.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt};

use super::readiness::Latch;
use crate::log::{Appending, Bounds, Error, Log, Membership, Reader, Topic, TopicPartition, TopicShape, Visibility};
use crate::record::{Batch, Offset, Timestamp, TopicIds};

/// Passes everything on to `log`, and lets go of the latch at the first join.
pub(super) struct Joined {
    log: Arc<dyn Log>,
    latch: Mutex<Option<Latch>>,
}

impl Joined {
    pub(super) fn new(log: Arc<dyn Log>, latch: Latch) -> Self {
        Self { log, latch: Mutex::new(Some(latch)) }
    }
}

impl Log for Joined {
    fn now(&self) -> Timestamp {
        self.log.now()
    }

    fn ensure<'a>(&'a self, topics: &'a [(Topic, TopicShape)]) -> BoxFuture<'a, Result<(), Error>> {
        self.log.ensure(topics)
    }

    fn shape<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Option<TopicShape>, Error>> {
        self.log.shape(topic)
    }

    fn identities<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<TopicIds, Error>> {
        self.log.identities(topics)
    }

    fn is_gone(&self, topic: &Topic) -> bool {
        self.log.is_gone(topic)
    }

    fn bounds<'a>(&'a self, of: &'a TopicPartition) -> BoxFuture<'a, Result<Bounds, Error>> {
        self.log.bounds(of)
    }

    fn append<'a>(&'a self, to: &'a TopicPartition, batch: Batch) -> BoxFuture<'a, Result<Appending, Error>> {
        self.log.append(to, batch)
    }

    fn read<'a>(
        &'a self,
        of: &'a TopicPartition,
        from: Offset,
        visibility: Visibility,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, Error>> {
        self.log.read(of, from, visibility, max_bytes)
    }

    fn join<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [Topic],
        member: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Membership>, Error>> {
        let joining = self.log.join(group, topics, member);
        async {
            let membership = joining.await?;
            drop(self.latch.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(membership)
        }
        .boxed()
    }
}
