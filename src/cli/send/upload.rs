//! JSON lines as one NDJSON upload: written and answered at the same time, nothing held whole.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use reqwest::{Body, Method, header};
use serde::Deserialize;

use super::super::client::Client;
use super::super::stream;
use super::Send;
use super::input::Lines;
use super::single::headers;
use super::tally::{Entry, TOO_LARGE, Tally};

/// Bytes of lines that go to the connection at once.
const PIECE: usize = 64 * 1024;

/// The longest entry of an answer, far above what a problem document takes.
const MAX_ENTRY: usize = 1 << 20;

/// An entry as it comes; `index` counts messages from 0.
#[derive(Deserialize)]
struct Answer {
    index: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// Sends the lines and takes the answers.
pub(super) async fn upload(client: &Client, send: &Send, lines: Lines, tally: &mut Tally) -> anyhow::Result<()> {
    let sent = Sent::default();
    let request = headers(client.request(Method::POST, "/v1/messages"), send)
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .header(header::ACCEPT, "application/x-ndjson")
        .body(body(lines, sent.clone()));
    let response = client.send(request).await;
    let mut answered = 0;
    let broken = match response {
        Ok(response) => {
            let mut entries = stream::lines(response, MAX_ENTRY);
            loop {
                match entries.next().await {
                    None => break None,
                    Some(Err(error)) => break Some(error.to_string()),
                    Some(Ok(entry)) => {
                        let Answer { index, entry } = serde_json::from_slice(&entry)?;
                        answered = index + 1;
                        tally.add(Entry { line: sent.line(index), ..entry })?;
                    }
                }
            }
        }
        // Nothing went out, or the process refused the whole before it took any of it.
        Err(failure) if sent.count() == 0 || !failure.message.starts_with("the call failed") => {
            return Err(failure.into());
        }
        Err(failure) => Some(failure.message),
    };
    for (line, reason) in sent.too_long() {
        tally.add(Entry::refused(line, 413, TOO_LARGE, reason))?;
    }
    let reason = broken.unwrap_or_else(|| "the process did not answer for it".to_owned());
    for index in answered..sent.count() {
        tally.add(Entry::unanswered(sent.line(index), reason.clone()))?;
    }
    match sent.error() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// The lines as a body, in pieces.
fn body(lines: Lines, sent: Sent) -> Body {
    Body::wrap_stream(futures::stream::unfold((lines, sent), |(mut lines, sent)| async move {
        let mut piece = BytesMut::new();
        while piece.len() < PIECE {
            match lines.next().await {
                Ok(Some((number, Ok(line)))) => {
                    sent.add(number);
                    piece.put_slice(&line);
                    piece.put_u8(b'\n');
                }
                Ok(Some((number, Err(reason)))) => sent.skip(number, reason),
                Ok(None) => break,
                // What was read stands; the end of the body tells the process that this was all.
                Err(error) => {
                    sent.fail(error);
                    break;
                }
            }
        }
        (!piece.is_empty()).then(|| (Ok::<Bytes, std::io::Error>(piece.freeze()), (lines, sent)))
    }))
}

/// What was given to the connection: which message came from which line.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Lined>>);

#[derive(Default)]
struct Lined {
    count: u64,
    /// `(index, line)` wherever lines do not simply follow each other.
    jumps: Vec<(u64, u64)>,
    too_long: Vec<(u64, &'static str)>,
    error: Option<std::io::Error>,
}

impl Sent {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lined> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: u64) {
        let mut lined = self.lock();
        let index = lined.count;
        let follows = lined.jumps.last().is_some_and(|(at, first)| first + (index - at) == line);
        if !follows {
            lined.jumps.push((index, line));
        }
        lined.count += 1;
    }

    fn skip(&self, line: u64, reason: &'static str) {
        self.lock().too_long.push((line, reason));
    }

    fn fail(&self, error: std::io::Error) {
        self.lock().error = Some(error);
    }

    fn count(&self) -> u64 {
        self.lock().count
    }

    /// The line of a message that was sent.
    fn line(&self, index: u64) -> u64 {
        let lined = self.lock();
        let before = lined.jumps.partition_point(|(at, _)| *at <= index);
        before.checked_sub(1).map_or(index + 1, |at| lined.jumps[at].1 + (index - lined.jumps[at].0))
    }

    fn too_long(&self) -> Vec<(u64, &'static str)> {
        std::mem::take(&mut self.lock().too_long)
    }

    fn error(&self) -> Option<std::io::Error> {
        self.lock().error.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_know_their_lines() {
        let sent = Sent::default();
        let lines = [2, 3, 4, 9, 10, 12];
        lines.iter().for_each(|line| sent.add(*line));
        let found: Vec<u64> = (0..sent.count()).map(|index| sent.line(index)).collect();
        assert_eq!(found, lines);
        assert_eq!(sent.lock().jumps.len(), 3);
    }
}
