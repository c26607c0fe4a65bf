//! The cursors of one control partition, one after the other.

use std::collections::BTreeSet;

use super::cut::Cut;
use super::report::{Kind, Report};
use super::scan::Scan;
use crate::log::{Error, Log, Topic, TopicPartition};
use crate::record::cursor::{LaneCursor, OwnerCursor, Unreadable, decode};
use crate::record::ledger::Voided;
use crate::record::{Offset, Partition, RecordRef};

/// What the cursors say in the end.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The last one and where it is.
    pub(super) last: Option<(Offset, OwnerCursor)>,
    /// Lanes in which a commit was torn at some time: outputs without their cursor.
    pub(super) torn: BTreeSet<u32>,
    /// Whether some of them cannot be read.
    pub(super) damaged: bool,
}

impl History {
    /// What the ledger of a lane says of messages that are gone.
    pub(super) fn voided(&self, lane: Partition, input: &Topic) -> Voided {
        let Some(lane) = self.last.as_ref().and_then(|(_, owner)| owner.lanes.get(&lane.0)) else {
            return Voided::default();
        };
        let mut voided = lane.voided.clone();
        if lane.about.contains_key(input.as_str()) {
            // All of it, as long as nobody has accepted that the input is another one.
            voided.add(Offset(u64::MAX), Offset::ZERO);
        }
        voided
    }
}

type Read = (Offset, Result<OwnerCursor, Unreadable>);

fn read(record: RecordRef<'_>) -> Read {
    (record.offset, decode(record.value.unwrap_or_default()))
}

/// Judges each cursor by the one before it.
pub(super) async fn audit(log: &dyn Log, cut: &Cut, report: &mut Report) -> Result<History, Error> {
    let (of, bounds) = &cut.cursors;
    let mut scan = Scan::open(log, of.clone(), *bounds, read).await?;
    let mut history = History::default();
    while let Some((at, cursor)) = scan.next().await? {
        let cursor = match cursor {
            Ok(cursor) => cursor,
            Err(reason) => {
                report.find(Kind::Unreadable, (of, at), format!("the cursor cannot be read: {reason}"));
                continue;
            }
        };
        report.cursors += 1;
        for (lane, _) in cursor.lanes.iter().filter(|(_, lane)| !lane.suppressed.is_empty()) {
            history.torn.insert(*lane);
        }
        if let Some((_, before)) = &history.last {
            Step { of, at, report }.judge(before, &cursor);
        }
        history.last = Some((at, cursor));
    }
    for (at, detail) in scan.unreadable() {
        history.damaged = true;
        report.find(Kind::Unreadable, (of, at), detail);
    }
    report.read += scan.read;
    Ok(history)
}

/// From one cursor to the next.
struct Step<'a> {
    of: &'a TopicPartition,
    at: Offset,
    report: &'a mut Report,
}

impl Step<'_> {
    fn judge(&mut self, before: &OwnerCursor, now: &OwnerCursor) {
        self.not_below("the epoch", before.epoch, now.epoch);
        self.not_below("the control position", before.control, now.control);
        for (number, before) in &before.lanes {
            match now.lanes.get(number) {
                Some(now) => self.lane(*number, before, now),
                None => self.back(format!("lane {number} is no longer in the cursor")),
            }
        }
    }

    fn lane(&mut self, number: u32, before: &LaneCursor, now: &LaneCursor) {
        // An operator has accepted a loss, which may begin a log anew.
        if before.halted.is_some() && now.halted.is_none() {
            return;
        }
        let of = |what: &str| format!("{what} of lane {number}");
        self.not_below(&of("the frontier"), before.frontier, now.frontier);
        self.not_below(&of("the results position"), before.results, now.results);
        self.not_below(&of("the limit"), before.limit, now.limit);
        for (topic, counter) in &before.sequences {
            let now = now.sequences.get(topic).copied().unwrap_or(0);
            self.not_below(&of(&format!("the counter for {topic}")), *counter, now);
        }
    }

    fn not_below(&mut self, what: &str, before: u64, now: u64) {
        if now < before {
            self.back(format!("{what} went back from {before} to {now}"));
        }
    }

    fn back(&mut self, detail: String) {
        self.report.find(Kind::WentBack, (self.of, self.at), detail);
    }
}
