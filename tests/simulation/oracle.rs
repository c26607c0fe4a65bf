//! What has to hold when all is done: logs against each other, and against what was to be expected.

use std::collections::{BTreeMap, BTreeSet};

use seriatim::log::memory::Stored;
use seriatim::record::control::{Action, Verb};
use seriatim::record::cursor::decode;
use seriatim::record::ledger::{LedgerRecord, Outcome};
use seriatim::record::{Name, Offset, OutputHeaders, Partition, ResultHeaders, Source};
use seriatim::resequence::OnFailure;

use crate::expect::{self, End, Expected, Rounds};
use crate::message::mark;
use crate::operator::REPLACED;
use crate::producer::Accepted;
use crate::world::{World, batch_of};

type Found = Result<(), String>;

macro_rules! holds {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

/// Destination, lane, and what they hold.
pub(crate) type Outputs = (String, Partition, Vec<(u64, u64, Vec<u8>)>);

/// An output as it is in its topic.
struct Written {
    destination: String,
    headers: OutputHeaders,
    body: Vec<u8>,
}

/// Checks everything about one lane.
pub(crate) fn check(world: &World, lane: Partition, accepted: &[Accepted]) -> Found {
    let records = |topic: &seriatim::log::Topic| world.log.snapshot(&topic.partition(lane));
    let (input, results) = (records(&world.topics.input), records(&world.topics.results));
    acknowledged(lane, &input, accepted)?;
    let rounds = rounds(world, lane);
    rounds_were_asked_for(world, lane, &rounds)?;
    let expected = expect::lane(world, lane, &input, &results, &rounds);
    let written = written(world, lane)?;
    let ledger = ledger(world, lane)?;
    contiguous(&written)?;
    ordered(world, &written, &expected)?;
    let letters = dead_letters(&records(&world.topics.dead_letter))?;
    for message in &expected {
        let source = Source::from((lane, Offset(message.offset)));
        let of = |w: &&Written| w.headers.source == source;
        let outputs: Vec<_> = written.iter().filter(of).collect();
        released(world, source, message, &ledger)?;
        ended(world, source, message, &outputs, letters.get(&message.offset).copied().unwrap_or(0))
            .map_err(|what| format!("{what}; its results are {}", answers(source, &results)))?;
        told(source, message, &outputs, ledger.get(&message.offset).map_or(&[][..], Vec::as_slice))?;
    }
    let known: BTreeSet<u64> = expected.iter().map(|message| message.offset).collect();
    let stray = written.iter().map(|w| w.headers.source.offset.0).chain(ledger.keys().copied());
    for offset in stray.chain(letters.keys().copied()) {
        holds!(known.contains(&offset), "I2: {lane}-{offset} left, and is not in the input");
    }
    ledger_in_order(world, &expected, &ledger_order(world, lane)?)?;
    window_was_kept(world, lane, &input)
}

/// All results of a message, for whoever has to find out.
fn answers(source: Source, results: &[Stored]) -> String {
    let mut text = String::new();
    for record in results {
        let batch = batch_of(record);
        let Some(headers) = batch.first().and_then(|read| ResultHeaders::decode(read.headers).ok()) else { continue };
        if headers.source == source {
            let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
            let value: String = value.chars().take(30).collect();
            let (at, round, status) = (record.offset, headers.round.0, headers.status);
            let by = String::from_utf8_lossy(headers.worker.unwrap_or_default());
            let time = record.timestamp.0;
            text += &format!("\n  {at} at {time} by {by}: round {round}, {status:?}, check {}, {value}", headers.check);
        }
    }
    text
}

/// I5: what was acknowledged is there.
fn acknowledged(lane: Partition, input: &[Stored], accepted: &[Accepted]) -> Found {
    let there: BTreeMap<_, _> = input.iter().map(|record| (record.offset, record.value.as_deref())).collect();
    for (_, offset, body) in accepted.iter().filter(|(at, _, _)| *at == lane) {
        let found = there.get(offset).copied().flatten();
        holds!(found == Some(body.as_bytes()), "I5: {lane}-{offset} was acknowledged, and is not there");
    }
    Ok(())
}

/// The highest committed round of each record.
fn rounds(world: &World, lane: Partition) -> Rounds {
    let watch = world.watch();
    let cursors = watch.of(lane).iter().filter_map(|cursor| cursor.lanes.get(&lane.0));
    let mut rounds = Rounds::new();
    for (offset, round) in cursors.flat_map(|lane| &lane.rounds) {
        let highest = rounds.entry(*offset).or_insert(0);
        *highest = (*highest).max(*round);
    }
    rounds
}

/// A verb acts once, and only on the round that its operator saw.
fn rounds_were_asked_for(world: &World, lane: Partition, rounds: &Rounds) -> Found {
    let control = world.log.snapshot(&world.topics.control_of(lane));
    let verbs = control.iter().filter_map(|record| serde_json::from_slice::<Verb>(record.value.as_deref()?).ok());
    let targets = verbs.filter(|verb| verb.lane == lane.0).flat_map(|verb| match verb.action {
        Action::Retry { targets } | Action::Skip { targets } => targets,
        Action::Replace { target, .. } => vec![target],
        Action::Accept => Vec::new(),
    });
    let asked: BTreeSet<_> = targets.collect();
    for (offset, round) in rounds {
        for seen in 0..*round {
            holds!(asked.contains(&(*offset, seen)), "{lane}-{offset} has round {round}; nobody asked in round {seen}");
        }
    }
    Ok(())
}

fn written(world: &World, lane: Partition) -> Result<Vec<Written>, String> {
    let mut all = Vec::new();
    for (destination, topic) in &world.topics.destinations {
        for record in world.log.snapshot(&topic.partition(lane)) {
            let batch = batch_of(&record);
            let headers = batch.first().and_then(|read| OutputHeaders::decode(read.headers));
            let headers = headers.ok_or_else(|| format!("I4: {topic} {} has no provenance", record.offset))?;
            let body = record.value.unwrap_or_default();
            all.push(Written { destination: destination.clone(), headers, body });
        }
    }
    Ok(all)
}

/// What each destination and lane holds: group, sequence and body.
pub(crate) fn outputs(world: &World) -> Result<Vec<Outputs>, String> {
    let mut all = Vec::new();
    for lane in (0..world.plan.lanes).map(Partition) {
        let written = written(world, lane)?;
        for name in world.topics.destinations.keys() {
            let of = written.iter().filter(|w| w.destination == *name);
            let of = of.map(|w| (w.headers.group, w.headers.sequence.0, w.body.clone()));
            all.push((name.clone(), lane, of.collect()));
        }
    }
    Ok(all)
}

/// I2, I8: sequences are contiguous, and epochs do not go back.
fn contiguous(written: &[Written]) -> Found {
    let mut last: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for Written { destination, headers, .. } in written {
        let (next, epoch) = last.entry(destination).or_insert((0, 0));
        let source = headers.source;
        holds!(
            headers.sequence.0 == *next,
            "I2: {source} is number {:?} of {destination}, not {next}",
            headers.sequence
        );
        holds!(headers.epoch.0 >= *epoch, "I8: {source} of {destination} is of {:?} after {epoch}", headers.epoch);
        (*next, *epoch) = (*next + 1, headers.epoch.0);
    }
    Ok(())
}

/// I1, I3: in each group of each destination sources go up, and outputs of one source do.
fn ordered(world: &World, written: &[Written], expected: &[Expected]) -> Found {
    let groups: BTreeMap<u64, &str> = expected.iter().map(|m| (m.offset, m.group.as_str())).collect();
    let of_batches: BTreeSet<u64> = expected.iter().filter(|m| m.of_batch).map(|m| m.offset).collect();
    let by_destination = world.plan.order.by.to_string() == "destination";
    let mut last: BTreeMap<(&str, &str), (u64, u32)> = BTreeMap::new();
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    for Written { destination, headers, .. } in written {
        let at = (headers.source.offset.0, headers.output);
        let group = groups.get(&at.0).copied().unwrap_or_default();
        if let Some(before) = last.insert((destination, group), at) {
            holds!(before < at, "I1, I3: {destination}, group `{group}`: {at:?} after {before:?}");
        }
        let name = if by_destination && !of_batches.contains(&at.0) { destination } else { group };
        let number = *numbers.entry(name).or_insert(headers.group);
        holds!(number == headers.group, "I4: {at:?}: group `{name}` has two numbers");
    }
    Ok(())
}

/// How often each message is among the dead letters.
fn dead_letters(letters: &[Stored]) -> Result<BTreeMap<u64, usize>, String> {
    let mut count = BTreeMap::new();
    for letter in letters {
        let batch = batch_of(letter);
        // A push that was refused: it left long ago.
        if letter.headers.iter().any(|(name, _)| name == b"seriatim-sequence") {
            continue;
        }
        let source = batch.first().and_then(|read| read.headers.text(Name::Source));
        let offset = source.and_then(|source| source.split_once(':')?.1.parse().ok());
        *count.entry(offset.ok_or("a dead letter has no source")?).or_insert(0) += 1;
    }
    Ok(count)
}

fn ledger_records(world: &World, lane: Partition) -> Result<Vec<LedgerRecord>, String> {
    let records = world.log.snapshot(&world.topics.ledger.partition(lane));
    let decoded = records.iter().map(|record| decode(record.value.as_deref().unwrap_or_default()));
    let decoded: Result<Vec<LedgerRecord>, _> = decoded.collect();
    let decoded = decoded.map_err(|error| format!("the ledger of {lane} does not decode: {error}"))?;
    for pair in decoded.windows(2) {
        holds!(pair[0].frontier <= pair[1].frontier, "I7: the ledger's frontier of lane {lane} went back");
        holds!(pair[0].read_to <= pair[1].read_to, "I7: the ledger's read_to of lane {lane} went back");
    }
    Ok(decoded)
}

/// What the ledger says of each message.
fn ledger(world: &World, lane: Partition) -> Result<BTreeMap<u64, Vec<Outcome>>, String> {
    let mut all: BTreeMap<u64, Vec<Outcome>> = BTreeMap::new();
    for (offset, outcome) in ledger_order(world, lane)? {
        all.entry(offset).or_default().push(outcome);
    }
    Ok(all)
}

fn ledger_order(world: &World, lane: Partition) -> Result<Vec<(u64, Outcome)>, String> {
    let mut all = Vec::new();
    for entry in ledger_records(world, lane)?.iter().flat_map(|record| &record.entries) {
        for offset in entry.offset..entry.offset + u64::from(entry.count) {
            all.extend(entry.outcome_of(offset).map(|outcome| (offset, outcome)));
        }
    }
    Ok(all)
}

/// I2, I14: each message has one final outcome, and it is the one that it has to have.
fn released(world: &World, source: Source, message: &Expected, ledger: &BTreeMap<u64, Vec<Outcome>>) -> Found {
    let outcomes = ledger.get(&message.offset).map_or(&[][..], Vec::as_slice);
    let last: Vec<_> = outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Partly(_))).collect();
    let [last] = last.as_slice() else {
        return Err(format!("I14: {source} has {} outcomes: {outcomes:?}, expected {:?}", last.len(), message.end));
    };
    let policy = world.plan.order.on_failure;
    let right = match (&message.end, last) {
        (End::Duplicate(of), Outcome::Duplicate(is)) => of == is,
        (End::Failed, Outcome::Skipped(_)) if message.of_batch => true,
        (End::Failed, Outcome::DeadLettered(_)) => policy == OnFailure::DeadLetter && !message.of_batch,
        (End::Failed, Outcome::Skipped(_)) => policy == OnFailure::Skip,
        (End::Sent(_), Outcome::Sent(_) | Outcome::Empty)
        | (End::Skipped, Outcome::Skipped(_))
        | (End::Reused, Outcome::DeadLettered(_)) => true,
        _ => false,
    };
    holds!(right, "I10, I14, I17: {source} left as {last:?}, it had to as {:?} ({policy:?})", message.end);
    Ok(())
}

