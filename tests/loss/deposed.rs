//! Somebody who has led a partition, and does not know yet that another does, answers for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use seriatim::log::memory::Memory;
use seriatim::log::{Appending, Bounds, Error, Log, Membership, Reader, Topic, TopicPartition, TopicShape, Visibility};
use seriatim::record::{Batch, Offset, Timestamp, TopicIds};
use seriatim::resequence::{self, Options};
use tokio_util::sync::CancellationToken;

use super::{DEADLINE, LANE, Rig};

/// A log whose input was once answered for by a leader that is none any more.
struct Deposed {
    log: Memory,
    input: TopicPartition,
    behind: AtomicBool,
}

impl Log for Deposed {
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
        async move {
            let bounds = self.log.bounds(of).await?;
            if *of == self.input && self.behind.swap(false, Ordering::Relaxed) {
                return Ok(Bounds { stable_end: Offset(2), end: Offset(2), ..bounds });
            }
            Ok(bounds)
        }
        .boxed()
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
        self.log.join(group, topics, member)
    }
}

#[tokio::test(start_paused = true)]
async fn one_answer_of_a_deposed_leader_halts_nobody() {
    let rig = Rig::new().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[0, 1, 2, 3])).await;
    let of = rig.topics.input.partition(LANE);
    let log = Arc::new(Deposed { log: rig.log.clone(), input: of, behind: AtomicBool::new(true) });
    let options = Options { deadline: DEADLINE, window: rig.window, ..Options::default() };
    let owner = resequence::run(log, rig.topics.clone(), options, "t.resequence", "m", 1, CancellationToken::new());
    tokio::select! {
        ended = owner => panic!("it ended: {ended:?}"),
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    assert_eq!(rig.cursor().await.halted, None);
    assert_eq!(rig.bodies().await, "abcd");
}
