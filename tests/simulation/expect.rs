//! What has to become of each message of a lane, worked out from the input, the results and the
//! rounds alone, in the simplest way.

use std::collections::BTreeMap;

use seriatim::log::memory::Stored;
use seriatim::record::{Name, Offset, Partition, RecordRef, ResultHeaders, Status, check};

use crate::message::TENANT;
use crate::world::{World, batch_of};

/// An output: its destination and its body.
pub(crate) type Output = (String, Vec<u8>);

/// How a message has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With these outputs, in this order.
    Sent(Vec<Output>),
    /// Passed over by an operator.
    Skipped,
    /// As the policy says.
    Failed,
    /// It repeats the message at this offset.
    Duplicate(u64),
    /// It reuses the identity of another.
    Reused,
    /// No result counts for it.
    Nothing,
}

/// A message of the input and how it has to end.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) offset: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
    /// The sequence group of its outputs; that of a destination where those are the groups.
    pub(crate) group: String,
    /// It belongs to a batch, which has groups of its own and takes failures upon itself.
    pub(crate) of_batch: bool,
    /// It is an event of a batch, and its own output.
    pub(crate) is_event: bool,
}

/// All messages of a lane, in order.
pub(crate) fn lane(
    world: &World,
    lane: Partition,
    input: &[Stored],
    results: &[Stored],
    rounds: &Rounds,
) -> Vec<Expected> {
    let repeats = repeats(world, input);
    let mut first: BTreeMap<u64, End> = BTreeMap::new();
    let by_offset: BTreeMap<u64, &Stored> = input.iter().map(|record| (record.offset.0, record)).collect();
    for result in results {
        let batch = batch_of(result);
        let Some(read) = batch.first() else { continue };
        let Some((offset, headers)) = valid(lane, &read, &by_offset, rounds) else { continue };
        let message = by_offset[&offset];
        first.entry(offset).or_insert_with(|| end(world, message, &read, &headers));
    }
    let mut expected = |record: &Stored| {
        let offset = record.offset.0;
        let named = destinations(world, record);
        let unknown = named.is_none() && round(rounds, offset) == 0;
        let end = match repeats.get(&offset) {
            Some(repeat) => repeat.clone(),
            None if unknown => End::Failed,
            None if is_event(record) => End::Sent(sent_as_it_is(world, record)),
            None => first.remove(&offset).unwrap_or(End::Nothing),
        };
        let body = record.value.clone().unwrap_or_default();
        let (group, of_batch, is_event) = (group(world, record), is_of_batch(record), is_event(record));
        Expected { offset, body, end, group, of_batch, is_event }
    };
    input.iter().map(&mut expected).collect()
}

/// Whether somebody has to work on the message at this offset: it repeats no other, and goes somewhere.
pub(crate) fn needs_work(world: &World, lane: Partition, offset: Offset) -> bool {
    let input = world.log.snapshot(&world.topics.input.partition(lane));
    let record = input.iter().find(|record| record.offset == offset);
    record.is_some_and(|record| destinations(world, record).is_some() && !is_event(record))
        && !repeats(world, &input).contains_key(&offset.0)
}

/// The raised rounds of a lane's records, by offset.
pub(crate) type Rounds = BTreeMap<u64, u32>;

fn round(rounds: &Rounds, offset: u64) -> u32 {
    rounds.get(&offset).copied().unwrap_or(0)
}

/// The record that a result answers, if it may count at all.
fn valid<'a>(
    lane: Partition,
    read: &RecordRef<'a>,
    input: &BTreeMap<u64, &Stored>,
    rounds: &Rounds,
) -> Option<(u64, ResultHeaders<'a>)> {
    let headers = ResultHeaders::decode(read.headers).ok()?;
    let offset = headers.source.offset.0;
    let batch = batch_of(input.get(&offset)?);
    let right = headers.check == check(&batch.first()?);
    let current = headers.round.0 == round(rounds, offset);
    let counts = headers.source.lane == lane && right && current && headers.status != Some(Status::Retrying);
    counts.then_some((offset, headers))
}