/// I3, I4, I17: the outputs are those of the first result of the last round, and of this message.
fn ended(world: &World, source: Source, message: &Expected, outputs: &[&Written], letters: usize) -> Found {
    let mut expected: Vec<(u32, &str, &[u8])> = Vec::new();
    if let End::Sent(outputs) = &message.end {
        expected.extend((0..).zip(outputs).map(|(index, (name, body))| (index, name.as_str(), body.as_slice())));
    }
    let mut found: Vec<_> =
        outputs.iter().map(|w| (w.headers.output, w.destination.as_str(), w.body.as_slice())).collect();
    found.sort_unstable();
    if found != expected {
        let text = |all: &[(u32, &str, &[u8])]| {
            let text = all.iter().map(|(i, to, body)| format!("{i} to {to}: {}", String::from_utf8_lossy(body)));
            text.collect::<Vec<_>>().join("; ")
        };
        return Err(format!("I3, I17: {source} has outputs [{}], not [{}]", text(&found), text(&expected)));
    }
    let (made, replaced) = (mark(source, &message.body), format!("{REPLACED}|{}|", source.offset));
    for (_, _, body) in found {
        let right = message.is_event || body.starts_with(made.as_bytes()) || body.starts_with(replaced.as_bytes());
        holds!(right, "I4: an output of {source} was made from something else");
    }
    let is_letter = match message.end {
        End::Failed => world.plan.order.on_failure == OnFailure::DeadLetter && !message.of_batch,
        End::Reused => true,
        _ => false,
    };
    holds!(letters == usize::from(is_letter), "I14: {source} is {letters} times among the dead letters");
    Ok(())
}

