//! Plain appends: one idempotent producer for the process, and a thread that takes its reports.

mod lots;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::{FutureExt as _, future};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::lots::{Lots, Numbered};
use super::asker::blocking;
use super::bootstrap::Bootstrap;
use super::client::Properties;
use super::errors::{Meaning, meaning, of_append};
use super::lines::log_line;
use super::native::{Kind, Polled, Producer, Reports};
use super::seen::Seen;
use crate::log::{Appending, Error, Offsets, Topic, TopicPartition};
use crate::record::{Batch, Offset};

/// Bytes that wait for their reports, over all partitions; beyond that appends wait for room.
const ROOM: usize = 64 << 20;

/// What a record takes of it besides its bytes, about as much as librdkafka's own account of it.
const PER_RECORD: usize = 128;

/// How long an append waits for room before it is refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a topic's leaders are asked for before its first record.
const LEADERS: Duration = Duration::from_secs(2);

/// How long the reports' thread waits at once: it looks then whether it is still needed.
const POLL: Duration = Duration::from_millis(100);

/// Appends on behalf of a whole process.
pub(super) struct Appender {
    properties: Properties,
    seen: Arc<Seen>,
    room: Arc<Semaphore>,
    current: Mutex<Option<Arc<Plain>>>,
}

impl Appender {
    pub(super) fn new(properties: Properties, seen: Arc<Seen>) -> Self {
        let room = Arc::new(Semaphore::new(ROOM));
        Self { properties, seen, room, current: Mutex::default() }
    }

    /// Makes the producer, which introduces itself to the brokers.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        self.plain().map(drop)
    }

    pub(super) async fn append(&self, to: &TopicPartition, batch: Batch) -> Result<Appending, Error> {
        if batch.is_empty() {
            return Ok(async { Ok(Offsets::default()) }.boxed());
        }
        let largest = self.properties.largest_record();
        if let Some(record) = batch.iter().find(|record| record.size() > largest) {
            return Err(too_large(to, record.size(), largest));
        }
        let bytes = (batch.frame().len() + batch.len() * PER_RECORD).min(ROOM);
        let bytes = u32::try_from(bytes).expect("all the room is less than 4 GiB");
        let waiting = Arc::clone(&self.room).acquire_many_owned(bytes);
        let room = match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(room) => room.expect("the semaphore is never closed"),
            Err(_) => return Err(Error::Unavailable(format!("{to}: Kafka is slower than what is to be appended"))),
        };
        self.look_for_leaders(to).await?;
        self.plain()?.enqueue(to, batch, room)
    }

    /// Asks for a topic's leaders before its first record. Without, that would wait for the
    /// library's next look, once a second.
    async fn look_for_leaders(&self, to: &TopicPartition) -> Result<(), Error> {
        let plain = self.plain()?;
        let is_new = plain.known.lock().expect("no holder of this lock panics").insert(to.topic.clone());
        if !is_new {
            return Ok(());
        }
        let topic = to.topic.clone();
        blocking(move || {
            // Where nobody answers, the records wait for it in the queue.
            drop(plain.producer.client.client().fetch_metadata(Some(topic.as_str()), LEADERS));
            Ok(())
        })
        .await
    }

    /// The producer, made anew where the last one has failed for good.
    fn plain(&self) -> Result<Arc<Plain>, Error> {
        let mut current = self.current.lock().expect("no holder of this lock panics");
        if current.as_ref().is_some_and(|plain| plain.failed.load(Ordering::Acquire)) {
            tracing::warn!("the producer of plain appends has failed for good and is made anew");
            *current = None;
        }
        let plain = match &*current {
            Some(plain) => plain,
            None => current.insert(Plain::start(&self.properties, Arc::clone(&self.seen))?),
        };
        Ok(Arc::clone(plain))
    }
}

fn too_large(at: &TopicPartition, size: usize, largest: usize) -> Error {
    let reason = format!("a record of {size} bytes is larger than the {largest} that message.max.bytes allows");
    Error::Rejected { at: at.clone(), reason }
}

