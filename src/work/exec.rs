//! Work by child processes that speak one JSON object a line over standard input and output.
//!
//! A child gets `{"id","lane","offset","key","attempt","headers","contentType","body"}` and answers
//! `{"id","outputs":[...]}` or `{"id","error":{"code","detail","retryable"}}`, in any order. What
//! it writes to its standard error goes to this program's log. An answer that is longer than it may be
//! fails its record where the line begins with the id, so put that first.
//!
//! A child that ends, or writes a line that is not JSON of this form, is
//! broken: it is killed and started anew after a pause that grows while it keeps breaking. A record
//! that it held alone has failed an attempt. Where it held several, nobody knows which of them broke
//! it: each is tried again, alone with a child, and has used up no attempt. An answer to an id that
//! it does not hold is passed over: it is late.

mod child;
mod line;
mod lines;
mod stderr;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::process::Command;
use tokio::sync::{RwLock, mpsc, oneshot};
use tokio::task::JoinSet;

use super::processor::{Answer, Class, Failure, Job, Processor};
use crate::record::Source;
use child::{Ask, Child, Status};

/// What waits for a child whose input is full; more wait with the stage.
const QUEUE: usize = 64;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// How many of it run; records go to the one that holds the fewest. At least 1.
    pub processes: usize,
    /// The largest output in bytes; an answer's line may be twice as long, and 64 KiB more.
    pub max_output: usize,
}

/// Why the command does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("work.exec.command is empty: name a program")]
    Empty,
    /// The system refused to start it.
    #[error("work.exec.command {program:?} cannot be started: {source}; is it installed, executable and in PATH?")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// How long a suspect waits to be alone with a child before it makes room for other records: well
/// below what an attempt may take.
const ALONE_WITHIN: Duration = Duration::from_secs(1);

/// So many suspects are remembered; a child that breaks under more takes them for innocent.
const SUSPECTS: usize = 10_000;

/// Hands records to child processes. Dropping it kills them.
pub struct Exec {
    children: Vec<Handle>,
    /// Records that a child held, among others, when it broke.
    suspects: Mutex<BTreeSet<Source>>,
    _supervisors: JoinSet<()>,
}

struct Handle {
    asks: mpsc::Sender<Ask>,
    status: Arc<Status>,
    /// Taken by many, or by one suspect.
    company: RwLock<()>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("processes", &self.children.len()).finish_non_exhaustive()
    }
}

impl Exec {
    /// Starts the children.
    ///
    /// # Errors
    ///
    /// [`Error`], where not even one can be started.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let (program, arguments) = options.command.split_first().ok_or(Error::Empty)?;
        let mut supervisors = JoinSet::new();
        let mut children = Vec::new();
        for number in 0..options.processes.max(1) {
            let mut command = Command::new(program);
            command.args(arguments);
            let mut child = Child::new(number, command, options.max_output);
            let running = child.spawn().map_err(|source| Error::Start { program: program.clone(), source })?;
            let (asks, queue) = mpsc::channel(QUEUE);
            children.push(Handle { asks, status: child.status(), company: RwLock::new(()) });
            supervisors.spawn(child.supervise(running, queue));
        }
        Ok(Self { children, suspects: Mutex::default(), _supervisors: supervisors })
    }

    async fn ask(&self, job: Job) -> Result<Answer, Failure> {
        let source = job.source;
        let is_suspect = self.suspects().contains(&source);
        let answer = self.ask_one(job, is_suspect).await;
        let mut suspects = self.suspects();
        match &answer {
            Err(failure) if failure.code == child::IN_COMPANY => {
                if suspects.len() < SUSPECTS {
                    suspects.insert(source);
                }
            }
            Err(Failure { class: Class::Unreachable { .. }, .. }) => {}
            _ => {
                suspects.remove(&source);
            }
        }
        answer
    }

    fn suspects(&self) -> MutexGuard<'_, BTreeSet<Source>> {
        self.suspects.lock().expect("no holder of this lock panics")
    }

    async fn ask_one(&self, job: Job, is_suspect: bool) -> Result<Answer, Failure> {
        let running = self.children.iter().filter(|child| child.status.is_up.load(Relaxed));
        let Some(child) = running.min_by_key(|child| child.status.held.load(Relaxed)) else {
            return Err(Failure::unreachable("no process of work.exec runs; its last words are in the log", None));
        };
        let (_alone, _among_others);
        if is_suspect {
            let busy = |_| Failure::unreachable("waits to be tried alone, as a process broke that held it", None);
            _alone = tokio::time::timeout(ALONE_WITHIN, child.company.write()).await.map_err(busy)?;
        } else {
            _among_others = child.company.read().await;
        }
        let line = line::encode(&job);
        let (answer, answered) = oneshot::channel();
        let _held = Held::of(&child.status);
        let gone = || Failure::retry("worker-crashed", "the process ended before it answered");
        child.asks.send(Ask { source: job.source, line, answer }).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// Counts a record as held by a child for as long as it lives.
struct Held(Arc<Status>);

impl Held {
    fn of(status: &Arc<Status>) -> Self {
        status.held.fetch_add(1, Relaxed);
        Self(Arc::clone(status))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

impl Processor for Exec {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(self.ask(job))
    }
}
