//! What goes over a child's pipes: frames, each with its length before it as four bytes, big-endian.
//!
//! The parent sends the filter, then one body after another; the child says that it is ready, then
//! answers each body before it reads the next.

use bytes::Bytes;

use crate::work::processor::{Answer, Failure, Output};

/// What the child says once it has compiled the filter; nothing else says that by accident.
pub(super) const READY: &[u8] = b"seriatim jq 1";

/// The media type of every output.
pub(super) const JSON: &[u8] = b"application/json";

const EMPTY: u8 = 0;
const ONE: u8 = 1;
const SEVERAL: u8 = 2;
const FAILED: u8 = 3;

/// The bytes before a frame, `None` for one that is too long for this form.
pub(super) fn length(frame: &[u8]) -> Option<[u8; 4]> {
    u32::try_from(frame.len()).ok().map(u32::to_be_bytes)
}

/// An answer as a frame. Of a failure only code and detail are sent; it is one that will not pass.
pub(super) fn encode(answer: Result<Answer, Failure>) -> Vec<u8> {
    let frame = |kind: u8, parts: &[&[u8]]| [&[kind], parts.concat().as_slice()].concat();
    match answer {
        Ok(Answer::Empty) => frame(EMPTY, &[]),
        Ok(Answer::One(output)) => frame(ONE, &[&output.body]),
        Ok(Answer::Several(json)) => frame(SEVERAL, &[&json]),
        Err(failure) => frame(FAILED, &[failure.code.as_bytes(), b"\n", failure.detail.as_bytes()]),
    }
}

/// The answer in a frame, `None` where it is no such frame.
pub(super) fn decode(frame: &Bytes) -> Option<Result<Answer, Failure>> {
    let content = frame.slice(1.min(frame.len())..);
    match *frame.first()? {
        EMPTY => Some(Ok(Answer::Empty)),
        ONE => Some(Ok(Answer::One(Output { content_type: Some(Bytes::from_static(JSON)), ..Output::new(content) }))),
        SEVERAL => Some(Ok(Answer::Several(content))),
        FAILED => {
            let (code, detail) = std::str::from_utf8(&content).ok()?.split_once('\n')?;
            Some(Err(Failure::fail(code.to_owned(), detail)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_through() {
        let json = Some(Bytes::from_static(JSON));
        for answer in [
            Ok(Answer::Empty),
            Ok(Answer::One(Output { content_type: json, ..Output::new("{}".into()) })),
            Ok(Answer::Several("[]".into())),
            Err(Failure::fail("filter-error", "no\nstock")),
        ] {
            assert_eq!(decode(&encode(answer.clone()).into()), Some(answer));
        }
        for frame in [&b""[..], &[9], &[FAILED], &[FAILED, b'x'], &[FAILED, 0xff, b'\n']] {
            assert_eq!(decode(&Bytes::copy_from_slice(frame)), None, "{frame:?}");
        }
    }
}
