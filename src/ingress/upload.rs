//! `POST /v1/messages` with many messages: NDJSON, streamed, or a batch of CloudEvents.
//!
//! Nothing is held whole. Lines are checked as they come, and those of one piece of the body go to
//! the lane as one batch; a few batches are on their way at a time, and the body is read on as
//! they are answered. What is kept of each message is its answer, and answers that continue one
//! another (offsets that follow, the same refusal) are kept as one run. So an upload of any length
//! takes little memory, and its answer begins when it ends: a client that writes everything before
//! it reads is served. Only when [`MAX_RUNS`] runs wait does the answer begin earlier, and reading
//! then goes no faster than the client takes it.
//!
//! With an idempotency key of its own an upload can be sent again as a whole: its lines meet those of the
//! earlier attempt downstream, where identities are compared in log order, and are not looked up
//! here. The first of each counts, so that the order stays that of the lines.
//!
//! What a client that breaks off has sent stands in the lane in order, from the first line without
//! a gap up to some line; the last, unfinished line is not taken. The same is true of an upload of
//! which the log refuses a part: nothing that is on its way behind that part is written.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::{Duration, Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::appender::{Pending, Strand};
use super::auth::Principal;
use super::decode::Pieces;
use super::envelope::Envelope;
use super::lines::{Line, Lines};
use super::problem::{Code, Problem};
use super::results::{Results, check_json};
use super::{Options, Service, body, single};
use crate::log::Offsets;
use crate::record::{BatchBuilder, Partition};

/// Batches of one upload on their way. Each is at most one piece of the body as the socket gave
/// it; enough of them keep the lane's appender busy while answers travel.
const ON_THE_WAY: usize = 16;

/// What one batch of an upload may take beside one long line: more than a connection hands out at
/// once, so that only headers that each line repeats make it be cut.
pub(super) const MAX_BATCH: usize = 1024 * 1024;

/// How many runs of answers are kept for a client that does not read yet: some 8 MiB.
const MAX_RUNS: usize = 64 * 1024;

/// Problems up to here say what was wrong in their own words; later ones only by code, so that a
/// hopeless upload gathers into runs.
const MAX_DETAILS: usize = 1_000;

/// For how long uploads may go on once the process drains: most end by themselves, and an endless
/// one leaves time to write its answer.
const LAST_CALL: Duration = Duration::from_secs(5);

/// How long the next line may take. One that drips does not live longer than one that does not come.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
}

impl Pace {
    /// The time runs from now.
    pub(super) fn new() -> Self {
        Self { since: Instant::now() }
    }

    pub(super) fn deadline(&self, unfinished: &Lines, options: &Options) -> Instant {
        self.since + options.body_timeout + body::allowance(unfinished.held())
    }

    /// A piece came, behind the unfinished line.
    pub(super) fn came(&mut self, piece: &[u8], unfinished: &Lines) {
        if unfinished.held() == 0 || memchr::memchr(b'\n', piece).is_some() {
            self.since = Instant::now();
        }
    }

    /// So long nothing was read, which was not the client's time.
    pub(super) fn rest(&mut self, span: Duration) {
        self.since += span;
    }
}

/// A batch, or only refusals, whose answer is awaited.
#[derive(Debug)]
struct Group {
    /// What became of each line so far, in order; `None` was sent.
    lines: Vec<(usize, Option<Problem>)>,
    pending: Option<Pending>,
}

impl Group {
    fn add(lines: &mut Vec<(usize, Option<Problem>)>, problem: Option<Problem>) {
        match lines.last_mut() {
            Some((count, last)) if *last == problem => *count += 1,
            _ => lines.push((1, problem)),
        }
    }
}

