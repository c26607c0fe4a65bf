//! What has to hold at every moment: the owners' cursors, looked at as they are committed.

use std::collections::BTreeMap;

use seriatim::log::memory::Stored;
use seriatim::log::{Topic, TopicPartition};
use seriatim::metrics;
use seriatim::record::cursor::{LaneCursor, OwnerCursor, decode};
use seriatim::record::push::PushCursor;
use seriatim::record::{Offset, Partition};

use crate::dispatched::Dispatched;
use crate::world::World;

/// What no output of the simulation's workers exceeds, headers included.
const LARGEST_RESULT: usize = 4096;

/// Every cursor that was ever committed, by control partition, in log order.
pub(crate) struct Watch {
    followed: Vec<Followed>,
    dispatched: Dispatched,
    pushes: Vec<FollowedPushes>,
}

#[derive(Default)]
struct Followed {
    next: Offset,
    cursors: Vec<OwnerCursor>,
}

impl Watch {
    pub(crate) fn new(control_partitions: u32) -> Self {
        Self {
            followed: (0..control_partitions).map(|_| Followed::default()).collect(),
            dispatched: Dispatched::default(),
            pushes: (0..control_partitions).map(|_| FollowedPushes::default()).collect(),
        }
    }

    /// Takes in the cursors that are new.
    pub(crate) fn look(&mut self, world: &World) {
        for (control, followed) in (0..).zip(&mut self.followed) {
            let at = world.topics.cursors_resequence.partition(Partition(control));
            let known = followed.cursors.len();
            for record in world.log.snapshot_from(&at, followed.next) {
                followed.next = record.offset.next();
                followed.add(world, &at, &record);
            }
            self.dispatched.check(world, &followed.cursors[known..]);
        }
        self.look_at_pushes(world);
    }

    /// Takes in the deliverers' cursors that are new.
    fn look_at_pushes(&mut self, world: &World) {
        for (control, followed) in (0..).zip(&mut self.pushes) {
            let at = world.topics.cursors_deliver.partition(Partition(control));
            for record in world.log.snapshot_from(&at, followed.next) {
                followed.next = record.offset.next();
                followed.add(world, &at, &record);
            }
        }
    }

    /// How far each output partition is pushed.
    pub(crate) fn positions(&self) -> BTreeMap<TopicPartition, Offset> {
        let topics = self.pushes.iter().flat_map(|followed| &followed.last.topics);
        let all = topics.flat_map(|(topic, lanes)| lanes.iter().map(move |(lane, at)| (topic, *lane, at.position)));
        all.map(|(topic, lane, at)| (Topic::from(topic.as_str()).partition(Partition(lane)), Offset(at))).collect()
    }

    /// The items that hold their groups: control partition, destination topic and lane.
    pub(crate) fn refused(&self) -> Vec<(String, u32)> {
        let topics = self.pushes.iter().flat_map(|followed| &followed.last.topics);
        let all = topics.flat_map(|(topic, lanes)| lanes.iter().map(move |(lane, at)| (topic, *lane, at)));
        all.filter(|(_, _, at)| !at.halted.is_empty()).map(|(topic, lane, _)| (topic.clone(), lane)).collect()
    }

    /// The last cursor of a lane, empty where there is none.
    pub(crate) fn lane(&self, lane: Partition) -> LaneCursor {
        let last = self.of(lane).last();
        last.and_then(|cursor| cursor.lanes.get(&lane.0)).cloned().unwrap_or_default()
    }

    /// The committed limit of a lane.
    pub(crate) fn limit(&self, lane: Partition) -> u64 {
        let last = self.of(lane).last();
        last.and_then(|cursor| cursor.lanes.get(&lane.0)).map_or(0, |lane| lane.limit)
    }

    /// All cursors of the owner of a lane.
    pub(crate) fn of(&self, lane: Partition) -> &[OwnerCursor] {
        let control = lane.0 as usize % self.followed.len();
        &self.followed[control].cursors
    }
}

