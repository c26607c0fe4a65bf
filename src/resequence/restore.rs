//! Take-over, steps 4 and 5: from the last committed cursor to lanes that go on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::log::{Error, Topic};
use crate::metrics;
use crate::record::control::{Action, VERB, Verb};
use crate::record::cursor::{LaneCursor, OwnerCursor, decode};
use crate::record::ledger::LedgerRecord;
use crate::record::{Name, Offset, Partition, RecordRef, Timestamp, TopicIds};
use crate::takeover;

use super::accept::accept;
use super::anew;
use super::batches::Batches;
use super::destinations::Destinations;
use super::lane::{LaneState, Lost};
use super::owner::Shared;
use super::seat::Seat;
use super::tails::{Tail, beyond, compare};

/// What an operator has accepted the loss of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    Nothing,
    /// Of what this lane stands still for.
    Lane(Partition),
    /// Of the cursor of all lanes: each begins with what its logs still hold.
    Cursor,
}

/// Later than every record.
pub(super) const FOR_EVER: Timestamp = Timestamp(i64::MAX);

/// The lanes of a control partition, ready to go on.
pub(super) struct Restored {
    pub(super) seats: Vec<Seat>,
    /// The topics that they are about.
    pub(super) topics: TopicIds,
    /// Output topics that were deleted and are not there: nobody knows what a former owner wrote to them, so
    /// that nothing may be written there before they have been compared.
    pub(super) uncompared: BTreeSet<Topic>,
}

/// Restores the lanes of a control partition. A lane that cannot go on comes back halted; its
/// verdict counts once the next cursor is committed.
///
/// # Errors
///
/// Where the log fails: take over again.
pub(super) async fn restore(
    shared: &Shared,
    cursor: &OwnerCursor,
    accepted: Accepted,
) -> Result<Restored, takeover::Error> {
    let accepted_before = last_accept(shared, Offset(cursor.control)).await?;
    let (mut seats, mut uncompared) = (Vec::new(), BTreeSet::new());
    // Before all that is asked of them: one that is made anew meanwhile is found by the next look.
    let topics = anew::look(&*shared.log, &shared.topics, &cursor.topics).await?;
    for lane in shared.topics.lanes_of(shared.control) {
        let mut lane_cursor = cursor.lanes.get(&lane.0).cloned().unwrap_or_default();
        let known = cursor.topics.clone().into_iter().chain(std::mem::take(&mut lane_cursor.about)).collect();
        // Until the loss is accepted, the lane's positions are about what it knew.
        let mut about = anew::replaced(&known, &topics);
        about.retain(|name, _| is_about(shared, &lane_cursor, name));
        lane_cursor.about = about;
        let results_lost = match accepted {
            Accepted::Lane(accepted) if accepted == lane => accept(shared, lane, &mut lane_cursor).await?,
            Accepted::Cursor => Some(begin_behind_tails(shared, lane, &mut lane_cursor).await?),
            _ => match accepted_before {
                Some(before) => Some(lost(shared, lane, &lane_cursor, before).await?),
                None => None,
            },
        };
        if lane_cursor.halted.is_none() && !lane_cursor.about.is_empty() {
            lane_cursor.halted = Some(anew::reason(&lane_cursor.about));
        }
        let mut seat = restore_lane(shared, lane, lane_cursor, &mut uncompared).await?;
        if let Some(state) = seat.state_mut() {
            state.results_lost = results_lost;
        }
        seats.push(seat);
    }
    Ok(Restored { seats, topics, uncompared })
}

/// Whether a lane's cursor is about what a topic held: of an output topic, where it counts outputs there.
fn is_about(shared: &Shared, cursor: &LaneCursor, name: &str) -> bool {
    let is_output = shared.topics.destinations.values().any(|topic| topic.as_str() == name);
    !is_output || !numbers(cursor, name).is_empty()
}

/// When a loss was accepted last, by an order below this position. Who accepted it may have died before what had
/// no result was sent again.
async fn last_accept(shared: &Shared, below: Offset) -> Result<Option<Timestamp>, Error> {
    let control = shared.topics.control.partition(shared.control);
    let bounds = shared.log.bounds(&control).await?;
    let mut last = None;
    takeover::scan(&*shared.log, &control, bounds.start, below.min(bounds.end), |record| {
        if is_accept(record) {
            last = Some(record.timestamp);
        }
        true
    })
    .await?;
    Ok(last)
}

/// Whether an operator accepts a loss with this record of the control log.
pub(super) fn is_accept(record: RecordRef<'_>) -> bool {
    let verb = record.value.filter(|_| record.headers.get(Name::Kind) == Some(VERB));
    verb.and_then(|verb| serde_json::from_slice(verb).ok()).is_some_and(|verb: Verb| verb.action == Action::Accept)
}

