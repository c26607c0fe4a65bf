//! Claims, and commits under their fence.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

use super::thread::{Append as Appended, Commit, Op};
use super::{Shared, admissible};
use crate::log::group::{Backend, Place};
use crate::log::{Append, Error, Offsets, TopicPartition, Writer};
use crate::record::Offset;

impl Backend for Shared {
    fn claim(self: Arc<Self>, place: Place) -> BoxFuture<'static, Result<Box<dyn Writer>, Error>> {
        async move {
            let writer = self.writing.ask(|reply| Op::Claim { place: place.clone(), reply }).await?;
            Ok(Box::new(EmbeddedWriter { shared: self, place, writer, spent: false }) as Box<dyn Writer>)
        }
        .boxed()
    }

    fn stored<'a>(
        &'a self,
        group: &'a str,
        partition: &'a TopicPartition,
    ) -> BoxFuture<'a, Result<Option<Offset>, Error>> {
        ready(Ok(self.topics.position(group, partition))).boxed()
    }

    fn store<'a>(
        &'a self,
        group: &'a str,
        positions: &'a [(TopicPartition, Offset)],
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (group, positions) = (group.to_owned(), positions.to_vec());
        self.writing.ask(|reply| Op::Store { group, positions, reply }).boxed()
    }
}

struct EmbeddedWriter {
    shared: Arc<Shared>,
    place: Place,
    writer: u64,
    /// After an error, or a commit that nobody waited for.
    spent: bool,
}

impl EmbeddedWriter {
    async fn write(&mut self, appends: Vec<Append>, confirm: bool) -> Result<Vec<Offsets>, Error> {
        if self.spent {
            return Err(Error::Fenced(format!("the writer of {} has failed before: claim anew", self.place.partition)));
        }
        let appends = appends.into_iter().map(|append| self.check(append)).collect::<Result<Vec<_>, _>>()?;
        let bytes = appends.iter().map(|append| append.batch.frame().len()).sum();
        let (reply, answer) = tokio::sync::oneshot::channel();
        let commit = Commit { place: self.place.clone(), writer: self.writer, confirm, appends };
        self.spent = true;
        self.shared.writing.enqueue(bytes, |room| Op::Commit { commit, room, reply }).await?;
        let offsets = answer.await.unwrap_or_else(|_| Err(self.shared.writing.stopped().unknown()))?;
        self.spent = false;
        Ok(offsets)
    }

    fn check(&self, Append { to, batch }: Append) -> Result<Appended, Error> {
        let batch = admissible(&to, batch)?;
        Ok(Appended { to: self.shared.topics.get(&to)?, batch })
    }
}

impl Writer for EmbeddedWriter {
    fn commit_claim(&mut self, appends: Vec<Append>) -> BoxFuture<'_, Result<Vec<Offsets>, Error>> {
        self.write(appends, true).boxed()
    }

    fn commit(&mut self, appends: Vec<Append>) -> BoxFuture<'_, Result<Vec<Offsets>, Error>> {
        self.write(appends, false).boxed()
    }
}