/// The ledger names the outputs that there are.
fn told(source: Source, message: &Expected, outputs: &[&Written], outcomes: &[Outcome]) -> Found {
    let sent = outcomes.iter().flat_map(|outcome| match outcome {
        Outcome::Sent(sent) | Outcome::Partly(sent) => sent.as_slice(),
        _ => &[],
    });
    let mut told: Vec<_> = sent.map(|(name, sequence)| (name.as_str(), *sequence)).collect();
    let mut there: Vec<_> = outputs.iter().map(|w| (w.destination.as_str(), w.headers.sequence.0)).collect();
    told.sort_unstable();
    there.sort_unstable();
    holds!(told == there, "I14: the ledger says {told:?} of {source}, there are {there:?}, expected {:?}", message.end);
    Ok(())
}

/// I1: places are taken in order, whatever was put in them; with one group a destination the
/// outputs alone show it.
fn ledger_in_order(world: &World, expected: &[Expected], order: &[(u64, Outcome)]) -> Found {
    if world.plan.order.by.to_string() == "destination" {
        return Ok(());
    }
    let groups: BTreeMap<u64, &str> = expected.iter().map(|m| (m.offset, m.group.as_str())).collect();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for (offset, outcome) in order {
        let group = groups[offset];
        if let Some(before) = last.insert(group, *offset) {
            holds!(before < *offset, "I1: group `{group}`: {offset} ({outcome:?}) took its place after {before}");
        }
    }
    Ok(())
}

