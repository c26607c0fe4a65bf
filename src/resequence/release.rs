//! Release: what may leave now is written, in order, into the next atomic commit.

use std::collections::BTreeMap;

use crate::log::{Append, Topic};
use crate::order::{Part, Violated};
use crate::record::cursor::encode;
use crate::record::ledger::{LedgerRecord, Outcome as Left};
use crate::record::{
    Batch, BatchBuilder, Epoch, Name, OutputHeaders, RecordRef, ResultHeaders, Sequence, Source, Status, error_json,
};
use crate::topics::Topics;

use super::destinations::{Mask, numbers};
use super::entry::{Entry, Outcome, SKIPPED};
use super::lane::{LaneState, Need};
use super::output::{Outputs, Rules};
use super::{Destinations, OnFailure, Scope};

/// What has been released and waits for the commit that carries it.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    outputs: Vec<BatchBuilder>,
    dead_letters: BatchBuilder,
    failed: Option<Failed>,
    ledger: LedgerRecord,
    bytes: usize,
    records: usize,
}

/// What a commit says of its dead letters in the log of this process: one line, however many they are.
#[derive(Debug)]
pub(super) struct Failed {
    letters: u64,
    /// The first of them, and why.
    first: Source,
    error: String,
}

impl Gathered {
    /// One commit carries what is ready, up to this many bytes, so that a drain after a long
    /// stall goes in slices and other lanes, and the cursor, get their turn.
    const MAX_BYTES: usize = 4 << 20;
    /// And up to this many records, which bounds the ledger's record.
    const MAX_RECORDS: usize = 20_000;

    fn is_full(&self) -> bool {
        self.bytes >= Self::MAX_BYTES || self.records >= Self::MAX_RECORDS
    }

    /// How many parts have left.
    pub(super) const fn records(&self) -> usize {
        self.records
    }

    /// Whether there is anything that has to be committed.
    pub(super) const fn is_empty(&self) -> bool {
        self.records == 0
    }
}

/// What is to happen to a part whose turn has come.
enum Turn<'a> {
    /// It leaves with these outputs.
    Send(RecordRef<'a>, Outputs<'a>),
    /// It leaves without outputs.
    Leave(Left),
    /// It failed, with this error as JSON; a dead letter whatever the policy is, if so marked.
    Fail { error: String, dead_letter: bool },
    /// Its result has to be read again first.
    Recall,
}

impl LaneState {
    /// Why a record that has its result fails when its turn comes, as an error in JSON; `None` where
    /// it does not, or where its result is not in memory.
    #[must_use]
    pub fn failure(&self, entry: &Entry) -> Option<String> {
        match turn(entry, &self.destinations, self.scope_allows(entry), self.options.max_output) {
            _ if entry.is_of_batch() => None,
            Turn::Fail { error, dead_letter: false } => Some(error),
            _ => entry.failure(),
        }
    }

    /// Lets leave what may, until the next commit is full. What cannot be decided here (a halt, a
    /// body that is not in memory) parks.
    pub(super) fn release(&mut self, epoch: Epoch) -> Result<(), Violated> {
        self.gathered.outputs.resize_with(self.destinations.len(), BatchBuilder::default);
        while !self.gathered.is_full() {
            let Some(part) = self.order.next_ready() else { break };
            self.take_turn(part, epoch)?;
        }
        Ok(())
    }

    fn take_turn(&mut self, part: Part, epoch: Epoch) -> Result<(), Violated> {
        let Some(entry) = self.order.entry(part.offset) else { return Ok(()) };
        match turn(entry, &self.destinations, self.scope_allows(entry), self.options.max_output) {
            Turn::Send(record, outputs) => {
                let only = only_destination(self.scope_allows(entry).is_some(), entry, part);
                let source = Source { lane: self.lane, offset: part.offset };
                self.sent.clear();
                outputs.each(|output| {
                    let number = output.destination;
                    if only.is_some_and(|only| only != number) {
                        return;
                    }
                    let topic = self.destinations.topic(number).as_str();
                    let suppressed = suppress(&mut self.suppressed, topic, (source.offset.0, output.index));
                    let sequence = suppressed.unwrap_or(self.sequences[number]);
                    self.sent.push((number, sequence));
                    if suppressed.is_some() {
                        return;
                    }
                    self.sequences[number] += 1;
                    self.gathered.bytes += output.value.len() + record.headers.size();
                    let (output_index, sequence, group) = (output.index, Sequence(sequence), part.group.0);
                    let headers = OutputHeaders { source, output: output_index, group, sequence, epoch };
                    let key = output.key.or(entry.key.as_deref());
                    self.gathered.outputs[number].push(key, Some(output.value), |to| {
                        headers.encode(to);
                        output.headers(&record, to);
                    });
                });
                self.leave(part, None)
            }
            Turn::Leave(outcome) => self.leave(part, Some(outcome)),
            Turn::Recall => {
                self.order.park(part)?;
                self.recall(part.offset);
                Ok(())
            }
            // Holding a failed item back is its batch's affair: its place in the lane is taken at once.
            Turn::Fail { error, .. } if entry.is_of_batch() => self.leave(part, Some(Left::Skipped(error))),
            Turn::Fail { error, dead_letter } => {
                let policy = if dead_letter { OnFailure::DeadLetter } else { self.options.on_failure };
                self.fail(part, error, policy)
            }
        }
    }

