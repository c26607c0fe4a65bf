//! With fan-out: whatever is below the dispatch position of a committed cursor was put on the work
//! topic, or had no need to be. What is lost there only its clock would find, a deadline later.

use std::collections::{BTreeMap, BTreeSet};

use seriatim::log::{Topic, TopicPartition};
use seriatim::record::cursor::OwnerCursor;
use seriatim::record::{Offset, Partition, ResultHeaders, Source};

use crate::expect;
use crate::world::{World, batch_of};

/// The messages that are on the work topic, or have a result.
#[derive(Default)]
pub(crate) struct Dispatched {
    next: BTreeMap<TopicPartition, Offset>,
    seen: BTreeSet<Source>,
}

impl Dispatched {
    /// Looks at cursors that were committed just now.
    pub(crate) fn check(&mut self, world: &World, cursors: &[OwnerCursor]) {
        if !world.plan.order.fan_out || cursors.is_empty() {
            return;
        }
        self.look(world, &world.topics.work, world.topics.work_partitions);
        self.look(world, &world.topics.results, world.plan.lanes);
        for (lane, cursor) in cursors.iter().flat_map(|cursor| &cursor.lanes) {
            let lane = Partition(*lane);
            let input = world.topics.input.partition(lane);
            for record in world.log.snapshot_from(&input, Offset(cursor.frontier)) {
                let (source, offset) = (Source { lane, offset: record.offset }, record.offset.0);
                // In a new round it goes out once the cursor that holds it is committed.
                let is_due = offset < cursor.dispatched && !cursor.rounds.contains_key(&offset);
                if is_due && !self.seen.contains(&source) && expect::needs_work(world, lane, record.offset) {
                    let position = cursor.dispatched;
                    world.found(format_args!("dispatch: {source} is below {position}, and was never sent out"));
                }
            }
        }
    }

    fn look(&mut self, world: &World, topic: &Topic, partitions: u32) {
        for at in topic.partitions(partitions) {
            let next = self.next.entry(at.clone()).or_default();
            for record in world.log.snapshot_from(&at, *next) {
                *next = record.offset.next();
                let batch = batch_of(&record);
                let source = batch.first().and_then(|read| ResultHeaders::decode(read.headers).ok());
                self.seen.extend(source.map(|headers| headers.source));
            }
        }
    }
}
