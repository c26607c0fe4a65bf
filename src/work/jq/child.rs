//! The parent's side: one process that runs the filter.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{self, ChildStdin, ChildStdout, Command};

use super::Options;
use super::wire::{READY, decode, length};
use crate::work::processor::{Answer, Failure};

/// A process is ready within milliseconds; on an overloaded machine it takes longer.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long the end of a process is waited for that has closed its pipes.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// With these a filter ends its process: a stack that overflows, memory that is refused.
const CRASHES: [Signal; 4] = [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::ILL];

/// Killed when it is dropped.
pub(super) struct Child {
    process: process::Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    max_answer: usize,
}

impl Child {
    /// Starts a process and waits until it has compiled the filter.
    pub(super) async fn start(options: &Options) -> Result<Self, Failure> {
        let started = tokio::time::timeout(READY_WITHIN, Self::try_start(options)).await;
        let started = started.unwrap_or_else(|_| Err(io::Error::other(format!("not ready within {READY_WITHIN:?}"))));
        started.map_err(|e| Failure::unreachable(format_args!("no process can be started for the filter: {e}"), None))
    }

    async fn try_start(options: &Options) -> io::Result<Self> {
        let (program, arguments) = options.command.split_first().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.args(arguments).arg(options.max_output.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        // What a terminal sends to end this process must not end that one first.
        command.process_group(0);
        let mut process = command.spawn()?;
        let missing = || io::Error::other("it has no pipes");
        let stdin = process.stdin.take().ok_or_else(missing)?;
        let stdout = process.stdout.take().ok_or_else(missing)?;
        // Each output is at least one byte and has some around it, of which there is a most; what
        // is not text is a third longer as base64.
        let max_answer = options.max_output.saturating_mul(2).saturating_add(1 << 20);
        let mut child = Self { process, stdin, stdout, max_answer };
        child.write(options.filter.as_bytes()).await?;
        let is_ready = child.read().await? == READY;
        if is_ready { Ok(child) } else { Err(io::Error::other(format!("{program} does not serve filters"))) }
    }

    /// What the filter makes of a body. With the outer error the process is of no use any more.
    pub(super) async fn ask(&mut self, body: &[u8]) -> Result<Result<Answer, Failure>, Failure> {
        let exchange = async {
            self.write(body).await?;
            decode(&self.read().await?).ok_or_else(|| io::Error::other("it gave no answer"))
        };
        match exchange.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.end(&error).await),
        }
    }

    /// Whose fault it is that a process has broken.
    async fn end(&mut self, error: &io::Error) -> Failure {
        let ended = tokio::time::timeout(LAST_BREATH, self.process.wait()).await;
        let Ok(Ok(status)) = ended else {
            return Failure::retry("filter-gone", format_args!("the process of the filter is broken: {error}"));
        };
        if is_crash(status) {
            let why = "it recursed too deeply, built what is nested too deeply, or took too much memory";
            return Failure::fail("filter-crashed", format_args!("the filter ended its process ({status}): {why}"));
        }
        Failure::retry("filter-gone", format_args!("the process of the filter was ended ({status})"))
    }

    async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = length(frame).ok_or_else(|| io::Error::other("it is too long"))?;
        self.stdin.write_all(&length).await?;
        self.stdin.write_all(frame).await?;
        self.stdin.flush().await
    }

    async fn read(&mut self) -> io::Result<Bytes> {
        let length = self.stdout.read_u32().await? as usize;
        if length > self.max_answer {
            return Err(io::Error::other(format!("its answer is {length} bytes long")));
        }
        let mut frame = vec![0; length];
        self.stdout.read_exact(&mut frame).await?;
        Ok(frame.into())
    }
}

fn is_crash(status: ExitStatus) -> bool {
    status.signal().is_some_and(|signal| CRASHES.iter().any(|crash| crash.as_raw() == signal))
}
