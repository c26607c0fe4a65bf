//! A durable log in a folder of this process, on `fjall`.
//!
//! One thread writes. It takes what waits in a bounded queue, puts it into the store's journal in
//! one atomic step, tells the readers of what is written, syncs once, tells them of what is
//! durable, and acknowledges. While it syncs the next turn gathers, so that the cost of a sync is
//! shared by as many as are waiting and nobody waits for company.
//!
//! What is stored is a batch of records under (partition, base offset), in one keyspace a topic:
//! few memtables whatever the number of lanes, and appends of a lane in key order. Offsets are
//! dense. The newest batches stay in memory, shared between store and readers; what is further
//! back is read from the store on the blocking pool, so that a cold disk holds up no stage.
//!
//! A write or a sync that fails ends the process: after a failed sync nobody can say what is on
//! the disk, and the journal has to be read again.

mod claim;
mod compact;
mod floor;
mod folder;
mod marks;
mod reader;
mod retain;
mod space;
mod store;
mod tail;
mod thread;
mod topics;
mod turn;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

pub use folder::OpenError;
pub use retain::Retention;
pub use space::nearly_full;

use self::reader::EmbeddedReader;
use self::store::Store;
use self::thread::{Append as Appended, Op, Writing};
use self::topics::Topics;
use super::group::{Groups, Patience, Seat};
use super::{
    Appending, Bounds, Error, Log, Membership, Reader, SESSION_TIMEOUT, Topic, TopicPartition, TopicShape, Visibility,
};
use crate::record::{Batch, BatchBuilder, Offset, Timestamp, TopicIds};

/// The most bytes one append may hold; larger ones are refused. A commit's appends count singly.
pub const MAX_BATCH: usize = 64 << 20;

/// What is known of a member's death is known at once: it is in this process.
const PATIENCE: Patience = Patience { silence: None, crash: Duration::ZERO, letting_go: SESSION_TIMEOUT };

/// Each time costs two syncs of small files; what was written since is guarded only once it is over.
const FLOOR_EVERY: Duration = Duration::from_secs(5);

/// How a log is to be opened.
#[derive(Clone)]
pub struct Options {
    /// How many bytes of the newest batches stay in memory for readers, over all partitions.
    pub cache: usize,
    /// The topics that bring in new work: appends to them are the first to be refused.
    pub intake: BTreeSet<Topic>,
    /// How much disk the log may take before intake is refused; `None`: what there is. What has
    /// been taken in may go beyond it, so that it can be finished and then removed.
    pub max_disk: Option<u64>,
    /// Intake is refused when less than this is free on the disk. Half of it is kept from other
    /// plain appends, such as results, and a quarter even from commits, with which a pipeline drains.
    pub reserve: u64,
    /// How often it is noted how far the partitions reach, so that a later opening can tell when
    /// records have gone missing; it is noted at closing in any case.
    pub floor_every: Duration,
    /// Called once, with the reason, when a write or a sync has failed. It should end the
    /// process, as the default does; if it returns, the log refuses everything from then on.
    pub on_fatal: fn(&str),
    /// Called before each sync; an error counts as the sync's. For tests of failing disks.
    #[doc(hidden)]
    pub before_sync: fn() -> std::io::Result<()>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache: 64 << 20,
            intake: BTreeSet::new(),
            max_disk: None,
            reserve: 256 << 20,
            floor_every: FLOOR_EVERY,
            on_fatal: abort,
            before_sync: || Ok(()),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("cache", &self.cache).field("max_disk", &self.max_disk).finish_non_exhaustive()
    }
}

fn abort(reason: &str) {
    tracing::error!(reason, "the log cannot be written; ending the process, a restart reads its journal again");
    std::process::abort();
}

/// The handle of an open log. Clones share it; it closes when the last of them and of its
/// readers, writers and memberships is dropped, which waits for what was accepted to be durable.
#[derive(Clone)]
pub struct Embedded(Arc<Shared>);

/// Fields are dropped in order: the writing thread ends first, so that the last note of the floor
/// has all of it; the folder is unlocked last.
struct Shared {
    writing: Writing,
    _floor: floor::Keeper,
    topics: Arc<Topics>,
    groups: Arc<Groups>,
    room: space::Room,
    lock: folder::Lock,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Embedded({})", self.folder().display())
    }
}

impl Embedded {
    /// Opens the log in `folder`, or makes one where there is no such folder or nothing in it.
    /// Reads the journal again where the last process did not close it. Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong with the folder and what to do. Nothing that is in it is
    /// ever overwritten.
    pub fn open(folder: impl Into<PathBuf>, options: Options) -> Result<Self, OpenError> {
        let folder = folder.into();
        let lock = folder::Lock::take(&folder)?;
        let (store, topics) = load(&lock)?;
        let no_thread = |e: std::io::Error| lock.failed("start a thread", &e);
        let floor =
            floor::Keeper::start(Arc::clone(&topics), folder.clone(), options.floor_every).map_err(no_thread)?;
        let room = space::Room::new(&folder, store.clone(), options.reserve, options.max_disk);
        let writing = Writing::start(&store, &topics, room.clone(), options).map_err(no_thread)?;
        let groups = Arc::new(Groups::new(PATIENCE));
        Ok(Self(Arc::new(Shared { writing, _floor: floor, topics, groups, room, lock })))
    }

