//! Section `ingress`.

mod tcp;

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Address, Size, Span};
pub use tcp::{Hl7, TcpPort};

/// How messages come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingress {
    /// Where the data port listens.
    pub http: Address,
    /// TLS for the data port.
    pub tls: Option<Tls>,
    /// Ports for framed messages.
    pub tcp: Vec<TcpPort>,
    /// The longest body of a message.
    pub max_body: Size,
    /// A file of those who may call, a line each: `TOKEN PRINCIPAL`. All may where it is not given.
    pub tokens_file: Option<PathBuf>,
    /// How much each principal may send.
    pub quota: Option<Quota>,
    /// Connections at once, on each port.
    pub max_connections: NonZeroU32,
    /// Those of one peer among them; as many where it is not given.
    pub max_connections_per_peer: Option<NonZeroU32>,
}

impl Default for Ingress {
    fn default() -> Self {
        Self {
            http: Address::loopback(8080),
            tls: None,
            tcp: Vec::new(),
            max_body: Size::mebibytes(1),
            tokens_file: None,
            quota: None,
            max_connections: const { NonZeroU32::new(10_000).expect("10,000 is not 0") },
            max_connections_per_peer: None,
        }
    }
}

/// So many messages in this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// How many; all at once, if the sender likes.
    pub messages: NonZeroU32,
    /// The time in which they come back, evenly.
    pub per: Span,
}

/// TLS for a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, and those between it and the root, in PEM.
    pub certificate_file: PathBuf,
    /// Its private key, in PEM.
    pub key_file: PathBuf,
    /// The roots of clients' certificates, in PEM; clients are asked for none where it is not given.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}

impl Tls {
    /// The files, by the key that names them.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &std::path::Path)> {
        let always = [("certificate_file", self.certificate_file.as_path()), ("key_file", self.key_file.as_path())];
        always.into_iter().chain(self.client_ca_file.as_deref().map(|path| ("client_ca_file", path)))
    }
}
