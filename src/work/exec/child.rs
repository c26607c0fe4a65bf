//! One child process: started, talked to, and started anew when it breaks.

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{self, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::FramedRead;

use super::lines::{Line, Lines};
use super::{line, stderr};
use crate::record::Source;
use crate::work::processor::{Answer, Failure};

/// Before a child that has broken is started anew; doubled as long as it keeps breaking.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_CAP: Duration = Duration::from_secs(30);

/// A child that lived that long, or that has answered, was well.
const SETTLED: Duration = Duration::from_secs(10);

/// A process that has closed its output may take so long to end.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// The code of the failure of a record that a process held among others when it broke.
pub(super) const IN_COMPANY: &str = "worker-crashed-in-company";

/// What is written ahead for a child that reads slowly.
const WRITE_AHEAD: usize = 64 * 1024;

/// What nobody waits for any more is thrown out when so many are held, and whenever they double.
const SWEEP_AT: usize = 1024;

/// A record for a child.
pub(super) struct Ask {
    pub(super) source: Source,
    pub(super) line: Vec<u8>,
    pub(super) answer: oneshot::Sender<Result<Answer, Failure>>,
}

/// What others see of a child.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) is_up: AtomicBool,
    /// Records that somebody waits for.
    pub(super) held: AtomicUsize,
}

pub(super) struct Child {
    number: usize,
    command: Command,
    max_line: usize,
    status: Arc<Status>,
}

/// A process with its pipes.
pub(super) struct Running {
    process: process::Child,
    stdin: ChildStdin,
    lines: FramedRead<ChildStdout, Lines>,
}

/// Who waits for what. A record may be held twice, when it was sent out again.
#[derive(Default)]
struct Pending {
    asks: BTreeMap<Source, Vec<oneshot::Sender<Result<Answer, Failure>>>>,
    sweep_at: usize,
    /// Whether there was an answer ever.
    answered: bool,
}

impl Pending {
    fn add(&mut self, source: Source, answer: oneshot::Sender<Result<Answer, Failure>>) {
        if self.asks.len() >= self.sweep_at.max(SWEEP_AT) {
            self.asks.retain(|_, waiting| waiting.iter().any(|answer| !answer.is_closed()));
            self.sweep_at = 2 * self.asks.len();
        }
        let waiting = self.asks.entry(source).or_default();
        waiting.retain(|answer| !answer.is_closed());
        waiting.push(answer);
    }

    fn answer(&mut self, source: Source, outcome: &Result<Answer, Failure>) {
        self.answered = true;
        for answer in self.asks.remove(&source).into_iter().flatten() {
            // Nobody waits where the attempt was given up.
            let _ = answer.send(outcome.clone());
        }
    }

    /// The process broke. Of what it held in company nothing is known.
    fn fail(self, reason: &str) {
        let waiting: Vec<_> = self.asks.into_values().flatten().filter(|answer| !answer.is_closed()).collect();
        let failure = if waiting.len() > 1 {
            Failure { code: IN_COMPANY.into(), ..Failure::unreachable(reason, None) }
        } else {
            Failure::retry("worker-crashed", reason)
        };
        for answer in waiting {
            // As above.
            let _ = answer.send(Err(failure.clone()));
        }
    }
}

