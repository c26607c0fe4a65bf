//! One lane: input, results, ledger and outputs side by side, in the order of the ledger.

mod claims;
mod close;

use std::collections::BTreeMap;

use super::Scope;
use super::cursors::History;
use super::cut::LaneCut;
use super::outputs::Outputs;
use super::report::{Kind, Report};
use super::scan::Scan;
use crate::log::{Error, Log};
use crate::record::cursor::{Unreadable, decode};
use crate::record::ledger::{LedgerEntry, LedgerRecord, Outcome, Voided};
use crate::record::{Name, Offset, Partition, RecordRef, check};
use claims::{DeadLetters, Results};

/// Audits one lane.
pub(super) async fn audit(
    log: &dyn Log,
    scope: Scope<'_>,
    cut: &LaneCut,
    history: &History,
    quiet: bool,
    report: &mut Report,
    tell: &mut (dyn FnMut(&Report) + Send),
) -> Result<(), Error> {
    let mut lane = Lane::open(log, scope, cut, history).await?;
    let (read_before, found_before) = (report.read, report.findings.len());
    report.lanes += 1;
    while let Some((at, record)) = lane.ledger.next().await? {
        match record {
            Ok(record) => lane.release(at, &record, report).await?,
            Err(reason) => {
                let detail = format!("the ledger's record cannot be read: {reason}");
                report.find(Kind::Unreadable, (&lane.ledger.of, at), detail);
            }
        }
        report.read = read_before + lane.read();
        tell(report);
    }
    lane.close(scope, history, quiet, report).await?;
    lane.tell_unreadable(found_before, history, report);
    report.read = read_before + lane.read();
    tell(report);
    Ok(())
}

/// An input record at or above the frontier.
#[derive(Debug)]
struct Slot {
    /// That of its results; `None` for an event of a batch, on which nobody works.
    check: Option<u32>,
    /// Its final outcome, once the ledger has told.
    outcome: Option<Outcome>,
}

struct Lane<'a> {
    number: Partition,
    input: Scan<'a, (Offset, Option<u32>)>,
    ledger: Scan<'a, (Offset, Result<LedgerRecord, Unreadable>)>,
    results: Results<'a>,
    dead_letters: DeadLetters<'a>,
    outputs: BTreeMap<String, Outputs<'a>>,
    /// Input read and not below the frontier.
    slots: BTreeMap<u64, Slot>,
    frontier: u64,
    read_to: u64,
    /// What is below was released in parts of the ledger, or of the input, that are no longer there.
    judged_from: Option<u64>,
    input_start: u64,
    /// A torn commit may have left ledger entries that were then written again.
    torn: bool,
    voided: Voided,
    /// What the ledger says, where it is read now, of offsets from this on is of records that are gone.
    void_from: u64,
    /// How often sources have begun again before there.
    lives: usize,
}

fn input(record: RecordRef<'_>) -> (Offset, Option<u32>) {
    (record.offset, record.headers.get(Name::Event).is_none().then(|| check(&record)))
}

fn ledger(record: RecordRef<'_>) -> (Offset, Result<LedgerRecord, Unreadable>) {
    (record.offset, decode(record.value.unwrap_or_default()))
}

impl<'a> Lane<'a> {
    async fn open(log: &'a dyn Log, scope: Scope<'_>, cut: &LaneCut, history: &History) -> Result<Self, Error> {
        let (topics, number) = (scope.topics, cut.lane);
        let voided = history.voided(number, &topics.input);
        let mut outputs = BTreeMap::new();
        for (name, partition) in &cut.outputs {
            outputs.insert(name.clone(), Outputs::open(log, number, partition).await?);
        }
        // A ledger that was never shortened knows everything since the lane began.
        let whole = cut.ledger.start == Offset::ZERO;
        Ok(Self {
            number,
            input: Scan::open(log, topics.input.partition(number), cut.input, input).await?,
            ledger: Scan::open(log, topics.ledger.partition(number), cut.ledger, ledger).await?,
            results: Results::open(log, topics.results.partition(number), cut.results).await?,
            dead_letters: DeadLetters::open(log, topics.dead_letter.partition(number), cut.dead_letters).await?,
            outputs,
            slots: BTreeMap::new(),
            frontier: 0,
            read_to: 0,
            judged_from: whole.then_some(cut.input.start.0),
            input_start: cut.input.start.0,
            torn: history.torn.contains(&number.0),
            void_from: voided.void_from(cut.ledger.start).0,
            lives: voided.lives_before(cut.ledger.start),
            voided,
        })
    }

