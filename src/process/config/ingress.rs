//! Section `ingress`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Address, Size};

/// How messages come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingress {
    /// Where the data port listens.
    pub http: Address,
    /// The longest body of a message.
    pub max_body: Size,
    /// A file of those who may call, a line each: `TOKEN PRINCIPAL`. All may where it is not given.
    pub tokens_file: Option<PathBuf>,
}

impl Default for Ingress {
    fn default() -> Self {
        Self { http: Address::loopback(8080), max_body: Size::mebibytes(1), tokens_file: None }
    }
}