/// I11: below no limit there ever were more unreleased records than the window, nor more above a
/// frontier than its span; and nothing that was released came back.
fn window_was_kept(world: &World, lane: Partition, input: &[Stored]) -> Found {
    let offsets: Vec<u64> = input.iter().map(|record| record.offset.0).collect();
    let at = |offset: u64| offsets.partition_point(|o| *o < offset);
    let window = world.plan.order.window;
    let watch = world.watch();
    let mut before: BTreeSet<usize> = BTreeSet::new();
    for cursor in watch.of(lane).iter().filter_map(|cursor| cursor.lanes.get(&lane.0)) {
        let first = at(cursor.frontier);
        let ordinals = cursor.released.iter().flat_map(|(start, length)| *start..start + length);
        let released: BTreeSet<usize> = ordinals.map(|ordinal| first + index(ordinal)).collect();
        let back = before.iter().find(|number| **number >= first && !released.contains(number));
        holds!(back.is_none(), "I3: lane {lane}: offset {} is no longer released", offsets[*back.unwrap_or(&0)]);
        let span = at(cursor.limit).saturating_sub(first) as u64;
        let unreleased = span - released.range(..at(cursor.limit)).count() as u64;
        holds!(unreleased <= window, "I11: lane {lane}: {unreleased} records unreleased, the window is {window}");
        holds!(span <= 16 * window, "I11: lane {lane}: {span} records from the frontier on, 16 windows of {window}");
        before = released;
    }
    Ok(())
}

fn index(ordinal: u64) -> usize {
    usize::try_from(ordinal).expect("a simulated input fits into memory")
}
