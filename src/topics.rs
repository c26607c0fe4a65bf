//! The topics of a pipeline: their names, derived from the pipeline's, and their shapes, from the
//! data files in `topics/`, one a topic.

mod acls;
mod description;
mod plan;

use std::collections::BTreeMap;
use std::iter;

pub use acls::Acl;
pub use description::{Description, Partitions, descriptions};
pub(crate) use plan::BESIDE_THE_BODY;
pub use plan::{Difference, Found, Keeping, Wanted, differences, max_message, other_partitions};

use crate::log::{Topic, TopicPartition, TopicShape, Written};
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
    /// What users ask of staggered batches, by lane.
    pub batches: Topic,
    /// Items uploaded for batches, by lane.
    pub batch_items: Topic,
    /// The state of each batch, by lane.
    pub batch_state: Topic,
    /// What happened to batches, by lane.
    pub events: Topic,
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
            batches: topic("batches"),
            batch_items: topic("batch-items"),
            batch_state: topic("batch-state"),
            events: topic("events"),
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

    /// All that the resequencer which owns a control partition may write to in a commit.
    #[must_use]
    pub fn written_by_owner(&self, control: Partition) -> Written {
        let of_lanes = [&self.ledger, &self.batch_state, &self.events];
        let of_lanes: Vec<_> = of_lanes.into_iter().chain(self.destinations.values()).collect();
        let lanes = self.lanes_of(control).flat_map(|lane| of_lanes.iter().map(move |topic| topic.partition(lane)));
        let cursor = self.cursors_resequence.partition(control);
        let with_others = self.written_by_all(control, &[&self.dead_letter, &self.input, &self.results]);
        Written { alone: iter::once(cursor).chain(lanes).collect(), with_others }
    }

    /// As [`Topics::written_by_owner`], of the deliverer.
    #[must_use]
    pub fn written_by_deliverer(&self, control: Partition) -> Written {
        let alone = vec![self.cursors_deliver.partition(control)];
        Written { alone, with_others: self.written_by_all(control, &[&self.dead_letter]) }
    }

    /// Where both roles commit: the control partition, and those that its lanes have in some topics.
    fn written_by_all(&self, control: Partition, of_lanes: &[&Topic]) -> Vec<TopicPartition> {
        let lanes = self.lanes_of(control).flat_map(|lane| of_lanes.iter().map(move |topic| topic.partition(lane)));
        iter::once(self.control.partition(control)).chain(lanes).collect()
    }

    /// The control partition whose owner owns a lane.
    #[must_use]
    pub fn control_of(&self, lane: Partition) -> TopicPartition {
        self.control.partition(Partition(lane.0 % self.control_partitions))
    }

    /// Every topic with the key that names it in a config and with its description.
    #[must_use]
    pub fn all(&self) -> Vec<(String, &Topic, &'static Description)> {
        let own = [
            ("input", &self.input),
            ("results", &self.results),
            ("dead-letter", &self.dead_letter),
            ("work", &self.work),
            ("control", &self.control),
            ("cursors.resequence", &self.cursors_resequence),
            ("cursors.deliver", &self.cursors_deliver),
            ("ledger", &self.ledger),
            ("batches", &self.batches),
            ("batch-items", &self.batch_items),
            ("batch-state", &self.batch_state),
            ("events", &self.events),
        ];
        let key = |name: &str| format!("topics.{}", name.replace(['-', '.'], "_"));
        let own = own.into_iter().map(|(name, topic)| (key(name), topic, description::of(name)));
        let output = description::of("output");
        let destinations = self.destinations.iter().map(|(name, t)| (format!("destinations.{name}.topic"), t, output));
        own.chain(destinations).collect()
    }

    /// What each topic has to be like, for [`crate::log::Log::ensure`].
    #[must_use]
    pub fn shapes(&self) -> Vec<(Topic, TopicShape)> {
        let shape = |description: &Description| TopicShape {
            partitions: match description.partitions {
                Partitions::Lanes => self.lanes,
                Partitions::Control => self.control_partitions,
                Partitions::Work => self.work_partitions,
            },
            cleanup: description.cleanup,
        };
        self.all().into_iter().map(|(_, topic, description)| (topic.clone(), shape(description))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::log::Cleanup;

    fn topics() -> Topics {
        Topics::derive("orders", &["default", "billing"], 6, 2)
    }

    #[test]
    fn every_topic_has_a_data_file_and_every_data_file_a_topic() {
        let topics = topics();
        let used: BTreeSet<&str> = topics.all().into_iter().map(|(_, _, d)| d.name.as_str()).collect();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/topics");
        let files = std::fs::read_dir(folder).expect("topics/ is part of the repository");
        let files: BTreeSet<String> = files
            .map(|file| file.expect("it can be listed").file_name().into_string().expect("names are ASCII"))
            .map(|name| name.strip_suffix(".toml").expect("only TOML lies there").to_owned())
            .collect();
        assert_eq!(files, used.iter().map(|name| (*name).to_owned()).collect());
    }

    #[test]
    fn shapes_follow_lanes_owners_and_data_files() {
        let topics = topics();
        let shapes: BTreeMap<_, _> = topics.shapes().into_iter().collect();
        let of = |topic: &str| shapes[&Topic::from(topic)].clone();
        assert_eq!(of("orders.input"), TopicShape { partitions: 6, cleanup: Cleanup::Delete });
        assert_eq!(of("orders.output.billing"), TopicShape { partitions: 6, cleanup: Cleanup::Delete });
        assert_eq!(of("orders.control"), TopicShape { partitions: 2, cleanup: Cleanup::Keep });
        assert_eq!(of("orders.cursors.deliver"), TopicShape { partitions: 2, cleanup: Cleanup::Compact });
        assert_eq!(of("orders.work"), TopicShape { partitions: 16, cleanup: Cleanup::Delete });
        assert_eq!(shapes.len(), 14);
    }

    #[test]
    fn a_lane_belongs_to_one_owner() {
        let topics = topics();
        for control in [0, 1].map(Partition) {
            for lane in topics.lanes_of(control) {
                assert_eq!(topics.control_of(lane), topics.control.partition(control));
            }
        }
        assert_eq!(topics.lanes_of(Partition(1)).collect::<Vec<_>>(), [1, 3, 5].map(Partition));
    }

    #[test]
    fn what_both_roles_write_to_is_shared_and_cursors_come_first() {
        let (topics, control) = (topics(), Partition(1));
        let (owner, deliverer) = (topics.written_by_owner(control), topics.written_by_deliverer(control));
        assert_eq!(owner.alone[0], topics.cursors_resequence.partition(control));
        assert_eq!(deliverer.alone, [topics.cursors_deliver.partition(control)]);
        let all = |written: Written| written.alone.into_iter().chain(written.with_others).collect::<BTreeSet<_>>();
        let shared: BTreeSet<_> = owner.with_others.iter().cloned().collect();
        let both: BTreeSet<_> = all(owner).intersection(&all(deliverer.clone())).cloned().collect();
        assert_eq!(both, deliverer.with_others.into_iter().collect());
        assert!(both.is_subset(&shared));
    }
}