    fn read(&self) -> u64 {
        let outputs: u64 = self.outputs.values().map(Outputs::read).sum();
        self.input.read + self.ledger.read + self.results.read() + self.dead_letters.read() + outputs
    }

    /// Tells of what could not be read. What was found only by holding the logs against each other may come from
    /// that, and is then not judged.
    fn tell_unreadable(&self, found_before: usize, history: &History, report: &mut Report) {
        let answers = self.results.unreadable().map(|damage| (self.results.of(), damage));
        let letters = self.dead_letters.unreadable().map(|damage| (self.dead_letters.of(), damage));
        let own = [
            (&self.input.of, self.input.unreadable().collect()),
            (&self.ledger.of, self.ledger.unreadable().collect()),
        ];
        let own =
            own.into_iter().flat_map(|(of, damage): (_, Vec<_>)| damage.into_iter().map(move |damage| (of, damage)));
        let outputs =
            self.outputs.values().flat_map(|outputs| outputs.unreadable().map(|damage| (outputs.of(), damage)));
        let all: Vec<_> = own.chain(answers).chain(letters).chain(outputs).collect();
        if history.damaged || !all.is_empty() {
            report.doubt(found_before);
        }
        for (of, (at, detail)) in all {
            report.find(Kind::Unreadable, (of, at), detail);
        }
    }

    /// One record of the ledger.
    async fn release(&mut self, at: Offset, record: &LedgerRecord, report: &mut Report) -> Result<(), Error> {
        self.void_from(at);
        self.judge_from(record);
        self.positions(at, record, report);
        for entry in &record.entries {
            let from = entry.offset;
            let end = from.saturating_add(entry.count.into());
            if end > record.read_to {
                let detail = format!("it speaks of message {}, beyond what the lane had read", end - 1);
                report.find(Kind::Invented, (&self.ledger.of, at), detail);
            }
            for offset in from..end.min(record.read_to) {
                if offset < self.void_from {
                    self.outcome(at, offset, entry, report).await?;
                } else {
                    self.void(at, offset, entry, report).await?;
                }
            }
        }
        self.advance(record.frontier.min(self.void_from), at, report).await
    }

    /// From here on the ledger may speak of records which have the offsets of those that it spoke of before.
    fn void_from(&mut self, at: Offset) {
        self.void_from = self.voided.void_from(at).0;
        let lives = self.voided.lives_before(at);
        if lives > self.lives {
            self.lives = lives;
            self.outputs.values_mut().for_each(Outputs::sources_begin_again);
        }
    }

    /// What the ledger says of a message that is gone: only what it became can be there.
    async fn void(&mut self, at: Offset, offset: u64, entry: &LedgerEntry, report: &mut Report) -> Result<(), Error> {
        report.unjudged += 1;
        if let Some(Outcome::Sent(sent) | Outcome::Partly(sent)) = entry.outcome_of(offset) {
            for (destination, sequence) in sent {
                self.claim_output(at, offset, &destination, sequence, report).await?;
            }
        }
        Ok(())
    }

    /// A ledger that was shortened may have spoken of anything that the lane had read by its first
    /// record, and of nothing later.
    fn judge_from(&mut self, record: &LedgerRecord) {
        let shortened = self.judged_from.is_none();
        let read_to = record.read_to.min(self.void_from);
        let from = *self.judged_from.get_or_insert(read_to.max(self.input_start));
        // Of messages that are gone as well it may have spoken, whatever their offsets.
        let of_outputs = if shortened && !self.voided.is_empty() { u64::MAX } else { from };
        for outputs in self.outputs.values_mut() {
            outputs.judged_from = outputs.judged_from.max(of_outputs);
        }
    }

