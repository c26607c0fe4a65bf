//! Atomic commits: one transactional producer for each claim, on a thread of its own, because
//! every call of a transaction blocks.
//!
//! After anything ambiguous a producer is dropped, never used again. The one error that a writer
//! survives is a refused record: the transaction is aborted, once all before it have ended
//! ([`super::settle`] says why).
//!
//! librdkafka sends the end of a transaction again where the answer does not come, and says nothing.
//! The first one may then arrive within the next transaction and commit half of it, with the cursor
//! but without the outputs, or the other way round: requests of one epoch are all alike to the broker
//! (KIP-890, whose epoch for each transaction librdkafka does not have). So after an end that took
//! long enough to have been sent twice, as after a refusal, the producer is made anew before the next
//! commit, which gives it a new epoch. Its first transaction is confirmed by the group as a claim's is,
//! so that it is refused where the group has shared out its partitions since the claim.

use std::ffi::CString;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rdkafka::producer::{Producer as _, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::util::Timeout;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::append::offsets;
use super::asker::Asker;
use super::claim::{Claimed, claim, position_of};
use super::errors::{Meaning, code, meaning, of_end, of_transaction};
use super::lines::log_line;
use super::native::{Kind, Polled, Producer};
use super::settle::{Unseen, end_of, hanging, is_end_of};
use crate::log::{Append, Error, Offsets, TopicPartition, Writer, Written};
use crate::record::Offset;

/// How long the records of a transaction may take to be written: less than the transaction lives.
const DELIVERY: Duration = Duration::from_secs(8);

/// How long a call of a transaction may take that can be given up.
pub(super) const CALL: Duration = Duration::from_secs(5);

/// How long the reports of a refused transaction are waited for at once; not all of them make an event.
const REPORTS: Duration = Duration::from_millis(20);

/// An idle writer looks at its client's events so often.
const IDLE: Duration = Duration::from_secs(1);

/// The handle of a writer's thread.
pub(super) struct KafkaWriter {
    jobs: mpsc::SyncSender<Job>,
    control: TopicPartition,
    asker: Arc<Asker>,
    /// Where it may commit to; known once it has settled.
    written: Arc<OnceLock<Written>>,
    /// After an error, or a commit that nobody waited for.
    spent: bool,
}

struct Job {
    appends: Vec<Append>,
    /// Whether the group is to confirm the claim in the same transaction.
    claim: bool,
    reply: oneshot::Sender<Result<Vec<Offsets>, Error>>,
}

impl KafkaWriter {
    pub(super) fn start(claimed: Claimed, producer: Polled<Producer>) -> Result<Self, Error> {
        let (control, asker) = (claimed.control.clone(), Arc::clone(&claimed.asker));
        let written = Arc::new(OnceLock::new());
        let known = Arc::clone(&written);
        // One commit at a time: the next one is given only when the last one is answered.
        let (jobs, received) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name(format!("kafka-commit-{}", control.partition))
            .spawn(move || {
                let (claimed, producer, unseen) = (Arc::new(claimed), Some(producer), Unseen::default());
                Committing { claimed, producer, unseen, written: known }.run(&received);
            })
            .map_err(|e| Error::Unavailable(format!("cannot start a thread: {e}")))?;
        Ok(Self { jobs, control, asker, written, spent: false })
    }

    async fn write(&mut self, appends: Vec<Append>, claim: bool) -> Result<Vec<Offsets>, Error> {
        if std::mem::replace(&mut self.spent, true) {
            return Err(Error::Fenced(format!("the writer of {} has failed before: claim anew", self.control)));
        }
        let (reply, answer) = oneshot::channel();
        let gone = |_| Error::Unknown(format!("the writer of {} has ended", self.control));
        self.jobs.try_send(Job { appends, claim, reply }).map_err(|e| gone(e.to_string()))?;
        let result = answer.await.unwrap_or_else(|e| Err(gone(e.to_string())));
        self.spent = !matches!(result, Ok(_) | Err(Error::Rejected { .. }));
        result
    }
}

impl Writer for KafkaWriter {
    fn settle<'a>(&'a mut self, written: &'a Written) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.written.get_or_init(|| written.clone());
            let hanging = hanging(&self.asker, written).await?;
            if hanging.is_empty() {
                return Ok(());
            }
            let of: Vec<_> = hanging.iter().map(ToString::to_string).collect();
            if hanging.iter().any(|of| written.alone.contains(of)) {
                tracing::warn!(control = %self.control, ?of, "what was committed here has no end: giving it one");
            } else {
                tracing::info!(control = %self.control, ?of, "somebody's transaction is open, or has no end: ending ours");
            }
            self.write(hanging.into_iter().map(end_of).collect(), true).await.map(drop)
        }
        .boxed()
    }

    fn commit_claim(&mut self, appends: Vec<Append>) -> BoxFuture<'_, Result<Vec<Offsets>, Error>> {
        self.write(appends, true).boxed()
    }

    fn commit(&mut self, appends: Vec<Append>) -> BoxFuture<'_, Result<Vec<Offsets>, Error>> {
        self.write(appends, false).boxed()
    }
}

