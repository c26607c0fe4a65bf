//! What this process has seen of the cluster, and holds against what it is told later.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use super::errors::{Meaning, meaning};
use crate::log::{Error, Topic, TopicPartition};
use crate::record::{Offset, TopicId};

/// A topic that is missing for so long is gone. Brokers answer from what they have heard of the cluster, in
/// the order in which it happened, so that one which knows our other topics and not this one says that it
/// was deleted. The time is for brokers that hear of topics one by one, and for somebody who is just making it
/// anew: lanes then stand still once, for that. It is also how far apart two answers may be: a topic that
/// nobody has asked about in between may have been there.
const GONE_AFTER: Duration = Duration::from_secs(20);

/// Shared by all clients of a log.
#[derive(Default)]
pub(super) struct Seen(Mutex<State>);

#[derive(Default)]
struct State {
    /// How many partitions topics have.
    partitions: BTreeMap<Topic, u32>,
    /// Which topics of these names there are.
    identities: BTreeMap<Topic, TopicId>,
    /// Topics that were there and are missing.
    missing: BTreeMap<Topic, Missing>,
    /// Up to where the writers of this process have committed.
    commits: BTreeMap<TopicPartition, Offset>,
}

/// That a topic is missing was told first and last then.
#[derive(Clone, Copy)]
struct Missing {
    first: Instant,
    last: Instant,
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

    /// Which topic of this name there is. What was committed to one before it is not waited for in this one.
    pub(super) fn note_identity(&self, topic: &Topic, id: TopicId) {
        let mut state = self.lock();
        if state.identities.get(topic) == Some(&id) {
            return;
        }
        if state.identities.insert(topic.clone(), id).is_some() {
            state.commits.retain(|of, _| of.topic != *topic);
        }
    }

    /// What one broker has answered about topics: which it knows, and which it does not. Where it knows none
    /// it has not heard of anything yet, and that is no answer.
    pub(super) fn note_answer(&self, there: &[Topic], missing: &[Topic]) {
        let (mut state, now) = (self.lock(), Instant::now());
        state.missing.retain(|topic, _| !there.contains(topic));
        for topic in missing.iter().filter(|_| !there.is_empty()) {
            if state.partitions.contains_key(topic) {
                let known = state.missing.get(topic).filter(|missing| now - missing.last <= GONE_AFTER);
                let first = known.map_or(now, |missing| missing.first);
                state.missing.insert(topic.clone(), Missing { first, last: now });
            }
        }
    }

    /// Whether a topic that was there is not, and has not been for [`GONE_AFTER`].
    pub(super) fn is_gone(&self, topic: &Topic) -> bool {
        let missing = self.lock().missing.get(topic).copied();
        let recent = missing.filter(|missing| missing.last.elapsed() <= GONE_AFTER);
        recent.is_some_and(|missing| missing.last - missing.first >= GONE_AFTER)
    }

    /// The topics that there were.
    pub(super) fn topics(&self) -> Vec<Topic> {
        self.lock().partitions.keys().cloned().collect()
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

    /// An answer about two topics that there were: which of them the broker knows.
    fn answered(seen: &Seen, first: bool, second: bool) {
        let topics = [(Topic::from("a"), first), (Topic::from("b"), second)];
        let of = |known: bool| -> Vec<Topic> {
            topics.iter().filter(|(_, is)| *is == known).map(|(topic, _)| topic.clone()).collect()
        };
        seen.note_answer(&of(true), &of(false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_is_gone_that_brokers_which_know_others_have_not_known_for_long() {
        let seen = Seen::default();
        let is_gone = |topic: &str| seen.is_gone(&Topic::from(topic));
        let step = GONE_AFTER / 4;
        answered(&seen, true, false);
        tokio::time::advance(GONE_AFTER).await;
        answered(&seen, true, false);
        assert!(!is_gone("b"), "it was never there");
        ["a", "b"].iter().for_each(|topic| seen.note_topic(&Topic::from(*topic), 1));
        for answer in 0..=4 {
            assert!(!is_gone("b"), "after {answer} answers");
            answered(&seen, true, false);
            tokio::time::advance(step).await;
        }
        assert!(is_gone("b") && !is_gone("a"));
        answered(&seen, true, true);
        assert!(!is_gone("b"), "it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_is_not_gone_that_nobody_may_know_of() {
        let seen = Seen::default();
        let is_gone = || seen.is_gone(&Topic::from("b"));
        ["a", "b"].iter().for_each(|topic| seen.note_topic(&Topic::from(*topic), 1));
        for _ in 0..20 {
            answered(&seen, false, false);
            tokio::time::advance(GONE_AFTER / 4).await;
        }
        assert!(!is_gone(), "a cluster that starts knows of nothing");
        for _ in 0..3 {
            answered(&seen, true, false);
            tokio::time::advance(GONE_AFTER + Duration::from_millis(1)).await;
        }
        assert!(!is_gone(), "it may have been there whenever nobody asked");
        answered(&seen, true, false);
        tokio::time::advance(GONE_AFTER).await;
        answered(&seen, true, false);
        assert!(is_gone());
        tokio::time::advance(GONE_AFTER * 2).await;
        assert!(!is_gone(), "who has not asked for long does not know");
    }

    #[test]
    fn what_was_committed_to_a_topic_is_not_waited_for_in_another_one_of_its_name() {
        let seen = Seen::default();
        let [of, other] = ["t", "u"].map(|name| Topic::from(name).partition(Partition(0)));
        let committed = || (seen.committed(&of), seen.committed(&other));
        seen.note_identity(&of.topic, TopicId(1));
        [&of, &other].iter().for_each(|of| seen.note_commit(of, Offset(7)));
        seen.note_identity(&of.topic, TopicId(1));
        assert_eq!(committed(), (Offset(7), Offset(7)));
        seen.note_identity(&of.topic, TopicId(2));
        assert_eq!(committed(), (Offset::ZERO, Offset(7)));
    }

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
