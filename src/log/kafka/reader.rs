//! A partition being read.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::errors::{Meaning, meaning, of_question};
use super::feed::{Feed, Found};
use super::fetcher::{Pace, Place};
use super::turns::Turn;
use crate::log::{Error, Fetched, Reader, TopicPartition};
use crate::record::Offset;

/// A partition that gives nothing for so long is looked at: is there really nothing more?
const WATCH: Duration = Duration::from_secs(30);

/// Who waits so long for its first records, or then for more, is following the partition's end.
const FIRST: Duration = Duration::from_millis(200);
const MORE: Duration = Duration::from_millis(20);

/// Nobody looks something up for so long: whoever still reads on then follows, too. Turns at looking
/// something up are few, and everybody's.
const LONG: Duration = Duration::from_secs(1);

/// Fetches nothing before it is first asked, so that its first answer is of then.
pub(super) struct KafkaReader {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    max_bytes: usize,
    place: Option<Place>,
    /// Held as long as the place.
    turn: Option<Turn>,
    /// At which it is fed.
    pace: Pace,
    wanted: Pace,
    /// Since when it looks something up.
    reading: Option<Instant>,
    /// Whether anything was handed out since it was attached.
    begun: bool,
    /// Since when it gives nothing; kept over calls, because whoever reads asks anew at every turn.
    silent: Option<Instant>,
}

impl KafkaReader {
    pub(super) fn new(shared: Arc<Shared>, of: TopicPartition, from: Offset, max_bytes: usize) -> Self {
        Self {
            shared,
            feed: Arc::new(Feed::new(of, from, max_bytes)),
            max_bytes,
            place: None,
            turn: None,
            pace: Pace::Lookup,
            wanted: Pace::Lookup,
            reading: None,
            begun: false,
            silent: None,
        }
    }

    async fn fetch(&mut self) -> Result<Fetched, Error> {
        let reading = *self.reading.get_or_insert_with(Instant::now);
        if self.wanted == Pace::Lookup && reading.elapsed() >= LONG {
            self.follow();
        }
        loop {
            let place = match self.place {
                Some(place) => place,
                None => self.attach().await?,
            };
            match self.feed.take() {
                (Found::Some(found), resume) => {
                    if resume {
                        self.shared.fetchers.resume(place, &self.feed);
                    }
                    self.begun = true;
                    self.silent = None;
                    if self.wanted != self.pace {
                        self.rest();
                    }
                    return Ok(found);
                }
                (Found::Failed(code), _) => {
                    let error = self.why(code).await?;
                    self.begin_anew();
                    return Err(error);
                }
                (Found::Nothing, _) => self.wait(place).await,
            }
        }
    }

    /// Where many follow already, a follower is fed for a moment like one who looks something up.
    async fn attach(&mut self) -> Result<Place, Error> {
        let (pace, turn) = self.shared.fetchers.turn(&self.feed.of, self.wanted).await;
        let place = self.shared.fetchers.attach(&self.feed, pace)?;
        (self.pace, self.place, self.turn) = (pace, Some(place), Some(turn));
        Ok(place)
    }

    async fn wait(&mut self, place: Place) {
        let patience = match (self.pace, self.begun) {
            (Pace::Lookup, false) => FIRST,
            (Pace::Lookup, true) => MORE,
            (Pace::Follow, _) => WATCH,
        };
        let silent = *self.silent.get_or_insert_with(Instant::now);
        if timeout_at(silent + patience, self.feed.changed.notified()).await.is_ok() {
            return;
        }
        match self.pace {
            Pace::Lookup => self.follow(),
            Pace::Follow => self.watch(place).await,
        }
        self.silent = None;
    }

    fn follow(&mut self) {
        self.wanted = Pace::Follow;
        self.begin_anew();
    }

    /// What has become of the position, where the code alone does not say.
    async fn why(&self, code: rdkafka::types::RDKafkaErrorCode) -> Result<Error, Error> {
        let of = &self.feed.of;
        match meaning(code) {
            Meaning::OutOfRange => {}
            Meaning::Broken => return Ok(Error::Damaged(format!("{of} at {}: {code}", self.position()))),
            _ => return Ok(self.shared.seen.judge(of_question, code, of)),
        }
        let (bounds, wanted) = (self.shared.asker.bounds(of).await?, self.position());
        Ok(if wanted < bounds.start {
            Error::Lost { at: of.clone(), wanted, start: bounds.start }
        } else if wanted > bounds.end {
            let end = bounds.end;
            Error::Damaged(format!(
                "{of}: position {wanted} lies beyond the log's end at {end}: was it made anew, or has it lost its end?"
            ))
        } else {
            Error::Unavailable(format!("{of}: {code} at {wanted}, which is within the log"))
        })
    }

    /// The fetching of single partitions has been seen to stop in silence; then another client takes over.
    async fn watch(&mut self, place: Place) {
        let (of, next) = (self.feed.of.clone(), self.feed.next());
        let behind = self.shared.asker.bounds(&of).await.is_ok_and(|bounds| bounds.stable_end > next);
        if behind && self.feed.next() == next {
            tracing::error!(%of, %next, "there is more but nothing was fetched, so that another client takes over");
            self.shared.fetchers.suspect(place);
            self.begin_anew();
        }
    }

    /// From the position, with a buffer that nobody else still writes to.
    fn begin_anew(&mut self) {
        let feed = Feed::new(self.feed.of.clone(), self.position(), self.max_bytes);
        self.detach();
        self.begun = false;
        self.feed = Arc::new(feed);
    }

    fn detach(&mut self) {
        self.feed.close();
        if let Some(place) = self.place.take() {
            self.shared.fetchers.detach(place, &self.feed.of);
        }
        self.turn = None;
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.detach();
    }
}

impl Reader for KafkaReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Fetched, Error>> {
        self.fetch().boxed()
    }

    fn position(&self) -> Offset {
        self.feed.position()
    }

    fn rest(&mut self) {
        if self.place.is_some() && self.pace == Pace::Lookup {
            self.begin_anew();
        }
    }
}
