//! The thread that serves a place in a group: it answers the group's rebalances, waits for barriers,
//! and leaves when nobody listens any more.
//!
//! A revocation is answered only when the barrier has fallen, or after a session's time; until
//! then librdkafka sends no request to join again, and the broker gives the partitions to nobody.
//! Heartbeats go on meanwhile, on a thread of librdkafka's.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use super::asker::{AT_ONCE, hear_of_another};
use super::bootstrap::Bootstrap;
use super::errors::{Meaning, meaning, of_group, partition};
use super::lines::log_line;
use super::native::{Consumer, Kind, Polled, topic_ids};
use super::standing::Standing;
use crate::log::{Barrier, Error, SESSION_TIMEOUT, Topic, TopicPartition};
use crate::record::{TopicId, TopicIds};

/// How long the thread waits at once; what concerns it wakes it.
const POLL: Duration = Duration::from_millis(100);

/// How much longer than a barrier a claim under way is waited for: it may have to finish two calls.
const CLAIM: Duration = Duration::from_secs(12);

/// How often the last users of the client are waited for before it is closed, and how often.
const CLOSING: (u32, Duration) = (200, Duration::from_millis(10));

/// How often it is looked at whether the group has this member.
const LOOK: Duration = Duration::from_secs(10);

/// How often it is looked at whether the topics are those that the member has positions in: as often as an owner
/// looks, so that workers know by the time that somebody has accepted the loss.
const COMPARE: Duration = Duration::from_secs(5);

/// What the thread knows.
pub(super) struct Serving {
    client: Arc<Polled<Consumer>>,
    bootstrap: Bootstrap,
    /// When it was looked at last whether the group has this member.
    looked: Instant,
    /// That it had not.
    outside: bool,
    /// When it was looked at last what the topics are.
    compared: Instant,
    standing: Arc<Standing>,
    topics: Vec<Topic>,
    letting_go: Option<LettingGo>,
    /// Left, because nobody listened.
    absent: bool,
}

struct LettingGo {
    partitions: Vec<TopicPartition>,
    released: Arc<AtomicBool>,
    until: Instant,
}