/// What the thread has.
struct Committing {
    claimed: Arc<Claimed>,
    /// `None` after a transaction was aborted, or may have been ended twice.
    producer: Option<Polled<Producer>>,
    unseen: Unseen,
    written: Arc<OnceLock<Written>>,
}

/// Where a transaction failed.
enum Failed {
    /// Before it was asked to commit; none of it will be seen.
    Before(Code, TopicPartition),
    AtEnd(Code),
}

impl Committing {
    /// Until the handle is dropped, or a commit fails.
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            match jobs.recv_timeout(IDLE) {
                Ok(job) => {
                    let result = self.commit(&job);
                    let over = !matches!(result, Ok(_) | Err(Error::Rejected { .. }));
                    // Who dropped the future has to claim anew.
                    drop(job.reply.send(result));
                    if over {
                        return;
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if let Some(producer) = &self.producer {
                        take_events(producer, Duration::ZERO, |_, _| {});
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if !self.look_after() {
                return self.claimed.again();
            }
        }
    }

    fn commit(&mut self, job: &Job) -> Result<Vec<Offsets>, Error> {
        let Job { appends, claim: claimed, .. } = job;
        if !claimed && appends.iter().all(|append| append.batch.is_empty()) {
            return Ok(vec![Offsets::default(); appends.len()]);
        }
        let held = Arc::clone(&self.claimed);
        let anew = self.producer.is_none();
        // The partition is not let go of meanwhile.
        let _under_way = anew.then(|| held.under_way());
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => claim(&held)?,
        };
        // Whoever claims after this fences the producer; whoever claimed while it was made, in this
        // process, has dropped the handle before, and elsewhere the group has moved on, which the
        // broker looks at.
        if anew && job.reply.is_closed() {
            return Err(Error::Fenced(format!("nobody writes to {} any more", held.control)));
        }
        self.transact(producer, appends, *claimed || anew)
    }

    fn transact(
        &mut self,
        producer: Polled<Producer>,
        appends: &[Append],
        confirm: bool,
    ) -> Result<Vec<Offsets>, Error> {
        let transaction = Transaction { producer: &producer, control: &self.claimed.control, appends };
        match transaction.run(confirm.then_some(&self.claimed)) {
            Ok((written, ending)) => {
                self.note(appends, &written);
                self.producer = (ending < self.claimed.earliest_retry()).then_some(producer);
                Ok(written.iter().map(|written| offsets(written)).collect())
            }
            Err(Failed::Before(code, at)) => {
                let (code, at) = self.cause(&producer, appends).unwrap_or((code, at));
                let error = self.claimed.asker.seen.judge(of_transaction, code, &at);
                if matches!(error, Error::Rejected { .. }) {
                    self.abort(&producer, appends)?;
                }
                Err(error)
            }
            Err(Failed::AtEnd(code)) => Err(of_end(code, &self.claimed.control)),
        }
    }

    /// Which partition a coordinator did not take into the transaction because this process may not write there. That
    /// takes all records from the queue, and the library says neither with them why nor of which topic it is.
    fn cause(&self, producer: &Polled<Producer>, appends: &[Append]) -> Option<(Code, TopicPartition)> {
        // A transaction that has to be aborted answers every other call with the reason.
        let reason = producer.client.begin_transaction().err().map(|error| code(&error))?;
        if reason != Code::TopicAuthorizationFailed {
            return None;
        }
        let topics: Vec<_> = appends.iter().map(|append| append.to.topic.clone()).collect();
        let refused = self.claimed.asker.unwritable(&topics)?;
        let at = appends.iter().map(|append| &append.to).find(|to| to.topic == refused)?;
        Some((reason, at.clone()))
    }

    /// Remembers up to where was committed. An end need not be seen where others may hold it up.
    fn note(&mut self, appends: &[Append], written: &[Vec<u64>]) {
        for (append, written) in appends.iter().zip(written) {
            let Some(last) = written.iter().max() else { continue };
            if !(self.is_shared(&append.to) && is_end_of(append)) {
                self.claimed.asker.seen.note_commit(&append.to, Offset(last + 1));
                self.unseen.note(&append.to, Offset(last + 1));
            }
        }
    }

    /// Whether others may have a transaction open there.
    fn is_shared(&self, partition: &TopicPartition) -> bool {
        self.written.get().is_some_and(|written| written.with_others.contains(partition))
    }

    /// Ends a refused transaction, so that nobody waits for it to time out. An error means that the next
    /// claim ends it, and that former commits may end with it.
    fn abort(&mut self, producer: &Polled<Producer>, appends: &[Append]) -> Result<(), Error> {
        let Claimed { control, asker, .. } = &*self.claimed;
        if !self.unseen.have_ended(appends, |of| asker.stable_end(of)) {
            return Err(Error::Unknown(format!("{control}: a commit has not ended, and the next one was refused")));
        }
        // The library waits for somebody to take the reports of what it gives up.
        producer.client.purge(PurgeConfig::default().queue());
        let deadline = Instant::now() + CALL;
        while producer.client.in_flight_count() > 0 && Instant::now() < deadline {
            take_events(producer, REPORTS, |_, _| {});
        }
        let unknown = |e| Error::Unknown(format!("{control}: aborting a refused transaction: {e}"));
        producer.client.abort_transaction(CALL).map_err(unknown)
    }

    /// Looks whether commits end; `false` where that takes another claim. Where others write, too, what is
    /// still open after an end of its own is theirs.
    fn look_after(&mut self) -> bool {
        let Some(of) = self.unseen.look(|of| self.claimed.asker.stable_end(of)) else { return true };
        let control = &self.claimed.control;
        let shared = self.is_shared(&of);
        match self.producer.take_if(|_| shared) {
            Some(producer) => {
                tracing::info!(%control, %of, "a commit does not end, or somebody's transaction is open: ending ours");
                self.unseen.forget(&of);
                // The cursor as always first: it may hang, too, and this may be aborted.
                let cursor = self.written.get().and_then(|written| written.alone.first().cloned());
                let ends: Vec<_> = cursor.into_iter().chain([of]).map(end_of).collect();
                let ended = self.transact(producer, &ends, false);
                ended.inspect_err(|error| tracing::warn!(%error, "ending a commit: claiming again")).is_ok()
            }
            None => {
                tracing::warn!(%control, %of, "a commit does not end: claiming again");
                false
            }
        }
    }
}

struct Transaction<'a> {
    producer: &'a Polled<Producer>,
    control: &'a TopicPartition,
    appends: &'a [Append],
}

