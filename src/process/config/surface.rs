//! Sections `admin` and `process`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Address, Span};

/// The admin port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where it listens.
    pub listen: Address,
    /// A file with the token that calls which change something have to bring, unless they come
    /// from this machine. Without it, only this machine may make such calls.
    pub token_file: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Address::loopback(8090), token_file: None }
    }
}

/// The process itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// How long it may take to end in order.
    pub drain: Span,
    /// The form of its log lines.
    pub log: LogFormat,
}

impl Default for Process {
    fn default() -> Self {
        // Below the 30 s that Kubernetes waits before it kills.
        Self { drain: Span::from_secs(25), log: LogFormat::default() }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
