//! What an outcome says must be somewhere else: an output, a result, a dead letter.

use std::collections::BTreeSet;

use super::super::report::{Kind, Report};
use super::super::scan::Scan;
use super::Lane;
use crate::log::{Bounds, Error, Log, TopicPartition};
use crate::record::ledger::Outcome;
use crate::record::{Name, Offset, RecordRef, ResultHeaders, Source, Status};

/// The most results or dead letters that may wait for the ledger to speak of them. Results of
/// strangers wait until the frontier has passed what they claim to answer.
const MOST_WAITING: usize = 1_000_000;

impl Lane<'_> {
    /// Holds an outcome against the other logs.
    pub(super) async fn claim(
        &mut self,
        at: Offset,
        offset: u64,
        outcome: &Outcome,
        check: Option<u32>,
        report: &mut Report,
    ) -> Result<(), Error> {
        match outcome {
            Outcome::Sent(sent) | Outcome::Partly(sent) => {
                for (destination, sequence) in sent {
                    self.claim_output(at, offset, destination, *sequence, report).await?;
                }
                self.claim_result(at, offset, check, report).await
            }
            Outcome::Empty => self.claim_result(at, offset, check, report).await,
            Outcome::DeadLettered(_) => self.claim_dead_letter(at, offset, report).await,
            Outcome::Skipped(_) => Ok(()),
            Outcome::Duplicate(of) => {
                if *of >= offset {
                    let detail = format!("message {offset} is called a repeat of a later one, {of}");
                    report.find(Kind::Invented, (&self.ledger.of, at), detail);
                }
                Ok(())
            }
        }
    }

    pub(super) async fn claim_output(
        &mut self,
        at: Offset,
        offset: u64,
        destination: &str,
        sequence: u64,
        report: &mut Report,
    ) -> Result<(), Error> {
        // A destination that is not asked about, or not configured any more.
        let Some(outputs) = self.outputs.get_mut(destination) else { return Ok(()) };
        if outputs.first.is_none_or(|first| sequence < first) {
            report.unjudged += 1;
            return Ok(());
        }
        let wanted = Source { lane: self.number, offset: Offset(offset) };
        match outputs.claim(sequence, report).await? {
            Some(source) if source == wanted => {}
            Some(source) => {
                let detail = format!("the ledger has message {offset} as output {sequence} of {destination}");
                let detail = format!("{detail}, the topic has message {source} there");
                report.find(Kind::Disagrees, (&self.ledger.of, at), detail);
            }
            None => {
                let detail = format!("{} lacks output {sequence}, of message {offset}", outputs.of());
                report.find(Kind::Missing, (&self.ledger.of, at), detail);
            }
        }
        Ok(())
    }

    async fn claim_result(
        &mut self,
        at: Offset,
        offset: u64,
        check: Option<u32>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let Some(check) = check else { return Ok(()) };
        match self.results.claim(offset, check).await? {
            Some(true) => {}
            None => report.unjudged += 1,
            Some(false) => {
                let detail = format!("no result answers message {offset}, which left as one that was worked on");
                report.find(Kind::NoResult, (&self.ledger.of, at), detail);
            }
        }
        Ok(())
    }

    async fn claim_dead_letter(&mut self, at: Offset, offset: u64, report: &mut Report) -> Result<(), Error> {
        match self.dead_letters.claim(offset).await? {
            Some(true) => {}
            None => report.unjudged += 1,
            Some(false) => {
                let detail = format!("the dead letter of message {offset} is not in its topic");
                report.find(Kind::Missing, (&self.ledger.of, at), detail);
            }
        }
        Ok(())
    }
}

/// Records that each answer for an input record, found in whatever order the ledger asks.
pub(super) struct Answers<'a, K: Ord> {
    scan: Scan<'a, Option<(u64, K)>>,
    /// Read, and not below the frontier.
    waiting: BTreeSet<(u64, K)>,
    frontier: u64,
    /// The log no longer begins with its first record, or too much was waiting: that something is
    /// not found says nothing.
    unsure: bool,
}

/// The results of a lane, by input offset and check.
pub(super) type Results<'a> = Answers<'a, u32>;

/// The dead letters of a lane, by input offset.
pub(super) type DeadLetters<'a> = Answers<'a, ()>;

impl<'a> Results<'a> {
    pub(super) async fn open(log: &'a dyn Log, of: TopicPartition, bounds: Bounds) -> Result<Self, Error> {
        Self::read_by(log, of, bounds, |record| {
            let headers = ResultHeaders::decode(record.headers).ok()?;
            let resolves = matches!(headers.status, Some(Status::Done | Status::Empty));
            resolves.then_some((headers.source.offset.0, headers.check))
        })
        .await
    }

    /// Whether a result answers this very record.
    pub(super) async fn claim(&mut self, offset: u64, check: u32) -> Result<Option<bool>, Error> {
        self.find((offset, check)).await
    }
}

impl<'a> DeadLetters<'a> {
    pub(super) async fn open(log: &'a dyn Log, of: TopicPartition, bounds: Bounds) -> Result<Self, Error> {
        Self::read_by(log, of, bounds, |record| {
            let source = record.headers.text(Name::Source)?;
            let (_, offset) = source.split_once(':')?;
            Some((offset.parse().ok()?, ()))
        })
        .await
    }

    /// Whether the dead letter of this record is there.
    pub(super) async fn claim(&mut self, offset: u64) -> Result<Option<bool>, Error> {
        self.find((offset, ())).await
    }
}

impl<'a, K: Ord + Copy> Answers<'a, K> {
    async fn read_by(
        log: &'a dyn Log,
        of: TopicPartition,
        bounds: Bounds,
        decode: fn(RecordRef<'_>) -> Option<(u64, K)>,
    ) -> Result<Self, Error> {
        let scan = Scan::open(log, of, bounds, decode).await?;
        Ok(Self { scan, waiting: BTreeSet::new(), frontier: 0, unsure: bounds.start > Offset::ZERO })
    }

    pub(super) const fn read(&self) -> u64 {
        self.scan.read
    }

    pub(super) const fn of(&self) -> &TopicPartition {
        &self.scan.of
    }

    /// What could not be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (Offset, String)> + '_ {
        self.scan.unreadable()
    }

    /// `None`: it is not there, and may have been. It stays: a message may be spoken of in parts.
    async fn find(&mut self, wanted: (u64, K)) -> Result<Option<bool>, Error> {
        if self.waiting.contains(&wanted) {
            return Ok(Some(true));
        }
        while let Some(found) = self.scan.next().await? {
            let Some(found) = found.filter(|(offset, _)| *offset >= self.frontier) else { continue };
            self.waiting.insert(found);
            if found == wanted {
                return Ok(Some(true));
            }
            if self.waiting.len() > MOST_WAITING {
                self.waiting.pop_last();
                self.unsure = true;
            }
        }
        Ok((!self.unsure).then_some(false))
    }

    pub(super) fn forget_below(&mut self, frontier: u64) {
        self.frontier = frontier;
        while self.waiting.first().is_some_and(|(offset, _)| *offset < frontier) {
            self.waiting.pop_first();
        }
    }
}
