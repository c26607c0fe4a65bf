//! The log contract: all that the stages ask of a log, and nothing of Kafka's.
//!
//! A log has topics, a topic has numbered partitions, a partition is an append-only sequence of
//! records. There are five verbs: **append** (ordered, durable when acknowledged), **read** a
//! partition from a position (committed records; the next position is reported over holes),
//! **join** a group that shares out partitions (assigned, revoked with a barrier), **claim** one of
//! them and **commit** appends to several partitions in one atomic step under that claim's fence,
//! and questions: **bounds**, **shape**, **identities** and whether a topic **is gone**. Cursors are records, so they
//! need no verb of their own.
//!
//! Cancellation: dropping a future of this contract never undoes what was begun. An append or a
//! commit whose future is dropped has an unknown outcome, exactly as one whose process dies.

pub(crate) mod damage;
pub mod embedded;
mod group;
pub mod kafka;
pub mod memory;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::record::{Batch, Offset, Partition, Timestamp, TopicIds};

/// A topic's full name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One of the topic's partitions.
    #[must_use]
    pub fn partition(&self, partition: Partition) -> TopicPartition {
        TopicPartition { topic: self.clone(), partition }
    }

    /// The first `count` of the topic's partitions.
    pub fn partitions(&self, count: u32) -> impl Iterator<Item = TopicPartition> + '_ {
        (0..count).map(|number| self.partition(Partition(number)))
    }
}

