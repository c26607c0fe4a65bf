//! A partition that is assigned to a client, and the reader that it is fetched for.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use crate::log::kafka::errors::{Meaning, meaning};
use crate::log::kafka::feed::Feed;
use crate::log::kafka::native::{Fetched, Kind, PartitionQueue};
use crate::log::kafka::settle;
use crate::record::{BatchBuilder, Offset, Timestamp};

/// So many events of a partition are taken before the next one's turn comes: a millisecond or two of work.
const TURN: usize = 2_048;

/// A batch of records for a reader has so many bytes at most, unless a single record has more.
const BATCH: usize = 256 << 10;

/// A partition whose reader has had no room for so long is given up, until it has. What waits in
/// its queue keeps in memory the whole replies that it came with, so that a few small records would keep much
/// of what busy partitions were sent meanwhile. A reader that is merely slower than Kafka makes room sooner.
const STANDSTILL: Duration = Duration::from_secs(1);

pub(super) struct Slot {
    queue: PartitionQueue,
    filling: Filling,
    /// There may be more in the queue, although nothing rings.
    more: bool,
    /// Since when the reader has no room. Then the queue is left alone.
    full: Option<Instant>,
}

/// How a turn ended.
pub(super) enum Served {
    /// There is nothing more for now, or no room.
    All,
    /// There is more.
    Some,
    /// Nothing is to be fetched any more, unless a reader asks again.
    Over,
}

/// What the reader is to get next.
struct Filling {
    feed: Arc<Feed>,
    /// The next record has this offset at least.
    next: Offset,
    room: usize,
    builder: BatchBuilder,
    base: (Offset, Timestamp),
    /// A record was taken since the assignment, so that the queue's position is that of this one.
    seen: bool,
}

impl Slot {
    /// Of a partition that was assigned from `next`.
    pub(super) fn new(feed: Arc<Feed>, queue: PartitionQueue, next: Offset) -> Self {
        let room = feed.room();
        let base = (next, Timestamp(0));
        let filling = Filling { feed, next, room, builder: BatchBuilder::default(), base, seen: false };
        Self { queue, filling, more: true, full: None }
    }

    pub(super) fn is_for(&self, feed: &Arc<Feed>) -> bool {
        Arc::ptr_eq(&self.filling.feed, feed)
    }

    /// The reader has room again.
    pub(super) fn resume(&mut self) {
        self.full = None;
        self.more = true;
        self.filling.room = self.filling.feed.room();
    }

    /// The partition is assigned no more.
    pub(super) fn end(self) {
        self.queue.discard();
    }

    /// Hands over what there is, for a turn at most and as long as there is room.
    pub(super) fn serve(&mut self) -> Served {
        if let Some(since) = self.full {
            return if since.elapsed() < STANDSTILL { Served::All } else { Served::Over };
        }
        // Whatever comes from here on rings again.
        self.more |= self.queue.rung();
        if !self.more {
            return Served::All;
        }
        let taken = self.take();
        // Markers behind the last record are passed only when everything was taken.
        if taken == Taken::All && self.filling.seen {
            self.filling.pass_to(self.queue.position().map(Offset));
        }
        let full = self.filling.flush();
        if let Taken::Failure(code) = taken {
            self.filling.feed.fail(code);
            return Served::Over;
        }
        self.full = full.then(Instant::now);
        self.more = taken == Taken::Some;
        if self.more && !full { Served::Some } else { Served::All }
    }

    fn take(&mut self) -> Taken {
        for _ in 0..TURN {
            if self.filling.room == 0 {
                return Taken::Some;
            }
            let Some(event) = self.queue.poll() else { return Taken::All };
            match event.kind() {
                Kind::Record(record) => self.filling.take(record),
                Kind::Failed { code: Code::PartitionEOF, offset, .. } => {
                    let offset = offset.and_then(|offset| u64::try_from(offset).ok());
                    self.filling.pass_to(offset.map(Offset));
                }
                Kind::Failed { code, reason, .. } if passes(code) => {
                    tracing::debug!(of = %self.filling.feed.of, %code, reason, "fetching");
                }
                Kind::Failed { code, .. } => return Taken::Failure(code),
                Kind::Log { .. } | Kind::Reports(_) | Kind::Rebalance { .. } | Kind::Other => {}
            }
        }
        Taken::Some
    }
}

/// What was taken of a queue.
#[derive(PartialEq, Eq)]
enum Taken {
    All,
    Some,
    /// All before this.
    Failure(Code),
}

/// Whether librdkafka goes on by itself after this.
fn passes(code: Code) -> bool {
    match meaning(code) {
        Meaning::Away | Meaning::Rebalancing | Meaning::Unsent => true,
        // A topic that has just been made is not known everywhere yet.
        Meaning::Missing => code == Code::UnknownTopicOrPartition,
        Meaning::Refused | Meaning::Fenced | Meaning::Stale | Meaning::OutOfRange | Meaning::Broken => false,
    }
}

impl Filling {
    fn take(&mut self, record: Fetched<'_>) {
        let offset = Offset(record.offset());
        if offset < self.next {
            return;
        }
        self.seen = true;
        if settle::is_end(&record) {
            self.next = offset.next();
            return;
        }
        let at = (offset, Timestamp(record.timestamp()));
        if self.builder.is_empty() {
            self.base = at;
        }
        self.builder.push_at(self.base, at, record.key(), record.value(), |headers| record.headers(headers));
        self.next = offset.next();
        self.room = self.room.saturating_sub(record.size().max(1));
        if self.builder.size() >= BATCH {
            let batch = self.builder.finish_at(self.base.0, self.base.1);
            self.feed.put([batch], self.next);
            self.room = self.room.min(self.feed.room());
        }
    }

    /// There is nothing below `offset` that was not taken.
    fn pass_to(&mut self, offset: Option<Offset>) {
        self.next = self.next.max(offset.unwrap_or(self.next));
    }

    /// Hands over what there is; returns whether the reader is full.
    fn flush(&mut self) -> bool {
        let batch = (!self.builder.is_empty()).then(|| self.builder.finish_at(self.base.0, self.base.1));
        let full = self.feed.put(batch, self.next);
        self.room = self.feed.room();
        full
    }
}
