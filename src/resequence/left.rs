//! What has left of a lane above its frontier, as the ledger tells it.
//!
//! The cursor counts what is released from the record at the frontier. Where that is gone, or cannot be read, nobody
//! knows which records are meant.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::{Bounds, Error, TopicPartition, damage};
use crate::record::cursor::{LaneCursor, decode};
use crate::record::ledger::{LedgerEntry, LedgerRecord, Outcome};
use crate::record::{Name, Offset, Partition, RecordRef};
use crate::takeover;

use super::accept::{before_damage, passed_over};
use super::destinations::{Destinations, numbers as numbers_of};
use super::owner::Shared;
use super::restore::numbers;
use super::scope::Scope;

/// The released set of a cursor whose frontier comes to be at the start of what was looked at.
#[derive(Default)]
pub(super) struct Left {
    runs: Vec<(u64, u64)>,
    partly: Vec<(u64, u64)>,
}

impl Left {
    /// Finds out what has left of the input as these bounds say where it begins. Reads the whole ledger, but only
    /// where something may have left above the frontier: an accept before this one may have cut off what the cursor
    /// says of it.
    ///
    /// # Errors
    ///
    /// Those of the log; damage is passed over.
    pub(super) async fn from(
        shared: &Shared,
        lane: Partition,
        cursor: &LaneCursor,
        input: Bounds,
    ) -> Result<Self, Error> {
        let says_nothing = cursor.released.is_empty() && cursor.partly.is_empty();
        let in_order = cursor.order == Scope::Lane.to_string();
        if cursor.read_to <= input.start.0 || (says_nothing && in_order) {
            return Ok(Self::default());
        }
        let told = Told::by_ledger(shared, lane, cursor, input.start).await?;
        let (mut left, mut ordinal) = (Self::default(), 0);
        let destinations = Destinations::new(&shared.topics.destinations);
        let end = Offset(cursor.read_to).min(input.stable_end);
        let of = shared.topics.input.partition(lane);
        let scanned = takeover::scan(&*shared.log, &of, input.start, end, |record| {
            left.add(ordinal, &told, record, &destinations);
            ordinal += 1;
            true
        });
        before_damage(scanned.await)?;
        Ok(left)
    }

    fn add(&mut self, ordinal: u64, told: &Told, record: RecordRef<'_>, destinations: &Destinations) {
        if told.wholly.contains(&record.offset.0) {
            match self.runs.last_mut() {
                Some((first, count)) if *first + *count == ordinal => *count += 1,
                _ => self.runs.push((ordinal, 1)),
            }
            return;
        }
        let Some(sent) = told.partly.get(&record.offset.0) else { return };
        let Ok(mask) = destinations.mask(record.headers.get(Name::Destination)) else { return };
        let parts = numbers_of(mask).enumerate().filter(|(_, number)| sent.contains(destinations.name(*number)));
        let parts = parts.fold(0, |parts, (part, _)| parts | 1 << part);
        if parts != 0 {
            self.partly.push((ordinal, parts));
        }
    }

    /// Has the cursor say so.
    pub(super) fn put_into(self, cursor: &mut LaneCursor) {
        (cursor.released, cursor.partly) = (self.runs, self.partly);
    }
}

/// What the ledger tells, by input offset.
#[derive(Default)]
struct Told {
    wholly: BTreeSet<u64>,
    /// The destinations that got their part.
    partly: BTreeMap<u64, BTreeSet<String>>,
}

impl Told {
    async fn by_ledger(shared: &Shared, lane: Partition, cursor: &LaneCursor, from: Offset) -> Result<Self, Error> {
        let of = shared.topics.ledger.partition(lane);
        let ledger = shared.log.bounds(&of).await?;
        let counted = |destination: &str, sequence: u64| {
            let topic = shared.topics.destinations.get(destination);
            topic.is_none_or(|topic| sequence < numbers(cursor, topic.as_str()).end)
        };
        let mut told = Self::default();
        read_all(shared, &of, ledger, |record| {
            // One that does not decode halts the lane when the identities are read.
            let release: LedgerRecord = decode(record.value.unwrap_or_default()).unwrap_or_default();
            let below = cursor.voided.void_from(record.offset).0.min(cursor.read_to);
            for entry in &release.entries {
                told.add(entry, from.0, below, counted);
            }
        })
        .await?;
        Ok(told)
    }

    /// Takes an entry, unless it is of a torn transaction, whose outputs the cursor does not count.
    fn add(&mut self, entry: &LedgerEntry, from: u64, below: u64, counted: impl Fn(&str, u64) -> bool) {
        let end = entry.offset.saturating_add(entry.count.into());
        for offset in entry.offset.max(from)..end.min(below) {
            match entry.outcome_of(offset) {
                Some(Outcome::Sent(sent) | Outcome::Partly(sent)) if sent.iter().any(|(to, at)| !counted(to, *at)) => {}
                Some(Outcome::Partly(sent)) => {
                    self.partly.entry(offset).or_default().extend(sent.into_iter().map(|(to, _)| to));
                }
                Some(_) => drop(self.wholly.insert(offset)),
                None => {}
            }
        }
    }
}

/// Reads a partition but for what cannot be read of it.
async fn read_all(
    shared: &Shared,
    of: &TopicPartition,
    bounds: Bounds,
    mut see: impl FnMut(RecordRef<'_>),
) -> Result<(), Error> {
    let mut from = bounds.start;
    loop {
        let scanned = takeover::scan(&*shared.log, of, from, bounds.stable_end, |record| {
            from = record.offset.next();
            see(record);
            true
        });
        match scanned.await {
            Err(Error::Damaged(_)) => {}
            other => return other,
        }
        let Some(damage) = damage::first(&*shared.log, of, from, bounds.stable_end).await? else { return Ok(()) };
        from = passed_over(of, &damage);
    }
}
