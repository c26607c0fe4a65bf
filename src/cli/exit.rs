//! How verbs end.

use std::process::ExitCode;

use crate::process::{self, config};

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// It failed, or findings say that something is wrong.
    Failed = 1,
    /// The command line makes no sense; clap uses the same number.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// It contradicts what has happened meanwhile.
    Conflict = 4,
    /// It took too long; whether it happens yet is not known.
    TimedOut = 5,
    /// Some of it was done, some failed.
    PartlyFailed = 6,
    /// The configuration is wrong; the number is `EX_USAGE` of sysexits, as linkerd's proxy has it.
    BadConfig = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows its exit code. Any other error of a verb is [`Exit::Failed`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the exit code says.
    pub exit: Exit,
    /// What happened, where, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with its exit code and what to tell the user.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::new(Exit::BadConfig, error.to_string())
    }
}

/// Tells the user, and finds the exit code.
pub(super) fn report(error: &anyhow::Error) -> Exit {
    for line in format!("{error:#}").lines() {
        eprintln!("seriatim: {line}");
    }
    error.chain().find_map(code).unwrap_or(Exit::Failed)
}

fn code(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    let failure = cause.downcast_ref::<Failure>().map(|failure| failure.exit);
    let process = || cause.downcast_ref::<process::Error>().filter(|error| error.is_of_configuration());
    failure.or_else(|| process().map(|_| Exit::BadConfig))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_code_is_found_below_what_was_added() {
        let failure: anyhow::Result<()> = Err(Failure::new(Exit::NotFound, "no such lane").into());
        let error = failure.context("cannot show it").expect_err("it is one");
        assert_eq!(report(&error), Exit::NotFound);
        assert_eq!(report(&anyhow::anyhow!("anything")), Exit::Failed);
        let error = process::Error::Worker("no such program".to_owned());
        assert_eq!(report(&anyhow::Error::from(error).context("cannot start")), Exit::BadConfig);
    }
}
