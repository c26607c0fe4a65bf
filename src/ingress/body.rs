//! Reading a body within bounds of size, time and memory.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, timeout_at};

use super::Options;
use super::decode;
use super::expand::Expanders;
use super::problem::{Code, Problem};

/// What a body may take beyond its fixed time: bytes a second, a slow mobile link.
const SLOWEST: usize = 16 * 1024;

/// How much of a body that is too large is read and dropped, so that the client comes to read the
/// answer instead of a reset connection.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// For how long.
const LINGER: Duration = Duration::from_secs(2);

/// What bodies share, over all connections.
#[derive(Debug)]
pub(super) struct Room {
    /// Bytes of bodies that are held.
    pub(super) memory: Arc<Semaphore>,
    pub(super) expanders: Expanders,
}

impl Room {
    /// Room for so many bytes, and for one of the longest bodies at least.
    pub(super) fn new(options: &Options) -> Self {
        let memory = Arc::new(Semaphore::new(options.body_memory.max(options.max_body)));
        Self { memory, expanders: Expanders::new() }
    }
}

/// A body held in memory, with the memory it takes.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Reads a body to its end, and expands it where it is compressed.
///
/// # Errors
///
/// [`Code::BodyTooLarge`], [`Code::RequestTimeout`], [`Code::Overloaded`] where the memory for
/// bodies is used up or too many are to be expanded, [`Code::InvalidBody`] where it breaks off or cannot be expanded,
/// [`Code::UnsupportedMedia`] for an encoding that is not known.
pub(super) async fn read(headers: &HeaderMap, body: Body, options: &Options, room: &Room) -> Result<Held, Problem> {
    let encoding = decode::encoding(headers)?;
    let held = receive(headers, body, options, &room.memory).await?;
    let Some(encoding) = encoding else { return Ok(held) };
    let bytes = room.expanders.expand(encoding, &held.bytes, options).await?;
    drop(held);
    let share = share(&room.memory, bytes.len())?;
    Ok(Held { bytes, _memory: Some(share) })
}

async fn receive(headers: &HeaderMap, body: Body, options: &Options, memory: &Arc<Semaphore>) -> Result<Held, Problem> {
    let mut stream = body.into_data_stream();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > options.max_body as u64) {
        if !headers.contains_key(header::EXPECT) {
            linger(stream).await;
        }
        return Err(too_large(options));
    }
    let began = Instant::now();
    let mut held: Option<OwnedSemaphorePermit> = None;
    let mut whole = Gather::default();
    loop {
        let next = timeout_at(began + options.body_timeout + allowance(whole.len()), stream.next()).await;
        let frame = match next {
            Err(_) => return Err(Problem::new(Code::RequestTimeout, "the body came too slowly")),
            Ok(None) => return Ok(Held { bytes: whole.finish(), _memory: held }),
            Ok(Some(frame)) => frame.map_err(|error| broke_off(&error))?,
        };
        if whole.len() + frame.len() > options.max_body {
            linger(stream).await;
            return Err(too_large(options));
        }
        let more = share(memory, frame.len())?;
        match &mut held {
            Some(held) => held.merge(more),
            None => held = Some(more),
        }
        whole.push(frame);
    }
}

fn share(memory: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Arc::clone(memory).try_acquire_many_owned(bytes).map_err(|_| no_memory())
}

/// The refusal where the memory for bodies is used up.
pub(super) fn no_memory() -> Problem {
    Problem::new(Code::Overloaded, "too many bodies are being received; try again")
}

/// What is said of a body that ended before its end.
pub(super) fn broke_off(error: &axum::Error) -> Problem {
    Problem::new(Code::InvalidBody, format!("the body broke off: {error}"))
}

/// The time that so many bytes may take beyond the fixed one.
pub(super) const fn allowance(bytes: usize) -> Duration {
    Duration::from_secs((bytes / SLOWEST) as u64)
}

/// The refusal of a body or a line that is too large.
pub(super) fn too_large(options: &Options) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("a message may have {} bytes (ingress.max_body)", options.max_body))
}

/// Reads on and drops what it reads, for a while.
pub(super) async fn linger<E>(mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin) {
    let until = Instant::now() + LINGER;
    let mut seen = 0;
    while seen < LINGER_BYTES
        && let Ok(Some(Ok(frame))) = timeout_at(until, stream.next()).await
    {
        seen += frame.len();
    }
}

/// Frames put together; a body of one frame is not copied.
#[derive(Debug, Default)]
struct Gather {
    first: Bytes,
    rest: BytesMut,
}

impl Gather {
    fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    fn push(&mut self, frame: Bytes) {
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = frame;
            return;
        }
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&frame);
    }

    fn finish(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}
