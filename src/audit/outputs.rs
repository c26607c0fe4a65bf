//! One destination's partition, judged by itself and made to answer for the ledger.

use std::collections::BTreeMap;

use super::recent::{KEPT, Recent};
use super::report::{Kind, Report};
use super::scan::Scan;
use crate::log::{Bounds, Error, Log, TopicPartition};
use crate::record::{Epoch, Offset, OutputHeaders, Partition, RecordRef, Source};

/// How far beyond the wanted sequence number an output is looked for that stands in the wrong place.
const LOOK_AHEAD: u64 = 1_024;

/// The most outputs that may wait for the ledger to speak of them.
const MOST_UNCLAIMED: usize = 500_000;

type Read = (Offset, Option<OutputHeaders>);

fn read(record: RecordRef<'_>) -> Read {
    (record.offset, OutputHeaders::decode(record.headers))
}

/// See the module's documentation.
pub(super) struct Outputs<'a> {
    scan: Scan<'a, Read>,
    lane: Partition,
    /// Outputs below this offset have to be in the ledger.
    accountable: Offset,
    /// The first sequence number that is still there; `None` where there is none.
    pub(super) first: Option<u64>,
    /// The sequence number after the highest.
    pub(super) next: u64,
    /// Sources below this the ledger may have forgotten.
    pub(super) judged_from: u64,
    epoch: Epoch,
    groups: Recent<u64, u32>,
    seen: Recent<(u64, u32), ()>,
    /// By sequence number: read, and not yet spoken of by the ledger.
    unclaimed: BTreeMap<u64, (Source, Offset)>,
}

impl<'a> Outputs<'a> {
    /// Opens a partition with its bounds at the first and at the second look.
    pub(super) async fn open(
        log: &'a dyn Log,
        lane: Partition,
        (of, before, after): &(TopicPartition, Bounds, Bounds),
    ) -> Result<Self, Error> {
        let mut outputs = Self {
            scan: Scan::open(log, of.clone(), *after, read).await?,
            lane,
            accountable: before.stable_end,
            first: None,
            next: 0,
            judged_from: 0,
            epoch: Epoch(0),
            groups: Recent::new(KEPT),
            seen: Recent::new(KEPT),
            unclaimed: BTreeMap::new(),
        };
        let first = outputs.scan.peek().await?.and_then(|(_, headers)| *headers).map(|headers| headers.sequence.0);
        // A log that was never shortened begins with 0.
        outputs.first = if after.start == Offset::ZERO { Some(0) } else { first };
        outputs.next = outputs.first.unwrap_or(0);
        Ok(outputs)
    }

    /// From now on sources may be records that have the offsets of others, which are gone.
    pub(super) fn sources_begin_again(&mut self) {
        (self.groups, self.seen) = (Recent::new(KEPT), Recent::new(KEPT));
    }

    pub(super) const fn of(&self) -> &TopicPartition {
        &self.scan.of
    }

    /// What could not be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (Offset, String)> + '_ {
        self.scan.unreadable()
    }

    pub(super) const fn read(&self) -> u64 {
        self.scan.read
    }

    /// The source of the output with this sequence number, which the ledger speaks of; `None`
    /// where there is none.
    pub(super) async fn claim(&mut self, sequence: u64, report: &mut Report) -> Result<Option<Source>, Error> {
        if let Some((source, _)) = self.unclaimed.remove(&sequence) {
            return Ok(Some(source));
        }
        while self.next <= sequence.saturating_add(LOOK_AHEAD) {
            let Some((at, headers)) = self.pull(report).await? else { return Ok(None) };
            if headers.sequence.0 == sequence {
                return Ok(Some(headers.source));
            }
            self.leave_unclaimed(at, &headers, report);
        }
        Ok(None)
    }

    /// Reads what is left. Whatever the ledger should have spoken of and did not is a finding.
    pub(super) async fn finish(&mut self, report: &mut Report) -> Result<(), Error> {
        loop {
            while let Some((sequence, (source, at))) = self.unclaimed.pop_first() {
                self.unaccounted(sequence, source, at, report);
            }
            let Some((at, headers)) = self.pull(report).await? else { return Ok(()) };
            self.unclaimed.insert(headers.sequence.0, (headers.source, at));
        }
    }

    fn unaccounted(&self, sequence: u64, source: Source, at: Offset, report: &mut Report) {
        if at >= self.accountable {
            return;
        }
        if source.offset.0 < self.judged_from {
            report.unjudged += 1;
            return;
        }
        let detail = format!("the ledger does not know output {sequence}, of message {source}");
        report.find(Kind::Unaccounted, (self.of(), at), detail);
    }

    fn leave_unclaimed(&mut self, at: Offset, headers: &OutputHeaders, report: &mut Report) {
        self.unclaimed.insert(headers.sequence.0, (headers.source, at));
        if self.unclaimed.len() > MOST_UNCLAIMED
            && let Some((sequence, (source, at))) = self.unclaimed.pop_first()
        {
            self.unaccounted(sequence, source, at, report);
        }
    }

    /// The next output, judged against those before it.
    async fn pull(&mut self, report: &mut Report) -> Result<Option<(Offset, OutputHeaders)>, Error> {
        loop {
            match self.scan.next().await? {
                None => return Ok(None),
                Some((_, None)) => report.strangers += 1,
                Some((at, Some(headers))) => {
                    report.outputs += 1;
                    self.judge(at, &headers, report);
                    return Ok(Some((at, headers)));
                }
            }
        }
    }

    fn judge(&mut self, at: Offset, headers: &OutputHeaders, report: &mut Report) {
        let OutputHeaders { source, output, group, sequence, epoch } = *headers;
        let mut find = |kind, detail: String| report.find(kind, (&self.scan.of, at), detail);
        if source.lane != self.lane {
            find(Kind::Foreign, format!("output {} is of message {source}, of another lane", sequence.0));
        }
        if sequence.0 > self.next {
            find(Kind::Gap, format!("sequence {} follows {}", sequence.0, before(self.next)));
        } else if sequence.0 < self.next {
            find(Kind::Repeated, format!("sequence {} comes after {}", sequence.0, before(self.next)));
        }
        self.next = self.next.max(sequence.0.saturating_add(1));
        if epoch < self.epoch {
            find(Kind::EpochBack, format!("epoch {} comes after {}", epoch.0, self.epoch.0));
        }
        self.epoch = self.epoch.max(epoch);
        let forgotten = self.groups.may_have_forgotten(source.offset.0);
        let earlier = self.groups.see(group, source.offset.0, output);
        if self.seen.see((source.offset.0, output), source.offset.0, ()).is_some() {
            find(Kind::Repeated, format!("output {output} of message {source} is there again"));
        } else if let Some((last, last_output)) = earlier
            && (last, last_output) >= (source.offset.0, output)
        {
            let detail = format!("output {output} of {source} comes after output {last_output} of offset {last}");
            find(Kind::OutOfOrder, format!("{detail}, in group {group:016x}"));
        }
        if earlier.is_none() && forgotten {
            report.unjudged += 1;
        }
    }
}

fn before(next: u64) -> String {
    next.checked_sub(1).map_or_else(|| "nothing".to_owned(), |last| last.to_string())
}
