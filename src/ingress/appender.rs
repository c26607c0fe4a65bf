//! The way into one lane: everything that goes there passes one queue and one appender, in order.
//!
//! The appender keeps a few appends in flight; what arrives meanwhile gathers into the next one,
//! so that throughput does not hang on how long the log takes to make one durable. The queue is
//! bounded in chunks and in bytes; the bytes stay counted until the log has answered.
//!
//! A log may refuse an append that has its place already and take the next one. Chunks that must
//! leave no gap are of one [`Strand`], which is never in two appends at once; others pass by those
//! that wait for their strand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keys::Claim;
use crate::log::{Appending, Error, Log, Offsets, TopicPartition};
use crate::metrics;
use crate::record::{Batch, BatchBuilder, Source};

/// Appends in flight per lane. Two would keep the log busy; four ride over its hiccups and still
/// leave the bulk of what arrives to gather.
const IN_FLIGHT: usize = 4;

/// How many bytes of records go into one append: enough that its fixed cost vanishes, and below
/// what any engine takes at once.
const GATHER_BYTES: usize = 1024 * 1024;

/// Chunks that wait for their strand before the queue waits, too: some for each of a thousand busy
/// connections.
const MOST_ASIDE: usize = 4096;

/// Chunks for one lane of which none is written once an earlier one was not, or perhaps not.
#[derive(Clone, Debug, Default)]
pub(super) struct Strand(Arc<Mutex<Standing>>);

#[derive(Debug, Default)]
enum Standing {
    #[default]
    Free,
    /// Some of it is in an append that the log has not answered; the next waits for that.
    InFlight,
    /// What the log said of the append that failed; later chunks are not written and get it, too.
    Ended(Error),
}

impl Strand {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn in_flight(&self) -> bool {
        matches!(*self.standing(), Standing::InFlight)
    }

    fn end(&self) -> Option<Error> {
        match &*self.standing() {
            Standing::Ended(error) => Some(error.clone()),
            Standing::Free | Standing::InFlight => None,
        }
    }
}

/// Records of one sender on their way into a lane.
struct Chunk {
    batch: Batch,
    claim: Option<Claim>,
    strand: Option<Strand>,
    reply: oneshot::Sender<Result<Offsets, Error>>,
    room: OwnedSemaphorePermit,
}

/// Takes what is to be appended to one lane. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    queue: mpsc::Sender<Chunk>,
    room: Arc<Semaphore>,
}

/// There is no room in the queue now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The answer to come: durable with these offsets, or not. Dropping it changes nothing.
#[derive(Debug)]
pub(super) struct Pending(oneshot::Receiver<Result<Offsets, Error>>);

impl Pending {
    /// Waits for it; cancel-safe.
    ///
    /// # Errors
    ///
    /// The log's. [`Error::Unknown`] where the appender has ended before the log answered.
    pub(super) async fn answer(&mut self) -> Result<Offsets, Error> {
        let ended = |_| Err(Error::Unknown("the appender ended before the log answered".to_owned()));
        (&mut self.0).await.unwrap_or_else(ended)
    }
}

/// The two ends of the way into a lane: `capacity` chunks, and as many bytes as `room` has for
/// all lanes together.
pub(super) fn lane(
    log: Arc<dyn Log>,
    to: TopicPartition,
    capacity: usize,
    room: Arc<Semaphore>,
    stop: CancellationToken,
) -> (Lane, BoxFuture<'static, ()>) {
    let (queue, chunks) = mpsc::channel(capacity);
    (Lane { queue, room }, Appender::new(log, to).run(chunks, stop).boxed())
}