/// One upload on its way through. Driven by [`Upload::step`].
pub(super) struct Upload {
    service: Service,
    envelope: Envelope,
    lane: Partition,
    strand: Strand,
    principal: Principal,
    body: Option<Pieces>,
    pace: Pace,
    lines: Lines,
    builder: BatchBuilder,
    on_the_way: VecDeque<Group>,
    /// Once set, no later line is sent: each gets this answer.
    ended_by: Option<Problem>,
    details: usize,
    /// The number of the next line that is not blank.
    next: u64,
    /// When reading ends because the process does.
    last_call: Option<Instant>,
    pub(super) results: Results,
}

impl Upload {
    pub(super) fn new(
        service: Service,
        envelope: Envelope,
        lane: Partition,
        body: Pieces,
        principal: Principal,
    ) -> Self {
        Self {
            lines: Lines::new(service.options().max_body),
            service,
            envelope,
            lane,
            strand: Strand::default(),
            principal,
            body: Some(body),
            pace: Pace::new(),
            builder: BatchBuilder::default(),
            on_the_way: VecDeque::new(),
            ended_by: None,
            details: 0,
            next: 0,
            last_call: None,
            results: Results::new(lane),
        }
    }

    /// Whether the answers that wait have become too many to keep.
    pub(super) fn must_answer(&self) -> bool {
        self.results.runs() >= MAX_RUNS
    }

    /// Waits for the next thing to happen; `false` once everything has.
    pub(super) async fn step(&mut self) -> bool {
        let room = self.on_the_way.len() < ON_THE_WAY;
        let deadline = self.pace.deadline(&self.lines, self.service.options());
        tokio::select! {
            biased;
            answer = first_answer(&mut self.on_the_way, self.service.options().append_timeout),
                if !self.on_the_way.is_empty() => self.settle(answer),
            () = over(self.service.drain(), &mut self.last_call), if self.body.is_some() => {
                self.break_off(Problem::new(Code::Draining, "the process is stopping; send the rest again"));
            }
            frame = next_frame(&mut self.body, deadline), if room && self.body.is_some() => match frame {
                Ok(Some(frame)) => self.take(frame).await,
                Ok(None) => self.finish().await,
                Err(problem) => self.break_off(problem),
            },
            else => return false,
        }
        true
    }

    /// Takes a piece of the body: its lines become one batch, or a few where each repeats so much
    /// that one would become too large. No line is shorter than its end and one character.
    async fn take(&mut self, mut piece: Bytes) {
        self.pace.came(&piece, &self.lines);
        let most = 2 * (MAX_BATCH / self.envelope.overhead()).max(1);
        while !piece.is_empty() {
            let part = piece.split_to(most.min(piece.len()));
            let mut found = Vec::new();
            let mut lines = std::mem::replace(&mut self.lines, Lines::new(0));
            lines.feed(&part, |line| self.line(line, &mut found));
            self.lines = lines;
            self.send(found).await;
        }
    }

    async fn finish(&mut self) {
        self.body = None;
        let mut found = Vec::new();
        let mut lines = std::mem::replace(&mut self.lines, Lines::new(0));
        lines.finish(|line| self.line(line, &mut found));
        self.send(found).await;
    }

    /// The body ended before its end: one entry says why, in place of the line that did not come.
    fn break_off(&mut self, problem: Problem) {
        self.body = None;
        self.on_the_way.push_back(Group { lines: vec![(1, Some(problem))], pending: None });
    }

    fn line(&mut self, line: Line<'_>, found: &mut Vec<(usize, Option<Problem>)>) {
        let index = self.next;
        self.next += 1;
        let problem = match (&self.ended_by, line) {
            (Some(problem), _) => Some(problem.clone()),
            (None, Line::TooLong) => Some(body::too_large(self.service.options())),
            (None, Line::Whole(line)) => match check_json(line) {
                Ok(()) => {
                    self.envelope.push_entry(&mut self.builder, index, line, Some(b"application/json"));
                    None
                }
                Err(detail) => Some(self.malformed(detail)),
            },
        };
        Group::add(found, problem);
    }

