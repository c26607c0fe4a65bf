//! A worker in another language, who knows the documented contract of the work topic and nothing
//! else: takes part in the group, copies headers, answers to the results. A careless one says that
//! it is done with a record before it is, as clients with automatic commits do.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use seriatim::log::{Error, Event, Log as _, Membership, Reader, TopicPartition, Visibility};
use seriatim::record::{Batch, BatchBuilder, Offset, ResultHeaders, Status};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::chance::{happens, scattered};
use crate::message::mark;
use crate::world::Shared;

/// What it waits for: the next records of a partition, or the end of its work on one.
enum Woken {
    Read(TopicPartition, u64, Box<dyn Reader>, Result<Vec<Batch>, Error>),
    Answered,
}

/// One life of such a worker. It ends for whatever goes wrong, and begins anew.
pub(crate) async fn work(world: Shared, member: String, seed: u64, drain: CancellationToken) -> Result<(), String> {
    let topics = [world.topics.work.clone()];
    let Ok(membership) = world.log.join("t.work", &topics, &member).await else { return Ok(()) };
    let life = Life {
        rng: Rng::with_seed(seed),
        waits: FuturesUnordered::new(),
        held: BTreeMap::new(),
        begun: 0,
        world,
        membership,
    };
    tokio::select! {
        biased;
        () = drain.cancelled() => {}
        // The group has expelled it, or the log does not answer.
        _ended = life.run() => {}
    }
    Ok(())
}

struct Life {
    rng: Rng,
    waits: FuturesUnordered<BoxFuture<'static, Woken>>,
    /// What is assigned, with the number of the assignment: what was read for an earlier one is not taken.
    held: BTreeMap<TopicPartition, u64>,
    begun: u64,
    world: Shared,
    membership: Box<dyn Membership>,
}

impl Life {
    async fn run(mut self) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                event = self.membership.next() => match event? {
                    Event::Assigned(partitions) => {
                        for at in partitions {
                            self.begin(at).await?;
                        }
                    }
                    Event::Revoked(partitions, _) | Event::Lost(partitions) => {
                        self.held.retain(|at, _| !partitions.contains(at));
                    }
                },
                Some(woken) = self.waits.next() => {
                    if let Woken::Read(at, number, reader, fetched) = woken
                        && self.held.get(&at) == Some(&number)
                    {
                        self.read(&at, reader.position(), fetched?).await?;
                        self.wait(at, number, reader);
                    }
                }
            }
        }
    }

    async fn begin(&mut self, at: TopicPartition) -> Result<(), Error> {
        let from = self.membership.committed(&at).await?.unwrap_or_default();
        let reader = self.world.log.read(&at, from, Visibility::Durable, 1).await?;
        self.begun += 1;
        self.held.insert(at.clone(), self.begun);
        self.wait(at, self.begun, reader);
        Ok(())
    }

    fn wait(&self, at: TopicPartition, number: u64, mut reader: Box<dyn Reader>) {
        self.waits.push(
            async move {
                let fetched = reader.next().await.map(|fetched| fetched.batches);
                Woken::Read(at, number, reader, fetched)
            }
            .boxed(),
        );
    }

    async fn read(&mut self, at: &TopicPartition, position: Offset, batches: Vec<Batch>) -> Result<(), Error> {
        let answers: Vec<_> = batches.iter().flat_map(Batch::singles).map(|record| self.answer(record)).collect();
        if self.world.is_chaos() || happens(&mut self.rng, 0.5) {
            // Careless: from here on nobody in the group will look at them again.
            self.membership.commit(&[(at.clone(), position)]).await?;
            self.waits.extend(answers);
        } else {
            for answer in answers {
                answer.await;
            }
            self.membership.commit(&[(at.clone(), position)]).await?;
        }
        Ok(())
    }

    /// Works on a record and answers, some time.
    fn answer(&mut self, record: Batch) -> BoxFuture<'static, Woken> {
        let (world, mut rng) = (self.world.clone(), self.rng.fork());
        async move {
            let time = scattered(&mut rng, Duration::from_millis(1), Duration::from_millis(300));
            let answer = record.first().and_then(|read| {
                let headers = ResultHeaders::decode(read.headers).ok()?;
                world.may_be_worked_on(headers.source);
                let body =
                    format!("{}|{member}", mark(headers.source, read.value.unwrap_or_default()), member = rng.u64(..));
                let mut builder = BatchBuilder::default();
                let status = Some(Status::Done);
                let headers = ResultHeaders {
                    status,
                    destinations: None,
                    content_type: None,
                    worker: Some(b"foreign"),
                    ..headers
                };
                builder.push(Some(headers.source.offset.to_string().as_bytes()), Some(body.as_bytes()), |h| {
                    headers.encode(h);
                });
                Some((headers.source.lane, builder.finish()))
            });
            sleep(time).await;
            if let Some((lane, batch)) = answer
                && let Ok(appending) = world.log.append(&world.topics.results.partition(lane), batch).await
            {
                // Whether it is there is not asked for: the record's clock will tell.
                let _ = appending.await;
            }
            Woken::Answered
        }
        .boxed()
    }
}