impl From<&str> for Topic {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for Topic {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One partition of one topic. Displays as `topic[3]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The number of the partition in it.
    pub partition: Partition,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// What a log removes of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cleanup {
    /// Records that are older than the retention, oldest first.
    Delete,
    /// Records whose key occurs again later in the partition.
    Compact,
    /// Nothing, ever.
    Keep,
}

/// What a topic has to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicShape {
    /// How many partitions it has; fixed at creation.
    pub partitions: u32,
    /// What is removed from it.
    pub cleanup: Cleanup,
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The lowest offset that may still be read. Higher than 0 once something was removed.
    pub start: Offset,
    /// A reader that has come here has seen every record committed so far; open transactions end it.
    pub stable_end: Offset,
    /// The offset that the next record will have at least, open transactions included.
    pub end: Offset,
}

/// How much a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Committed records that survive a crash: for whatever leaves the process.
    Durable,
    /// Also committed records that are still on their way to the disk. What is derived from them
    /// becomes durable after them, so inner stages need not wait. Same as `Durable` on engines
    /// that acknowledge only what is durable.
    Written,
}

/// The offsets that an append was given, in the order of its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets(Vec<(Offset, usize)>);

impl Offsets {
    /// `count` consecutive offsets from `first`.
    #[must_use]
    pub fn run(first: Offset, count: usize) -> Self {
        Self(vec![(first, count)])
    }

    /// Adds the next record's offset.
    pub fn push(&mut self, offset: Offset) {
        match self.0.last_mut() {
            Some((first, count)) if first.0 + *count as u64 == offset.0 => *count += 1,
            _ => self.0.push((offset, 1)),
        }
    }

    /// The offset of the record at `index`, `None` beyond the last.
    #[must_use]
    pub fn get(&self, mut index: usize) -> Option<Offset> {
        for (first, count) in &self.0 {
            if index < *count {
                return Some(Offset(first.0 + index as u64));
            }
            index -= count;
        }
        None
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Offset> + '_ {
        self.0.iter().flat_map(|(first, count)| (first.0..first.0 + *count as u64).map(Offset))
    }
}

/// Why a log refused, failed or does not know. The classes decide what a stage does next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was done; the same call may succeed later (broker away, queue full, disk nearly full).
    #[error("{0}")]
    Unavailable(String),
    /// Nothing was done and repeating will not help: the record or the topic must change.
    #[error("{at}: {reason}")]
    Rejected {
        /// Where.
        at: TopicPartition,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// It may have been done or not; only the log can tell.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Another owner has taken over; this one has to let go. What was asked was not done.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The position asked for lies below the log's start: records that were needed are gone.
    #[error("{at}: position {wanted} was asked for, but the log starts at {start}")]
    Lost {
        /// Where.
        at: TopicPartition,
        /// The position asked for.
        wanted: Offset,
        /// The lowest offset there is.
        start: Offset,
    },
    /// The log is damaged or not what it claims to be. An operator has to look.
    #[error("{0}")]
    Damaged(String),
}

/// Acknowledgement of an append: resolves once the records are durable, with their offsets.
pub type Appending = BoxFuture<'static, Result<Offsets, Error>>;

/// One of several appends of an atomic commit.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where to.
    pub to: TopicPartition,
    /// What, in order.
    pub batch: Batch,
}

/// What a reader found.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Committed records in offset order, possibly none where only holes were passed.
    pub batches: Vec<Batch>,
    /// The position to read on from; every committed record below it has been handed out.
    pub next: Offset,
}

/// A partition being read, front to back.
pub trait Reader: Send {
    /// Waits until there is something at or after the position, then hands it out and moves on.
    /// Holds at most the bytes asked for at opening, or one batch. Cancel-safe: nothing is lost
    /// where the future is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] where the position has been removed; it is never moved silently.
    /// [`Error::Damaged`] where it lies beyond the log's end, as after a topic was made anew.
    fn next(&mut self) -> BoxFuture<'_, Result<Fetched, Error>>;

    /// The offset that [`Reader::next`] looks for next.
    fn position(&self) -> Offset;

    /// To be called by who may not ask for more for a while, as long as its own client takes: nobody else
    /// who reads the partition then waits for it. The next call goes on from the position.
    fn rest(&mut self) {}
}

/// What happened to a member of a group.
#[derive(Debug)]
pub enum Event {
    /// These partitions are now this member's; in addition to those it has.
    Assigned(Vec<TopicPartition>),
    /// These are to be let go. They go to others once the barrier is dropped, or when the log
    /// loses patience (the session time-out), so finish or abandon their work first.
    Revoked(Vec<TopicPartition>, Barrier),
    /// These are gone already; whatever is under way for them is to be abandoned. Those of a topic that was deleted
    /// and made anew are lost, and assigned again: it is another topic.
    Lost(Vec<TopicPartition>),
}

/// Held by a member that lets go; dropping it lets the partitions move on.
pub struct Barrier(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Barrier {
    /// A barrier that calls `release`, once, when it is dropped. For engines.
    #[must_use]
    pub fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(release)))
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        if let Some(release) = self.0.take() {
            release();
        }
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Barrier")
    }
}

/// A place in a group that shares out the partitions of some topics. Dropping it leaves the group
/// as a crash does; [`Membership::leave`] does so in order.
pub trait Membership: Send {
    /// Waits for the next change of the assignment. Cancel-safe. Must be called again and again:
    /// a member that stops listening is taken for dead.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] where the group has expelled this member for good.
    fn next(&mut self) -> BoxFuture<'_, Result<Event, Error>>;

    /// Makes sure that this member still holds `partition`, fences every former writer of it and
    /// ends what they left open. The new writer is the only one whose commits count.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] to be tried again while the assignment holds, [`Error::Fenced`] where it does not.
    fn claim<'a>(&'a mut self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Box<dyn Writer>, Error>>;

    /// The position that the group last stored for a partition. One that is known to be about a topic which was
    /// deleted, and made anew under its name, is none.
    fn committed<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Option<Offset>, Error>>;

    /// Stores positions for the group: everything below them is done. Not part of any atomic step. They are about the
    /// topic that was there when the member last asked for the group's.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] where one of the partitions is no longer this member's.
    fn commit<'a>(&'a self, positions: &'a [(TopicPartition, Offset)]) -> BoxFuture<'a, Result<(), Error>>;

    /// Lets go of everything and leaves, so that others take over at once.
    fn leave(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// All that the commits of a writer may write to.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Where nobody else commits. First where every commit writes to: the cursor.
    pub alone: Vec<TopicPartition>,
    /// Where others commit, too: perhaps anybody, with transactions open for as long as they like.
    pub with_others: Vec<TopicPartition>,
}

/// The fenced right to commit on behalf of one partition of a group.
///
/// After any error but [`Error::Rejected`] a writer must not be used again: claim anew.
pub trait Writer: Send {
    /// Sees to it that all that former writers were told is committed can be read; called once, before
    /// anything else. What a log knows of its own accord it need not do here.
    ///
    /// # Errors
    ///
    /// As [`Writer::commit`].
    fn settle<'a>(&'a mut self, _written: &'a Written) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// As [`Writer::commit`], once, before all others: the group is asked again whether the member that
    /// claimed is still a member of the same generation.
    fn commit_claim(&mut self, appends: Vec<Append>) -> BoxFuture<'_, Result<Vec<Offsets>, Error>>;

    /// Appends everything or nothing, in one atomic step; resolves once it is durable, with the
    /// offsets of each append. Readers see all of it or none of it. The first append is the cursor,
    /// which counts the others: where brokers lose a part of what they have acknowledged, it is not to
    /// be what remains.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] names the append that cannot be; the rest may be committed without it.
    /// [`Error::Fenced`]: nothing was written, another writer has claimed. [`Error::Unknown`]: all
    /// or nothing was written.
    fn commit(&mut self, appends: Vec<Append>) -> BoxFuture<'_, Result<Vec<Offsets>, Error>>;
}

/// A log. See the module's documentation.
pub trait Log: Send + Sync + 'static {
    /// The log's clock, the one that stamps its records.
    fn now(&self) -> Timestamp;

    /// Makes sure that the topics exist with these shapes; creates those that do not.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] naming the topic where one exists with another number of partitions.
    fn ensure<'a>(&'a self, topics: &'a [(Topic, TopicShape)]) -> BoxFuture<'a, Result<(), Error>>;

    /// What a topic is like, `None` where there is none of this name.
    fn shape<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Option<TopicShape>, Error>>;

    /// What tells these topics from others that are made under their names later; without those that do not
    /// exist, and without any where the log does not tell. One question to the log, however many they are.
    fn identities<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<TopicIds, Error>>;

    /// Whether a topic that was there has been missing for so long, and so plainly, that nobody need wait for
    /// it: somebody has to make it anew. Answered from what the log was asked before; a topic that was never
    /// there, or is merely not told of for a moment, is not gone. Does not block.
    fn is_gone(&self, _topic: &Topic) -> bool {
        false
    }

    /// Where a partition begins and ends now.
    fn bounds<'a>(&'a self, of: &'a TopicPartition) -> BoxFuture<'a, Result<Bounds, Error>>;

    /// Appends a batch outside any transaction. The first future is a place in the queue: batches
    /// go to a partition in the order in which these calls completed, and it waits while the log
    /// is overloaded, at most for the log's own time-out. The second one acknowledges.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`], [`Error::Rejected`]: not written. [`Error::Unknown`]: perhaps
    /// written; later batches of the same partition may have been, too.
    fn append<'a>(&'a self, to: &'a TopicPartition, batch: Batch) -> BoxFuture<'a, Result<Appending, Error>>;

    /// Opens a partition for reading at `from`, holes included. Reads at most `max_bytes` at once.
    fn read<'a>(
        &'a self,
        of: &'a TopicPartition,
        from: Offset,
        visibility: Visibility,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, Error>>;

    /// Joins a group over some topics, under a name that is shown to operators.
    fn join<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [Topic],
        member: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Membership>, Error>>;
}

/// The longest that a member may be silent before its partitions go to others; what an observer
/// may assume about take-overs, and the default session time-out of every engine.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
