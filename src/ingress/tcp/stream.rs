//! Reading from and writing to a peer in steps that can be abandoned between any two bytes.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Duration, timeout};

use crate::framing::Decoder;

/// How much is read at once.
pub(super) const READ: usize = 16 * 1024;

/// How much of what a peer still sends is read and dropped before a connection is closed: closing
/// with something unread resets it, and the peer would lose the answers that are on their way.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// For how long, and how long closing may take.
const LINGER: Duration = Duration::from_secs(2);

/// Reads once into the decoder; 0 where the peer has ended. What is read into lives on the stack of
/// one poll, so that a connection that waits holds no space. Cancel-safe.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), to: &mut Decoder) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *from).poll_read(cx, &mut space))?;
        to.feed(space.filled());
        Poll::Ready(Ok(space.filled().len()))
    })
    .await
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) bytes: BytesMut,
    /// Something was written since the last flush; TLS may hold it.
    unflushed: bool,
}

impl Outgoing {
    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    /// Makes one step. Cancel-safe.
    pub(super) async fn write(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if self.bytes.is_empty() {
            to.flush().await?;
            self.unflushed = false;
            return Ok(());
        }
        let written = to.write_buf(&mut self.bytes).await?;
        self.unflushed = true;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if self.bytes.is_empty() {
            // A silent connection holds no space.
            self.bytes = BytesMut::new();
        }
        Ok(())
    }
}

/// Ends the stream: says so, and reads on for a while, so that the answers arrive.
pub(super) async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let linger = async {
        stream.shutdown().await?;
        let (mut seen, mut space) = (0, vec![0; READ]);
        while seen < LINGER_BYTES {
            match stream.read(&mut space).await? {
                0 => break,
                count => seen += count,
            }
        }
        Ok::<_, io::Error>(())
    };
    // The peer has all that it will get, whether or not it closes properly.
    let _ = timeout(LINGER, linger).await;
}
