//! The end of a lane: what is left over, and what the last cursor says of it.

use super::super::Scope;
use super::super::cursors::History;
use super::super::report::{Kind, Report};
use super::{Lane, count};
use crate::log::Error;
use crate::record::Offset;
use crate::record::cursor::LaneCursor;

impl Lane<'_> {
    /// Judges what the ledger has left open. Where `quiet`, nothing was committed between the
    /// ends of cursor and ledger, so they have to agree both ways.
    pub(super) async fn close(
        &mut self,
        scope: Scope<'_>,
        history: &History,
        quiet: bool,
        report: &mut Report,
    ) -> Result<(), Error> {
        // An empty ledger that was shortened may have spoken of everything.
        let judged_from = self.judged_from.unwrap_or(u64::MAX);
        for outputs in self.outputs.values_mut() {
            outputs.judged_from = outputs.judged_from.max(judged_from);
            outputs.finish(report).await?;
        }
        let of = scope.topics.cursors_resequence.partition(scope.topics.control_of(self.number).partition);
        let found = history.last.as_ref().map(|(at, cursor)| (*at, cursor.lanes.get(&self.number.0)));
        match found {
            Some((at, Some(cursor))) => {
                if let Some(reason) = &cursor.halted {
                    report.halted.push(format!("lane {}: {reason}", self.number));
                }
                // Of an input that was made anew the lane knows nothing before that is accepted.
                let is_about = !cursor.about.contains_key(scope.topics.input.as_str());
                if is_about {
                    self.advance(cursor.frontier, at, report).await?;
                }
                let quiet = quiet && is_about;
                Close { of: (&of, at), cursor, quiet }.judge(self, scope, report).await?;
            }
            found if self.ledger.read > 0 => {
                let at = found.map_or(Offset::ZERO, |(at, _)| at);
                let detail = format!("no cursor knows lane {}, and its ledger is not empty", self.number);
                report.find(Kind::Cursor, (&of, at), detail);
            }
            _ => {}
        }
        for slot in self.slots.values() {
            match &slot.outcome {
                Some(outcome) => count(outcome, report),
                None => report.waiting += 1,
            }
        }
        report.waiting += self.input.left();
        Ok(())
    }
}

/// The last cursor of a lane and where it is.
struct Close<'a> {
    of: (&'a crate::log::TopicPartition, Offset),
    cursor: &'a LaneCursor,
    quiet: bool,
}

impl Close<'_> {
    async fn judge(&self, lane: &mut Lane<'_>, scope: Scope<'_>, report: &mut Report) -> Result<(), Error> {
        self.counters(lane, scope, report);
        if !self.quiet {
            return Ok(());
        }
        if self.cursor.frontier < lane.frontier {
            let detail =
                format!("its frontier is {}, the ledger has released up to {}", self.cursor.frontier, lane.frontier);
            report.find(Kind::Cursor, self.of, detail);
            return Ok(());
        }
        self.released(lane, report).await
    }

    /// The sequence counters against what the topics hold.
    fn counters(&self, lane: &Lane<'_>, scope: Scope<'_>, report: &mut Report) {
        for (name, outputs) in &lane.outputs {
            let Some(topic) = scope.topics.destinations.get(name) else { continue };
            let counter = self.cursor.sequences.get(topic.as_str()).copied().unwrap_or(0);
            if outputs.first.is_none() {
                continue;
            }
            if outputs.next < counter {
                let detail = format!("it counts {counter} outputs, {} ends after {}", outputs.of(), outputs.next);
                report.find(Kind::Missing, self.of, detail);
            } else if self.quiet && outputs.next > counter {
                let detail = format!("it counts {counter} outputs, {} holds {}", outputs.of(), outputs.next);
                report.find(Kind::Cursor, self.of, format!("{detail}; the next take-over goes on from there"));
            }
        }
    }

    /// The set of what is released above the frontier against the ledger's outcomes.
    async fn released(&self, lane: &mut Lane<'_>, report: &mut Report) -> Result<(), Error> {
        let runs = &self.cursor.released;
        let highest = runs.last().map_or(0, |(first, count)| first.saturating_add(*count));
        lane.read_input(lane.read_to).await?;
        while (lane.slots.len() as u64) < highest && lane.read_one().await? {}
        let judged_from = lane.judged_from.unwrap_or(u64::MAX);
        let mut runs = runs.iter().copied().peekable();
        for ((offset, slot), ordinal) in lane.slots.iter().zip(0..) {
            while runs.next_if(|(first, count)| first.saturating_add(*count) <= ordinal).is_some() {}
            let released = runs.peek().is_some_and(|(first, _)| *first <= ordinal);
            if released == slot.outcome.is_some() {
                continue;
            }
            if released && *offset < judged_from {
                report.unjudged += 1;
                continue;
            }
            let words = if released { "released, the ledger does not" } else { "waiting, the ledger as released" };
            report.find(Kind::Cursor, self.of, format!("it has message {offset} as {words}"));
        }
        if highest > lane.slots.len() as u64 {
            let detail = format!("it has {highest} records above the frontier, the input {}", lane.slots.len());
            report.find(Kind::Cursor, self.of, detail);
        }
        Ok(())
    }
}
