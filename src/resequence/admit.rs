//! Admission: records of the input take their places, in order, while there is room.

use crate::order::{Admission, Verdict, Violated};
use crate::record::ledger::Identity;
use crate::record::{EventMark, Name, Offset, RecordRef, Round, check, error_json};

use super::entry::{Entry, Item, Outcome};
use super::lane::LaneState;
use super::scope::{event_groups, item_groups};

impl LaneState {
    /// Admits fetched input while there is room.
    pub(super) fn admit_input(&mut self) -> Result<(), Violated> {
        while let Some(batch) = self.input.pop_front() {
            let mut admitted_to = batch.base();
            for record in &batch {
                // What is below a published limit is admitted whatever the window is now: its
                // result may come before that of the head, and nothing waits unjudged.
                let room = self.has_room() || record.offset < self.attempted_limit;
                if !room || !self.scope_admits(record.offset) {
                    // Before it are holes only: a result for one of them must not wait for room.
                    self.order.pass_to(record.offset);
                    self.input.push_front(batch.skip_to(admitted_to));
                    self.dispatch.add(batch, admitted_to);
                    return Ok(());
                }
                self.admit(&record)?;
                admitted_to = record.offset.next();
            }
            self.dispatch.add(batch, admitted_to);
        }
        // Whatever was fetched is admitted: between its last record and the next position are holes only.
        self.order.pass_to(self.input_next);
        Ok(())
    }

    /// Whether the window takes one more. Near the cursor's budget it does not, but for the head.
    fn has_room(&self) -> bool {
        if self.limit_frozen { self.order.unreleased() == 0 } else { self.order.room() > 0 }
    }

    /// Whether a record may be admitted under the scope in force; changes over where that is due.
    fn scope_admits(&mut self, offset: Offset) -> bool {
        match &self.next_scope {
            Some((from, next)) if offset >= *from => {
                if self.order.unreleased() > 0 {
                    return false;
                }
                self.scope = next.clone();
                self.next_scope = None;
                true
            }
            _ => true,
        }
    }

    fn admit(&mut self, record: &RecordRef<'_>) -> Result<(), Violated> {
        let offset = record.offset;
        let (mask, refused) = match self.destinations.mask(record.headers.get(Name::Destination)) {
            Ok(mask) => (mask, None),
            Err(unknown) => (0, Some(Outcome::Refused(error_json("unknown-destination", unknown)))),
        };
        let event = record.headers.text(Name::Event).and_then(EventMark::decode);
        let item = if event.is_some() { None } else { Item::of(record) };
        match (&item, &event) {
            (None, None) => self.scope.groups(record, mask, &mut self.groups),
            (Some(_), _) => item_groups(record, &mut self.groups),
            (None, Some(event)) => event_groups(event, record, &mut self.groups),
        }
        let identity = record.headers.get(Name::Id).map(|id| Identity::of(id, record.value));
        let (identity, repeated) = self.judge_identity(offset, identity)?;
        let round = self.rounds.get(&offset).copied().unwrap_or_default();
        // What could not be worked on at first may be by now, where an operator has had a say.
        let outcome = repeated.or(refused.filter(|_| round == Round(0) && event.is_none()));
        let settled = outcome.is_some();
        let entry = Entry {
            check: check(record),
            round,
            timestamp: record.timestamp,
            destinations: mask,
            key: record.key.map(Into::into),
            identity: identity.map(Box::new),
            item: item.map(Box::new),
            event: event.map(|event| event.id),
            outcome,
            retrying: None,
            sent: None,
            input: None,
        };
        let admission = if self.groups.is_empty() {
            self.order.admit_alone(offset, entry)?
        } else {
            self.order.admit(offset, &self.groups, entry)?
        };
        if admission == Admission::Admitted {
            if settled {
                // It was admitted just now and has no result yet.
                let _ = self.order.resolve(offset);
            }
            if !self.dispatch.will_send(offset) {
                self.overdue.admitted(offset);
                if settled {
                    self.overdue.settled(offset);
                }
            }
            if !settled {
                self.claim_item(offset);
                self.claim_event(record);
            }
        }
        Ok(())
    }

    /// The identity of a message that is the first with it, or how it ends because it is not.
    fn judge_identity(
        &mut self,
        offset: Offset,
        identity: Option<Identity>,
    ) -> Result<(Option<Identity>, Option<Outcome>), Violated> {
        let Some(identity) = identity else { return Ok((None, None)) };
        Ok(match self.identities.judge(offset, identity.id, identity.fingerprint)? {
            Verdict::First => (Some(identity), None),
            Verdict::Duplicate { of } => {
                self.duplicates += 1;
                (None, Some(Outcome::Duplicate(of)))
            }
            Verdict::Reused { of } => (None, Some(Outcome::KeyReused(of))),
        })
    }
}
