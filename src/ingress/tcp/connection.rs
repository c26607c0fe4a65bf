//! One connection: frames in, messages to the log, answers out, in order.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::Options;
use super::answer::{Answers, Then};
use super::hl7::Header;
use super::intake::{Intake, Taken};
use super::memory::Memory;
use super::stream::{self, Outgoing};
use crate::framing::Malformed;
use crate::ingress::appender::{Full, Pending, Strand};
use crate::ingress::auth::Principal;
use crate::ingress::problem::{Code, Problem};
use crate::ingress::{Service, body, single};
use crate::log::Offsets;
use crate::record::{Batch, Partition};

/// Answers that a peer has not read before nothing more is read of it: some hundred of them.
const MOST_UNREAD: usize = 64 * 1024;

/// What an answer is owed for, in the order of the stream.
#[derive(Debug)]
enum Owed {
    /// Messages on their way to the log.
    Sent { messages: Messages, since: Instant, pending: Pending },
    /// A message that was refused without asking the log, or the end of a stream that broke.
    Refused { header: Option<Header>, problem: Problem },
}

#[derive(Debug)]
struct Messages {
    lane: Partition,
    count: usize,
    header: Option<Header>,
}

/// Messages for which the lane has no room yet.
struct Placing {
    messages: Messages,
    room: BoxFuture<'static, Result<Pending, Full>>,
}

