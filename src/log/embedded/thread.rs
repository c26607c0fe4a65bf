//! The thread that writes, and the queue before it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Options;
use super::marks::Marks;
use super::space::{Room, Space};
use super::store::{Store, words};
use super::topics::{Positions, Topics};
use super::turn::Turn;
use crate::log::group::Place;
use crate::log::{Error, Offsets, TopicPartition};
use crate::record::{Batch, Offset};

/// How many operations may wait.
const QUEUE: usize = 4096;
/// How many bytes may wait, an oversized batch by itself excepted.
const ROOM: u32 = 32 << 20;
/// How long a place in the queue is waited for.
const OVERLOADED: Duration = Duration::from_secs(30);
/// How much a turn takes: enough to make its sync cheap, not so much that its length shows.
const TURN_BYTES: usize = 4 << 20;

/// Says what became of an operation.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A batch and where it goes.
pub(super) struct Append {
    pub(super) to: Arc<Marks>,
    pub(super) batch: Batch,
}

/// What the thread is asked to do.
pub(super) enum Op {
    Append { append: Append, room: OwnedSemaphorePermit, reply: Reply<Offsets> },
    Commit { commit: Commit, room: OwnedSemaphorePermit, reply: Reply<Vec<Offsets>> },
    Claim { place: Place, reply: Reply<u64> },
    Store { group: String, positions: Vec<(TopicPartition, Offset)>, reply: Reply<()> },
    Remove { removal: Removal, reply: Reply<()> },
}

/// Appends under a fence.
pub(super) struct Commit {
    pub(super) place: Place,
    pub(super) writer: u64,
    /// Whether the group is to be asked again.
    pub(super) confirm: bool,
    pub(super) appends: Vec<Append>,
}

/// Stored batches to be removed from the front of a partition.
pub(super) struct Removal {
    pub(super) from: Arc<Marks>,
    pub(super) bases: Vec<Offset>,
    pub(super) start: Offset,
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { append, .. } => append.batch.frame().len(),
            Self::Commit { commit, .. } => commit.appends.iter().map(|append| append.batch.frame().len()).sum(),
            Self::Claim { .. } | Self::Store { .. } | Self::Remove { .. } => 0,
        }
    }
}

/// The reason for which the log has stopped, if it has.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopped(Arc<OnceLock<String>>);

impl Stopped {
    fn reason(&self) -> &str {
        self.0.get().map_or("it is closing", String::as_str)
    }

    /// For what was in the queue.
    pub(super) fn unknown(&self) -> Error {
        Error::Unknown(format!("the log has stopped: {}", self.reason()))
    }

    fn refused(&self) -> Error {
        Error::Damaged(format!("the log has stopped: {}", self.reason()))
    }
}

/// The near end of the queue. Dropping it waits until what is in the queue is written.
pub(super) struct Writing {
    queue: Option<mpsc::Sender<Op>>,
    room: Arc<Semaphore>,
    stopped: Stopped,
    thread: Option<JoinHandle<()>>,
}

impl Writing {
    pub(super) fn start(store: &Store, topics: &Topics, room: Room, options: Options) -> io::Result<Self> {
        let (queue, ops) = mpsc::channel(QUEUE);
        let stopped = Stopped::default();
        let thread = WritingThread {
            store: store.clone(),
            positions: topics.positions(),
            space: Space::new(room),
            fences: BTreeMap::new(),
            next_writer: 0,
            cached: VecDeque::new(),
            cached_bytes: 0,
            options,
            stopped: stopped.clone(),
        };
        let run = move || thread.run(ops);
        let thread = std::thread::Builder::new().name("seriatim-log".to_owned()).spawn(run)?;
        let room = Arc::new(Semaphore::new(ROOM as usize));
        Ok(Self { queue: Some(queue), room, stopped, thread: Some(thread) })
    }

    pub(super) fn stopped(&self) -> Stopped {
        self.stopped.clone()
    }

    /// Waits for a place in the queue.
    pub(super) async fn enqueue(&self, bytes: usize, op: impl FnOnce(OwnedSemaphorePermit) -> Op) -> Result<(), Error> {
        let place = async {
            let bytes = u32::try_from(bytes).unwrap_or(ROOM).min(ROOM);
            let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| self.stopped.refused())?;
            self.send(op(room)).await
        };
        match tokio::time::timeout(OVERLOADED, place).await {
            Ok(placed) => placed,
            Err(_) => Err(Error::Unavailable(format!("overloaded: no place in the queue for {OVERLOADED:?}"))),
        }
    }

    /// Asks for something without weight, and waits for the answer.
    pub(super) async fn ask<T>(&self, op: impl FnOnce(Reply<T>) -> Op) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(op(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.stopped.unknown()))
    }

    async fn send(&self, op: Op) -> Result<(), Error> {
        let open = self.queue.as_ref().filter(|_| self.stopped.0.get().is_none());
        let queue = open.ok_or_else(|| self.stopped.refused())?;
        queue.send(op).await.map_err(|_| self.stopped.refused())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // It catches its own panics, and has told of them.
            drop(thread.join());
        }
    }
}

/// What the thread keeps.
pub(super) struct WritingThread {
    pub(super) store: Store,
    pub(super) positions: Positions,
    pub(super) space: Space,
    /// The writer that may commit, by group and partition. No writer outlives this process.
    pub(super) fences: BTreeMap<(Arc<str>, TopicPartition), u64>,
    pub(super) next_writer: u64,
    pub(super) options: Options,
    /// Whose batches are in memory, oldest first.
    cached: VecDeque<Arc<Marks>>,
    cached_bytes: usize,
    stopped: Stopped,
}

impl WritingThread {
    fn run(mut self, mut ops: mpsc::Receiver<Op>) {
        let written = catch_unwind(AssertUnwindSafe(|| self.write_all(&mut ops)));
        if let Err(panic) = written {
            self.stop(&words(&*panic));
        }
    }

    /// From now on nothing is accepted; the process is asked to end.
    pub(super) fn stop(&self, reason: &str) {
        self.stopped.0.get_or_init(|| reason.to_owned());
        (self.options.on_fatal)(reason);
    }

    fn write_all(&mut self, ops: &mut mpsc::Receiver<Op>) {
        while let Some(op) = ops.blocking_recv() {
            let mut turn = Turn::new(self);
            let mut bytes = op.bytes();
            turn.take(op);
            while bytes < TURN_BYTES
                && let Ok(op) = ops.try_recv()
            {
                bytes += op.bytes();
                turn.take(op);
            }
            if turn.finish().is_break() {
                return;
            }
        }
    }

    /// Counts a batch that was put in memory, and forgets the oldest ones beyond the budget.
    pub(super) fn cache(&mut self, of: &Arc<Marks>, bytes: usize) {
        self.cached.push_back(Arc::clone(of));
        self.cached_bytes += bytes;
        while self.cached_bytes > self.options.cache
            && let Some(oldest) = self.cached.pop_front()
        {
            self.cached_bytes = self.cached_bytes.saturating_sub(oldest.evict());
        }
    }
}
