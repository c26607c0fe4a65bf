//! What the coordinator has gathered for the next commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::log::Topic;
use crate::metrics;
use crate::record::batches::{BatchRecord, EventType, ItemStatus, refused, start_key};
use crate::record::cursor::encode;
use crate::record::{BatchBuilder, BatchItem, Name, Offset, Partition, Round, Source};
use crate::topics::Topics;

use super::Events;

/// The most items of one commit, over all batches, so that refills of many leave live messages
/// their turn.
const MOST_ITEMS: usize = 1_000;

/// The most bytes of items of one commit; the last one may go beyond.
const MOST_BYTES: usize = 1 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Out {
    lane: Partition,
    items: BatchBuilder,
    told: BatchBuilder,
    states: BatchBuilder,
    /// Batches that run and whose state has changed.
    changed: BTreeSet<Arc<str>>,
    /// Records of items that are not waited for any more; for the lane, not for the log.
    pub(super) withdrawn: Vec<Offset>,
    /// Not counted yet: items that went out, and how items ended.
    generated: u64,
    reported: Vec<ItemStatus>,
    /// What goes on to a destination, too.
    pub(super) events: Events,
}

impl Out {
    pub(super) fn new(lane: Partition, to: Events) -> Self {
        Self {
            lane,
            items: BatchBuilder::default(),
            told: BatchBuilder::default(),
            states: BatchBuilder::default(),
            changed: BTreeSet::new(),
            withdrawn: Vec::new(),
            generated: 0,
            reported: Vec::new(),
            events: to,
        }
    }

    pub(super) fn has_gathered(&self) -> bool {
        !(self.changed.is_empty() && self.told.is_empty() && self.states.is_empty() && self.items.is_empty())
    }

    pub(super) fn has_events(&self) -> bool {
        !self.told.is_empty()
    }

    /// How many more items this commit takes.
    pub(super) fn room(&self) -> usize {
        if self.items.size() >= MOST_BYTES { 0 } else { MOST_ITEMS.saturating_sub(self.items.len()) }
    }

    /// A place in this lane's input.
    pub(super) const fn source(&self, offset: Offset) -> Source {
        Source { lane: self.lane, offset }
    }

    /// A work order. Those of an ordered batch share a key, by which they keep their order.
    pub(super) fn item(&mut self, id: &str, index: u64, round: Round, ordered: bool, body: &str) {
        self.generated += 1;
        let key = ordered.then_some(id.as_bytes());
        self.items.push(key, Some(body.as_bytes()), |to| {
            to.put(Name::ContentType, b"application/json");
            to.put_display(Name::Batch, format_args!("{}", BatchItem { id, index, round }));
        });
    }

    /// An item has ended, or failed for now.
    pub(super) fn reported(&mut self, status: ItemStatus) {
        self.reported.push(status);
    }

    /// Moves the counters by what has happened since the last time.
    pub(super) fn count(&mut self, lane: Partition, handles: &mut Option<metrics::Batches>) {
        if self.generated == 0 && self.reported.is_empty() {
            return;
        }
        let handles = handles.get_or_insert_with(|| metrics::batches(lane));
        handles.generated.inc_by(std::mem::take(&mut self.generated));
        self.reported.drain(..).for_each(|status| handles.ended(status.as_str()).inc());
    }

    /// Something is to be told, and sent to the destination that gets such events.
    pub(super) fn event(&mut self, kind: EventType, id: &str, event: &str) {
        let (key, value) = (Some(id.as_bytes()), Some(event.as_bytes()));
        self.told.push(key, value, |to| to.put(Name::ContentType, b"application/json"));
        if let Some((destination, mark)) = self.events.send(kind) {
            self.items.push(key, value, |to| {
                to.put(Name::ContentType, b"application/json");
                to.put(Name::Destination, destination.as_bytes());
                to.put_display(Name::Event, format_args!("{mark}"));
            });
        }
    }

    pub(super) fn refused(&mut self, id: &str, detail: &str) {
        self.event(EventType::CommandRefused, id, &refused(id, detail));
    }

    /// The state of a batch that runs is to be written.
    pub(super) fn changed(&mut self, id: &Arc<str>) {
        if !self.changed.contains(id) {
            self.changed.insert(id.clone());
        }
    }

    /// A batch begins: its start is kept with its state, whatever retention does to the commands.
    pub(super) fn started(&mut self, id: &Arc<str>, start: &[u8]) {
        self.states.push(Some(start_key(id).as_bytes()), Some(start), |_| {});
        self.changed(id);
    }

    /// A batch has ended: its last state, and its start is needed no longer.
    pub(super) fn ended(&mut self, id: &Arc<str>, record: &BatchRecord) {
        self.changed.remove(id);
        self.states.push(Some(id.as_bytes()), Some(&encode(record)), |_| {});
        self.states.push(Some(start_key(id).as_bytes()), None, |_| {});
    }

    /// A batch that ended long ago is remembered no longer.
    pub(super) fn forgotten(&mut self, id: &str) {
        self.states.push(Some(id.as_bytes()), None, |_| {});
    }

    /// Hands everything over; `record_of` gives the state of a batch that runs.
    pub(super) fn write(
        &mut self,
        topics: &Topics,
        record_of: impl Fn(&str) -> Option<BatchRecord>,
        add: &mut impl FnMut(&Topic, &mut BatchBuilder),
    ) {
        for id in std::mem::take(&mut self.changed) {
            if let Some(record) = record_of(&id) {
                self.states.push(Some(id.as_bytes()), Some(&encode(&record)), |_| {});
            }
        }
        add(&topics.input, &mut self.items);
        add(&topics.batch_state, &mut self.states);
        add(&topics.events, &mut self.told);
    }
}
