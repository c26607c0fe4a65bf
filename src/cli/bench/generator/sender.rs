//! Those who send: each has one request under way at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Method, Response, StatusCode, header};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::super::client::Client;
use super::super::Pace;
use super::super::task::{body, works};
use super::book::Event;
use super::{Generator, Place};

/// How long an answer may take: what a process gives the log for a write, and as much again.
const ANSWER: Duration = Duration::from_secs(60);

/// The pause after a message that was not accepted, where the process asks for none, and the
/// longest that it may ask for. Only where messages come one after the other: a rate goes on.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_CAP: Duration = Duration::from_secs(5);

const KEY: &str = "seriatim-bench-";

/// The key of this number.
pub(super) fn key(index: u32) -> String {
    format!("{KEY}{index}")
}

/// The number of a key, where it is one of ours.
pub(super) fn key_index(key: &str) -> Option<u32> {
    key.strip_prefix(KEY)?.parse().ok()
}

/// What those who send share: whose turn it is with which message.
pub(super) struct Senders {
    client: Client,
    keys: u32,
    pace: Pace,
    size: usize,
    began: Instant,
    turn: Mutex<Turn>,
}

struct Turn {
    next: u64,
    works: Box<dyn Iterator<Item = Duration> + Send>,
}

/// A message, and when it is due; at once where that is not given.
struct Message {
    number: u64,
    body: String,
    due: Option<Instant>,
}

/// What the process says of an accepted message, or of any other.
#[derive(Deserialize)]
struct Problem {
    code: String,
}

impl Senders {
    pub(super) fn start(of: &Generator<'_>, began: Instant) -> Arc<Self> {
        let turn = Turn { next: 0, works: Box::new(works(of.load.work, of.load.tail)) };
        let (client, keys, pace, size) = (of.client.clone(), of.keys, of.pace, of.load.size);
        Arc::new(Self { client, keys, pace, size, began, turn: Mutex::new(turn) })
    }

    /// How many messages have been begun to be sent, or wait for their time.
    pub(super) fn begun(&self) -> u64 {
        let next = self.turn.lock().unwrap_or_else(PoisonError::into_inner).next;
        match self.pace {
            Pace::Count(_) => next,
            // Everybody has taken one in advance.
            Pace::Rate { .. } => next.min(self.pace.by(self.began.elapsed())),
        }
    }

    /// Sends until there is nothing more to send.
    pub(super) async fn send(self: Arc<Self>, events: mpsc::Sender<Event>) {
        while let Some(message) = self.next() {
            let due = wait(message.due).await;
            let paces = message.due.is_some();
            let (event, pause) = self.post(message, due).await;
            if events.send(event).await.is_err() {
                return;
            }
            if let Some(pause) = pause.filter(|_| !paces) {
                sleep(pause).await;
            }
        }
    }

    fn next(&self) -> Option<Message> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let number = turn.next;
        let due = match self.pace {
            Pace::Count(count) if number < count => None,
            Pace::Rate { .. } if number < self.pace.total() => Some(self.began + self.pace.due(number)),
            _ => return None,
        };
        turn.next += 1;
        let work = turn.works.next().unwrap_or_default();
        drop(turn);
        Some(Message { number, body: body(number, work, self.size), due })
    }

    async fn post(&self, message: Message, due: Instant) -> (Event, Option<Duration>) {
        let request = self.client.request(Method::POST, "/v1/messages").timeout(ANSWER);
        let mut request = request.header(header::CONTENT_TYPE, "text/plain").body(message.body);
        if let Some(index) = message.number.checked_rem(self.keys.into()) {
            let index = u32::try_from(index).expect("it is below the number of keys");
            request = request.header("seriatim-key", key(index));
        }
        match request.send().await {
            Ok(response) => answered(response, due).await,
            Err(error) => {
                let why = match () {
                    () if error.is_connect() => "no connection",
                    () if error.is_timeout() => "no answer in time",
                    () => "connection broken",
                };
                (Event::Refused(why.to_owned()), Some(PAUSE))
            }
        }
    }
}

/// Waits until a message is due. It counts from then only where it could not go earlier: that the
/// clock wakes up late is no delay of the pipeline's.
async fn wait(due: Option<Instant>) -> Instant {
    match due {
        Some(due) if due <= Instant::now() => due,
        Some(due) => {
            sleep_until(due).await;
            Instant::now()
        }
        None => Instant::now(),
    }
}

async fn answered(response: Response, due: Instant) -> (Event, Option<Duration>) {
    let (status, acknowledged) = (response.status(), Instant::now());
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let text = response.bytes().await.unwrap_or_default();
    if status == StatusCode::ACCEPTED
        && let Ok(place) = serde_json::from_slice::<Place>(&text)
    {
        return (Event::Accepted { source: place.into(), due, acknowledged }, None);
    }
    let code = serde_json::from_slice(&text).map_or_else(|_| String::new(), |Problem { code }| format!(" {code}"));
    let pause = after.map_or(PAUSE, Duration::from_secs).min(PAUSE_CAP);
    (Event::Refused(format!("{}{code}", status.as_u16())), Some(pause))
}