impl Serving {
    /// Joins, and serves the place until the sender of `leave` is dropped; then leaves, which ends
    /// the wait of whoever waits for the end of `left`.
    pub(super) fn start(
        client: Polled<Consumer>,
        bootstrap: Bootstrap,
        standing: Arc<Standing>,
        topics: &[Topic],
        leave: mpsc::Receiver<()>,
        left: tokio::sync::oneshot::Sender<()>,
    ) -> Result<Weak<Polled<Consumer>>, Error> {
        let client = Arc::new(client);
        let weak = Arc::downgrade(&client);
        let (topics, now) = (topics.to_vec(), Instant::now());
        let mut serving = Self {
            client,
            bootstrap,
            looked: now,
            outside: false,
            compared: now,
            standing,
            topics,
            letting_go: None,
            absent: false,
        };
        serving.subscribe().map_err(|e| Error::Unavailable(format!("{}: {e}", serving.standing.group)))?;
        std::thread::Builder::new()
            .name("kafka-group".to_owned())
            .spawn(move || {
                while leave.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    serving.turn();
                }
                close(serving.client);
                drop(left);
            })
            .map_err(|e| Error::Unavailable(format!("cannot start a thread: {e}")))?;
        Ok(weak)
    }

    fn subscribe(&self) -> KafkaResult<()> {
        let names: Vec<&str> = self.topics.iter().map(Topic::as_str).collect();
        self.client.client.subscribe(&names)
    }

    fn turn(&mut self) {
        let client = Arc::clone(&self.client);
        if let Some(event) = client.poll(POLL) {
            match event.kind() {
                Kind::Rebalance { assigned, partitions } => {
                    let named = |(topic, number)| Topic::from(topic).partition(partition(number));
                    let partitions = partitions.into_iter().map(named).collect();
                    if assigned { self.assigned(partitions) } else { self.revoked(partitions) }
                }
                Kind::Failed { code, fatal, reason, .. } => self.failed(code, fatal, &reason),
                Kind::Log { level, text } => log_line(level, &text),
                Kind::Record(_) | Kind::Reports(_) | Kind::Other => {}
            }
        }
        self.mind_the_barrier();
        self.mind_the_listener();
        self.mind_the_cluster();
        self.mind_the_topics();
    }

    /// Where the group does not have this member at two looks, its client may have nobody to ask.
    fn mind_the_cluster(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let outside = !self.absent && self.client.generation().0 < 0;
        if std::mem::replace(&mut self.outside, outside) && outside {
            self.bootstrap.say_again(&self.client.client);
        }
    }

    /// A topic that was deleted and made anew is another one.
    fn mind_the_topics(&mut self) {
        if self.compared.elapsed() < COMPARE {
            return;
        }
        self.compared = Instant::now();
        let (client, topics) = (&self.client.client, self.standing.topics());
        let Some(first) = topics.first() else { return };
        let names: Vec<_> = topics.iter().filter_map(|topic| CString::new(topic.as_str()).ok()).collect();
        // Who has rebalances to answer does not wait long; the next look does as well.
        let found = topic_ids(client, &names, AT_ONCE).inspect_err(|_| hear_of_another(client, first));
        let told = |(name, id): (String, Result<u128, Code>)| Some((name, id.ok().filter(|id| *id != 0).map(TopicId)?));
        let now: TopicIds = found.into_iter().flatten().filter_map(told).collect();
        for topic in self.standing.compare(&now) {
            let group = &self.standing.group;
            tracing::warn!(%topic, group, "was deleted and made anew, the group is nowhere in it");
        }
    }

    fn assigned(&self, partitions: Vec<TopicPartition>) {
        let list = list(&partitions, rdkafka::Offset::End);
        let client = &self.client.client;
        let taken = match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_assign(&list),
            RebalanceProtocol::Eager | RebalanceProtocol::None => client.assign(&list),
        };
        // What is assigned is read by others; a pause that fails costs some traffic.
        if let Err(error) = taken.and_then(|()| client.pause(&list)) {
            tracing::warn!(group = self.standing.group, %error, "taking an assignment");
        }
        self.standing.assigned(partitions);
    }

    fn revoked(&mut self, partitions: Vec<TopicPartition>) {
        if self.absent || partitions.is_empty() || self.client.client.assignment_lost() {
            self.give_up(&partitions);
            self.standing.lose(partitions);
            return;
        }
        let released = Arc::new(AtomicBool::new(false));
        let (flag, client) = (Arc::clone(&released), Arc::downgrade(&self.client));
        let barrier = Barrier::new(move || {
            flag.store(true, Ordering::Release);
            if let Some(client) = client.upgrade() {
                client.wake();
            }
        });
        self.standing.revoked(partitions.clone(), barrier);
        self.letting_go = Some(LettingGo { partitions, released, until: Instant::now() + SESSION_TIMEOUT });
    }

    fn mind_the_barrier(&mut self) {
        let Some(letting_go) = &self.letting_go else { return };
        let now = Instant::now();
        let claiming = self.standing.is_claiming() && now < letting_go.until + CLAIM;
        let released = letting_go.released.load(Ordering::Acquire);
        let overdue = now >= letting_go.until || self.absent;
        if claiming || !(released || overdue) {
            return;
        }
        let Some(LettingGo { partitions, .. }) = self.letting_go.take() else { return };
        self.standing.let_go(&partitions);
        self.give_up(&partitions);
        if !released {
            self.standing.lose(partitions);
        }
    }

    /// Tells librdkafka, and with it the group, that the partitions are free.
    fn give_up(&self, partitions: &[TopicPartition]) {
        let client = &self.client.client;
        let given = match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_unassign(&list(partitions, rdkafka::Offset::Invalid)),
            RebalanceProtocol::Eager | RebalanceProtocol::None => client.unassign(),
        };
        if let Err(error) = given {
            tracing::warn!(group = self.standing.group, %error, "giving up an assignment");
        }
    }

    /// Who does not listen is not there; when it listens again, it joins again.
    fn mind_the_listener(&mut self) {
        let deaf = self.standing.is_deaf();
        if deaf == self.absent {
            return;
        }
        if deaf {
            tracing::warn!(group = self.standing.group, "nobody listens to the group: leaving it");
            self.absent = true;
            self.client.client.unsubscribe();
            return;
        }
        match self.subscribe() {
            Ok(()) => self.absent = false,
            Err(error) => tracing::debug!(group = self.standing.group, %error, "joining again"),
        }
    }

    fn failed(&self, code: Code, fatal: bool, reason: &str) {
        let at = self.topics.first().map(|topic| topic.partition(partition(0)));
        match (meaning(code), at) {
            (Meaning::Refused, Some(at)) => {
                self.standing.refuse(of_group(code, &at, true));
            }
            _ if fatal => self.standing.refuse(Error::Fenced(format!("{}: {code}: {reason}", self.standing.group))),
            _ => tracing::debug!(group = self.standing.group, %code, reason, "in the group"),
        }
    }
}

/// Leaves the group and closes the client, here and nowhere else, because it may take its time.
fn close(mut client: Arc<Polled<Consumer>>) {
    for _ in 0..CLOSING.0 {
        client = match Arc::try_unwrap(client) {
            Ok(client) => return drop(client),
            Err(shared) => shared,
        };
        std::thread::park_timeout(CLOSING.1);
    }
}

fn list(partitions: &[TopicPartition], from: rdkafka::Offset) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        let number = i32::try_from(partition.partition.0).unwrap_or(i32::MAX);
        let mut element = list.add_partition(partition.topic.as_str(), number);
        element.set_offset(from).expect("it is one of librdkafka's own");
    }
    list
}
