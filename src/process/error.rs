//! Why a process could not start, or had to end.

use std::io;
use std::time::Duration;

use super::config::Address;
use super::role::Role;
use super::running::RoleError;
use crate::deliver;
use crate::log::embedded::OpenError;
use crate::log::{self, Topic};

/// Why a process could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened at.
    #[error("cannot listen at {address} ({key}): {error}; {hint}")]
    Listen {
        /// The config's key.
        key: &'static str,
        /// What it says.
        address: Address,
        /// What to do.
        hint: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// A file that the configuration names is not usable.
    #[error("{key}: {reason}")]
    File {
        /// The config's key.
        key: &'static str,
        /// Which file, what is wrong with it.
        reason: String,
    },
    /// The worker that the configuration names is not usable.
    #[error("{0}")]
    Worker(String),
    /// A destination cannot be pushed to as the configuration has it.
    #[error("destinations.{name}.push: {reason}")]
    Destination {
        /// Which.
        name: String,
        /// What is wrong, and what to do.
        reason: deliver::BadOptions,
    },
    /// The folder cannot be opened as a log.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Properties of `log.kafka` do not go together, or name what is not there.
    #[error("{0}")]
    Properties(String),
    /// A topic is there, and is not what the configuration wants it to be.
    #[error("topic {topic}: {reason}")]
    Topic {
        /// Which.
        topic: Topic,
        /// What is otherwise, and what to do.
        reason: String,
    },
    /// The log failed, or is not what the configuration wants.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The system refused a thread or a runtime.
    #[error("the system refuses what the process needs: {0}")]
    System(#[from] io::Error),
    /// A role has failed.
    #[error("the role {role} has failed: {error}")]
    Role {
        /// Which.
        role: Role,
        /// With what.
        error: RoleError,
    },
    /// A role has met a defect of the program.
    #[error("the role {role} has panicked, which is a defect of seriatim; its message is in the log")]
    Panicked {
        /// Which.
        role: Role,
    },
    /// A role has ended although nobody asked it to.
    #[error("the role {role} has ended by itself, which is a defect of seriatim")]
    Ended {
        /// Which.
        role: Role,
    },
    /// Not all roles ended in time; what they were at will be done again.
    #[error("{} had not ended within {within:?} (process.drain) and will be taken up again", list(roles))]
    DrainTimedOut {
        /// The time there was.
        within: Duration,
        /// Which took longer, at least one.
        roles: Vec<Role>,
    },
}

impl Error {
    /// Whether it is the configuration that has to be changed: another start would end the same way.
    #[must_use]
    pub const fn is_of_configuration(&self) -> bool {
        match self {
            Self::File { .. }
            | Self::Worker(_)
            | Self::Destination { .. }
            | Self::Properties(_)
            | Self::Topic { .. } => true,
            Self::Open(error) => matches!(error, OpenError::Foreign { .. } | OpenError::File { .. }),
            _ => false,
        }
    }
}

fn list(roles: &[Role]) -> String {
    roles.iter().map(Role::to_string).collect::<Vec<_>>().join(", ")
}
