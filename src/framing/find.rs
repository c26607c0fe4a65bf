//! Looks for one frame at the front of a buffer.

use std::ops::Range;

use super::{END, Framing, Malformed, START};

/// The most digits of a length that is read at all; beyond it is above every limit.
const MOST_DIGITS: usize = 10;

/// What stands at the front.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A frame: where its body is, and where it ends.
    Frame { body: Range<usize>, end: usize },
    /// What is passed over, up to there.
    Blank(usize),
    /// The beginning of a frame, or nothing. No end is within the first `searched` bytes.
    More { searched: usize },
}

/// Looks at the front of `buffer`, in which no frame's end is within the first `searched` bytes.
pub(super) fn find(framing: Framing, longest: usize, buffer: &[u8], searched: usize) -> Result<Look, Malformed> {
    match framing {
        Framing::Newline => line(longest, buffer, searched),
        Framing::LengthPrefix => prefixed(longest, buffer),
        Framing::OctetCounting => counted(longest, buffer),
        Framing::Mllp => block(longest, buffer, searched),
    }
}

fn line(longest: usize, buffer: &[u8], searched: usize) -> Result<Look, Malformed> {
    let Some(at) = memchr::memchr(b'\n', &buffer[searched..]).map(|at| searched + at) else {
        // A CR that may yet turn out to belong to the line's end is not counted.
        let length = buffer.len() - usize::from(buffer.ends_with(b"\r"));
        return fits(length, longest).map(|()| Look::More { searched: buffer.len() });
    };
    let body = buffer[..at].strip_suffix(b"\r").unwrap_or(&buffer[..at]).len();
    fits(body, longest)?;
    Ok(if body == 0 { Look::Blank(at + 1) } else { Look::Frame { body: 0..body, end: at + 1 } })
}

fn prefixed(longest: usize, buffer: &[u8]) -> Result<Look, Malformed> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(Look::More { searched: 0 }) };
    let length = usize::try_from(u32::from_be_bytes(*prefix)).map_err(|_| Malformed::TooLong(longest))?;
    whole(4, length, longest, buffer)
}

fn counted(longest: usize, buffer: &[u8]) -> Result<Look, Malformed> {
    let digits = buffer.iter().take(MOST_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if buffer.first() == Some(&b'0') {
        return Err(Malformed::Length);
    }
    let decimal = |value: usize, byte: &u8| value.saturating_mul(10).saturating_add(usize::from(byte - b'0'));
    let length = buffer[..digits].iter().fold(0, decimal);
    fits(length, longest)?;
    match buffer.get(digits) {
        None => Ok(Look::More { searched: 0 }),
        Some(b' ') if digits > 0 => whole(digits + 1, length, longest, buffer),
        Some(_) => Err(Malformed::Length),
    }
}

fn block(longest: usize, buffer: &[u8], searched: usize) -> Result<Look, Malformed> {
    match buffer.first() {
        None => return Ok(Look::More { searched: 0 }),
        Some(&START) => {}
        Some(other) => return Err(Malformed::Start(*other)),
    }
    let from = searched.max(1);
    let Some(at) = memchr::memchr2(START, END, &buffer[from..]).map(|at| from + at) else {
        return fits(buffer.len() - 1, longest).map(|()| Look::More { searched: buffer.len() });
    };
    fits(at - 1, longest)?;
    match (buffer[at], buffer.get(at + 1)) {
        (END, Some(b'\r')) => Ok(Look::Frame { body: 1..at, end: at + 2 }),
        (END, None) => Ok(Look::More { searched: at }),
        _ => Err(Malformed::Stray),
    }
}

/// A frame whose head of `head` bytes says how long the rest is.
fn whole(head: usize, length: usize, longest: usize, buffer: &[u8]) -> Result<Look, Malformed> {
    fits(length, longest)?;
    let end = head + length;
    Ok(if buffer.len() < end { Look::More { searched: 0 } } else { Look::Frame { body: head..end, end } })
}

const fn fits(length: usize, longest: usize) -> Result<(), Malformed> {
    if length > longest { Err(Malformed::TooLong(longest)) } else { Ok(()) }
}