/// What the reports have told.
struct Reported {
    written: Vec<Vec<u64>>,
    left: usize,
    failed: Option<(Code, usize)>,
}

impl Reported {
    fn note(&mut self, append: usize, outcome: Result<u64, Code>) {
        self.left = self.left.saturating_sub(1);
        match outcome {
            Ok(offset) => self.written[append].push(offset),
            // A refused record is the cause of all that is taken from the queue with it.
            Err(code) if self.failed.is_none_or(|(known, _)| !refuses(known)) => {
                if refuses(code) || self.failed.is_none() {
                    self.failed = Some((code, append));
                }
            }
            Err(_) => {}
        }
    }
}

fn refuses(code: Code) -> bool {
    matches!(meaning(code), Meaning::Refused | Meaning::Missing)
}

impl Transaction<'_> {
    /// The offsets of the records of each append, and how long it took to end.
    fn run(&self, claimed: Option<&Claimed>) -> Result<(Vec<Vec<u64>>, Duration), Failed> {
        let client = &self.producer.client;
        client.begin_transaction().map_err(|e| self.before(code(&e)))?;
        let deadline = Instant::now() + DELIVERY;
        let written = self.deliver(deadline)?;
        if let Some(claimed) = claimed {
            let positions = position_of(self.control);
            client
                .send_offsets_to_transaction(&positions, &claimed.metadata, CALL)
                .map_err(|e| self.before(code(&e)))?;
        }
        let begun = Instant::now();
        // Bounded by what is left of the transaction's own time-out.
        client
            .commit_transaction(Timeout::Never)
            .map_err(|e| Failed::AtEnd(self.producer.fatal().unwrap_or(code(&e))))?;
        Ok((written, begun.elapsed()))
    }

    fn before(&self, code: Code) -> Failed {
        Failed::Before(self.producer.fatal().unwrap_or(code), self.control.clone())
    }

    /// Puts all records into the queue and waits for the report of each.
    fn deliver(&self, deadline: Instant) -> Result<Vec<Vec<u64>>, Failed> {
        let left = self.appends.iter().map(|append| append.batch.len()).sum();
        let written = self.appends.iter().map(|append| Vec::with_capacity(append.batch.len())).collect();
        let mut reported = Reported { written, left, failed: None };
        for (index, append) in self.appends.iter().enumerate() {
            self.enqueue(index, append, &mut reported, deadline)?;
        }
        while reported.left > 0 && reported.failed.is_none() {
            self.wait(&mut reported, deadline)?;
        }
        match reported.failed {
            None => Ok(reported.written),
            Some((code, append)) => Err(self.failed(code, append)),
        }
    }

    fn enqueue(&self, index: usize, append: &Append, reported: &mut Reported, deadline: Instant) -> Result<(), Failed> {
        let topic = CString::new(append.to.topic.as_str()).map_err(|_| self.failed(Code::InvalidTopic, index))?;
        let number = i32::try_from(append.to.partition.0).map_err(|_| self.failed(Code::UnknownPartition, index))?;
        for record in &append.batch {
            while let Err(code) = self.producer.produce(&topic, number, &record, index) {
                if code != Code::QueueFull {
                    return Err(self.failed(code, index));
                }
                self.wait(reported, deadline)?;
            }
        }
        Ok(())
    }

    fn wait(&self, reported: &mut Reported, deadline: Instant) -> Result<(), Failed> {
        let patience = deadline.saturating_duration_since(Instant::now());
        take_events(self.producer, patience.min(IDLE), |append, outcome| reported.note(append, outcome));
        match self.producer.fatal() {
            Some(code) => Err(Failed::Before(code, self.control.clone())),
            None if patience.is_zero() => Err(Failed::Before(Code::OperationTimedOut, self.control.clone())),
            None => Ok(()),
        }
    }

    fn failed(&self, code: Code, append: usize) -> Failed {
        match self.producer.fatal() {
            Some(fatal) => Failed::Before(fatal, self.control.clone()),
            None => Failed::Before(code, self.appends[append].to.clone()),
        }
    }
}

/// Waits for an event, then takes what else there is.
fn take_events(producer: &Polled<Producer>, patience: Duration, mut see: impl FnMut(usize, Result<u64, Code>)) {
    let mut timeout = patience;
    while let Some(event) = producer.poll(timeout) {
        match event.kind() {
            Kind::Reports(reports) => reports.each(&mut see),
            Kind::Log { level, text } => log_line(level, &text),
            Kind::Failed { code, fatal, reason, .. } => tracing::debug!(%code, fatal, reason, "committing"),
            Kind::Record(_) | Kind::Rebalance { .. } | Kind::Other => {}
        }
        timeout = Duration::ZERO;
    }
}