impl Lane {
    /// Queues the batch at once, as the next of its strand if it has one, or not at all: then its
    /// claim is released.
    pub(super) fn offer(&self, batch: Batch, claim: Option<Claim>, strand: Option<Strand>) -> Result<Pending, Full> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(size(&batch));
        let (Ok(room), Ok(place)) = (room, self.queue.try_reserve()) else {
            claim.into_iter().for_each(Claim::release);
            return Err(Full);
        };
        let (reply, pending) = oneshot::channel();
        place.send(Chunk { batch, claim, strand, reply, room });
        Ok(Pending(pending))
    }

    /// Queues the batch, as the next of its strand if it has one, as soon as there is room.
    /// Cancel-safe: dropped, it queued nothing.
    pub(super) async fn send(&self, batch: Batch, strand: Option<Strand>) -> Result<Pending, Full> {
        let room = Arc::clone(&self.room).acquire_many_owned(size(&batch)).await.map_err(|_| Full)?;
        let (reply, pending) = oneshot::channel();
        let chunk = Chunk { batch, claim: None, strand, reply, room };
        self.queue.send(chunk).await.map_err(|_| Full)?;
        Ok(Pending(pending))
    }
}

/// What a batch takes of the room, in bytes.
fn size(batch: &Batch) -> u32 {
    u32::try_from(batch.frame().len()).unwrap_or(u32::MAX)
}

/// One append: several chunks, answered together.
struct Gathered {
    batch: Batch,
    chunks: Vec<Chunk>,
}

struct Appender {
    log: Arc<dyn Log>,
    to: TopicPartition,
    builder: BatchBuilder,
    /// Chunks whose strand was in flight, in order, at most [`MOST_ASIDE`].
    aside: VecDeque<Chunk>,
    /// Whether the strand of one of them may be free.
    due: bool,
    metrics: metrics::Ingress,
}

type Placed = (Vec<Chunk>, Instant, Result<Appending, Error>);

impl Appender {
    fn new(log: Arc<dyn Log>, to: TopicPartition) -> Self {
        Self {
            log,
            to,
            builder: BatchBuilder::default(),
            aside: VecDeque::new(),
            due: false,
            metrics: metrics::ingress(),
        }
    }

    /// Ends when nothing more can come, because of `stop` or because every [`Lane`] of this queue
    /// is gone, and everything queued is answered.
    async fn run(mut self, mut queue: mpsc::Receiver<Chunk>, stop: CancellationToken) {
        let mut acks = FuturesUnordered::new();
        let mut placing: Option<BoxFuture<'static, Placed>> = None;
        let (mut open, mut closing) = (true, false);
        while open || !self.aside.is_empty() || placing.is_some() || !acks.is_empty() {
            let free = placing.is_none() && acks.len() < IN_FLIGHT;
            if free && self.due {
                placing = self.place(None, &mut queue);
                continue;
            }
            tokio::select! {
                biased;
                Some((chunks, since, answer)) = acks.next() => self.answer(chunks, since, &answer),
                (chunks, since, placed) = next(&mut placing) => {
                    placing = None;
                    match placed {
                        Ok(ack) => acks.push(ack.map(move |answer| (chunks, since, answer))),
                        Err(error) => self.answer(chunks, since, &Err(error)),
                    }
                }
                () = stop.cancelled(), if !closing => {
                    closing = true;
                    queue.close();
                }
                chunk = queue.recv(), if open && free && self.aside.len() < MOST_ASIDE => match chunk {
                    Some(first) => placing = self.place(Some(first), &mut queue),
                    None => open = false,
                },
            }
        }
    }

