//! Commits: the cursor, and with it the dead letters.

use std::iter;

use futures::FutureExt as _;
use tokio::time::Instant;

use super::Owner;
use super::tasks::{self, Committed};
use crate::log::{self, Append};
use crate::metrics::Role;
use crate::record::cursor::CURSOR_BUDGET;
use crate::takeover::{self, cursor_append};

impl Owner {
    /// Commits what is acknowledged, one commit at a time: what comes meanwhile shares the next.
    pub(super) fn begin_commit(&mut self) {
        if !self.dirty {
            return;
        }
        let Some(writer) = self.writer.take() else { return };
        self.dirty = false;
        self.state.epoch = self.epoch.0;
        self.state.control = self.control_done().0;
        self.tell_what_holds(Instant::now());
        for feed in &mut self.feeds {
            let lanes = self.state.topics.entry(feed.at.topic.as_str().to_owned()).or_default();
            match feed.begin_commit() {
                Some(position) => *lanes.entry(feed.at.partition.0).or_default() = position,
                None => lanes.entry(feed.at.partition.0).or_default().lost.clone_from(&feed.lost),
            }
        }
        let cursor = cursor_append(Role::Deliver, &self.cursors, &self.state);
        // What is read already may still grow the cursor: the rest of the budget is for that.
        self.crowded = cursor.batch.frame().len() > CURSOR_BUDGET / 10 * 8;
        let letters = std::mem::take(&mut self.letters).into_iter();
        let dead_letter = &self.shared.topics.dead_letter;
        let letters =
            letters.map(|(lane, mut batch)| Append { to: dead_letter.partition(lane), batch: batch.finish() });
        let appends = iter::once(cursor).chain(letters).collect();
        self.tasks.push(tasks::commit(writer, appends).boxed());
    }

    /// After any failure the state in memory may be ahead of the log: it goes with this owner.
    pub(super) fn committed(&mut self, committed: Committed) -> Result<(), takeover::Error> {
        let Committed { writer, begun, result } = committed;
        result.map_err(|error| self.refused(error))?;
        Self::count_commit(begun.elapsed().as_secs_f64());
        self.vouched = Some(begun);
        self.writer = Some(writer);
        let now = Instant::now();
        for feed in &mut self.feeds {
            feed.end_commit(now);
        }
        Ok(())
    }

    /// A dead letter that the log does not take halts its group the next time, rather than
    /// everything. A cursor that it does not take leaves the owner trying: nothing is lost by that.
    fn refused(&self, error: log::Error) -> log::Error {
        let log::Error::Rejected { at, reason } = &error else { return error };
        tracing::error!(%at, reason, "a commit is refused");
        if at.topic == self.shared.topics.dead_letter {
            self.shared.letters_are_refused(at.partition, reason.clone());
        }
        log::Error::Unavailable(error.to_string())
    }
}