    /// What `ensure` would object to, were the log in `folder` opened; it may be open elsewhere.
    /// Changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Embedded::open`].
    pub fn objections(folder: &Path, topics: &[(Topic, TopicShape)]) -> Result<Vec<String>, OpenError> {
        let made = folder::look(folder)?;
        let objection = |(topic, shape): &(Topic, TopicShape)| {
            let found = made.get(topic.as_str())?.partitions;
            (found != shape.partitions).then(|| topics::other_partitions(topic, folder, found, shape.partitions))
        };
        Ok(topics.iter().filter_map(objection).collect())
    }

    /// The folder it is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.0.lock.folder()
    }

    /// Bytes on disk, the journal included.
    #[must_use]
    pub fn disk_space(&self) -> u64 {
        self.0.room.store.disk_space()
    }

    /// Why appends to the topics of [`Options::intake`] are refused now, if they are. Asks the file
    /// system.
    #[must_use]
    pub fn refuses_intake(&self) -> Option<String> {
        self.0.room.refuses_intake()
    }

    /// Who has the log in `folder` open now, told as opening it would. Changes nothing.
    #[must_use]
    pub fn holder(folder: &Path) -> Option<OpenError> {
        folder::held(folder)
    }
}

/// What is in the folder. A write that was torn is cut off, unless it was known to be durable.
fn load(lock: &folder::Lock) -> Result<(Store, Arc<Topics>), OpenError> {
    let cut = tail::cut(lock)?;
    let open = || {
        let store = Store::open(lock)?;
        let topics = Topics::load(lock, &store)?;
        floor::check(lock, &topics)?;
        Ok((store, Arc::new(topics)))
    };
    let opened = open();
    match (cut, &opened) {
        (None, _) => {}
        (Some(cut), Ok(_)) => cut.tell(lock),
        (Some(cut), Err(_)) => cut.undo(lock)?,
    }
    opened
}

impl Shared {
    async fn enqueue_append(&self, to: &TopicPartition, batch: Batch) -> Result<Appending, Error> {
        let to = self.topics.get(to)?;
        let batch = admissible(&to.at, batch)?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        let bytes = batch.frame().len();
        self.writing.enqueue(bytes, |room| Op::Append { append: Appended { to, batch }, room, reply }).await?;
        let stopped = self.writing.stopped();
        Ok(async move { answer.await.unwrap_or_else(|_| Err(stopped.unknown())) }.boxed())
    }
}

/// Refuses what is too large, and brings foreign gaps and times to what a log takes.
fn admissible(at: &TopicPartition, batch: Batch) -> Result<Batch, Error> {
    let bytes = batch.frame().len();
    if bytes > MAX_BATCH {
        let reason =
            format!("{bytes} bytes at once are more than the {MAX_BATCH} a log takes: send fewer or smaller records");
        return Err(Error::Rejected { at: at.clone(), reason });
    }
    let (base, timestamp) = (batch.base(), batch.timestamp());
    let plain = batch.iter().zip(base.0..).all(|(r, offset)| r.offset.0 == offset && r.timestamp == timestamp);
    if plain {
        return Ok(batch);
    }
    let mut builder = BatchBuilder::default();
    for record in &batch {
        builder.push(record.key, record.value, |headers| headers.put_all(record.headers));
    }
    Ok(builder.finish())
}

impl Log for Embedded {
    fn now(&self) -> Timestamp {
        Timestamp::system()
    }

    fn ensure<'a>(&'a self, topics: &'a [(Topic, TopicShape)]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let (shared, topics) = (Arc::clone(&self.0), topics.to_vec());
            let done =
                tokio::task::spawn_blocking(move || shared.topics.ensure(&topics, &shared.lock, &shared.room.store));
            done.await.unwrap_or_else(|e| Err(Error::Damaged(format!("creating topics failed: {e}"))))
        }
        .boxed()
    }

    fn shape<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Option<TopicShape>, Error>> {
        ready(Ok(self.0.topics.shape(topic))).boxed()
    }

    /// Nobody can make a topic anew in it.
    fn identities<'a>(&'a self, _: &'a [Topic]) -> BoxFuture<'a, Result<TopicIds, Error>> {
        ready(Ok(TopicIds::new())).boxed()
    }

    fn bounds<'a>(&'a self, of: &'a TopicPartition) -> BoxFuture<'a, Result<Bounds, Error>> {
        ready(self.0.topics.get(of).map(|marks| marks.bounds())).boxed()
    }

    fn append<'a>(&'a self, to: &'a TopicPartition, batch: Batch) -> BoxFuture<'a, Result<Appending, Error>> {
        self.0.enqueue_append(to, batch).boxed()
    }

    fn read<'a>(
        &'a self,
        of: &'a TopicPartition,
        from: Offset,
        visibility: Visibility,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, Error>> {
        let marks = self.0.topics.get(of);
        let reader = marks.map(|marks| EmbeddedReader::new(Arc::clone(&self.0), marks, from, visibility, max_bytes));
        ready(reader.map(|reader| Box::new(reader) as Box<dyn Reader>)).boxed()
    }

    fn join<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [Topic],
        _member: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Membership>, Error>> {
        async move {
            let partitions = self.0.topics.partitions(group, topics)?;
            let seat = Seat::join(&self.0.groups, Arc::clone(&self.0), group, partitions);
            Ok(Box::new(seat) as Box<dyn Membership>)
        }
        .boxed()
    }
}
