//! Reading: clients that fetch for many readers, each polled by a thread of its own.
//!
//! A partition that a reader has no more room for is taken off the client, and put back at the
//! offset to go on from. Pausing would be cheaper by a list operation, but throws away what was
//! fetched just as well, and a pause can get lost in the library when assignments change; a
//! partition that is assigned from an offset has no other state.
//!
//! A client can hold a partition once, so a second reader of the same partition goes to another; `turns`
//! says how many there may be.
//!
//! A broker keeps a request that finds nothing for a while, and a partition that is added meanwhile
//! waits for its end. So who looks something up and goes again is served by clients whose requests
//! hardly wait, and who follows a partition's end by others whose requests do.

mod orders;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{Properties, log_line};
use super::errors::{Meaning, meaning, partition};
use super::feed::Feed;
use super::native::{Consumer, Fetched, Kind, Polled};
use super::settle;
use super::turns::{BRIEFLY, Turn, Turns};
use crate::log::{Error, Topic, TopicPartition};
use crate::record::{BatchBuilder, Offset, Timestamp};
use orders::{Orders, Taken};

/// Readers of a kind are spread over so many clients before they share; each has its own connections.
const SPREAD: usize = 2;

/// How long a client first asks for a topic's leaders. Without, its first fetch would wait for the
/// library's next look, once a second.
const LEADERS: Duration = Duration::from_secs(2);

/// How long a thread waits at once; orders wake it.
const POLL: Duration = Duration::from_millis(200);

/// So many events are taken before readers are told: a few milliseconds of work.
const TURN: usize = 4_096;

/// A batch of records for a reader has so many bytes at most, unless a single record has more.
const BATCH: usize = 256 << 10;

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

/// What the thread knows.
struct Fetching {
    client: Arc<Polled<Consumer>>,
    slots: BTreeMap<TopicPartition, Slot>,
    /// Finds a record's slot without its topic's name.
    sources: HashMap<(usize, i32), TopicPartition>,
    /// Topics of which the client has asked for the leaders.
    known: BTreeSet<Topic>,
    /// Those of which something is to be handed over.
    touched: Vec<TopicPartition>,
}

/// A partition that is assigned to the client.
struct Slot {
    feed: Arc<Feed>,
    /// The next record has this offset at least.
    next: Offset,
    room: usize,
    builder: BatchBuilder,
    base: (Offset, Timestamp),
    /// A record was taken since the assignment, so that the client's position is that of this one.
    seen: bool,
    /// A record was passed over because the reader had no room: fetch it again before anything later.
    passed_over: bool,
    touched: bool,
}

impl Fetching {
    fn new(client: Arc<Polled<Consumer>>) -> Self {
        Self { client, slots: BTreeMap::new(), sources: HashMap::new(), known: BTreeSet::new(), touched: Vec::new() }
    }

    /// Until the handle is dropped.
    fn run(mut self, orders: &Taken) {
        while let Some(changes) = orders.next() {
            for (of, feed) in changes {
                match feed {
                    Some(feed) => self.fetch(feed),
                    None => self.leave(&of),
                }
            }
            let drained = self.take_events();
            self.hand_over(drained);
        }
    }

    fn fetch(&mut self, feed: Arc<Feed>) {
        if feed.is_closed() || self.slots.get(&feed.of).is_some_and(|slot| Arc::ptr_eq(&slot.feed, &feed)) {
            return;
        }
        self.leave(&feed.of);
        if self.known.insert(feed.of.topic.clone()) {
            // Where nobody answers, the library goes on asking by itself.
            drop(self.client.client.fetch_metadata(Some(feed.of.topic.as_str()), LEADERS));
        }
        let next = feed.next();
        if let Err(error) = self.client.client.incremental_assign(&list(&feed.of, Some(next))) {
            tracing::warn!(of = %feed.of, %error, "cannot begin to fetch");
            return feed.fail(super::errors::code(&error));
        }
        self.slots.insert(feed.of.clone(), Slot::new(feed, next));
    }

    fn leave(&mut self, of: &TopicPartition) {
        if self.slots.remove(of).is_none() {
            return;
        }
        self.sources.clear();
        if let Err(error) = self.client.client.incremental_unassign(&list(of, None)) {
            tracing::warn!(%of, %error, "cannot cease to fetch");
        }
    }

    /// Returns whether there is nothing more for now.
    fn take_events(&mut self) -> bool {
        let client = Arc::clone(&self.client);
        let mut timeout = POLL;
        for _ in 0..TURN {
            let Some(event) = client.poll(timeout) else { return true };
            timeout = Duration::ZERO;
            match event.kind() {
                Kind::Record(record) => self.record(record),
                Kind::Failed { code, reason, at: Some((topic, number, offset)), .. } => {
                    let of = Topic::from(topic).partition(partition(number));
                    self.failed(&of, code, &reason, u64::try_from(offset).ok().map(Offset));
                }
                Kind::Failed { code, reason, at: None, .. } => tracing::debug!(%code, reason, "fetching"),
                Kind::Log { level, text } => log_line(level, &text),
                Kind::Reports(_) | Kind::Rebalance { .. } | Kind::Other => {}
            }
        }
        false
    }