    fn malformed(&mut self, detail: String) -> Problem {
        self.details += 1;
        if self.details > MAX_DETAILS {
            return Problem::new(Code::InvalidBody, "the line is no JSON; its details are left out after so many");
        }
        Problem::new(Code::InvalidBody, detail)
    }

    async fn send(&mut self, lines: Vec<(usize, Option<Problem>)>) {
        let mut group = Group { lines, pending: None };
        if !self.builder.is_empty() {
            self.keep_to_quota().await;
            let lane = self.service.lane(self.lane);
            let sending = lane.send(self.builder.finish(), Some(self.strand.clone()));
            let queued = timeout(self.service.options().append_timeout, sending).await;
            match queued {
                Ok(Ok(pending)) => group.pending = Some(pending),
                Ok(Err(_)) | Err(_) => {
                    let problem = single::overloaded();
                    refuse_sent(&mut group.lines, &problem);
                    self.ended_by = Some(problem);
                }
            }
        }
        if !group.lines.is_empty() {
            self.on_the_way.push_back(group);
        }
    }

    /// Waits until the sender may send what is gathered. What has come is still written when the
    /// process drains.
    async fn keep_to_quota(&mut self) {
        let count = u32::try_from(self.builder.len()).unwrap_or(u32::MAX);
        let quota = self.service.keep_to_quota(&self.principal, count);
        let _ = self.service.drain().run_until_cancelled(quota).await;
        self.pace = Pace::new();
    }

    /// Puts the answers of the oldest group into the results.
    fn settle(&mut self, answer: Result<Offsets, Problem>) {
        if self.on_the_way.len() == ON_THE_WAY {
            // Nothing was read while there was no room: that was not the client's time.
            self.pace = Pace::new();
        }
        let Some(mut group) = self.on_the_way.pop_front() else { return };
        // After an unknown outcome everything later is unknown, too, whatever the log says of it.
        let unknown = self.ended_by.as_ref().filter(|problem| problem.code() == Code::OutcomeUnknown).cloned();
        let answer = match unknown {
            Some(problem) if group.pending.is_some() => Err(problem),
            _ => answer,
        };
        if let Err(problem) = &answer {
            refuse_sent(&mut group.lines, problem);
            let worse = self.ended_by.is_none() || problem.code() == Code::OutcomeUnknown;
            if worse && group.pending.is_some() {
                self.ended_by = Some(problem.clone());
            }
        }
        self.results.extend(group.lines, &answer.unwrap_or_default());
    }
}

/// Turns what was sent into what was refused.
fn refuse_sent(lines: &mut [(usize, Option<Problem>)], with: &Problem) {
    for (_, problem) in lines.iter_mut().filter(|(_, problem)| problem.is_none()) {
        *problem = Some(with.clone());
    }
}

/// The answer to the oldest group; waits for ever where there is none.
async fn first_answer(groups: &mut VecDeque<Group>, patience: Duration) -> Result<Offsets, Problem> {
    match groups.front_mut() {
        None => std::future::pending().await,
        Some(Group { pending: None, .. }) => Ok(Offsets::default()),
        Some(Group { pending: Some(pending), .. }) => {
            timeout(patience, pending.answer()).await.map_err(|_| single::timed_out())?.map_err(Problem::from)
        }
    }
}

/// Waits until the process drains, and then for the last call.
async fn over(drain: &CancellationToken, last_call: &mut Option<Instant>) {
    drain.cancelled().await;
    sleep_until(*last_call.get_or_insert_with(|| Instant::now() + LAST_CALL)).await;
}

pub(super) async fn next_frame(body: &mut Option<Pieces>, deadline: Instant) -> Result<Option<Bytes>, Problem> {
    let Some(body) = body else { return Ok(None) };
    match timeout_at(deadline, body.next()).await {
        Err(_) => Err(Problem::new(Code::RequestTimeout, "the next line did not come in time")),
        Ok(piece) => piece.transpose(),
    }
}
