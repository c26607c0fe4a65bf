//! Cuts a stream of bytes into lines, holding at most one unfinished line.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A line, without its end.
    Whole(&'a [u8]),
    /// A line that is longer than allowed; the rest of it is passed over.
    TooLong,
}

/// See the module's documentation. Lines end with LF or CR LF; blank ones are left out.
#[derive(Debug)]
pub(super) struct Lines {
    longest: usize,
    partial: BytesMut,
    /// Within a line that is too long, and was reported.
    skipping: bool,
}

impl Lines {
    pub(super) fn new(longest: usize) -> Self {
        Self { longest, partial: BytesMut::new(), skipping: false }
    }

    /// Bytes of the unfinished line.
    pub(super) fn held(&self) -> usize {
        self.partial.len()
    }

    /// Hands out the lines that end in `frame`, and keeps what follows the last of them.
    pub(super) fn feed(&mut self, frame: &Bytes, mut out: impl FnMut(Line<'_>)) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', frame) {
            self.end(frame, start..end, &mut out);
            start = end + 1;
        }
        let rest = &frame[start..];
        if self.skipping {
            return;
        }
        // A CR that may yet turn out to belong to the line's end is not counted.
        if self.partial.len() + rest.len() > self.longest + 1 {
            self.partial = BytesMut::new();
            self.skipping = true;
            out(Line::TooLong);
        } else {
            self.partial.extend_from_slice(rest);
        }
    }

    /// Hands out the last line, if the stream ended without a line's end.
    pub(super) fn finish(&mut self, mut out: impl FnMut(Line<'_>)) {
        if !std::mem::take(&mut self.skipping) {
            let line = std::mem::take(&mut self.partial);
            self.emit(&line, &mut out);
        }
    }

    fn end(&mut self, frame: &Bytes, part: Range<usize>, out: &mut impl FnMut(Line<'_>)) {
        if std::mem::take(&mut self.skipping) {
            return;
        }
        if self.partial.is_empty() {
            return self.emit(&frame[part], out);
        }
        let mut line = std::mem::take(&mut self.partial);
        if line.len() + part.len() > self.longest + 1 {
            return out(Line::TooLong);
        }
        line.extend_from_slice(&frame[part]);
        self.emit(&line, out);
        line.clear();
        self.partial = line;
    }

    fn emit(&self, line: &[u8], out: &mut impl FnMut(Line<'_>)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.longest {
            out(Line::TooLong);
        } else if !line.trim_ascii().is_empty() {
            out(Line::Whole(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines of `text` that is fed in pieces cut at `cuts`.
    fn cut(text: &[u8], longest: usize, cuts: &[usize]) -> Vec<Option<Vec<u8>>> {
        let mut lines = Lines::new(longest);
        let mut found = Vec::new();
        let mut out = |line: Line<'_>| {
            found.push(match line {
                Line::Whole(line) => Some(line.to_vec()),
                Line::TooLong => None,
            });
        };
        let mut at = 0;
        for end in cuts.iter().copied().chain([text.len()]) {
            let end = end.clamp(at, text.len());
            lines.feed(&Bytes::copy_from_slice(&text[at..end]), &mut out);
            assert!(lines.partial.len() <= longest + 1, "what is held is bounded");
            at = end;
        }
        lines.finish(&mut out);
        found
    }

    fn naive(text: &[u8], longest: usize) -> Vec<Option<Vec<u8>>> {
        let lines = text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let lines = lines.filter(|line| !line.trim_ascii().is_empty() || line.len() > longest);
        lines.map(|line| (line.len() <= longest).then(|| line.to_vec())).collect()
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_arrive(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b' '), Just(b'x')], 0..60),
            mut cuts in proptest::collection::vec(0usize..60, 0..8),
            longest in 1usize..6,
        ) {
            cuts.sort_unstable();
            prop_assert_eq!(cut(&text, longest, &cuts), naive(&text, longest));
        }
    }
}
