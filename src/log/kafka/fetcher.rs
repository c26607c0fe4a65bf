//! Reading: clients that fetch for many readers, each polled by a thread of its own.
//!
//! Each partition has a queue of its own in the library, of which the thread takes as much as the reader
//! has room for. Nobody else waits for that one, and what is left is not fetched again. Pausing would
//! throw away what was fetched, and a pause can get lost in the library when assignments change; a
//! partition that is assigned from an offset has no other state.
//!
//! A client can hold a partition once, so a second reader of the same partition goes to another; `turns`
//! says how many there may be.
//!
//! A broker keeps a request that finds nothing for a while, and a partition that is added meanwhile
//! waits for its end. So who looks something up and goes again is served by clients whose requests
//! hardly wait, and who follows a partition's end by others whose requests do.

mod fetching;
mod orders;
mod slot;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use super::client::Properties;
use super::feed::Feed;
use super::native::{Consumer, Polled};
use super::turns::{BRIEFLY, Turn, Turns};
use crate::log::{Error, TopicPartition};
use fetching::Fetching;
use orders::Orders;

/// Readers of a kind are spread over so many clients before they share; each has its own connections.
const SPREAD: usize = 2;

/// The clients that fetch.
pub(super) struct Fetchers {
    properties: Properties,
    fetchers: Mutex<Vec<Fetcher>>,
    turns: Turns,
}

/// A client's thread, as seen by readers. The waker goes first, so that the thread has the client last.
struct Fetcher {
    number: u64,
    pace: Pace,
    waker: Arc<Polled<Consumer>>,
    orders: Orders,
    taken: BTreeSet<TopicPartition>,
    /// A partition of it stood still for no reason: no more readers for this one.
    suspect: bool,
}

/// What a reader is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    /// It looks something up, and wants it at once.
    Lookup,
    /// It follows the partition's end.
    Follow,
}

/// Where a reader is fed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Fetchers {
    pub(super) fn new(properties: Properties) -> Self {
        Self { properties, fetchers: Mutex::default(), turns: Turns::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fetcher>> {
        self.fetchers.lock().expect("no holder of this lock panics")
    }

    /// Waits until a reader may be fed, at the pace that it wants or else at another; to be held until
    /// it is detached. Cancel-safe.
    pub(super) async fn turn(&self, of: &TopicPartition, wanted: Pace) -> (Pace, Turn) {
        self.turns.take(of, wanted).await
    }

    /// Begins to fetch for a reader whose turn it is.
    pub(super) fn attach(&self, feed: &Arc<Feed>, pace: Pace) -> Result<Place, Error> {
        let mut fetchers = self.lock();
        let free =
            |fetcher: &&mut Fetcher| fetcher.pace == pace && !fetcher.suspect && !fetcher.taken.contains(&feed.of);
        let spread = fetchers.iter().filter(|fetcher| fetcher.pace == pace).count() >= SPREAD;
        let best = fetchers.iter_mut().filter(free).min_by_key(|fetcher| fetcher.taken.len());
        let fetcher = match best {
            Some(fetcher) if spread || fetcher.taken.is_empty() => fetcher,
            _ => {
                let number = fetchers.last().map_or(0, |last| last.number + 1);
                fetchers.push(Fetcher::start(&self.properties, pace, number)?);
                fetchers.last_mut().expect("it was just put there")
            }
        };
        fetcher.taken.insert(feed.of.clone());
        fetcher.fetch(feed);
        Ok(Place(fetcher.number))
    }

    /// Goes on for a reader that has room again.
    pub(super) fn resume(&self, place: Place, feed: &Arc<Feed>) {
        if let Some(fetcher) = self.lock().iter().find(|fetcher| fetcher.number == place.0) {
            fetcher.fetch(feed);
        }
    }

    /// Fetches no more for a reader.
    pub(super) fn detach(&self, place: Place, of: &TopicPartition) {
        let mut fetchers = self.lock();
        let Some(index) = fetchers.iter().position(|fetcher| fetcher.number == place.0) else { return };
        fetchers[index].taken.remove(of);
        fetchers[index].leave(of);
        let Fetcher { pace, suspect, .. } = fetchers[index];
        // Who looks something up is gone in a moment, and the next one comes: their clients stay.
        let kept = if pace == Pace::Lookup { BRIEFLY } else { SPREAD };
        let spare = fetchers.iter().filter(|fetcher| fetcher.pace == pace).count() > kept;
        if fetchers[index].taken.is_empty() && (spare || suspect) {
            fetchers.remove(index);
        }
    }

    /// A partition stands still although there is more of it: its client is not to be trusted.
    pub(super) fn suspect(&self, place: Place) {
        if let Some(fetcher) = self.lock().iter_mut().find(|fetcher| fetcher.number == place.0) {
            fetcher.suspect = true;
        }
    }
}

impl Fetcher {
    fn start(properties: &Properties, pace: Pace, number: u64) -> Result<Self, Error> {
        let client = Arc::new(properties.reading(pace)?);
        let orders = Orders::default();
        let taken = orders.taken();
        let waker = Arc::clone(&client);
        std::thread::Builder::new()
            .name(format!("kafka-fetch-{number}"))
            .spawn(move || Fetching::new(client).run(&taken))
            .map_err(|e| Error::Unavailable(format!("cannot start a thread: {e}")))?;
        Ok(Self { number, pace, waker, orders, taken: BTreeSet::new(), suspect: false })
    }

    fn fetch(&self, feed: &Arc<Feed>) {
        self.orders.fetch(feed);
        self.waker.wake();
    }

    fn leave(&self, of: &TopicPartition) {
        self.orders.leave(of);
        self.waker.wake();
    }
}
