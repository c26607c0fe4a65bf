//! Pushing over TCP, in the framings of ingress.
//!
//! An attempt has a connection for itself until it is answered, so that an attempt that is given up
//! takes its connection with it and cannot be answered in place of its successor. What an answer
//! is, the framing says: over MLLP an HL7 acknowledgement or the commit acknowledgement of MLLP
//! itself, else a line. Only who asks for none is believed to have got what was written.
//!
//! Over TCP go the body's bytes and nothing else: no sequence, no epoch. A receiver that has to act
//! exactly once does so by what is in its messages.

mod answer;
mod dial;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::guard::{self, Lookup};
use super::http::BadOptions;
use super::verdict::{Answer, Failure, FailureKind};
use super::{Push, Sender};
use crate::framing::{Decoder, Framing};
use dial::{Dialler, Stream};

/// The longest answer that is read: one says yes or no, with a sentence.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Connections that idle for longer are closed and dialled anew: what lies between forgets them
/// without a word.
const IDLE: Duration = Duration::from_secs(20);

/// A receiver that gets frames over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Where it listens, `HOST:PORT`.
    pub address: String,
    /// How messages are told apart.
    pub framing: Framing,
    /// How it acknowledges.
    pub ack: PushAck,
    /// Whether TLS is spoken. The receiver's certificate is checked as those of web servers are.
    pub tls: bool,
    /// Whether addresses that are not of the public internet may be dialled, and without TLS.
    pub allow_private: bool,
    /// The time to dial and to shake hands.
    pub connect_timeout: Duration,
}

/// How a receiver over TCP acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PushAck {
    /// By an answer: in MLLP an HL7 or commit acknowledgement, else a line. A line that is a problem
    /// of RFC 9457 refuses, as a port of Seriatim's own writes it; any other accepts.
    Answer,
    /// Not at all. What was on its way when a connection breaks may be lost.
    None,
}

/// Pushes to one receiver, over connections of its own.
#[derive(Clone, Debug)]
pub struct Tcp(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    framing: Framing,
    ack: PushAck,
    dialler: Dialler,
    /// As many as pushes go at once.
    idle: Mutex<Vec<(Instant, Connection)>>,
}

/// A connection, and what has come over it.
#[derive(Debug)]
struct Connection {
    stream: Stream,
    answers: Decoder,
}

impl Tcp {
    /// A sender for these options.
    ///
    /// # Errors
    ///
    /// [`BadOptions`] says what to change.
    pub fn new(options: &TcpOptions) -> Result<Self, BadOptions> {
        Self::with_lookup(options, guard::system_lookup())
    }

    fn with_lookup(options: &TcpOptions, lookup: Lookup) -> Result<Self, BadOptions> {
        let dialler = Dialler::new(options, lookup)?;
        Ok(Self(Arc::new(Inner { framing: options.framing, ack: options.ack, dialler, idle: Mutex::default() })))
    }
}

impl Sender for Tcp {
    fn send(&self, push: Push) -> BoxFuture<'static, Result<Answer, Failure>> {
        let inner = Arc::clone(&self.0);
        async move { inner.attempt(&push.body()).await }.boxed()
    }
}

impl Inner {
    async fn attempt(&self, body: &[u8]) -> Result<Answer, Failure> {
        let mut frame = BytesMut::new();
        if let Err(unframeable) = self.framing.put(body, &mut frame) {
            return Ok(answer::refused(&unframeable.to_string()));
        }
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => Connection::new(self.dialler.dial().await?, self.framing),
        };
        connection.write(&frame).await.map_err(|error| broken(&error))?;
        let answer = match self.ack {
            PushAck::None => answer::accepted(),
            PushAck::Answer => connection.answer(self.framing, body).await?,
        };
        self.keep(connection);
        Ok(answer)
    }

    /// An idle connection on which the peer has said nothing, not even that it ends.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            // No holder of this lock panics.
            let (since, mut connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            let silent = connection.stream.read(&mut [0]).now_or_never().is_none();
            if silent && since.elapsed() < IDLE {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next push, unless more has come than was asked for.
    fn keep(&self, connection: Connection) {
        if connection.answers.held() == 0 {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), connection));
        }
    }
}

impl Connection {
    fn new(stream: Stream, framing: Framing) -> Self {
        let framing = if framing == Framing::Mllp { Framing::Mllp } else { Framing::Newline };
        Self { stream, answers: Decoder::new(framing, LONGEST_ANSWER) }
    }

    async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await
    }

    async fn answer(&mut self, framing: Framing, body: &[u8]) -> Result<Answer, Failure> {
        let mut space = [0; 1024];
        loop {
            match self.answers.next_frame() {
                Ok(Some(frame)) if framing == Framing::Mllp => return answer::of_block(frame, body),
                Ok(Some(line)) => return Ok(answer::of_line(line)),
                Ok(None) => {}
                Err(error) => return Err(failure(format!("the answer is malformed: {error}"))),
            }
            match self.stream.read(&mut space).await {
                Ok(0) => return Err(failure("the receiver closed the connection without an answer".to_owned())),
                Ok(count) => self.answers.feed(&space[..count]),
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}

fn broken(error: &io::Error) -> Failure {
    failure(format!("the connection broke: {error}"))
}

const fn failure(detail: String) -> Failure {
    Failure { kind: FailureKind::Connection, detail }
}

#[cfg(test)]
mod tests;