    fn record(&mut self, record: Fetched<'_>) {
        let of = self.sources.entry(record.source()).or_insert_with(|| {
            let (_, number) = record.source();
            Topic::from(record.topic()).partition(partition(number))
        });
        let Some(slot) = self.slots.get_mut(of) else { return };
        if !std::mem::replace(&mut slot.touched, true) {
            self.touched.push(of.clone());
        }
        slot.take(record);
    }

    fn failed(&mut self, of: &TopicPartition, code: Code, reason: &str, offset: Option<Offset>) {
        let Some(slot) = self.slots.get_mut(of) else { return };
        if code == Code::PartitionEOF {
            slot.pass_to(offset.unwrap_or(slot.next));
            if !std::mem::replace(&mut slot.touched, true) {
                self.touched.push(of.clone());
            }
            return;
        }
        match meaning(code) {
            Meaning::Away | Meaning::Rebalancing | Meaning::Unsent => {
                tracing::debug!(%of, %code, reason, "fetching");
                return;
            }
            // A topic that has just been made is not known everywhere yet.
            Meaning::Missing if code == Code::UnknownTopicOrPartition => {
                tracing::debug!(%of, reason, "fetching");
                return;
            }
            Meaning::Refused
            | Meaning::Missing
            | Meaning::Fenced
            | Meaning::Stale
            | Meaning::OutOfRange
            | Meaning::Broken => {}
        }
        slot.flush();
        slot.feed.fail(code);
        self.leave(of);
    }

    fn hand_over(&mut self, drained: bool) {
        for of in std::mem::take(&mut self.touched) {
            let Some(slot) = self.slots.get_mut(&of) else { continue };
            // Markers behind the last record are passed only when everything was taken.
            if drained && slot.seen {
                let number = i32::try_from(of.partition.0).unwrap_or(i32::MAX);
                slot.pass_to(self.client.position(of.topic.as_str(), number).map_or(slot.next, Offset));
            }
            let full = slot.flush();
            if full || slot.passed_over {
                let feed = Arc::clone(&slot.feed);
                self.leave(&of);
                // Where the reader has made room in the meantime, it will not ask again.
                if !full {
                    self.fetch(feed);
                }
            }
        }
    }
}

impl Slot {
    fn new(feed: Arc<Feed>, next: Offset) -> Self {
        Self {
            next,
            room: feed.room(),
            builder: BatchBuilder::default(),
            base: (next, Timestamp(0)),
            seen: false,
            passed_over: false,
            touched: false,
            feed,
        }
    }

    fn take(&mut self, record: Fetched<'_>) {
        self.passed_over |= self.room == 0;
        let offset = Offset(record.offset());
        if self.passed_over || offset < self.next {
            return;
        }
        self.seen = true;
        if settle::is_end(&record) {
            self.next = offset.next();
            return;
        }
        let at = (offset, Timestamp(record.timestamp()));
        if self.builder.is_empty() {
            self.base = at;
        }
        self.builder.push_at(self.base, at, record.key(), record.value(), |headers| record.headers(headers));
        self.next = offset.next();
        self.room = self.room.saturating_sub(record.size().max(1));
        if self.builder.size() >= BATCH {
            let batch = self.builder.finish_at(self.base.0, self.base.1);
            self.feed.put([batch], self.next);
            self.room = self.room.min(self.feed.room());
        }
    }

    /// There is nothing below `offset` that was not taken.
    fn pass_to(&mut self, offset: Offset) {
        if !self.passed_over {
            self.next = self.next.max(offset);
        }
    }

    /// Hands over what there is; returns whether the reader is full.
    fn flush(&mut self) -> bool {
        self.touched = false;
        let batch = (!self.builder.is_empty()).then(|| self.builder.finish_at(self.base.0, self.base.1));
        let full = self.feed.put(batch, self.next);
        self.room = self.feed.room();
        full
    }
}

fn list(of: &TopicPartition, from: Option<Offset>) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(1);
    let number = i32::try_from(of.partition.0).unwrap_or(i32::MAX);
    let mut element = list.add_partition(of.topic.as_str(), number);
    if let Some(from) = from {
        let from = rdkafka::Offset::Offset(i64::try_from(from.0).unwrap_or(i64::MAX));
        element.set_offset(from).expect("an absolute offset is valid");
    }
    list
}
