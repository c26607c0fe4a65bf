//! Framings: where one message ends and the next one begins in a stream of bytes.
//!
//! [`Decoder`] takes the bytes as they come, cut anywhere, and hands out whole frames. A length is
//! judged before anything is kept for it, so that a frame which is too long costs nothing; and what
//! is kept never exceeds one frame of the longest length and what one [`Decoder::feed`] brings. Once
//! a stream is malformed nothing later in it can be trusted: there is no way to find the next frame
//! but to begin anew with another connection.
//!
//! Pure: no clock, no socket. Ingress reads with it, deliver writes with it and reads the answers.
//!
//! ```
//! use seriatim::framing::{Decoder, Framing};
//! let mut stream = bytes::BytesMut::new();
//! Framing::OctetCounting.put(b"hello", &mut stream)?;
//! assert_eq!(stream, "5 hello");
//!
//! let mut decoder = Decoder::new(Framing::OctetCounting, 1024);
//! decoder.feed(b"5 he");
//! assert_eq!(decoder.next_frame()?, None);
//! decoder.feed(b"llo");
//! assert_eq!(decoder.next_frame()?, Some(&b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod find;

use bytes::{Buf as _, BufMut as _, BytesMut};
use serde::{Deserialize, Serialize};

use find::Look;

/// Before a message in MLLP (vertical tab).
const START: u8 = 0x0b;
/// After it (file separator), followed by a carriage return.
const END: u8 = 0x1c;

/// How messages are told apart in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// A line each, ended by LF or CR LF. Blank lines are passed over; a line without its end is
    /// no frame.
    Newline,
    /// Four bytes of length, big-endian, not counting themselves, then the message.
    LengthPrefix,
    /// The length in decimal digits, a space, the message: octet counting of RFC 6587, 3.4.1.
    OctetCounting,
    /// The Minimal Lower Layer Protocol of HL7: `0x0B`, the message, `0x1C 0x0D`.
    Mllp,
}

/// A stream that cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A frame is longer than allowed.
    #[error("a frame is longer than {0} bytes")]
    TooLong(usize),
    /// What should be a length in digits and a space is not.
    #[error("a frame does not begin with its length in digits, without leading zeros, and a space")]
    Length,
    /// An MLLP block does not begin with `0x0B` but with this.
    #[error("a block does not begin with 0x0B but with {0:#04x}")]
    Start(u8),
    /// A byte that frames MLLP blocks stands within one.
    #[error("a block holds 0x0B, or 0x1C that is not followed by 0x0D")]
    Stray,
}

/// A message that this framing cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unframeable {
    /// It holds a line's end, or is empty.
    #[error("a message of several lines, or of none, cannot be sent as one line")]
    Lines,
    /// It is empty.
    #[error("octet counting has no empty messages")]
    Empty,
    /// It holds `0x0B` or `0x1C`.
    #[error("a message with 0x0B or 0x1C in it cannot be sent over MLLP")]
    Stray,
    /// It is longer than a length can say: 4 GiB.
    #[error("the message is longer than 4 GiB")]
    TooLong,
}

impl Framing {
    /// Appends one frame.
    ///
    /// # Errors
    ///
    /// [`Unframeable`]; then nothing is appended. What is appended, a [`Decoder`] gives back.
    pub fn put(self, body: &[u8], to: &mut BytesMut) -> Result<(), Unframeable> {
        match self {
            Self::Newline if body.is_empty() || body.contains(&b'\n') => return Err(Unframeable::Lines),
            // The decoder would take the CR for a part of the line's end.
            Self::Newline if body.ends_with(b"\r") => return Err(Unframeable::Lines),
            Self::Newline => put_all(to, &[body, b"\n"]),
            Self::LengthPrefix => {
                let length = u32::try_from(body.len()).map_err(|_| Unframeable::TooLong)?;
                put_all(to, &[&length.to_be_bytes(), body]);
            }
            Self::OctetCounting if body.is_empty() => return Err(Unframeable::Empty),
            Self::OctetCounting => put_all(to, &[body.len().to_string().as_bytes(), b" ", body]),
            Self::Mllp if body.iter().any(|byte| matches!(*byte, START | END)) => return Err(Unframeable::Stray),
            Self::Mllp => put_all(to, &[&[START], body, &[END, b'\r']]),
        }
        Ok(())
    }
}

fn put_all(to: &mut BytesMut, parts: &[&[u8]]) {
    to.reserve(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| to.put_slice(part));
}

/// Cuts a stream into frames. See the module's documentation.
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    longest: usize,
    buffer: BytesMut,
    /// Bytes at the front that belong to the frame handed out last.
    taken: usize,
    /// Bytes after them in which the frame's end was looked for already.
    searched: usize,
}

impl Decoder {
    /// A decoder for frames with bodies of up to `longest` bytes. Takes no memory until it is fed.
    #[must_use]
    pub fn new(framing: Framing, longest: usize) -> Self {
        Self { framing, longest, buffer: BytesMut::new(), taken: 0, searched: 0 }
    }

    /// Adds what came next. Take all frames out first: what is not taken is kept.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.discard(self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` where it has not come yet. It is valid until the next call.
    ///
    /// # Errors
    ///
    /// [`Malformed`], from then on every time.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let taken = std::mem::take(&mut self.taken);
        self.discard(taken);
        loop {
            match find::find(self.framing, self.longest, &self.buffer, self.searched)? {
                Look::Blank(end) => self.discard(end),
                Look::More { searched } => {
                    self.searched = searched;
                    return Ok(None);
                }
                Look::Frame { body, end } => {
                    self.taken = end;
                    self.searched = 0;
                    return Ok(Some(&self.buffer[body]));
                }
            }
        }
    }

    /// Bytes that are held: what was fed and not handed out.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len() - self.taken
    }

    fn discard(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.searched = 0;
        if count == self.buffer.len() {
            // Who waits for more holds no memory: most connections are silent most of the time.
            self.buffer = BytesMut::new();
        } else {
            self.buffer.advance(count);
        }
    }
}

#[cfg(test)]
mod tests;
