//! Lines as a child writes them, bounded in length.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// How much of a line that is too long is kept: enough for the id that it begins with.
const HEAD: usize = 256;

/// What a child wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line without its end.
    Whole(Bytes),
    /// How a line begins that is longer than it may be. The rest of it is thrown away.
    TooLong(Bytes),
}

/// Takes lines apart.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) max: usize,
    /// So much of what is held has no line break.
    seen: usize,
    discarding: bool,
}

impl Lines {
    pub(super) const fn new(max: usize) -> Self {
        Self { max, seen: 0, discarding: false }
    }
}

impl Decoder for Lines {
    type Item = Line;
    type Error = io::Error;

    fn decode(&mut self, held: &mut BytesMut) -> io::Result<Option<Line>> {
        loop {
            let end = memchr::memchr(b'\n', &held[self.seen..]).map(|at| self.seen + at);
            self.seen = if end.is_some() { 0 } else { held.len() };
            match (end, self.discarding) {
                (Some(end), true) => {
                    drop(held.split_to(end + 1));
                    self.discarding = false;
                }
                (Some(end), false) => {
                    let line = held.split_to(end + 1).freeze();
                    return Ok(Some(match end > self.max {
                        true => Line::TooLong(Bytes::copy_from_slice(&line[..HEAD.min(end)])),
                        false => Line::Whole(line.slice(..end)),
                    }));
                }
                (None, true) => {
                    held.clear();
                    self.seen = 0;
                    return Ok(None);
                }
                (None, false) if held.len() > self.max => {
                    let head = Bytes::copy_from_slice(&held[..HEAD.min(held.len())]);
                    self.discarding = true;
                    return Ok(Some(Line::TooLong(head)));
                }
                (None, false) => return Ok(None),
            }
        }
    }

    fn decode_eof(&mut self, held: &mut BytesMut) -> io::Result<Option<Line>> {
        let line = self.decode(held)?;
        if line.is_some() || held.is_empty() {
            return Ok(line);
        }
        self.seen = 0;
        Ok(Some(Line::Whole(held.split().freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes come, the lines are the same.
    #[test]
    fn lines_that_are_too_long_are_told_and_passed_over() {
        let text = [b"a\n\n".to_vec(), vec![b'x'; 400], b"\nb\n".to_vec(), vec![b'y'; 11], b"\nend".to_vec()].concat();
        for piece in 1..=text.len() {
            let (mut lines, mut held, mut found) = (Lines::new(10), BytesMut::new(), Vec::new());
            for bytes in text.chunks(piece) {
                held.extend_from_slice(bytes);
                while let Some(line) = lines.decode(&mut held).expect("nothing is read") {
                    found.push(line);
                }
                assert!(held.len() <= 10 + piece, "nothing is held beyond the limit");
            }
            found.extend(lines.decode_eof(&mut held).expect("nothing is read"));
            let told = found.iter().map(|line| match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::TooLong(head) => format!("{}...", char::from(head[0])),
            });
            assert_eq!(told.collect::<Vec<_>>(), ["a", "", "x...", "b", "y...", "end"], "{piece}");
        }
    }
}