/// That results may be lost of records from before a moment. Those that there are have to be read first.
async fn lost(shared: &Shared, lane: Partition, cursor: &LaneCursor, before: Timestamp) -> Result<Lost, Error> {
    let input = shared.log.bounds(&shared.topics.input.partition(lane)).await?.end;
    let results = shared.log.bounds(&shared.topics.results.partition(lane)).await?.end;
    Ok(Lost { results, input: Offset(cursor.limit).min(input), before, hastened: Offset::ZERO })
}

async fn restore_lane(
    shared: &Shared,
    lane: Partition,
    mut cursor: LaneCursor,
    uncompared: &mut BTreeSet<Topic>,
) -> Result<Seat, takeover::Error> {
    if cursor == LaneCursor::default() {
        begin(shared, lane, &mut cursor).await?;
    }
    if cursor.halted.is_none() {
        cursor.halted = first_loss(shared, lane, &mut cursor).await?;
    }
    if cursor.halted.is_none() {
        cursor.halted = settle_tails(shared, lane, &mut cursor, uncompared).await?;
    }
    if cursor.halted.is_some() {
        look_for_a_lost_end(shared, lane, &mut cursor).await;
        return Ok(Seat::halted(lane, cursor));
    }
    let destinations = Destinations::new(&shared.topics.destinations);
    let mut state = match LaneState::resume(lane, &cursor, &shared.options, &destinations) {
        Ok(state) => state,
        Err(damaged) => return Ok(Seat::halted(lane, LaneCursor { halted: Some(damaged.to_string()), ..cursor })),
    };
    match Batches::load(shared, lane, &cursor).await {
        Ok(mut batches) => {
            if cursor.items_lost {
                batches.input_lost(shared.log.now());
            }
            let events = &shared.topics.events;
            if batches.has_events() && shared.log.is_gone(events) {
                // The very first commit would wait for it, and all lanes with it.
                return Ok(Seat::halted(lane, LaneCursor { halted: Some(anew::missing(events)), ..cursor }));
            }
            state.batches = Some(Box::new(batches));
        }
        Err(Error::Damaged(reason)) => return Ok(Seat::halted(lane, LaneCursor { halted: Some(reason), ..cursor })),
        Err(error) => return Err(error.into()),
    }
    match reload_identities(shared, &mut state, Offset(cursor.identities)).await {
        Ok(ledger_end) => Ok(Seat::going(state, ledger_end)),
        Err(Error::Damaged(reason)) => Ok(Seat::halted(lane, LaneCursor { halted: Some(reason), ..cursor })),
        Err(error) => Err(error.into()),
    }
}

/// A lane that no owner has ever served begins where its logs do: the topics may be older than it.
async fn begin(shared: &Shared, lane: Partition, cursor: &mut LaneCursor) -> Result<(), Error> {
    let topics = &shared.topics;
    cursor.frontier = shared.log.bounds(&topics.input.partition(lane)).await?.start.0;
    cursor.frontier_since = shared.log.now().0;
    cursor.results = shared.log.bounds(&topics.results.partition(lane)).await?.start.0;
    cursor.identities = shared.log.bounds(&topics.ledger.partition(lane)).await?.start.0;
    cursor.batches = shared.log.bounds(&topics.batches.partition(lane)).await?.start.0;
    Ok(())
}

/// Begins anew without a cursor: with what the logs still hold, and sequence numbers that go on.
/// Workers may have worked on anything: all results count, and what has none is sent out again.
async fn begin_behind_tails(shared: &Shared, lane: Partition, cursor: &mut LaneCursor) -> Result<Lost, Error> {
    begin(shared, lane, cursor).await?;
    // Nobody knows whether the input is what it was.
    cursor.items_lost = true;
    let input = shared.log.bounds(&shared.topics.input.partition(lane)).await?.end;
    let results = shared.log.bounds(&shared.topics.results.partition(lane)).await?.end;
    for topic in shared.topics.destinations.values() {
        if let Tail::Ahead { next, .. } = compare(&*shared.log, &topic.partition(lane), 0..0).await? {
            cursor.sequences.insert(topic.as_str().to_owned(), next);
        }
    }
    Ok(Lost { results, input, before: FOR_EVER, hastened: Offset::ZERO })
}

/// Why the lane cannot be read on from its cursor: a log that begins above the position needed.
async fn first_loss(shared: &Shared, lane: Partition, cursor: &mut LaneCursor) -> Result<Option<String>, Error> {
    let topics = &shared.topics;
    let reached = Offset(cursor.frontier.max(cursor.read_to));
    if let Some(reason) = lost_end(shared, lane, cursor, reached).await? {
        return Ok(Some(reason));
    }
    for (topic, needed) in [
        (&topics.input, cursor.frontier),
        (&topics.results, cursor.results),
        (&topics.ledger, cursor.identities),
        (&topics.batches, cursor.batches),
    ] {
        let of = topic.partition(lane);
        let bounds = shared.log.bounds(&of).await?;
        let wanted = Offset(needed);
        if bounds.start > wanted {
            return Ok(Some(Error::Lost { at: of, wanted, start: bounds.start }.to_string()));
        }
        if bounds.end < wanted {
            return Ok(Some(format!("{of} ends at {}, below position {wanted}: was the topic made anew?", bounds.end)));
        }
    }
    Ok(None)
}