impl Child {
    pub(super) fn new(number: usize, mut command: Command, max_output: usize) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let max_line = max_output.saturating_mul(2).saturating_add(64 * 1024);
        Self { number, command, max_line, status: Arc::default() }
    }

    pub(super) fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    pub(super) fn spawn(&mut self) -> io::Result<Running> {
        let mut process = self.command.spawn()?;
        let missing = || io::Error::other("it has no pipes");
        let stdin = process.stdin.take().ok_or_else(missing)?;
        let stdout = process.stdout.take().ok_or_else(missing)?;
        let errors = process.stderr.take().ok_or_else(missing)?;
        // Ends with the process, whose pipe it reads.
        tokio::spawn(stderr::forward(errors, self.number));
        let lines = FramedRead::new(stdout, Lines::new(self.max_line));
        self.status.is_up.store(true, Relaxed);
        Ok(Running { process, stdin, lines })
    }

    /// Keeps a process running and hands records to it until nobody can ask any more.
    pub(super) async fn supervise(mut self, mut running: Running, mut asks: mpsc::Receiver<Ask>) {
        let mut pause = PAUSE;
        loop {
            let since = Instant::now();
            let mut pending = Pending::default();
            let Err(reason) = talk(&mut running, &mut asks, &mut pending).await else { return };
            let answered = pending.answered;
            self.status.is_up.store(false, Relaxed);
            tracing::error!(process = self.number, reason, "the worker process is broken and started anew");
            drop(running);
            pending.fail(&reason);
            if since.elapsed() >= SETTLED || answered {
                pause = PAUSE;
            }
            loop {
                refuse(&mut asks);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_CAP);
                match self.spawn() {
                    Ok(anew) => {
                        running = anew;
                        break;
                    }
                    Err(error) => {
                        tracing::error!(process = self.number, %error, "the worker process cannot be started");
                    }
                }
            }
        }
    }
}

/// Sends back what was on its way to a process that is no more.
fn refuse(asks: &mut mpsc::Receiver<Ask>) {
    while let Ok(ask) = asks.try_recv() {
        // Nobody waits where the attempt was given up.
        let _ = ask.answer.send(Err(Failure::unreachable("the worker process has just ended", None)));
    }
}

/// Writes asks and reads answers, at the same time, so that neither pipe blocks the other. Ends
/// well when nobody can ask any more, else with what is wrong with the process.
async fn talk(running: &mut Running, asks: &mut mpsc::Receiver<Ask>, pending: &mut Pending) -> Result<(), String> {
    let Running { process, stdin, lines } = running;
    let mut out = BytesMut::new();
    loop {
        tokio::select! {
            biased;
            line = lines.next() => match line {
                Some(Ok(line)) => {
                    let (source, outcome) = answer(&line, lines.decoder().max)?;
                    pending.answer(source, &outcome);
                }
                Some(Err(error)) => return Err(format!("it wrote a line that cannot be read: {error}")),
                None => return Err(ended(process).await),
            },
            written = stdin.write_buf(&mut out), if out.has_remaining() => match written {
                Ok(1..) => {}
                Ok(0) => return Err("it does not take any more input".to_owned()),
                Err(error) => return Err(format!("it does not take any more input: {error}")),
            },
            ask = asks.recv(), if out.len() < WRITE_AHEAD => match ask {
                Some(Ask { source, line, answer }) => {
                    out.extend_from_slice(&line);
                    pending.add(source, answer);
                }
                None => return Ok(()),
            },
        }
    }
}

/// Which record a line answers, and how; else what is wrong with the process.
fn answer(line: &Line, max: usize) -> Result<(Source, Result<Answer, Failure>), String> {
    match line {
        Line::Whole(line) => {
            let text = std::str::from_utf8(line).map_err(|e| format!("it wrote a line that cannot be read: {e}"))?;
            line::decode(text).map_err(|e| format!("it wrote a line that is no answer: {e}"))
        }
        Line::TooLong(head) => {
            let reason = format!("longer than {max} bytes");
            let source = line::id_of(head)
                .ok_or_else(|| format!("it wrote a line that cannot be read: {reason}, and no id at its beginning"))?;
            Ok((source, Err(Failure::fail("output-too-large", format_args!("the line of the answer is {reason}")))))
        }
    }
}

/// How a process ended that has closed its output; one that goes on all the same is killed.
async fn ended(process: &mut process::Child) -> String {
    if let Ok(status) = tokio::time::timeout(LAST_BREATH, process.wait()).await {
        return status
            .map_or_else(|error| format!("it closed its output: {error}"), |status| format!("it ended: {status}"));
    }
    "it closed its output".to_owned()
}
