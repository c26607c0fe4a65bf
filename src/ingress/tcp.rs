//! Messages over TCP, framed in one of four ways.
//!
//! Each connection is read, and its frames go to the log in the order in which they came; those
//! without a key go to the connection's lane. An acknowledgement is written only after the message
//! is durable, in order. Backpressure is not reading: no frame is read while as many as the window
//! allows wait for the log, while its queue is full, or while the peer does not read its answers.
//! Nothing is dropped for want of room.
//!
//! After the first message that cannot be written, or whose outcome is not known, nothing later is
//! acknowledged: the failure is told where the kind of acknowledgement can tell it, and the
//! connection closes. What the peer has no acknowledgement for it has to send again.
//!
//! A connection that is silent holds no buffer.

mod answer;
mod connection;
mod hl7;
mod intake;
mod memory;
mod stream;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Duration;
use tokio_util::either::Either;

pub use hl7::Field;

use super::Service;
use super::auth::Principal;
use super::gate::{Gate, Place};
use super::patient::Patient;
use super::tls::{self, Tls};
use crate::framing::Framing;
use crate::metrics::Port;
use connection::Connection;

/// What a sender gets to know of what became of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// Nothing; a failure closes the connection.
    None,
    /// A line of JSON each, `{"id","lane","offset"}`, or a last one that is a problem.
    Line,
    /// The commit acknowledgement of MLLP release 2, `0x06`, or a last `0x15`.
    MllpCommit,
    /// An HL7 acknowledgement each, by the message's header.
    Hl7,
}

impl Ack {
    /// Whether messages in this framing can be acknowledged so.
    #[must_use]
    pub const fn fits(self, framing: Framing) -> bool {
        match self {
            Self::None => true,
            Self::Line => !matches!(framing, Framing::Mllp),
            Self::MllpCommit | Self::Hl7 => matches!(framing, Framing::Mllp),
        }
    }

    /// What a sender in this framing expects: lines where something is to be read; HL7's for
    /// MLLP; none for octet counting, which syslog uses without ever reading.
    #[must_use]
    pub const fn usual(framing: Framing) -> Self {
        match framing {
            Framing::Newline | Framing::LengthPrefix => Self::Line,
            Framing::OctetCounting => Self::None,
            Framing::Mllp => Self::Hl7,
        }
    }
}

/// What is answered in MSA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Application accept.
    #[serde(rename = "AA")]
    ApplicationAccept,
    /// Application error.
    #[serde(rename = "AE")]
    ApplicationError,
    /// Application reject.
    #[serde(rename = "AR")]
    ApplicationReject,
    /// Commit accept, of the enhanced mode.
    #[serde(rename = "CA")]
    CommitAccept,
    /// Commit error.
    #[serde(rename = "CE")]
    CommitError,
    /// Commit reject.
    #[serde(rename = "CR")]
    CommitReject,
    /// Nothing: the connection is closed instead.
    #[serde(rename = "close")]
    Close,
}

impl Verdict {
    /// The code, `None` for no answer.
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::ApplicationAccept => Some("AA"),
            Self::ApplicationError => Some("AE"),
            Self::ApplicationReject => Some("AR"),
            Self::CommitAccept => Some("CA"),
            Self::CommitError => Some("CE"),
            Self::CommitReject => Some("CR"),
            Self::Close => None,
        }
    }
}

/// How HL7 messages are taken and acknowledged, with [`Ack::Hl7`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hl7 {
    /// The fields that make the message's key. None: no key. Default: facility and sender.
    pub key: Vec<Field>,
    /// Whether a message whose key fields and control id came before is a duplicate. Default: yes.
    pub dedupe: bool,
    /// For a message that is durable. Default: AA.
    pub accepted: Verdict,
    /// For one that is no HL7 message, or that the log refuses. Default: AE.
    pub content: Verdict,
    /// Where the log cannot take it now. Default: AR. An unknown outcome is never answered.
    pub unavailable: Verdict,
}

impl Default for Hl7 {
    fn default() -> Self {
        Self {
            key: vec![Field::FACILITY, Field::SENDER],
            dedupe: true,
            accepted: Verdict::ApplicationAccept,
            content: Verdict::ApplicationError,
            unavailable: Verdict::ApplicationReject,
        }
    }
}

/// One port for framed messages.
#[derive(Clone, Debug)]
pub struct Options {
    /// How messages are told apart.
    pub framing: Framing,
    /// How they are acknowledged. Has to fit the framing.
    pub ack: Ack,
    /// Messages of one connection that are read and not yet acknowledged. At least 1.
    pub window: usize,
    /// A connection on which nothing comes for so long, and nothing is under way, is closed.
    pub idle_timeout: Duration,
    /// The media type that messages are given.
    pub content_type: Option<String>,
    /// Who sends, where no certificate says it.
    pub principal: Principal,
    /// How HL7 messages are taken, with [`Ack::Hl7`].
    pub hl7: Hl7,
    /// TLS; plain where it is not given.
    pub tls: Option<Arc<Tls>>,
}

impl Options {
    /// The defaults for a framing: its usual acknowledgement; a window of 1,024 messages, of 1 over
    /// MLLP, whose senders wait for each answer; 10 minutes of silence, since feeds have pauses.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            ack: Ack::usual(framing),
            window: if framing == Framing::Mllp { 1 } else { 1024 },
            idle_timeout: Duration::from_secs(600),
            content_type: None,
            principal: Principal::anonymous(),
            hl7: Hl7::default(),
            tls: None,
        }
    }
}

/// What the unfinished frame of one connection may take, in bytes: the longest, what frames it, and
/// one read.
pub(super) const fn most_of_one(options: &super::Options) -> usize {
    options.max_body + 2 * stream::READ
}

/// Serves one port until the service drains; then reads nothing more, acknowledges what was
/// written and returns when the last connection has ended. Dropping it ends them at once.
pub(super) async fn serve(listener: TcpListener, options: Options, service: Service, memory: Arc<Semaphore>) {
    let limits = service.options();
    let gate = Gate::new(Port::Tcp, limits.max_connections, limits.max_connections_per_peer);
    let options = Arc::new(options);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = service.drain().cancelled() => break,
            Some(_) = connections.join_next() => {}
            (stream, place) = gate.accept(&listener) => {
                connections.spawn(serve_connection(stream, place, options.clone(), service.clone(), memory.clone()));
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    stream: TcpStream,
    place: Place,
    options: Arc<Options>,
    service: Service,
    memory: Arc<Semaphore>,
) {
    // Small answers must not wait for an acknowledgement of the one before; where it cannot be
    // set they merely do.
    let _ = stream.set_nodelay(true);
    let (stream, principal) = match &options.tls {
        None => (Either::Left(stream), None),
        Some(tls) => match tls.accept(stream, service.options().header_timeout).await {
            Ok((stream, principal)) => (Either::Right(stream), principal),
            Err(error) => return tls::failed(&error),
        },
    };
    let stream = Patient::new(stream, service.options().write_timeout);
    let principal = principal.unwrap_or_else(|| options.principal.clone());
    Connection::new(stream, options, principal, service, memory).run().await;
    drop(place);
}