/// Why what is known of the lane's messages does not hold any more: the input has reached further than it does now.
async fn lost_end(
    shared: &Shared,
    lane: Partition,
    cursor: &mut LaneCursor,
    reached: Offset,
) -> Result<Option<String>, Error> {
    let input = shared.topics.input.partition(lane);
    let mut end = shared.log.bounds(&input).await?.end;
    if end < reached {
        // Who had led it, and does not know better yet, answers as well: this says to the client who leads it now.
        shared.log.identities(std::slice::from_ref(&input.topic)).await?;
        end = end.max(shared.log.bounds(&input).await?.end);
    }
    if end >= reached {
        return Ok(None);
    }
    // It may have grown again when that is accepted.
    cursor.lost_from = Some(end.0);
    Ok(Some(format!("{input} ends at {end} and had messages up to {reached}: it has lost its end")))
}

/// Whatever a lane stands still for: its input may have lost its end as well, and may grow again.
async fn look_for_a_lost_end(shared: &Shared, lane: Partition, cursor: &mut LaneCursor) {
    let input = &shared.topics.input;
    if cursor.lost_from.is_some() || cursor.about.contains_key(input.as_str()) || shared.log.is_gone(input) {
        return;
    }
    let reached = Offset(cursor.frontier.max(cursor.read_to));
    match lost_end(shared, lane, cursor, reached).await {
        Ok(None) => {}
        // Who accepts the one accepts the other.
        Ok(Some(lost)) => cursor.halted = cursor.halted.take().map(|reason| format!("{reason}; {lost}")),
        // No reason for the other lanes to wait; who accepts asks again.
        Err(error) => tracing::warn!(%lane, %error, "looking whether the input of a lane that stands still is whole"),
    }
}

/// Compares every destination's tail with the cursor and puts the cursor right where it may be.
async fn settle_tails(
    shared: &Shared,
    lane: Partition,
    cursor: &mut LaneCursor,
    uncompared: &mut BTreeSet<Topic>,
) -> Result<Option<String>, Error> {
    for topic in shared.topics.destinations.values() {
        let name = topic.as_str().to_owned();
        let numbers = numbers(cursor, &name);
        let counter = numbers.end;
        match compare(&*shared.log, &topic.partition(lane), numbers).await? {
            Tail::Equal => {}
            Tail::Ahead { next, outputs } => {
                if let Some(reason) = lost_end(shared, lane, cursor, Offset(beyond(&outputs))).await? {
                    return Ok(Some(reason));
                }
                tracing::warn!(%lane, topic = name, ahead = next - counter, "outputs were committed beyond the cursor");
                metrics::lane(lane).torn.inc();
                cursor.suppressed.entry(name.clone()).or_default().extend(outputs);
                cursor.sequences.insert(name, next);
            }
            Tail::Behind { reason, .. } | Tail::Gone { reason } => {
                metrics::lane(lane).torn.inc();
                return Ok(Some(reason));
            }
            // A lane that has never sent anything there does not stand still for it.
            Tail::Refused { .. } if counter == 0 => {}
            Tail::Refused { reason } => return Ok(Some(reason)),
            // Its lanes stand still when they have something to write there.
            Tail::Missing => drop(uncompared.insert(topic.clone())),
        }
    }
    Ok(None)
}

/// The sequence numbers that the cursor counts in an output topic.
pub(super) fn numbers(cursor: &LaneCursor, topic: &str) -> Range<u64> {
    let of = |numbers: &BTreeMap<String, u64>| numbers.get(topic).copied().unwrap_or(0);
    of(&cursor.begins)..of(&cursor.sequences)
}

/// Reads the identities that the lane has to know from the ledger. Gives the ledger's end.
async fn reload_identities(shared: &Shared, state: &mut LaneState, from: Offset) -> Result<Offset, Error> {
    let ledger = shared.topics.ledger.partition(state.lane);
    let end = shared.log.bounds(&ledger).await?.end;
    let mut damaged = None;
    takeover::scan(&*shared.log, &ledger, from, end, |record| {
        match decode::<LedgerRecord>(record.value.unwrap_or_default()) {
            Ok(release) => {
                let void_from = state.voided.void_from(record.offset);
                for entry in release.entries.into_iter().filter(|entry| entry.offset < void_from.0) {
                    if let Some(identity) = entry.identity {
                        let offset = Offset(entry.offset);
                        state.identities.restore(offset, identity.id, identity.fingerprint, record.offset);
                    }
                }
            }
            Err(reason) => damaged = Some((record.offset, reason)),
        }
        damaged.is_none()
    })
    .await?;
    match damaged {
        None => Ok(end),
        Some((offset, reason)) => Err(Error::Damaged(format!("{ledger} at {offset}: {reason}"))),
    }
}