    /// Begins the next append with what is due, `first` and what else waits, if the log is to have
    /// any of it.
    fn place(&mut self, first: Option<Chunk>, queue: &mut mpsc::Receiver<Chunk>) -> Option<BoxFuture<'static, Placed>> {
        let Gathered { batch, chunks } = self.gather(first, queue)?;
        for strand in chunks.iter().filter_map(|chunk| chunk.strand.as_ref()) {
            *strand.standing() = Standing::InFlight;
        }
        self.metrics.in_flight.inc();
        let (log, to, since) = (Arc::clone(&self.log), self.to.clone(), Instant::now());
        Some(async move { (chunks, since, log.append(&to, batch).await) }.boxed())
    }

    fn gather(&mut self, first: Option<Chunk>, queue: &mut mpsc::Receiver<Chunk>) -> Option<Gathered> {
        let (mut size, mut chunks) = (0, Vec::new());
        if std::mem::take(&mut self.due) {
            for chunk in std::mem::take(&mut self.aside) {
                self.due |= size >= GATHER_BYTES;
                self.sort(chunk, &mut size, &mut chunks);
            }
        }
        let mut next = first;
        while size < GATHER_BYTES && self.aside.len() < MOST_ASIDE {
            let Some(chunk) = next.take().or_else(|| queue.try_recv().ok()) else { break };
            self.sort(chunk, &mut size, &mut chunks);
        }
        if let [only] = chunks.as_slice() {
            return Some(Gathered { batch: only.batch.clone(), chunks });
        }
        for record in chunks.iter().flat_map(|chunk| &chunk.batch) {
            self.builder.push(record.key, record.value, |h| h.put_all(record.headers));
        }
        (!chunks.is_empty()).then(|| Gathered { batch: self.builder.finish(), chunks })
    }

    /// Puts a chunk where it belongs: into the append while that is not full, aside, or back to
    /// who waits for it.
    fn sort(&mut self, chunk: Chunk, size: &mut usize, into: &mut Vec<Chunk>) {
        let strand = chunk.strand.as_ref();
        if let Some(error) = strand.and_then(Strand::end) {
            refuse(vec![chunk], &error);
        } else if *size >= GATHER_BYTES || strand.is_some_and(Strand::in_flight) {
            self.aside.push_back(chunk);
        } else {
            *size += chunk.batch.frame().len();
            into.push(chunk);
        }
    }

    fn answer(&mut self, chunks: Vec<Chunk>, since: Instant, answer: &Result<Offsets, Error>) {
        self.metrics.in_flight.dec();
        self.metrics.append_seconds.observe(since.elapsed().as_secs_f64());
        let alone = chunks.len() == 1;
        self.due |= !self.aside.is_empty();
        match answer {
            Ok(offsets) => self.acknowledge(chunks, offsets),
            // The log names no record, so one sender's fault must not become its neighbours'.
            Err(Error::Rejected { reason, .. }) if !alone => {
                let reason = format!("a message that was written together with this one was refused ({reason})");
                refuse(chunks, &Error::Unavailable(reason));
            }
            Err(error) => refuse(chunks, error),
        }
    }

    fn acknowledge(&self, chunks: Vec<Chunk>, offsets: &Offsets) {
        let mut offsets: VecDeque<_> = offsets.iter().collect();
        for Chunk { batch, claim, strand, reply, room } in chunks {
            if let Some(strand) = strand {
                *strand.standing() = Standing::Free;
            }
            let mut own = Offsets::default();
            let count = batch.len().min(offsets.len());
            let first = offsets.front().copied();
            offsets.drain(..count).for_each(|offset| own.push(offset));
            self.metrics.accepted.inc_by(count as u64);
            if let (Some(claim), Some(offset)) = (claim, first) {
                claim.done(Source { lane: self.to.partition, offset });
            }
            // Who has hung up does not need the answer.
            let _ = reply.send(Ok(own));
            drop(room);
        }
    }
}

fn refuse(chunks: Vec<Chunk>, error: &Error) {
    for Chunk { claim, strand, reply, .. } in chunks {
        // Before anybody learns of it.
        if let Some(strand) = strand {
            *strand.standing() = Standing::Ended(error.clone());
        }
        match error {
            // Dropping the claim leaves its key unknown.
            Error::Unknown(_) => drop(claim),
            _ => claim.into_iter().for_each(Claim::release),
        }
        let _ = reply.send(Err(error.clone()));
    }
}

/// The future's output; waits for ever where there is none.
async fn next<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
