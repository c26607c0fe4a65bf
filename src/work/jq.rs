//! Work by a jq filter: each value that it gives is an output, none is no output.

mod filter;
mod threads;

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

use super::processor::{Answer, Failure, Job, Processor};
use threads::Threads;

/// What to run, and how far it may go.
#[derive(Clone, Debug)]
pub struct Options {
    /// The filter, in the language of jq as `jaq` understands it.
    pub filter: String,
    /// A record on which the filter runs longer fails. Shorter than an attempt's time-out, so that
    /// this is what it fails with.
    pub patience: Duration,
    /// All outputs of a record together have at most so many bytes.
    pub max_output: usize,
}

/// The filter is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("work.jq does not compile: {0}")]
pub struct Error(pub String);

/// Runs a filter over JSON bodies, on threads of its own.
///
/// A filter cannot be interrupted. One that does not end keeps its thread; another thread takes
/// its place, up to eight times, and the record fails with `filter-too-slow`. The filter comes
/// from who runs this program: what it does to memory is not bounded.
pub struct Jq {
    options: Options,
    threads: Threads,
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
    /// Compiles the filter and starts the threads, one a core.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong with the filter, and where.
    pub fn new(options: Options) -> Result<Self, Error> {
        compile(&options.filter)?;
        let threads = Threads::start(options.filter.clone(), options.max_output);
        Ok(Self { options, threads })
    }
}

impl Processor for Jq {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(self.threads.run(job, self.options.patience))
    }
}