    fn positions(&mut self, at: Offset, record: &LedgerRecord, report: &mut Report) {
        let (frontier, read_to) = (record.frontier.min(self.void_from), record.read_to.min(self.void_from));
        let marks = [("frontier", self.frontier, frontier), ("position read to", self.read_to, read_to)];
        for (what, before, now) in marks {
            if now < before && !self.torn {
                let detail = format!("the {what} of the ledger went back from {before} to {now}");
                report.find(Kind::WentBack, (&self.ledger.of, at), detail);
            }
        }
        self.read_to = self.read_to.max(read_to);
    }

    /// What the ledger says of one message.
    async fn outcome(
        &mut self,
        at: Offset,
        offset: u64,
        entry: &LedgerEntry,
        report: &mut Report,
    ) -> Result<(), Error> {
        let Some(outcome) = entry.outcome_of(offset) else { return Ok(()) };
        self.read_input(offset.saturating_add(1)).await?;
        let Some(slot) = self.slots.get_mut(&offset) else {
            self.unexpected(at, offset, report);
            return Ok(());
        };
        let check = slot.check;
        if let Some(before) = &slot.outcome {
            if self.torn && *before == outcome {
                report.torn += 1;
            } else {
                let detail = format!("message {offset} was released already, as {before:?}, and now as {outcome:?}");
                report.find(Kind::Twice, (&self.ledger.of, at), detail);
            }
            return Ok(());
        }
        if !matches!(outcome, Outcome::Partly(_)) {
            slot.outcome = Some(outcome.clone());
        }
        self.claim(at, offset, &outcome, check, report).await
    }

    /// The ledger speaks of what is not, or no longer, waiting.
    fn unexpected(&self, at: Offset, offset: u64, report: &mut Report) {
        let of = (&self.ledger.of, at);
        if offset < self.input_start {
            report.unjudged += 1;
        } else if offset >= self.frontier {
            report.find(Kind::Invented, of, format!("the input has no message {offset}"));
        } else if self.torn {
            report.torn += 1;
        } else {
            let detail = format!("message {offset} is released below the frontier, {}", self.frontier);
            report.find(Kind::Twice, of, detail);
        }
    }

    /// Reads the input up to `to`, or to where it ended.
    async fn read_input(&mut self, to: u64) -> Result<(), Error> {
        while let Some((offset, _)) = self.input.peek().await?
            && offset.0 < to
        {
            self.read_one().await?;
        }
        Ok(())
    }

    /// Reads one more record of the input; `false` at its end.
    async fn read_one(&mut self) -> Result<bool, Error> {
        let Some((offset, check)) = self.input.next().await? else { return Ok(false) };
        self.slots.insert(offset.0, Slot { check, outcome: None });
        Ok(true)
    }

    /// Everything below the frontier has to have an outcome now.
    async fn advance(&mut self, frontier: u64, at: Offset, report: &mut Report) -> Result<(), Error> {
        let judged_from = self.judged_from.unwrap_or(u64::MAX);
        while self.frontier < frontier {
            // In steps, so that a frontier far above what is read does not pull all of it in at once.
            const STEP: u64 = 10_000;
            let to = frontier.min(self.frontier.max(self.input_start).saturating_add(STEP));
            self.read_input(to).await?;
            let rest = self.slots.split_off(&to);
            let below = std::mem::replace(&mut self.slots, rest);
            for (offset, slot) in below {
                match slot.outcome {
                    Some(outcome) => count(&outcome, report),
                    None if offset < judged_from => report.unjudged += 1,
                    None => {
                        let detail = format!("message {offset} has no outcome, and the frontier is at {frontier}");
                        report.find(Kind::Lost, (&self.ledger.of, at), detail);
                    }
                }
            }
            self.frontier = to;
            if self.slots.is_empty() && self.input.peek().await?.is_none() {
                self.frontier = frontier;
            }
        }
        self.results.forget_below(self.frontier);
        self.dead_letters.forget_below(self.frontier);
        Ok(())
    }
}

fn count(outcome: &Outcome, report: &mut Report) {
    let outcomes = &mut report.outcomes;
    let counter = match outcome {
        Outcome::Sent(_) | Outcome::Partly(_) => &mut outcomes.sent,
        Outcome::Empty => &mut outcomes.empty,
        Outcome::DeadLettered(_) => &mut outcomes.dead_lettered,
        Outcome::Skipped(_) => &mut outcomes.skipped,
        Outcome::Duplicate(_) => &mut outcomes.duplicates,
    };
    *counter += 1;
}