/// See the module's documentation.
pub(super) struct Connection<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    options: Arc<Options>,
    service: Service,
    memory: Memory,
    intake: Intake,
    answers: Answers,
    outgoing: Outgoing,
    owed: VecDeque<Owed>,
    placing: Option<Placing>,
    /// What goes to a lane stands there without a gap: behind a message that was not written none
    /// is, so that a peer which sends again from there on keeps its order.
    strands: BTreeMap<Partition, Strand>,
    /// Messages in `owed` and `placing`.
    in_flight: usize,
    /// Whether more is to be read and taken.
    open: bool,
    /// Whether everything that came whole was taken.
    empty: bool,
    /// Since when the rest of a frame is waited for, or anything at all.
    since: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection whose handshake is through. Bytes of unfinished frames are taken from `memory`.
    pub(super) fn new(
        stream: S,
        options: Arc<Options>,
        principal: Principal,
        service: Service,
        memory: Arc<Semaphore>,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (lane, lanes) = (service.next_lane(), service.topics().lanes);
        let intake = Intake::new(Arc::clone(&options), principal, service.options().max_body, lane, lanes);
        Self {
            reader,
            writer,
            answers: Answers::new(Arc::clone(&options)),
            options,
            service,
            memory: Memory::new(memory),
            intake,
            outgoing: Outgoing::default(),
            owed: VecDeque::new(),
            placing: None,
            strands: BTreeMap::new(),
            in_flight: 0,
            open: true,
            empty: true,
            since: Instant::now(),
        }
    }

    /// Serves the connection to its end, whoever ends it.
    pub(super) async fn run(mut self) {
        while self.step().await {}
        let Self { reader, writer, .. } = self;
        stream::close(reader.unsplit(writer)).await;
    }

    /// Waits for the next thing to happen; `false` once nothing more can.
    async fn step(&mut self) -> bool {
        let (may_read, deadline) = (self.may_read(), self.deadline());
        let patience = self.service.options().append_timeout;
        tokio::select! {
            biased;
            answer = first(&mut self.owed, patience), if !self.owed.is_empty() => self.settle(answer),
            written = self.outgoing.write(&mut self.writer), if !self.outgoing.is_done() => {
                if written.is_err() {
                    return false;
                }
            }
            placed = placed(&mut self.placing), if self.placing.is_some() => self.place(placed),
            () = self.service.drain().cancelled(), if self.open => self.stop(),
            read = timeout_at(deadline, input(&mut self.memory, &mut self.reader, &mut self.intake)), if may_read => {
                self.read(&read);
            }
            else => return false,
        }
        self.take();
        self.memory.cover(self.intake.decoder.held());
        true
    }

    fn may_read(&self) -> bool {
        self.open && self.empty && self.outgoing.bytes.len() < MOST_UNREAD
    }

    /// When the peer has taken too long: for a frame that it has begun, or for any.
    fn deadline(&self) -> Instant {
        let options = self.service.options();
        match self.intake.decoder.held() {
            0 if self.in_flight > 0 => Instant::now() + self.options.idle_timeout,
            0 => self.since + self.options.idle_timeout,
            held => self.since + options.body_timeout + body::allowance(held),
        }
    }

    fn read(&mut self, read: &Result<io::Result<usize>, Elapsed>) {
        match read {
            Ok(Ok(0) | Err(_)) => self.open = false,
            Ok(Ok(count)) => {
                if self.intake.decoder.held() == *count {
                    self.since = Instant::now();
                }
            }
            Err(_) if self.intake.decoder.held() == 0 => self.open = false,
            Err(_) => {
                self.stop();
                let problem = Problem::new(Code::RequestTimeout, "the rest of the message came too slowly");
                self.refuse(None, problem);
            }
        }
    }

    /// Takes what has come, as far as there is room for it on the way to the log.
    fn take(&mut self) {
        let was_empty = self.empty;
        let mut took = false;
        self.empty = false;
        while self.open && self.placing.is_none() && self.in_flight < self.options.window {
            match self.intake.next(self.options.window - self.in_flight) {
                Ok(None) => {
                    self.empty = true;
                    break;
                }
                Ok(Some(Taken::Messages { lane, batch, header })) => {
                    let messages = Messages { lane, count: batch.len(), header };
                    self.in_flight += messages.count;
                    self.send(messages, lane, batch);
                }
                Ok(Some(Taken::Unusable { header, reason })) => {
                    self.refuse(header, Problem::new(Code::InvalidBody, reason));
                }
                Err(malformed) => {
                    self.stop();
                    self.refuse(None, self.unreadable(malformed));
                }
            }
            took = true;
        }
        if took || (self.empty && !was_empty) {
            self.since = Instant::now();
        }
    }

    fn send(&mut self, messages: Messages, to: Partition, batch: Batch) {
        let lane = self.service.lane(to).clone();
        let strand = Some(self.strands.entry(to).or_default().clone());
        // Most of the time there is room at once.
        if self.service.quotas().is_none()
            && let Ok(pending) = lane.offer(batch.clone(), None, strand.clone())
        {
            return self.sent(messages, pending);
        }
        let (service, principal) = (self.service.clone(), self.intake.principal.clone());
        let count = u32::try_from(messages.count).unwrap_or(u32::MAX);
        let room = async move {
            service.keep_to_quota(&principal, count).await;
            lane.send(batch, strand).await
        };
        self.placing = Some(Placing { messages, room: room.boxed() });
    }

    fn unreadable(&self, malformed: Malformed) -> Problem {
        match malformed {
            Malformed::TooLong(_) => body::too_large(self.service.options()),
            other => Problem::new(Code::InvalidBody, other.to_string()),
        }
    }

    fn place(&mut self, placed: Result<Pending, Full>) {
        let Some(Placing { messages, .. }) = self.placing.take() else { return };
        match placed {
            Ok(pending) => self.sent(messages, pending),
            // The way into the lane is closed.
            Err(Full) => self.stop(),
        }
    }

    fn sent(&mut self, messages: Messages, pending: Pending) {
        self.owed.push_back(Owed::Sent { messages, since: Instant::now(), pending });
    }

    fn refuse(&mut self, header: Option<Header>, problem: Problem) {
        self.in_flight += 1;
        self.owed.push_back(Owed::Refused { header, problem: problem.counted() });
    }

    /// Answers what is owed first.
    fn settle(&mut self, answer: Result<Offsets, Problem>) {
        let now = self.service.log().now();
        let to = &mut self.outgoing.bytes;
        let then = match (self.owed.pop_front(), answer) {
            (None, _) => Then::GoOn,
            (Some(Owed::Sent { messages, .. }), Ok(offsets)) => {
                self.in_flight -= messages.count;
                self.answers.accepted(messages.lane, &offsets, messages.header.as_ref(), now, to);
                Then::GoOn
            }
            (Some(Owed::Sent { messages, .. }), Err(problem)) => {
                self.answers.refused(messages.header.as_ref(), &problem.counted(), now, to);
                Then::Close
            }
            (Some(Owed::Refused { header, problem }), _) => {
                self.in_flight -= 1;
                self.answers.refused(header.as_ref(), &problem, now, to)
            }
        };
        if then == Then::Close {
            // What comes later must not be acknowledged where something before it was not.
            self.stop();
            self.owed.clear();
        }
    }

    /// Reads and takes nothing more; what the log has already is still answered.
    fn stop(&mut self) {
        self.open = false;
        self.placing = None;
    }
}

/// The answer to what is owed first; waits for ever where nothing is.
async fn first(owed: &mut VecDeque<Owed>, patience: std::time::Duration) -> Result<Offsets, Problem> {
    match owed.front_mut() {
        None => std::future::pending().await,
        Some(Owed::Refused { .. }) => Ok(Offsets::default()),
        Some(Owed::Sent { messages, since, pending }) => {
            let answer = timeout_at(*since + patience, pending.answer()).await;
            let offsets = answer.map_err(|_| single::timed_out())??;
            match offsets.get(messages.count - 1) {
                Some(_) => Ok(offsets),
                None => Err(single::placeless()),
            }
        }
    }
}

async fn placed(placing: &mut Option<Placing>) -> Result<Pending, Full> {
    match placing {
        Some(placing) => (&mut placing.room).await,
        None => std::future::pending().await,
    }
}

/// Reads once, after there is memory for what was read before. Cancel-safe.
async fn input(memory: &mut Memory, from: &mut (impl AsyncRead + Unpin), to: &mut Intake) -> io::Result<usize> {
    memory.wait().await;
    stream::read(from, &mut to.decoder).await
}
