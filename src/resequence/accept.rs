//! What becomes of a lane when an operator accepts what it stands still for: it goes on with what its logs still
//! hold, and with what can be read of it.
//!
//! Nothing of it counts before the next cursor is committed; who takes over before that accepts once more.

use std::ops::Range;

use crate::log::{Bounds, Error, Topic, TopicPartition, damage};
use crate::record::cursor::LaneCursor;
use crate::record::{Offset, Partition};
use crate::takeover;

use super::lane::Lost;
use super::left::Left;
use super::owner::Shared;
use super::restore::{FOR_EVER, numbers};
use super::tails::{Tail, beyond, compare};

/// Ends a halt by loss. Where results were lost, says how far the results and the input have to be read to know
/// which records are without one.
///
/// # Errors
///
/// Those of the log.
pub(super) async fn accept(shared: &Shared, lane: Partition, cursor: &mut LaneCursor) -> Result<Option<Lost>, Error> {
    let topics = &shared.topics;
    let anew = std::mem::take(&mut cursor.about);
    let is_anew = |topic: &Topic| anew.contains_key(topic.as_str());
    cursor.halted = None;
    accept_ledger(shared, lane, cursor, is_anew(&topics.ledger)).await?;
    let input = shared.log.bounds(&topics.input.partition(lane)).await?;
    let Brought { unanswered, lost_from } = accept_input(shared, lane, cursor, input, is_anew(&topics.input)).await?;
    let results = shared.log.bounds(&topics.results.partition(lane)).await?;
    let mut from = Offset(cursor.results);
    if from < results.start || from > results.end || is_anew(&topics.results) {
        from = results.start;
    }
    from = behind_all_damage(shared, &topics.results.partition(lane), from, results.end).await?;
    let lost = unanswered || from.0 != cursor.results;
    cursor.results = from.0;
    let of = topics.batches.partition(lane);
    let batches = shared.log.bounds(&of).await?;
    let from = if is_anew(&topics.batches) { batches.start } else { Offset(cursor.batches) };
    let from = from.min(batches.end).max(batches.start);
    cursor.batches = behind_damage_at(shared, &of, from, batches.end).await?.unwrap_or(from).0;
    for topic in topics.destinations.values() {
        accept_output(shared, &topic.partition(lane), cursor, lost_from, is_anew(topic)).await?;
    }
    let input = Offset(cursor.limit).min(input.end);
    let all = Lost { results: results.end, input, before: FOR_EVER, hastened: Offset::ZERO };
    Ok(lost.then_some(all))
}

async fn accept_ledger(shared: &Shared, lane: Partition, cursor: &mut LaneCursor, is_anew: bool) -> Result<(), Error> {
    let of = shared.topics.ledger.partition(lane);
    let ledger = shared.log.bounds(&of).await?;
    let known = Offset(cursor.identities).min(ledger.end).max(ledger.start);
    let from = if is_anew { ledger.start } else { known };
    cursor.identities = behind_all_damage(shared, &of, from, ledger.end).await?.0;
    let kept = if is_anew { Offset(u64::MAX) } else { ledger.start };
    cursor.voided.forget_below(kept);
    cursor.voided.end_at(ledger.end);
    Ok(())
}

/// Sequence numbers go on where outputs are gone: receivers know those from before. A torn transaction, of which
/// nobody saw anything, leaves no gap.
async fn accept_output(
    shared: &Shared,
    of: &TopicPartition,
    cursor: &mut LaneCursor,
    lost_from: Option<Offset>,
    is_anew: bool,
) -> Result<(), Error> {
    let name = of.topic.as_str().to_owned();
    let numbers = numbers(cursor, &name);
    let counter = numbers.end;
    match compare(&*shared.log, of, numbers).await? {
        // Outputs of what the input has lost must not be taken for those of what follows.
        Tail::Ahead { next, outputs } if let Some(lost_from) = lost_from => {
            let kept = outputs.into_iter().filter(|((source, _), _)| *source < lost_from.0);
            cursor.suppressed.entry(name.clone()).or_default().extend(kept);
            cursor.sequences.insert(name, next);
        }
        // What is refused, or is not there, halts the lane again.
        Tail::Equal | Tail::Ahead { .. } | Tail::Refused { .. } | Tail::Missing => {}
        Tail::Behind { next, .. } if !is_anew => drop(cursor.sequences.insert(name, next)),
        Tail::Behind { .. } | Tail::Gone { .. } => drop(cursor.begins.insert(name, counter)),
    }
    Ok(())
}

/// A lane that was brought to what its input holds.
#[derive(Default)]
struct Brought {
    /// Results may be missing of what follows: behind damage, and where workers may be beyond it already.
    unanswered: bool,
    /// The records from here on are gone, and others will have their offsets.
    lost_from: Option<Offset>,
}

