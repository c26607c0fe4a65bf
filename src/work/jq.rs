//! Work by a jq filter: each value that it gives is an output, none is no output.
//!
//! A filter may recurse as deep as its input tells it to, build values that are nested as deep, or
//! compute for ever, and the interpreter bounds none of it: its stack may overflow, which ends a
//! process, and it cannot be interrupted. So filters run in child processes, one record at a time
//! each: whatever a record does to its process is its own failure and nobody else's.

mod child;
mod filter;
mod serve;
mod wire;

use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use super::processor::{Answer, Failure, Job, Processor};
use child::Child;

pub use serve::serve;

/// What to run, and how far it may go.
#[derive(Clone, Debug)]
pub struct Options {
    /// The filter, in the language of jq as `jaq` understands it.
    pub filter: String,
    /// A program that calls [`serve()`], and its arguments. [`VERB`] makes `seriatim` do so.
    pub command: Vec<String>,
    /// A record on which the filter runs longer fails. Shorter than an attempt's time-out, so that
    /// this is what it fails with.
    pub patience: Duration,
    /// All outputs of a record together have at most so many bytes.
    pub max_output: usize,
}

/// The verb of the program `seriatim` that serves filters.
pub const VERB: &str = "jq-worker";

/// The filter is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("work.jq does not compile: {0}")]
pub struct Error(pub String);

/// Runs a filter over JSON bodies, in child processes.
///
/// A record fails for good where the filter takes too long (`filter-too-slow`), or where it ends
/// its process (`filter-crashed`) because it recurses too deeply or takes too much memory. Its
/// process is replaced.
pub struct Jq {
    options: Options,
    /// Those that nobody uses just now. Dropping them kills them.
    idle: Mutex<Vec<Child>>,
    places: Semaphore,
}

impl fmt::Debug for Jq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jq").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Whether a filter compiles.
///
/// # Errors
///
/// [`Error`] says what is wrong with the filter, and where.
pub fn compile(filter: &str) -> Result<(), Error> {
    filter::compile(filter).map(drop).map_err(Error)
}

impl Jq {
    /// Compiles the filter. Processes are started as they are needed, up to one a core.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong with the filter, and where.
    pub fn new(options: Options) -> Result<Self, Error> {
        compile(&options.filter)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { options, idle: Mutex::default(), places: Semaphore::new(cores) })
    }

    /// Where it is dropped, or fails but for the answer, the process goes with it.
    async fn ask(&self, job: Job) -> Result<Answer, Failure> {
        let _place = self.places.acquire().await.expect("nobody closes it");
        let idle = self.idle().pop();
        let mut child = match idle {
            Some(child) => child,
            None => Child::start(&self.options).await?,
        };
        let patience = self.options.patience;
        let answer = tokio::time::timeout(patience, child.ask(job.body())).await.unwrap_or_else(|_| {
            Err(Failure::fail("filter-too-slow", format_args!("the filter still runs after {patience:?}")))
        })?;
        self.idle().push(child);
        answer
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Child>> {
        self.idle.lock().expect("no holder of this lock panics")
    }
}

impl Processor for Jq {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(self.ask(job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Offset, Partition, Source, Timestamp};
    use crate::work::processor::Class;

    #[tokio::test]
    async fn a_program_that_serves_no_filter_is_a_worker_out_of_reach() {
        for command in [&[][..], &["/no/such/program"], &["cat"], &["true"], &["echo", "no, this is not the one"]] {
            let command = command.iter().map(|part| (*part).to_owned()).collect();
            let options = Options { filter: ".".to_owned(), command, patience: Duration::MAX, max_output: 1000 };
            let mut record = BatchBuilder::default();
            record.push(None, Some(b"1"), |_| {});
            let job = Job::new(Source::from((Partition(0), Offset(0))), 1, Timestamp(0), record.finish());
            let failure = Jq::new(options.clone()).expect("it compiles").process(job).await.expect_err("it is none");
            assert!(matches!(failure.class, Class::Unreachable { .. }), "{:?}: {failure:?}", options.command);
        }
    }
}
