//! The thread of a client that fetches: it takes what comes of each partition as far as the partition's
//! reader has room, and leaves the rest where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::orders::Taken;
use super::slot::{Served, Slot};
use crate::log::kafka::errors;
use crate::log::kafka::feed::Feed;
use crate::log::kafka::lines::log_line;
use crate::log::kafka::native::{Consumer, Kind, PartitionQueue, Polled};
use crate::log::{Topic, TopicPartition};
use crate::record::Offset;

/// How long a client first asks for a topic's leaders. Without, its first fetch would wait for the
/// library's next look, once a second.
const LEADERS: Duration = Duration::from_secs(2);

/// How long the thread waits at once; orders and what comes of its partitions wake it.
const POLL: Duration = Duration::from_millis(200);

/// So many of the client's own events are taken in a row; it has few.
const EVENTS: usize = 100;

/// What the thread knows.
pub(super) struct Fetching {
    slots: BTreeMap<TopicPartition, Slot>,
    /// Topics of which the client has asked for the leaders.
    known: BTreeSet<Topic>,
    client: Arc<Polled<Consumer>>,
}

impl Fetching {
    pub(super) fn new(client: Arc<Polled<Consumer>>) -> Self {
        Self { slots: BTreeMap::new(), known: BTreeSet::new(), client }
    }

    /// Until the handle is dropped.
    pub(super) fn run(mut self, orders: &Taken) {
        while let Some(changes) = orders.next() {
            for (of, feed) in changes {
                match feed {
                    Some(feed) => self.fetch(feed),
                    None => self.leave(&of),
                }
            }
            let more = self.serve();
            self.take_events(if more { Duration::ZERO } else { POLL });
        }
    }

    /// Begins to fetch for a reader, or goes on.
    fn fetch(&mut self, feed: Arc<Feed>) {
        if feed.is_closed() {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&feed.of).filter(|slot| slot.is_for(&feed)) {
            return slot.resume();
        }
        self.leave(&feed.of);
        if self.known.insert(feed.of.topic.clone()) {
            // Where nobody answers, the library goes on asking by itself.
            drop(self.client.client.fetch_metadata(Some(feed.of.topic.as_str()), LEADERS));
        }
        let Some(queue) = PartitionQueue::new(&self.client, &feed.of) else { return feed.fail(Code::UnknownTopic) };
        let next = feed.next();
        if let Err(error) = self.client.client.incremental_assign(&list(&feed.of, Some(next))) {
            tracing::warn!(of = %feed.of, %error, "cannot begin to fetch");
            return feed.fail(errors::code(&error));
        }
        self.slots.insert(feed.of.clone(), Slot::new(feed, queue, next));
    }

    fn leave(&mut self, of: &TopicPartition) {
        let Some(slot) = self.slots.remove(of) else { return };
        if let Err(error) = self.client.client.incremental_unassign(&list(of, None)) {
            tracing::warn!(%of, %error, "cannot cease to fetch");
        }
        slot.end();
    }

    /// Each partition has its turn. Returns whether there is more of any of them.
    fn serve(&mut self) -> bool {
        let (mut more, mut over) = (false, Vec::new());
        for (of, slot) in &mut self.slots {
            match slot.serve() {
                Served::All => {}
                Served::Some => more = true,
                Served::Over => over.push(of.clone()),
            }
        }
        over.iter().for_each(|of| self.leave(of));
        more
    }

    /// Waits for the client's own events, none of which is about a partition that it has, or until it is woken.
    fn take_events(&self, mut timeout: Duration) {
        for _ in 0..EVENTS {
            let Some(event) = self.client.poll(timeout) else { return };
            timeout = Duration::ZERO;
            match event.kind() {
                Kind::Failed { code, reason, .. } => tracing::debug!(%code, reason, "fetching"),
                Kind::Log { level, text } => log_line(level, &text),
                Kind::Record(_) | Kind::Reports(_) | Kind::Rebalance { .. } | Kind::Other => {}
            }
        }
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
