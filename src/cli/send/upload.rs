//! JSON lines as one NDJSON upload: written and answered at the same time, nothing held whole.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use reqwest::{Body, Method, Response, StatusCode, header};
use serde::Deserialize;

use super::super::client::{Client, success};
use super::super::stream;
use super::Send;
use super::input::Lines;
use super::single::{PAUSE, PAUSE_CAP, headers};
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

/// Where an upload stopped: nothing from there on was taken, and it may be later.
pub(super) struct Stopped {
    sent: Sent,
    /// The first message that was not taken, and what was said of it.
    first: u64,
    entry: Entry,
    after: Option<Duration>,
    /// Something behind it was taken all the same, so that order forbids to send it again.
    is_final: bool,
}

impl Stopped {
    /// The line to go on with.
    pub(super) const fn line(&self) -> u64 {
        self.entry.line
    }

    /// How long the process wants to be left alone, if it may be asked again at all.
    pub(super) fn pause(&self) -> Option<Duration> {
        (!self.is_final).then(|| self.after.unwrap_or(PAUSE).min(PAUSE_CAP))
    }

    /// Why, in the process' words.
    pub(super) fn reason(&self) -> &str {
        self.entry.problem.as_ref().map_or("", |problem| problem.detail.as_str())
    }

    /// All that were not taken, as far as they were sent.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let last = self.sent.count().max(self.first + 1);
        (self.first..last).map(|index| Entry { line: self.sent.line(index), ..self.entry.clone() })
    }
}

/// Sends the lines and takes the answers. `from` is the first line where an upload is gone on with: then a process
/// that is not there may be on its way back.
pub(super) async fn upload(
    client: &Client,
    send: &Send,
    (lines, from): (Lines, Option<u64>),
    tally: &mut Tally,
) -> anyhow::Result<Option<Stopped>> {
    let sent = Sent::default();
    let request = headers(client.request(Method::POST, "/v1/messages"), send)
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .header(header::ACCEPT, "application/x-ndjson")
        .body(body(lines, sent.clone()));
    let (mut answered, mut stopped) = (0, None);
    let broken = match request.send().await {
        Ok(response) if is_for_later(response.status()) => {
            return whole(response, sent, from.unwrap_or(1)).await.map(Some);
        }
        Ok(response) => take(success(response).await?, &sent, tally, (&mut answered, &mut stopped)).await?,
        Err(error) => {
            let failure = client.unreachable(&error);
            if let Some(from) = from.filter(|_| error.is_connect()) {
                let entry = Entry::refused(from, 503, "unreachable", failure.message);
                return Ok(Some(Stopped { sent, first: 0, entry, after: None, is_final: false }));
            }
            // Nothing went out.
            if sent.count() == 0 || error.is_connect() {
                return Err(failure.into());
            }
            Some(failure.message)
        }
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
        None => Ok(stopped),
    }
}

fn is_for_later(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// The process refused the whole before it took any of it.
async fn whole(response: Response, sent: Sent, from: u64) -> anyhow::Result<Stopped> {
    let status = response.status();
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let Err(failure) = success(response).await else { anyhow::bail!("{status} is no success") };
    let entry = Entry::refused(from, status.as_u16(), "refused", failure.message);
    Ok(Stopped { sent, first: 0, entry, after: after.map(Duration::from_secs), is_final: false })
}

/// Takes the entries of an answer, up to where it breaks off, if it does. From the first message on that is
/// refused for now they are not told of: they may be sent again.
async fn take(
    response: Response,
    sent: &Sent,
    tally: &mut Tally,
    (answered, stopped): (&mut u64, &mut Option<Stopped>),
) -> anyhow::Result<Option<String>> {
    let mut entries = stream::lines(response, MAX_ENTRY);
    loop {
        let entry = match entries.next().await {
            None => return Ok(None),
            Some(Err(error)) => return Ok(Some(error.to_string())),
            Some(Ok(entry)) => entry,
        };
        let Answer { index, entry } = serde_json::from_slice(&entry)?;
        *answered = index + 1;
        let entry = Entry { line: sent.line(index), ..entry };
        if entry.is_for_later() {
            let sent = sent.clone();
            stopped.get_or_insert(Stopped { sent, first: index, entry, after: None, is_final: false });
            continue;
        }
        if let Some(stopped) = stopped.as_mut() {
            stopped.is_final = true;
        }
        tally.add(entry)?;
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