    fn fail(&mut self, part: Part, error: String, policy: OnFailure) -> Result<(), Violated> {
        match policy {
            OnFailure::Skip => self.leave(part, Some(Left::Skipped(error))),
            OnFailure::Halt => {
                self.order.park(part)?;
                self.halts.insert(part.offset, error);
                Ok(())
            }
            OnFailure::DeadLetter => {
                if self.order.entry(part.offset).is_some_and(|entry| entry.input.is_some()) {
                    return self.leave(part, Some(Left::DeadLettered(error)));
                }
                self.order.park(part)?;
                self.needs.push(Need::Input(part.offset));
                Ok(())
            }
        }
    }

    /// Takes the part off the order, and the record's traces off everything once it was the last.
    /// Without an outcome it was sent: what went where is in `sent`.
    fn leave(&mut self, part: Part, outcome: Option<Left>) -> Result<(), Violated> {
        let offset = part.offset;
        self.gathered.records += 1;
        if let Some(Left::DeadLettered(error) | Left::Skipped(error)) = &outcome {
            self.gathered.bytes += error.len();
        }
        let Some(entry) = self.order.release(part)? else {
            if outcome.is_none() && !self.sent.is_empty() {
                self.gathered.ledger.push(offset.0, Left::Partly(self.named_sent()), None);
            }
            return Ok(());
        };
        if let Some(Left::DeadLettered(error)) = &outcome {
            self.write_dead_letter(part, &entry, error);
        }
        self.item_left(&entry, offset, outcome.as_ref());
        let identity = entry.identity.map(|identity| *identity);
        if identity.is_some() {
            self.identified.push(offset);
        }
        match (outcome, self.sent.as_slice(), identity) {
            (Some(outcome), _, _) => self.gathered.ledger.push(offset.0, outcome, identity),
            (None, [], _) => self.gathered.ledger.push(offset.0, Left::Empty, identity),
            (None, [(number, sequence)], None) => {
                self.gathered.ledger.push_sent(offset.0, self.destinations.name(*number), *sequence);
            }
            (None, _, _) => self.gathered.ledger.push(offset.0, Left::Sent(self.named_sent()), identity),
        }
        if let Some(Outcome::Result(answer)) = entry.outcome {
            self.needed_results.done(answer.ticket)?;
        }
        self.memory.remove(offset);
        self.rounds.remove(&offset);
        Ok(())
    }

    fn named_sent(&self) -> Vec<(String, u64)> {
        self.sent.iter().map(|(number, sequence)| (self.destinations.name(*number).to_owned(), *sequence)).collect()
    }

    fn write_dead_letter(&mut self, part: Part, entry: &Entry, error: &str) {
        let Some(record) = entry.input.as_ref().and_then(Batch::first) else { return };
        self.gathered.bytes += record.size();
        let first = Source { lane: self.lane, offset: part.offset };
        let failed = self.gathered.failed.get_or_insert_with(|| Failed { letters: 0, first, error: error.to_owned() });
        failed.letters += 1;
        self.gathered.dead_letters.push(record.key, record.value, |to| {
            to.put_all(record.headers);
            to.put_source(Name::Source, Source { lane: self.lane, offset: part.offset });
            to.put(Name::Error, error.as_bytes());
        });
    }

