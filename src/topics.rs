//! The topics of a pipeline: their names, derived from the pipeline's, and their shapes.

use std::collections::BTreeMap;

use crate::log::{Topic, TopicPartition};
use crate::record::Partition;

/// The names of all topics of one pipeline, and how many partitions they have.
#[derive(Clone, Debug)]
pub struct Topics {
    /// The ordered input, one partition a lane.
    pub input: Topic,
    /// Results of work, by lane.
    pub results: Topic,
    /// Messages that were given up, by lane.
    pub dead_letter: Topic,
    /// Records to be worked on by whoever reads them: overdue ones, retries, fan-out.
    pub work: Topic,
    /// Claims and operators' verbs, one partition a unit of ownership.
    pub control: Topic,
    /// State of the resequencers.
    pub cursors_resequence: Topic,
    /// State of the deliverers.
    pub cursors_deliver: Topic,
    /// What became of each message, by lane.
    pub ledger: Topic,
    /// The ordered output topic of each destination, by the destination's name.
    pub destinations: BTreeMap<String, Topic>,
    /// How many lanes there are.
    pub lanes: u32,
    /// How many units of ownership there are.
    pub control_partitions: u32,
    /// How many partitions the work topic has.
    pub work_partitions: u32,
}

impl Topics {
    /// The default names for a pipeline called `name`, with these destinations on default topics.
    #[must_use]
    pub fn derive(name: &str, destinations: &[&str], lanes: u32, control_partitions: u32) -> Self {
        let topic = |what: &str| Topic::from(format!("{name}.{what}"));
        let of_destination = |d: &str| if d == "default" { topic("output") } else { topic(&format!("output.{d}")) };
        Self {
            input: topic("input"),
            results: topic("results"),
            dead_letter: topic("dead-letter"),
            work: topic("work"),
            control: topic("control"),
            cursors_resequence: topic("cursors.resequence"),
            cursors_deliver: topic("cursors.deliver"),
            ledger: topic("ledger"),
            destinations: destinations.iter().map(|d| ((*d).to_owned(), of_destination(d))).collect(),
            lanes,
            control_partitions,
            work_partitions: 16.max(lanes),
        }
    }

    /// The lanes that the owner of a control partition owns: g, g+G, g+2G...
    pub fn lanes_of(&self, control: Partition) -> impl Iterator<Item = Partition> + use<> {
        (control.0..self.lanes).step_by(self.control_partitions as usize).map(Partition)
    }

    /// The control partition whose owner owns a lane.
    #[must_use]
    pub fn control_of(&self, lane: Partition) -> TopicPartition {
        self.control.partition(Partition(lane.0 % self.control_partitions))
    }
}
