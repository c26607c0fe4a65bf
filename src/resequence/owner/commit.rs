//! The commit: everything that was released, and the cursor that is right with it, in one step.

use tokio::time::Instant;

use super::{Exit, Happening, Owner, Shared, anew};
use crate::log::{Append, Error, Offsets, Topic, Writer};
use crate::metrics::{self, Role};
use crate::record::cursor::{CURSOR_BUDGET, OwnerCursor, encode};
use crate::record::{BatchBuilder, Partition};
use crate::takeover;

/// The commit under way.
pub(super) struct Committing {
    pub(super) cursor: OwnerCursor,
    /// Which append is the ledger record of which lane.
    ledgers: Vec<(usize, Partition)>,
    started: Instant,
}

impl Owner {
    /// Everything gathered, and the cursor that is right once it is committed.
    pub(super) fn form_commit(&mut self) -> (Vec<Append>, Committing) {
        let mut appends = Vec::new();
        let mut ledgers = Vec::new();
        let Shared { topics, epoch, control, .. } = &self.shared;
        let control_to = self.verbs.position().0;
        let known = self.looks.topics().clone();
        let mut cursor = OwnerCursor { epoch: epoch.0, control: control_to, topics: known, ..OwnerCursor::default() };
        for seat in &mut self.seats {
            let (gathered, lane_cursor) = seat.form_commit(topics);
            for append in gathered {
                if append.to.topic == topics.ledger {
                    // Behind the cursor, too.
                    ledgers.push((appends.len() + 1, seat.lane));
                }
                appends.push(append);
            }
            cursor.lanes.insert(seat.lane.0, lane_cursor);
        }
        appends.extend(self.verbs.results(topics));
        let encoded = encode(&cursor);
        let tight = encoded.len() > CURSOR_BUDGET / 5 * 4;
        for seat in &mut self.seats {
            seat.cursor_is_tight(tight);
        }
        let mut builder = BatchBuilder::default();
        builder.push(Some(Role::Resequence.as_str().as_bytes()), Some(&encoded), |_| {});
        appends.insert(0, Append { to: topics.cursors_resequence.partition(*control), batch: builder.finish() });
        self.due = false;
        (appends, Committing { cursor, ledgers, started: Instant::now() })
    }

    /// Commits what is gathered, or halts the lanes that have something in it which cannot be written.
    pub(super) fn start_commit(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let (appends, committing) = self.form_commit();
        let halted = self.without_a_topic(&appends);
        if !halted.is_empty() {
            return self.restore_halted(writer, halted);
        }
        self.under_way.push(Box::pin(async move {
            let result = writer.commit(appends).await;
            Happening::Committed(writer, result, committing)
        }));
    }

    /// The lanes that have something to write to a topic which was deleted and is not there, and why they stand
    /// still: the brokers would let everything wait for it.
    fn without_a_topic(&self, appends: &[Append]) -> Vec<(Partition, String)> {
        let is_missing = |topic: &Topic| self.uncompared.contains(topic) || self.shared.log.is_gone(topic);
        let missing = appends.iter().filter(|to| self.is_of_a_lane(&to.to.topic) && is_missing(&to.to.topic));
        let halted: Vec<_> = missing.map(|Append { to, .. }| (to.partition, anew::missing(&to.topic))).collect();
        for (lane, reason) in &halted {
            tracing::error!(%lane, reason, "the lane stands still, the others go on");
        }
        halted
    }

    /// What a lane's batches have to say after an accept is in the first commit already, and may be refused.
    pub(super) fn first_refused(self, writer: Box<dyn Writer>, error: Error) -> Result<Exit, takeover::Error> {
        match error {
            Error::Rejected { at, reason }
                if self.is_of_a_lane(&at.topic) && self.committed.lanes.contains_key(&at.partition.0) =>
            {
                tracing::error!(%at, reason, "the first commit was refused: its lane stands still, the others go on");
                Ok(self.halted(writer, [(at.partition, format!("{at}: {reason}"))]))
            }
            error => Err(error.into()),
        }
    }

    pub(super) fn commit_ended(
        &mut self,
        writer: Box<dyn Writer>,
        result: Result<Vec<Offsets>, Error>,
        committing: Committing,
    ) -> Result<(), takeover::Error> {
        let offsets = match result {
            Ok(offsets) => offsets,
            Err(Error::Rejected { at, reason }) if self.is_of_a_lane(&at.topic) => {
                tracing::error!(%at, reason, "a commit was refused: its lane stands still, the others go on");
                self.restore_halted(writer, [(at.partition, format!("{at}: {reason}"))]);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        metrics::owner(Role::Resequence).commit_seconds.observe(committing.started.elapsed().as_secs_f64());
        self.writer = Some(writer);
        self.committed = committing.cursor;
        let ledger_at = |lane| {
            let index = committing.ledgers.iter().find(|(_, of)| *of == lane)?.0;
            offsets.get(index)?.get(0)
        };
        for seat in &mut self.seats {
            seat.committed(&self.committed.lanes[&seat.lane.0], ledger_at(seat.lane));
        }
        Ok(())
    }

    /// Whether the partitions of a topic are those of lanes.
    fn is_of_a_lane(&self, topic: &Topic) -> bool {
        let Shared { topics, .. } = &self.shared;
        ![&topics.cursors_resequence, &topics.control].contains(&topic)
    }
}