async fn accept_input(
    shared: &Shared,
    lane: Partition,
    cursor: &mut LaneCursor,
    input: Bounds,
    is_anew: bool,
) -> Result<Brought, Error> {
    let (of, frontier) = (shared.topics.input.partition(lane), Offset(cursor.frontier));
    if is_anew {
        cursor.lost_from = None;
        cursor.events.clear();
        forget_from(shared, lane, cursor, Offset::ZERO).await?;
        go_on_at(cursor, input.start);
        return Ok(Brought { unanswered: true, lost_from: Some(Offset::ZERO) });
    }
    let known = cursor.lost_from.take().map(Offset);
    let seen = reached(shared, lane, cursor).await?;
    if let Some(lost_from) = known.or((seen > input.end).then_some(input.end)) {
        if frontier < input.start {
            let held = Bounds { stable_end: lost_from.min(input.stable_end), ..input };
            Left::from(shared, lane, cursor, held).await?.put_into(cursor);
            go_on_at(cursor, input.start);
        } else {
            let kept = count(shared, &of, frontier..lost_from.min(input.stable_end)).await?;
            cursor.released.retain_mut(|(first, length)| {
                *length = (*length).min(kept.saturating_sub(*first));
                *length > 0
            });
            cursor.partly.retain(|(ordinal, _)| *ordinal < kept);
        }
        forget_from(shared, lane, cursor, lost_from).await?;
        return Ok(Brought { unanswered: true, lost_from: Some(lost_from) });
    }
    if frontier < input.start {
        Left::from(shared, lane, cursor, input).await?.put_into(cursor);
        go_on_at(cursor, input.start);
        return Ok(Brought::default());
    }
    let Some(behind) = behind_damage_at(shared, &of, frontier, input.end).await? else { return Ok(Brought::default()) };
    // Former owners may have read behind it.
    Left::from(shared, lane, cursor, Bounds { start: behind, ..input }).await?.put_into(cursor);
    go_on_at(cursor, behind);
    Ok(Brought { unanswered: true, lost_from: None })
}

/// How far the input has been known to reach: to where it was read, and to what outputs beyond the cursor are of.
async fn reached(shared: &Shared, lane: Partition, cursor: &LaneCursor) -> Result<Offset, Error> {
    let mut reached = cursor.frontier.max(cursor.read_to);
    for topic in shared.topics.destinations.values() {
        let numbers = numbers(cursor, topic.as_str());
        if let Tail::Ahead { outputs, .. } = compare(&*shared.log, &topic.partition(lane), numbers).await? {
            reached = reached.max(beyond(&outputs));
        }
    }
    Ok(Offset(reached))
}

async fn count(shared: &Shared, of: &TopicPartition, range: Range<Offset>) -> Result<u64, Error> {
    let mut count = 0;
    let counted = takeover::scan(&*shared.log, of, range.start, range.end, |_| {
        count += 1;
        true
    });
    before_damage(counted.await)?;
    Ok(count)
}

/// What cannot be read halts the lane there.
pub(super) fn before_damage(scanned: Result<(), Error>) -> Result<(), Error> {
    if let Err(Error::Damaged(_)) = scanned { Ok(()) } else { scanned }
}

/// What is known of the records from `offset` on is about others than those that are there now, or will be.
async fn forget_from(shared: &Shared, lane: Partition, cursor: &mut LaneCursor, offset: Offset) -> Result<(), Error> {
    let ledger = shared.log.bounds(&shared.topics.ledger.partition(lane)).await?;
    cursor.voided.add(ledger.end, offset);
    cursor.items_lost = true;
    cursor.frontier = cursor.frontier.min(offset.0);
    cursor.read_to = cursor.read_to.min(offset.0);
    cursor.dispatched = cursor.dispatched.min(offset.0);
    if cursor.frontier == offset.0 {
        cursor.released.clear();
        cursor.partly.clear();
    }
    cursor.rounds.retain(|of, _| *of < offset.0);
    retain_suppressed(cursor, |source| source < offset.0);
    cursor.next_order = None;
    Ok(())
}

/// Nothing below the new frontier counts any more.
fn go_on_at(cursor: &mut LaneCursor, frontier: Offset) {
    cursor.items_lost = true;
    cursor.frontier = frontier.0;
    cursor.read_to = cursor.read_to.max(frontier.0);
    cursor.limit = cursor.limit.max(frontier.0);
    cursor.dispatched = cursor.dispatched.max(frontier.0);
    cursor.rounds.retain(|offset, _| *offset >= frontier.0);
    retain_suppressed(cursor, |source| source >= frontier.0);
    // A cut-over begun below that limit would hold back input whose results may be here already.
    cursor.next_order = None;
}

fn retain_suppressed(cursor: &mut LaneCursor, keep: impl Fn(u64) -> bool) {
    for outputs in cursor.suppressed.values_mut() {
        outputs.retain(|(source, _), _| keep(*source));
    }
    cursor.suppressed.retain(|_, outputs| !outputs.is_empty());
}

/// The end of the damage at `from`, where there is some.
async fn behind_damage_at(
    shared: &Shared,
    of: &TopicPartition,
    from: Offset,
    end: Offset,
) -> Result<Option<Offset>, Error> {
    let damage = damage::at(&*shared.log, of, from, end).await?;
    Ok(damage.map(|damage| passed_over(of, &damage)))
}

/// From where on everything can be read.
async fn behind_all_damage(
    shared: &Shared,
    of: &TopicPartition,
    mut from: Offset,
    end: Offset,
) -> Result<Offset, Error> {
    while let Some(damage) = damage::first(&*shared.log, of, from, end).await? {
        from = passed_over(of, &damage);
    }
    Ok(from)
}

pub(super) fn passed_over(of: &TopicPartition, damage: &Range<Offset>) -> Offset {
    tracing::warn!(%of, from = %damage.start, below = %damage.end, "accepted: what cannot be read is passed over");
    damage.end
}