    /// The commit went through: what is dead-lettered is told.
    pub(super) fn tell_dead_letters(&mut self) {
        if let Some(Failed { letters, first, error }) = self.committing_failed.take() {
            tracing::warn!(lane = %self.lane, letters, %first, error, "dead-lettered: `seriatim tail --dead-letters` shows them");
        }
    }

    fn scope_allows(&self, entry: &Entry) -> Option<Mask> {
        (self.scope == Scope::Destination && !entry.is_of_batch()).then_some(entry.destinations)
    }

    /// Takes what was gathered as the appends of one commit, without the cursor.
    pub(super) fn appends(&mut self, topics: &Topics) -> Vec<Append> {
        let mut gathered = std::mem::take(&mut self.gathered);
        self.committing_records = gathered.records as u64;
        self.committing_failed = gathered.failed.take();
        let mut appends = Vec::new();
        let mut add = |topic: &Topic, builder: &mut BatchBuilder| {
            if !builder.is_empty() {
                appends.push(Append { to: topic.partition(self.lane), batch: builder.finish() });
            }
        };
        for (number, builder) in gathered.outputs.iter_mut().enumerate() {
            add(self.destinations.topic(number), builder);
        }
        add(&topics.dead_letter, &mut gathered.dead_letters);
        if let Some(batches) = &mut self.batches {
            batches.write(topics, &mut add);
        }
        if !gathered.ledger.entries.is_empty() {
            gathered.ledger.frontier = self.order.frontier().0;
            gathered.ledger.read_to = self.read_to().0;
            let mut packed = BatchBuilder::default();
            packed.push(None, Some(&encode(&gathered.ledger)), |_| {});
            add(&topics.ledger, &mut packed);
        }
        appends
    }
}

fn turn<'a>(entry: &'a Entry, destinations: &Destinations, allowed: Option<Mask>, max_output: usize) -> Turn<'a> {
    let fail = |error: String| Turn::Fail { error, dead_letter: false };
    let key = entry.key.as_ref().map_or(0, |key| key.len());
    let rules = Rules { destinations, default: entry.destinations, allowed, max_output, key };
    let answer = match &entry.outcome {
        Some(Outcome::Result(answer)) => answer,
        Some(Outcome::Duplicate(of)) => return Turn::Leave(Left::Duplicate(of.0)),
        Some(Outcome::KeyReused(of)) => {
            let detail = format!("the message at offset {of} has the same key and another body");
            return Turn::Fail { error: error_json("key-reused", detail), dead_letter: true };
        }
        Some(Outcome::Refused(error)) => return fail(error.clone()),
        Some(Outcome::Event(event)) => {
            let Some(record) = event.first() else { return Turn::Recall };
            return Outputs::unworked(&record, rules).map_or_else(fail, |outputs| Turn::Send(record, outputs));
        }
        Some(Outcome::Withdrawn(error)) => return Turn::Leave(Left::Skipped(error.clone())),
        // Only resolved records are ever ready.
        None => return Turn::Recall,
    };
    let Some(record) = answer.body.as_ref().and_then(Batch::first) else { return Turn::Recall };
    let Ok(headers) = ResultHeaders::decode(record.headers) else {
        return fail(error_json("bad-result", "its headers do not decode"));
    };
    match headers.status {
        Some(Status::Done) => {
            Outputs::of(&record, &headers, rules).map_or_else(fail, |outputs| Turn::Send(record, outputs))
        }
        Some(Status::Empty) => Turn::Leave(Left::Empty),
        Some(Status::Failed) => {
            let error = String::from_utf8_lossy(headers.error.unwrap_or(b"{}")).into_owned();
            if record.headers.get(Name::Kind) == Some(SKIPPED) {
                Turn::Leave(Left::Skipped(error))
            } else {
                fail(error)
            }
        }
        Some(Status::Retrying) | None => fail(error_json("bad-result", "its status is none of done, empty, failed")),
    }
}

/// With `by = destination` the parts of a record are its destinations in order.
fn only_destination(by_destination: bool, entry: &Entry, part: Part) -> Option<usize> {
    by_destination.then(|| numbers(entry.destinations).nth(part.index as usize))?
}

/// The sequence number of an output that a former owner has committed already; it is not written again.
fn suppress(set: &mut BTreeMap<String, BTreeMap<(u64, u32), u64>>, topic: &str, output: (u64, u32)) -> Option<u64> {
    let outputs = set.get_mut(topic)?;
    let sequence = outputs.remove(&output);
    if outputs.is_empty() {
        set.remove(topic);
    }
    sequence
}