impl Followed {
    fn add(&mut self, world: &World, at: &TopicPartition, record: &Stored) {
        let value = record.value.as_deref().unwrap_or_default();
        let cursor = match decode::<OwnerCursor>(value) {
            Ok(cursor) => cursor,
            Err(error) => return world.found(format_args!("I13: the cursor at {at} {}: {error}", record.offset)),
        };
        let frontiers = cursor.lanes.iter().map(|(lane, c)| (*lane, c.frontier, c.limit, c.results, &c.rounds));
        world.note(format_args!(
            "{at} {}: epoch {} control {} (lane, frontier, limit, results, rounds) {:?}",
            record.offset,
            cursor.epoch,
            cursor.control,
            frontiers.collect::<Vec<_>>()
        ));
        let empty = OwnerCursor::default();
        let before = self.cursors.last().unwrap_or(&empty);
        if let Err(what) = goes_on(before, &cursor) {
            world.found(format_args!("{what}, at {at} {}", record.offset));
        }
        self.cursors.push(cursor);
    }
}

#[derive(Default)]
struct FollowedPushes {
    next: Offset,
    last: PushCursor,
}

impl FollowedPushes {
    fn add(&mut self, world: &World, at: &TopicPartition, record: &Stored) {
        let cursor = match decode::<PushCursor>(record.value.as_deref().unwrap_or_default()) {
            Ok(cursor) => cursor,
            Err(error) => return world.found(format_args!("I13: the cursor at {at} {}: {error}", record.offset)),
        };
        world.note(format_args!("{at} {}: {cursor:?}", record.offset));
        if let Err(what) = pushes_go_on(&self.last, &cursor) {
            world.found(format_args!("{what}, at {at} {}", record.offset));
        }
        self.last = cursor;
    }
}

fn pushes_go_on(before: &PushCursor, after: &PushCursor) -> Result<(), String> {
    rises("I8: the epoch", before.epoch, after.epoch)?;
    rises("I7: the position in the control log", before.control, after.control)?;
    for (topic, lanes) in &before.topics {
        for (lane, was) in lanes {
            let now = after.topics.get(topic).and_then(|lanes| lanes.get(lane));
            rises(&format!("I9: the position in {topic}[{lane}]"), was.position, now.map_or(0, |now| now.position))?;
            if let Some(reason) = &was.lost {
                return Err(format!("I13: {topic}[{lane}] is halted: {reason}"));
            }
        }
    }
    Ok(())
}

/// Whether a cursor may follow another.
fn goes_on(before: &OwnerCursor, after: &OwnerCursor) -> Result<(), String> {
    rises("I8: the epoch", before.epoch, after.epoch)?;
    rises("I7: the position in the control log", before.control, after.control)?;
    for (lane, now) in &after.lanes {
        if let Some(reason) = &now.halted {
            return Err(format!("I13: lane {lane} halted: {reason}"));
        }
        let Some(was) = before.lanes.get(lane) else { continue };
        rises(&format!("I7: the frontier of lane {lane}"), was.frontier, now.frontier)?;
        rises(&format!("I7: the results position of lane {lane}"), was.results, now.results)?;
        rises(&format!("I7: the limit of lane {lane}"), was.limit, now.limit)?;
        rises(&format!("I7: the identities position of lane {lane}"), was.identities, now.identities)?;
        for (topic, next) in &was.sequences {
            let now = now.sequences.get(topic).copied().unwrap_or(0);
            rises(&format!("I7: the sequence of lane {lane} in {topic}"), *next, now)?;
        }
        for (offset, round) in &was.rounds {
            // It is no longer there once the record is released.
            let now = now.rounds.get(offset).unwrap_or(round);
            rises(&format!("the round of {lane}-{offset}"), u64::from(*round), u64::from(*now))?;
        }
    }
    match before.lanes.keys().find(|lane| !after.lanes.contains_key(lane)) {
        Some(lane) => Err(format!("I7: lane {lane} is no longer in the cursor")),
        None => Ok(()),
    }
}

fn rises(what: &str, before: u64, after: u64) -> Result<(), String> {
    if after < before { Err(format!("{what} went back from {before} to {after}")) } else { Ok(()) }
}

/// Whether owners keep to their memory: as the gauge says, which follows an idle owner.
pub(crate) fn memory_is_kept(world: &World) {
    let budget = world.plan.order.memory.saturating_add(LARGEST_RESULT);
    for lane in (0..world.plan.lanes).map(Partition) {
        let held = metrics::lane(lane).buffer_bytes.get();
        if usize::try_from(held).is_ok_and(|held| held > budget) {
            world.found(format_args!("I11: lane {lane} holds {held} bytes, the budget is {budget}"));
        }
    }
}