/// How a message ends by this result.
fn end(world: &World, message: &Stored, read: &RecordRef<'_>, headers: &ResultHeaders<'_>) -> End {
    match headers.status {
        Some(Status::Empty) => End::Sent(Vec::new()),
        Some(Status::Done) => outputs(world, message, read, headers).map_or(End::Failed, End::Sent),
        Some(Status::Failed) if read.headers.get(Name::Kind) == Some(b"skipped") => End::Skipped,
        _ => End::Failed,
    }
}

fn outputs(world: &World, message: &Stored, read: &RecordRef<'_>, headers: &ResultHeaders<'_>) -> Option<Vec<Output>> {
    let own = destinations(world, message);
    let to = |named: Option<&str>| {
        let named = named.map_or_else(|| own.clone(), |named| known(world, named))?;
        let is_own = |name: &String| own.as_ref().is_some_and(|own| own.contains(name));
        let allowed = world.plan.order.by.to_string() != "destination" || named.iter().all(is_own);
        allowed.then_some(named)
    };
    let value = read.value.unwrap_or_default();
    let mut outputs = Vec::new();
    if headers.content_type == Some(b"application/vnd.seriatim.outputs+json") {
        let items: Vec<serde_json::Value> = serde_json::from_slice(value).ok()?;
        for item in items {
            let body = item["body"].as_str()?.as_bytes().to_vec();
            outputs.extend(to(item["destination"].as_str())?.into_iter().map(|name| (name, body.clone())));
        }
    } else {
        let named = headers.destinations.map(String::from_utf8_lossy);
        outputs.extend(to(named.as_deref())?.into_iter().map(|name| (name, value.to_vec())));
    }
    Some(outputs)
}

fn header<'a>(record: &'a Stored, name: &[u8]) -> Option<&'a [u8]> {
    record.headers.iter().rfind(|(n, _)| n == name).map(|(_, value)| value.as_slice())
}

/// The destinations that a message names, in the order of their names; `None` where one is unknown.
fn destinations(world: &World, record: &Stored) -> Option<Vec<String>> {
    let named = header(record, Name::Destination.as_str().as_bytes()).unwrap_or(b"default");
    known(world, &String::from_utf8_lossy(named))
}

fn known(world: &World, named: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = named.split(", ").map(str::to_owned).collect();
    names.sort_unstable();
    names.iter().all(|name| world.plan.destinations.contains(&name.as_str())).then_some(names)
}

fn is_event(record: &Stored) -> bool {
    header(record, Name::Event.as_str().as_bytes()).is_some()
}

fn is_of_batch(record: &Stored) -> bool {
    is_event(record) || header(record, Name::Batch.as_str().as_bytes()).is_some()
}

fn sent_as_it_is(world: &World, record: &Stored) -> Vec<Output> {
    let body = record.value.clone().unwrap_or_default();
    destinations(world, record).into_iter().flatten().map(|name| (name, body.clone())).collect()
}

fn group(world: &World, record: &Stored) -> String {
    if is_of_batch(record) {
        let mark = String::from_utf8_lossy(header(record, Name::Event.as_str().as_bytes()).unwrap_or_default());
        let alone = ["BatchStalled", "CommandRefused"].iter().any(|kind| mark.ends_with(kind));
        let key = record.key.as_ref().filter(|_| !alone);
        return key.map_or_else(|| format!("alone {}", record.offset), |key| format!("batch {key:?}"));
    }
    match world.plan.order.by.to_string().as_str() {
        "key" => format!("{:?}", record.key),
        "header:tenant" => format!("{:?}", header(record, TENANT)),
        "none" => record.offset.to_string(),
        _ => String::new(),
    }
}

/// The messages that repeat an identity of the last so many.
fn repeats(world: &World, input: &[Stored]) -> BTreeMap<u64, End> {
    let mut window: Vec<(&[u8], &Stored)> = Vec::new();
    let mut repeats = BTreeMap::new();
    for record in input {
        let Some(identity) = header(record, Name::Id.as_str().as_bytes()) else { continue };
        let known = &window[window.len().saturating_sub(world.plan.order.identities)..];
        match known.iter().rfind(|(id, _)| *id == identity) {
            None => window.push((identity, record)),
            Some((_, first)) if first.value == record.value => {
                repeats.insert(record.offset.0, End::Duplicate(first.offset.0));
            }
            Some(_) => {
                repeats.insert(record.offset.0, End::Reused);
            }
        }
    }
    repeats
}
