//! Lines from a file or a stream.

use std::path::Path;

use bytes::Bytes;
use futures::StreamExt as _;
use indicatif::ProgressBar;
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, FramedRead};

use super::tally::{Entry, TOO_LARGE, Tally};
use super::{Input, advance};

/// The longest line that is read at all. A process takes less (`ingress.max_body`) and says so.
const MAX_LINE: usize = 64 << 20;

/// What the lines are, by the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// JSON objects or arrays.
    Json,
    /// Anything else.
    Text,
}

impl Form {
    pub(super) const fn media(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain",
        }
    }
}

/// A line that is no message, and why.
pub(super) type TooLong = &'static str;

/// The lines of an input that are not blank, with their numbers from 1.
pub(super) struct Lines {
    frames: FramedRead<Input, AnyDelimiterCodec>,
    number: u64,
    first: Option<(u64, Bytes)>,
    form: Form,
    bar: ProgressBar,
}

impl Lines {
    /// Reads up to the first line, to see what the lines are.
    pub(super) async fn open(file: Input, bar: ProgressBar) -> anyhow::Result<Self> {
        let codec = AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), Vec::new(), MAX_LINE);
        let frames = FramedRead::with_capacity(file, codec, 256 * 1024);
        let mut lines = Self { frames, number: 0, first: None, form: Form::Text, bar };
        if let Some((number, Ok(line))) = lines.next().await? {
            let is_container = matches!(line.trim_ascii_start().first(), Some(b'{' | b'['));
            if is_container && serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_ok() {
                lines.form = Form::Json;
            }
            lines.first = Some((number, line));
        }
        Ok(lines)
    }

    /// Reads on behind all lines with a lower number than this.
    pub(super) async fn pass(&mut self, to: u64) -> std::io::Result<()> {
        while let Some((number, line)) = self.next().await? {
            if let (true, Ok(line)) = (number >= to, line) {
                self.first = Some((number, line));
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) const fn form(&self) -> Form {
        self.form
    }

    /// As [`Lines::next`], past what is too long to be a message, which the tally is told.
    pub(super) async fn message(&mut self, tally: &mut Tally) -> std::io::Result<Option<(u64, Bytes)>> {
        loop {
            match self.next().await? {
                Some((number, Ok(line))) => return Ok(Some((number, line))),
                Some((number, Err(reason))) => tally.add(Entry::refused(number, 413, TOO_LARGE, reason))?,
                None => return Ok(None),
            }
        }
    }

    /// The next line that is not blank, without its end; `None` at the end.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<(u64, Result<Bytes, TooLong>)>> {
        if let Some((number, line)) = self.first.take() {
            return Ok(Some((number, Ok(line))));
        }
        loop {
            let Some(frame) = self.frames.next().await else { return Ok(None) };
            self.number += 1;
            let mut line = match frame {
                Ok(line) => line,
                Err(AnyDelimiterCodecError::MaxChunkLengthExceeded) => {
                    return Ok(Some((self.number, Err("the line is longer than 64 MiB"))));
                }
                Err(AnyDelimiterCodecError::Io(error)) => return Err(error),
            };
            advance(&self.bar, line.len() + 1);
            if line.ends_with(b"\r") {
                line.truncate(line.len() - 1);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some((self.number, Ok(line))));
            }
        }
    }
}

/// The media type that a file's name says.
pub(super) fn media_of(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => "application/json",
        Some("txt" | "log" | "md") => "text/plain",
        Some("csv") => "text/csv",
        Some("xml") => "application/xml",
        Some("html") => "text/html",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &'static str) -> (Form, Vec<(u64, String)>) {
        let mut lines = Lines::open(Box::new(text.as_bytes()), ProgressBar::hidden()).await.expect("it is in memory");
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next().await.expect("it is in memory") {
            found.push((number, String::from_utf8_lossy(&line.expect("they are short")).into_owned()));
        }
        (lines.form(), found)
    }

    #[tokio::test]
    async fn blank_lines_are_none_and_numbers_are_those_of_the_file() {
        let (form, lines) = read("\n{\"a\":1}\r\n \n\n[2]\nlast").await;
        assert_eq!(form, Form::Json);
        let lines: Vec<_> = lines.iter().map(|(number, line)| (*number, line.as_str())).collect();
        assert_eq!(lines, [(2, "{\"a\":1}"), (5, "[2]"), (6, "last")]);
        assert_eq!(read("17\n{}\n").await.0, Form::Text, "a number is a line of text, too");
        assert_eq!(read("{not json}\n").await.0, Form::Text);
        assert_eq!(read("").await, (Form::Text, vec![]));
    }
}
