//! What this process has seen of the cluster, and holds against what it is told later.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use rdkafka::types::RDKafkaErrorCode as Code;

use super::errors::{Meaning, meaning};
use crate::log::{Error, Topic, TopicPartition};
use crate::record::Offset;

/// Shared by all clients of a log.
#[derive(Default)]
pub(super) struct Seen(Mutex<State>);

#[derive(Default)]
struct State {
    /// How many partitions topics have.
    partitions: BTreeMap<Topic, u32>,
    /// Up to where the writers of this process have committed.
    commits: BTreeMap<TopicPartition, Offset>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    pub(super) fn note_topic(&self, topic: &Topic, partitions: u32) {
        let mut state = self.lock();
        if state.partitions.get(topic) != Some(&partitions) {
            state.partitions.insert(topic.clone(), partitions);
        }
    }

    /// A commit is acknowledged when the coordinator has decided it; its markers, which let readers
    /// pass, are written a little later. What was acknowledged here has to be below the stable end.
    pub(super) fn note_commit(&self, partition: &TopicPartition, next: Offset) {
        self.lock().commits.insert(partition.clone(), next);
    }

    pub(super) fn committed(&self, partition: &TopicPartition) -> Offset {
        self.lock().commits.get(partition).copied().unwrap_or(Offset::ZERO)
    }

    /// The error that `of` makes of the code, unless it says that there is no such partition and
    /// there was one: a broker that has just started says so of all that it has not heard of yet,
    /// and nobody is to stop for that.
    pub(super) fn judge(
        &self,
        of: impl FnOnce(Code, &TopicPartition) -> Error,
        code: Code,
        at: &TopicPartition,
    ) -> Error {
        let was_there = || self.lock().partitions.get(&at.topic).is_some_and(|count| at.partition.0 < *count);
        if meaning(code) == Meaning::Missing && was_there() {
            return Error::Unavailable(format!("{at}: the brokers do not know it any more, or not yet again"));
        }
        of(code, at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::errors::of_append;
    use super::*;
    use crate::record::Partition;

    #[test]
    fn only_what_never_was_there_is_refused() {
        let (seen, topic) = (Seen::default(), Topic::from("t"));
        let judged = |partition| seen.judge(of_append, Code::UnknownPartition, &topic.partition(Partition(partition)));
        assert!(matches!(judged(0), Error::Rejected { .. }));
        seen.note_topic(&topic, 2);
        assert!(matches!(judged(1), Error::Unavailable(_)));
        assert!(matches!(judged(2), Error::Rejected { .. }));
        let too_large = seen.judge(of_append, Code::MessageSizeTooLarge, &topic.partition(Partition(0)));
        assert!(matches!(too_large, Error::Rejected { .. }));
    }
}
