//! A load generator: messages over HTTP into a pipeline that runs, and its ordered outputs back.

mod book;
mod sender;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::super::client::Client;
use super::super::stream::{Follow, outputs};
use super::super::{Exit, Failure};
use super::figures::Delays;
use super::report::Second;
use super::{Load, Pace, Standing};
use crate::record::{Offset, Partition, Sequence, Source};
use book::{Book, Event};
use sender::Senders;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);

/// Events between those who send and follow and the one who counts, who is faster than they are.
const EVENTS: usize = 4_096;

/// Lanes that are followed at most: each takes a connection.
const MOST_LANES: u32 = 1_000;

/// What is sent, and where to.
pub(super) struct Generator<'a> {
    pub(super) client: Client,
    /// Whose outputs are waited for.
    pub(super) destination: &'a str,
    pub(super) load: &'a Load,
    pub(super) pace: Pace,
    /// Requests under way at once.
    pub(super) connections: u32,
    /// Keys that messages have in turn; none where it is 0.
    pub(super) keys: u32,
    /// How long nothing may happen before the rest is taken for missing.
    pub(super) patience: Duration,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Generated {
    /// From the first message to the last output.
    pub(super) total: Duration,
    pub(super) accepted: u64,
    pub(super) released: u64,
    /// Accepted, and not come out before patience ended.
    pub(super) missing: u64,
    /// What was not accepted, by the answer.
    pub(super) refused: BTreeMap<String, u64>,
    /// From when a message was due to when its output was read.
    pub(super) delays: Delays,
    /// From when a message was due to when it was acknowledged.
    pub(super) acknowledgements: Delays,
    /// From the acknowledgement to when the output was read.
    pub(super) after: Delays,
    pub(super) in_order: bool,
    pub(super) series: Vec<Second>,
}

/// What is read of an output.
#[derive(Deserialize)]
struct Output {
    sequence: u64,
    source: Place,
    key: Option<String>,
}

#[derive(Deserialize)]
struct Place {
    lane: u32,
    offset: u64,
}

impl From<Place> for Source {
    fn from(Place { lane, offset }: Place) -> Self {
        Self { lane: Partition(lane), offset: Offset(offset) }
    }
}

impl Generator<'_> {
    /// Sends, and waits until everything that was accepted has come out. Ctrl-C ends it with what
    /// there is by then.
    pub(super) async fn run(&self, tell: &mut dyn FnMut(&Standing)) -> anyhow::Result<Generated> {
        let (events, mut received) = mpsc::channel(EVENTS);
        // Before the first message, so that no output is missed.
        let mut following = self.follow(&events).await?;
        let began = Instant::now();
        let senders = Senders::start(self, began);
        let mut sending = JoinSet::new();
        for _ in 0..self.connections {
            sending.spawn(senders.clone().send(events.clone()));
        }
        drop(events);
        let mut book = Book::new(self.keys, self.load.series);
        let mut ticks = interval(TELL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut interrupt, mut last) = (std::pin::pin!(tokio::signal::ctrl_c()), began);
        while !(sending.is_empty() && received.is_empty() && book.waiting() == 0) {
            tokio::select! {
                biased;
                _ = &mut interrupt => return Ok(book.close(last - began, 0)),
                _ = ticks.tick() => {
                    tell(&book.standing(began.elapsed(), senders.begun()));
                    if sending.is_empty() && last.elapsed() > self.patience {
                        break;
                    }
                }
                Some(event) = received.recv() => {
                    last = Instant::now();
                    book.take(event);
                }
                Some(failed) = following.join_next() => return Err(failed?.into()),
                Some(sent) = sending.join_next() => sent?,
            }
        }
        let missing = book.waiting();
        Ok(book.close(last - began, missing))
    }

    /// Follows every lane, from what is yet to come.
    async fn follow(&self, events: &mpsc::Sender<Event>) -> anyhow::Result<JoinSet<Failure>> {
        let mut following = JoinSet::new();
        for lane in 0..MOST_LANES {
            match Follow::open(self.client.clone(), outputs(self.destination, Some(lane), Some("end"))).await {
                Ok(follow) => following.spawn(read(follow, events.clone())),
                Err(failure) if lane > 0 && failure.exit == Exit::NotFound => break,
                Err(failure) => return Err(failure).context("the outputs cannot be followed"),
            };
        }
        Ok(following)
    }
}

/// Passes outputs on until that fails.
async fn read(mut follow: Follow, events: mpsc::Sender<Event>) -> Failure {
    loop {
        let json = match follow.next().await {
            Ok(json) => json,
            Err(failure) => return failure,
        };
        let seen = Instant::now();
        let Ok(Output { sequence, source, key }) = serde_json::from_slice(&json) else {
            return Failure::new(Exit::Failed, "the outputs are none of a seriatim's");
        };
        let event = Event::Output { source: source.into(), sequence: Sequence(sequence), key, seen };
        if events.send(event).await.is_err() {
            return Failure::new(Exit::Failed, "nobody waits for outputs any more");
        }
    }
}