impl Drop for Appender {
    fn drop(&mut self) {
        if let Some(plain) = self.current.get_mut().expect("no holder of this lock panics").take() {
            plain.closing.store(true, Ordering::Release);
        }
    }
}

/// One producer, its batches under way, and whether it is of any use still.
struct Plain {
    producer: Polled<Producer>,
    bootstrap: Bootstrap,
    seen: Arc<Seen>,
    pending: Mutex<Pending>,
    /// Topics of which the leaders were asked for.
    known: Mutex<BTreeSet<Topic>>,
    /// After this error of the producer, which another one has to be made for.
    failed: AtomicBool,
    closing: AtomicBool,
}

type Reply = oneshot::Sender<Result<Offsets, Error>>;

#[derive(Default)]
struct Pending {
    next: usize,
    batches: BTreeMap<usize, Waiting>,
    lots: Lots,
    /// What is to be put into the queue now, in this order.
    due: VecDeque<Numbered>,
}

struct Waiting {
    to: TopicPartition,
    records: usize,
    /// Those without a report.
    left: usize,
    written: Vec<u64>,
    error: Option<Code>,
    reply: Reply,
    _room: OwnedSemaphorePermit,
}

impl Plain {
    fn start(properties: &Properties, seen: Arc<Seen>) -> Result<Arc<Self>, Error> {
        let plain = Arc::new(Self {
            producer: properties.appending()?,
            bootstrap: Bootstrap::new(properties),
            seen,
            pending: Mutex::default(),
            known: Mutex::default(),
            failed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let polling = Arc::clone(&plain);
        std::thread::Builder::new()
            .name("kafka-append".to_owned())
            .spawn(move || polling.serve())
            .map_err(|e| Error::Unavailable(format!("cannot start a thread: {e}")))?;
        Ok(plain)
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no holder of this lock panics")
    }

    /// In the order of the calls, for each partition. What is refused at once is told at once.
    fn enqueue(&self, to: &TopicPartition, batch: Batch, room: OwnedSemaphorePermit) -> Result<Appending, Error> {
        let (reply, mut answer) = oneshot::channel();
        self.lock().enter(to, batch, reply, room);
        self.hand_over();
        let closed = || Error::Unknown("the producer was closed".to_owned());
        match answer.try_recv() {
            Ok(outcome) => outcome.map(|offsets| future::ready(Ok(offsets)).boxed()),
            Err(TryRecvError::Closed) => Err(closed()),
            Err(TryRecvError::Empty) => Ok(async move { answer.await.unwrap_or_else(|_| Err(closed())) }.boxed()),
        }
    }

    /// Hands over what is due. The lock is held for each batch, so that batches neither mingle nor overtake one
    /// another, and reports wait until all of a batch is in the queue.
    fn hand_over(&self) {
        loop {
            let mut pending = self.lock();
            let Some((id, batch)) = pending.due.pop_front() else { return };
            let Some(waiting) = pending.batches.get(&id) else { continue };
            if let Err((index, code)) = self.produce(&waiting.to, id, &batch) {
                self.note_failure(code);
                pending.give_up(&self.seen, id, index, code);
            }
        }
    }

    /// How many records are in the queue where the next one is not taken, and why.
    fn produce(&self, to: &TopicPartition, id: usize, batch: &Batch) -> Result<(), (usize, Code)> {
        let topic = CString::new(to.topic.as_str()).map_err(|_| (0, Code::InvalidTopic))?;
        let partition = i32::try_from(to.partition.0).map_err(|_| (0, Code::UnknownPartition))?;
        for (index, record) in batch.iter().enumerate() {
            self.producer.produce(&topic, partition, &record, id).map_err(|code| (index, code))?;
        }
        Ok(())
    }

    /// Takes reports until the producer is of no more use and nothing is under way.
    fn serve(&self) {
        loop {
            if let Some(event) = self.producer.poll(POLL) {
                match event.kind() {
                    Kind::Reports(reports) => {
                        let away = self.lock().take(&self.seen, reports);
                        self.hand_over();
                        if away {
                            self.bootstrap.say_again(&self.producer.client);
                        }
                    }
                    Kind::Failed { code, fatal, reason, .. } => {
                        tracing::debug!(%code, fatal, reason, "plain appends");
                    }
                    Kind::Log { level, text } => log_line(level, &text),
                    Kind::Record(_) | Kind::Rebalance { .. } | Kind::Other => {}
                }
            }
            if let Some(code) = self.producer.fatal() {
                self.note_failure(code);
            }
            let over = self.closing.load(Ordering::Acquire) || self.failed.load(Ordering::Acquire);
            if over && self.lock().batches.is_empty() {
                return;
            }
        }
    }

    fn note_failure(&self, code: Code) {
        if code == Code::Fatal || self.producer.fatal().is_some() {
            self.failed.store(true, Ordering::Release);
        }
    }
}

impl Pending {
    fn enter(&mut self, to: &TopicPartition, batch: Batch, reply: Reply, room: OwnedSemaphorePermit) {
        let (id, records) = (self.next, batch.len());
        self.next += 1;
        let written = Vec::with_capacity(records);
        let waiting = Waiting { to: to.clone(), records, left: records, written, error: None, reply, _room: room };
        self.batches.insert(id, waiting);
        self.due.extend(self.lots.begin(to, (id, batch)));
    }

    /// Returns whether some found nobody to take them in all their time.
    fn take(&mut self, seen: &Seen, reports: Reports<'_>) -> bool {
        let mut away = false;
        reports.each(|id, outcome| {
            away |= outcome.is_err_and(|code| meaning(code) == Meaning::Away);
            self.report(seen, id, 1, outcome);
        });
        away
    }

    fn report(&mut self, seen: &Seen, id: usize, count: usize, outcome: Result<u64, Code>) {
        let Some(waiting) = self.batches.get_mut(&id) else { return };
        waiting.left -= count.min(waiting.left);
        match outcome {
            Ok(offset) => waiting.written.push(offset),
            Err(code) => {
                // One record in doubt puts the batch in doubt.
                let certain = |code| matches!(meaning(code), Meaning::Refused | Meaning::Missing | Meaning::Unsent);
                if waiting.error.is_none_or(|known| certain(known) && !certain(code)) {
                    waiting.error = Some(code);
                }
            }
        }
        if waiting.left == 0
            && let Some(waiting) = self.remove(id)
        {
            let outcome = outcome_of(seen, &waiting.to, &waiting.written, waiting.error);
            // Who dropped the acknowledgement does not want to know.
            drop(waiting.reply.send(outcome));
        }
    }

    /// Records from this one on did not get into the queue.
    fn give_up(&mut self, seen: &Seen, id: usize, index: usize, code: Code) {
        if index > 0 {
            let left = self.batches.get(&id).map_or(0, |waiting| waiting.records - index);
            return self.report(seen, id, left, Err(code));
        }
        let Some(Waiting { to, reply, .. }) = self.remove(id) else { return };
        // Nothing of it was written, whatever the code.
        drop(reply.send(Err(match meaning(code) {
            Meaning::Refused | Meaning::Missing => seen.judge(of_append, code, &to),
            _ => Error::Unavailable(format!("{to}: {code}")),
        })));
    }

    fn remove(&mut self, id: usize) -> Option<Waiting> {
        let waiting = self.batches.remove(&id)?;
        self.due.extend(self.lots.end(&waiting.to, waiting.records));
        Some(waiting)
    }
}

fn outcome_of(seen: &Seen, to: &TopicPartition, written: &[u64], error: Option<Code>) -> Result<Offsets, Error> {
    match error {
        None => Ok(offsets(written)),
        Some(code) if written.is_empty() => Err(seen.judge(of_append, code, to)),
        Some(code) => Err(Error::Unknown(format!("{to}: {} records were written, then {code}", written.len()))),
    }
}

/// The offsets in the order of the records: an idempotent producer writes them in order.
pub(super) fn offsets(of: &[u64]) -> Offsets {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    let mut offsets = Offsets::default();
    sorted.into_iter().for_each(|offset| offsets.push(Offset(offset)));
    offsets
}
