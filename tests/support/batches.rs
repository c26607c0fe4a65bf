//! What is on the log of staggered batches, against what somebody who counts by hand expects.

use std::collections::BTreeMap;

use serde_json::Value;
use seriatim::log::Topic;
use seriatim::log::memory::{Memory, Stored};
use seriatim::record::batches::{BatchRecord, Counts};
use seriatim::record::ledger::{LedgerRecord, Outcome};
use seriatim::record::{BatchItem, Name, Offset, Partition, Source, cursor};
use seriatim::resequence::BatchEvents;
use seriatim::topics::Topics;

/// The log of one pipeline.
#[derive(Clone, Copy)]
pub(crate) struct Batches<'a> {
    pub(crate) log: &'a Memory,
    pub(crate) topics: &'a Topics,
}

pub(crate) fn header(stored: &Stored, name: Name) -> Option<&str> {
    let found = stored.headers.iter().rev().find(|(n, _)| n == name.as_str().as_bytes())?;
    std::str::from_utf8(&found.1).ok()
}

/// The event that a record is, if it is of this type.
pub(crate) fn event(stored: &Stored, kind: &str) -> Option<Value> {
    let event: Value = serde_json::from_slice(stored.value.as_deref()?).ok()?;
    (event["type"] == kind).then_some(event)
}

