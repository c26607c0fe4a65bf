//! The process: configuration, roles and their wiring, drain, admin port, telemetry.
//!
//! [`Process`] is what `seriatim run` runs, and what a program that embeds the library starts
//! instead of it. It makes no use of signals, exit codes or global state but the metrics.

pub mod admin;
pub mod config;
pub mod listen;
pub mod readiness;
mod role;
mod running;
pub mod secret;
pub mod signal;
pub mod telemetry;

use std::io;
use std::time::Duration;

use config::Address;

pub use role::{Role, Roles};
pub use running::{RoleError, Running};

use crate::log;

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
    /// The log cannot be opened or is not what the configuration wants.
    #[error("the log: {0}")]
    Log(#[from] log::Error),
    /// A role has failed; the others were ended in order.
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

fn list(roles: &[Role]) -> String {
    roles.iter().map(Role::to_string).collect::<Vec<_>>().join(", ")
}
