//! What is on the log in the end, against what somebody who counts by hand expects.

use std::collections::BTreeMap;

use serde_json::Value;
use seriatim::log::memory::Stored;
use seriatim::record::batches::Counts;
use seriatim::record::ledger::{LedgerRecord, Outcome};
use seriatim::record::{BatchItem, Name, Partition, Source, cursor};

use crate::rig::{Rig, event};

fn header(stored: &Stored, name: Name) -> Option<&str> {
    let found = stored.headers.iter().rev().find(|(n, _)| n == name.as_str().as_bytes())?;
    std::str::from_utf8(&found.1).ok()
}

/// Where the items of a batch stand in the input: `(index, round)` and source.
fn generated(rig: &Rig, id: &str) -> Vec<((u64, u32), Source)> {
    let of = |(lane, stored): (Partition, Stored)| {
        let item = BatchItem::decode(header(&stored, Name::Batch)?).filter(|item| item.id == id)?;
        Some(((item.index, item.round.0), Source { lane, offset: stored.offset }))
    };
    rig.all(&rig.topics.input).into_iter().filter_map(of).collect()
}

/// Items of a batch that have left as done, by source: those with an output, and those without.
pub(crate) fn outputs(rig: &Rig, id: &str) -> Vec<Source> {
    let mut done = Vec::new();
    for (lane, stored) in rig.all(&rig.topics.ledger) {
        let record: LedgerRecord = cursor::decode(&stored.value.unwrap_or_default()).expect("it is a ledger");
        for entry in record.entries {
            let offsets = entry.offset..entry.offset + u64::from(entry.count);
            if matches!(entry.outcome, Outcome::Sent(_) | Outcome::Empty) {
                done.extend(offsets.map(|offset| Source { lane, offset: seriatim::record::Offset(offset) }));
            }
        }
    }
    let items: Vec<Source> = generated(rig, id).into_iter().map(|(_, source)| source).collect();
    done.retain(|source| items.contains(source));
    done
}

pub(crate) fn check(rig: &Rig) {
    for asked in &rig.plan.batches {
        check_batch(rig, &asked.id, asked.failing.len() as u64);
        if asked.start["ordered"] == true {
            check_order(rig, &asked.id);
        }
    }
    check_every_output_once(rig);
    check_events_sent(rig);
}

fn check_batch(rig: &Rig, id: &str, total: u64) {
    let record = rig.record(id).expect("it has begun");
    let mut rounds: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for ((index, round), _) in generated(rig, id) {
        rounds.entry(index).or_default().push(round);
    }
    for (index, mut rounds) in rounds.clone() {
        rounds.sort_unstable();
        let expected: Vec<u32> = (0..u32::try_from(rounds.len()).expect("few")).collect();
        assert_eq!(rounds, expected, "{id}: item {index} goes out once in each round");
    }
    let completion = rounds.remove(&total);
    assert_eq!(completion.is_some(), record.state.rules.completion, "{id}: the final item goes out once, if asked for");
    let indices: Vec<u64> = rounds.keys().copied().collect();
    assert_eq!(indices, (0..record.state.generated).collect::<Vec<_>>(), "{id}: no item is skipped");

    let events: Vec<Value> = rig.all(&rig.topics.events).iter().filter_map(|(_, s)| event(s, "WorkAllDone")).collect();
    let done: Vec<&Value> = events.iter().filter(|event| event["id"] == id).collect();
    assert_eq!(done.len(), 1, "{id}: all done is said once");
    let said: Counts = serde_json::from_value(done[0]["counts"].clone()).expect("it counts");
    assert_eq!(said, record.state.counts(), "{id}: what is said is what is");

    let mut last: BTreeMap<u64, String> = BTreeMap::new();
    for (_, stored) in rig.all(&rig.topics.events) {
        if let Some(event) = event(&stored, "WorkOrderCompleted").filter(|event| event["id"] == id) {
            let index = event["index"].as_u64().expect("it has one");
            last.insert(index, event["status"].as_str().expect("it has one").to_owned());
        }
    }
    let of = |status: &str| last.values().filter(|s| *s == status).count() as u64;
    let never = total - record.state.generated;
    let counted = (of("succeeded"), of("failed"), of("timedOut"), of("discarded"), of("cancelled") + never);
    let counts = (said.succeeded, said.failed, said.timed_out, said.discarded, said.cancelled);
    assert_eq!(counted, counts, "{id}: the counts are right");
    assert_eq!((said.total, said.pending, said.running), (total, 0, 0));
}

/// Outputs of an ordered batch leave in the order in which its items went out.
fn check_order(rig: &Rig, id: &str) {
    let items: Vec<Source> = generated(rig, id).into_iter().map(|(_, source)| source).collect();
    let mut before = None;
    for (_, stored) in rig.all(&rig.topics.destinations["default"]) {
        let source = header(&stored, Name::Source).and_then(|text| Source::from_id(&text.replace(':', "-")));
        let source = source.expect("outputs say where they come from");
        if items.contains(&source) {
            assert!(before < Some(source), "{id}: {source} left after {before:?}");
            before = Some(source);
        }
    }
}

/// A destination that gets events gets each once, in the order of the events topic for each batch
/// but for those that are told at once.
fn check_events_sent(rig: &Rig) {
    let asked = rig.plan.options.batch_events.as_ref();
    let wanted = |event: &Value| match event["type"].as_str() {
        Some("WorkOrderCompleted") => asked.is_some_and(|asked| asked.items),
        _ => asked.is_some(),
    };
    let events = |topic| {
        let all = rig.all(topic).into_iter().map(|(_, stored)| stored.value.expect("it has a body"));
        let all = all.filter_map(|value| serde_json::from_slice::<Value>(&value).ok());
        let (ordered, at_once): (Vec<_>, Vec<_>) = all
            .filter(&wanted)
            .partition(|event| event["type"] == "WorkOrderCompleted" || event["type"] == "WorkAllDone");
        (ordered, at_once)
    };
    let (told, sent) = (events(&rig.topics.events), events(&rig.topics.destinations["b"]));
    for asked in &rig.plan.batches {
        let of = |events: &[Value]| -> Vec<Value> {
            events.iter().filter(|event| event["id"] == *asked.id).cloned().collect()
        };
        assert_eq!(of(&sent.0), of(&told.0), "{}: events are sent in their order, each once", asked.id);
    }
    let sorted = |events: &[Value]| {
        let mut texts: Vec<String> = events.iter().map(Value::to_string).collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!(sorted(&sent.1), sorted(&told.1), "what is told at once is sent once");
}

fn check_every_output_once(rig: &Rig) {
    let outputs = rig.all(&rig.topics.destinations["default"]);
    let mut sources: Vec<&str> = outputs.iter().filter_map(|(_, stored)| header(stored, Name::Source)).collect();
    let all = sources.len();
    sources.sort_unstable();
    sources.dedup();
    assert_eq!(sources.len(), all, "no output is there twice");
}