impl Batches<'_> {
    /// Everything there is of a topic, by lane.
    pub(crate) fn all(&self, topic: &Topic) -> Vec<(Partition, Stored)> {
        let of = topic.partitions(self.topics.lanes);
        of.flat_map(|of| self.log.snapshot(&of).into_iter().map(move |stored| (of.partition, stored))).collect()
    }

    /// The last state of a batch that has begun.
    pub(crate) fn record(&self, id: &str) -> Option<BatchRecord> {
        let states = self.all(&self.topics.batch_state);
        let last = states.into_iter().rev().find(|(_, stored)| stored.key.as_deref() == Some(id.as_bytes()))?;
        Some(cursor::decode(&last.1.value?).expect("the owner writes what decodes"))
    }

    /// Where the items of a batch stand in the input: `(index, round)` and source.
    pub(crate) fn generated(&self, id: &str) -> Vec<((u64, u32), Source)> {
        let of = |(lane, stored): (Partition, Stored)| {
            let item = BatchItem::decode(header(&stored, Name::Batch)?).filter(|item| item.id == id)?;
            Some(((item.index, item.round.0), Source { lane, offset: stored.offset }))
        };
        self.all(&self.topics.input).into_iter().filter_map(of).collect()
    }

    /// Items of a batch that have left as done, with an output or without.
    pub(crate) fn done(&self, id: &str) -> Vec<Source> {
        let mut done = Vec::new();
        for (lane, stored) in self.all(&self.topics.ledger) {
            let record: LedgerRecord = cursor::decode(&stored.value.unwrap_or_default()).expect("it is a ledger");
            for entry in record.entries {
                let offsets = entry.offset..entry.offset + u64::from(entry.count);
                if matches!(entry.outcome, Outcome::Sent(_) | Outcome::Empty) {
                    done.extend(offsets.map(|offset| Source { lane, offset: Offset(offset) }));
                }
            }
        }
        let items: Vec<Source> = self.generated(id).into_iter().map(|(_, source)| source).collect();
        done.retain(|source| items.contains(source));
        done
    }

    /// `WorkAllDone` is never to be seen before the last output is; `said` are records that may say it.
    pub(crate) fn check_said_after_outputs(&self, said: impl IntoIterator<Item = Stored>) {
        for event in said.into_iter().filter_map(|stored| event(&stored, "WorkAllDone")) {
            let id = event["id"].as_str().expect("it has one");
            let succeeded = event["counts"]["succeeded"].as_u64().expect("it counts");
            let outputs = self.done(id).len() as u64;
            assert!(outputs >= succeeded, "{id}: all is done, and {outputs} of {succeeded} outputs are there");
        }
    }

    /// A batch that has ended: each item once in each round and none skipped, all done said once, the
    /// counts right.
    pub(crate) fn check(&self, id: &str, total: u64) {
        let record = self.record(id).expect("it has begun");
        let mut rounds: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for ((index, round), _) in self.generated(id) {
            rounds.entry(index).or_default().push(round);
        }
        for (index, mut rounds) in rounds.clone() {
            rounds.sort_unstable();
            let expected: Vec<u32> = (0..u32::try_from(rounds.len()).expect("few")).collect();
            assert_eq!(rounds, expected, "{id}: item {index} goes out once in each round");
        }
        let completion = rounds.remove(&total).is_some();
        assert_eq!(completion, record.state.rules.completion, "{id}: the final item goes out once, if asked for");
        let indices: Vec<u64> = rounds.keys().copied().collect();
        assert_eq!(indices, (0..record.state.generated).collect::<Vec<_>>(), "{id}: no item is skipped");

        let events = self.all(&self.topics.events);
        let done: Vec<Value> = events.iter().filter_map(|(_, s)| event(s, "WorkAllDone")).collect();
        let done: Vec<&Value> = done.iter().filter(|event| event["id"] == id).collect();
        assert_eq!(done.len(), 1, "{id}: all done is said once");
        let said: Counts = serde_json::from_value(done[0]["counts"].clone()).expect("it counts");
        assert_eq!(said, record.state.counts(), "{id}: what is said is what is");
        self.check_counts(id, &said, total - record.state.generated);
    }

    /// The counts against how each item ended last, and those that `never` went out.
    fn check_counts(&self, id: &str, said: &Counts, never: u64) {
        let mut last: BTreeMap<u64, String> = BTreeMap::new();
        for (_, stored) in self.all(&self.topics.events) {
            if let Some(event) = event(&stored, "WorkOrderCompleted").filter(|event| event["id"] == id) {
                let index = event["index"].as_u64().expect("it has one");
                last.insert(index, event["status"].as_str().expect("it has one").to_owned());
            }
        }
        let of = |status: &str| last.values().filter(|s| *s == status).count() as u64;
        let counted = (of("succeeded"), of("failed"), of("timedOut"), of("discarded"), of("cancelled") + never);
        let counts = (said.succeeded, said.failed, said.timed_out, said.discarded, said.cancelled);
        assert_eq!(counted, counts, "{id}: the counts are right");
        assert_eq!((said.pending, said.running), (0, 0), "{id}");
    }

    /// A destination that gets events gets each once: in the order of the events topic for each
    /// batch, but for those that are told at once.
    pub(crate) fn check_events(&self, ids: &[&str], to: Option<&BatchEvents>) {
        let Some(to) = to else { return };
        let (told, sent) = (self.events(&self.topics.events), self.events(&self.topics.destinations[&to.destination]));
        let is_ordered = |event: &&Value| event["type"] == "WorkOrderCompleted" || event["type"] == "WorkAllDone";
        for id in ids {
            let of = |events: &[Value]| -> Vec<Value> {
                let wanted = |event: &&Value| to.items || event["type"] != "WorkOrderCompleted";
                let own = events.iter().filter(is_ordered).filter(|event| event["id"] == **id);
                own.filter(wanted).cloned().collect()
            };
            assert_eq!(of(&sent), of(&told), "{id}: events are sent in their order, each once");
        }
        let at_once = |events: &[Value]| {
            let others = events.iter().filter(|event| !is_ordered(event));
            let mut texts: Vec<String> = others.map(Value::to_string).collect();
            texts.sort_unstable();
            texts
        };
        assert_eq!(at_once(&sent), at_once(&told), "what is told at once is sent once");
    }

    /// The events among the records of a topic.
    fn events(&self, topic: &Topic) -> Vec<Value> {
        let kinds = ["WorkOrderCompleted", "WorkAllDone", "BatchStalled", "CommandRefused"];
        let all = self.all(topic).into_iter();
        all.filter_map(|(_, stored)| kinds.iter().find_map(|kind| event(&stored, kind))).collect()
    }
}
