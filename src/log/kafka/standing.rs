//! Where a member stands in its group: what it holds, what it has still to be told, whether it listens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::log::{Barrier, Error, Event, SESSION_TIMEOUT, Topic, TopicPartition};
use crate::record::{TopicId, TopicIds};

/// Shared by the seat, the thread that serves its place in the group, and its claims.
pub(super) struct Standing {
    pub(super) group: String,
    state: Mutex<State>,
    pub(super) changed: Notify,
}

struct State {
    held: BTreeSet<TopicPartition>,
    /// Those of them that the member has been told to let go of.
    revoked: BTreeSet<TopicPartition>,
    /// What the member knows of the topics of those whose stored position it was told.
    about: BTreeMap<TopicPartition, About>,
    events: VecDeque<Event>,
    /// The group will not have this member any more, or never would.
    refused: Option<Error>,
    heard: Instant,
    /// Claims under way; what is being claimed is not let go of before.
    claims: usize,
}

/// Which topic the member takes a partition for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// The one with this id, where it has one.
    Told(Option<TopicId>),
    /// One that is there no more; the member is about to hear that it has lost it.
    Replaced,
}

impl Standing {
    pub(super) fn new(group: &str) -> Self {
        let state = State {
            held: BTreeSet::new(),
            revoked: BTreeSet::new(),
            about: BTreeMap::new(),
            events: VecDeque::new(),
            refused: None,
            heard: Instant::now(),
            claims: 0,
        };
        Self { group: group.to_owned(), state: Mutex::new(state), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Whether the partition is this member's; [`Error::Fenced`] where it is not.
    pub(super) fn check(&self, partition: &TopicPartition) -> Result<(), Error> {
        if self.lock().held.contains(partition) {
            return Ok(());
        }
        Err(Error::Fenced(format!("{partition} is not this member's in group {}", self.group)))
    }

    /// The member learns where its group was in a partition of this topic, and reads on from there.
    pub(super) fn tell(&self, partition: &TopicPartition, about: Option<TopicId>) {
        let mut state = self.lock();
        if state.held.contains(partition) {
            state.about.insert(partition.clone(), About::Told(about));
        }
    }

    /// The topic that the member's position in a partition is about; [`Error::Fenced`] where the partition, or that
    /// topic, is not its own any more.
    pub(super) fn about(&self, partition: &TopicPartition) -> Result<Option<TopicId>, Error> {
        self.check(partition)?;
        match self.lock().about.get(partition) {
            Some(About::Told(about)) => Ok(*about),
            Some(About::Replaced) => Err(Error::Fenced(format!("{} was deleted and made anew", partition.topic))),
            None => Ok(None),
        }
    }

    /// The topics that the member has positions in.
    pub(super) fn topics(&self) -> BTreeSet<Topic> {
        self.lock().about.keys().map(|partition| partition.topic.clone()).collect()
    }

    /// Compares them with what they are now: of one that is another, the member has lost the partitions, and is
    /// assigned those of the new one. Returns those.
    pub(super) fn compare(&self, now: &TopicIds) -> BTreeSet<Topic> {
        let mut replaced = Vec::new();
        for (partition, about) in &mut self.lock().about {
            let id = now.get(partition.topic.as_str()).copied();
            if id.is_some() && *about != About::Replaced && *about != About::Told(id) {
                *about = About::Replaced;
                replaced.push(partition.clone());
            }
        }
        replaced.iter().for_each(|partition| self.again(partition));
        replaced.into_iter().map(|partition| partition.topic).collect()
    }

    /// The next thing to be told. Whoever asks, listens.
    pub(super) fn next(&self) -> Option<Result<Event, Error>> {
        let mut state = self.lock();
        state.heard = Instant::now();
        match state.events.pop_front() {
            Some(event) => Some(Ok(event)),
            None => state.refused.clone().map(Err),
        }
    }

    pub(super) fn hear(&self) {
        self.lock().heard = Instant::now();
    }

    /// Whether nobody has listened for a whole session.
    pub(super) fn is_deaf(&self) -> bool {
        self.lock().heard.elapsed() > SESSION_TIMEOUT
    }

    pub(super) fn assigned(&self, partitions: Vec<TopicPartition>) {
        let mut state = self.lock();
        state.held.extend(partitions.iter().cloned());
        if !partitions.is_empty() {
            state.events.push_back(Event::Assigned(partitions));
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Says that a member has to let go; the partitions stay its own until [`Standing::let_go`].
    pub(super) fn revoked(&self, partitions: Vec<TopicPartition>, barrier: Barrier) {
        let mut state = self.lock();
        state.revoked.extend(partitions.iter().cloned());
        state.events.push_back(Event::Revoked(partitions, barrier));
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn let_go(&self, partitions: &[TopicPartition]) {
        let mut state = self.lock();
        for partition in partitions {
            state.held.remove(partition);
            state.revoked.remove(partition);
            state.about.remove(partition);
        }
    }

    /// As [`Standing::let_go`], of what it should not have had any more.
    pub(super) fn lose(&self, partitions: Vec<TopicPartition>) {
        self.let_go(&partitions);
        if !partitions.is_empty() {
            self.lock().events.push_back(Event::Lost(partitions));
            self.changed.notify_one();
        }
    }

    /// Says of a partition that is still this member's that it was lost and is assigned: whoever
    /// holds it drops what it knows, and claims again. Where it is let go of, the next owner claims.
    pub(super) fn again(&self, partition: &TopicPartition) {
        let mut state = self.lock();
        if state.held.contains(partition) && !state.revoked.contains(partition) {
            state.events.push_back(Event::Lost(vec![partition.clone()]));
            state.events.push_back(Event::Assigned(vec![partition.clone()]));
        }
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn refuse(&self, error: Error) {
        self.lock().refused.get_or_insert(error);
        self.changed.notify_one();
    }

    pub(super) fn is_claiming(&self) -> bool {
        self.lock().claims > 0
    }

    /// Claims are under way until what this returns is dropped.
    pub(super) fn claiming(&self) -> Claiming<'_> {
        self.lock().claims += 1;
        Claiming(self)
    }

    /// Waits until there may be something to tell.
    pub(super) async fn wait(&self, at_most: Duration) {
        let _: Result<(), _> = tokio::time::timeout(at_most, self.changed.notified()).await;
    }
}

pub(super) struct Claiming<'a>(&'a Standing);

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.0.lock().claims -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Topic;
    use crate::record::Partition;

    #[tokio::test]
    async fn only_what_is_not_being_let_go_of_is_to_be_claimed_again() {
        let (standing, p) = (Standing::new("group"), Topic::from("t").partition(Partition(0)));
        let next = || standing.next().map(|event| event.expect("it is a member"));
        standing.again(&p);
        assert!(next().is_none(), "it is not its own");
        standing.assigned(vec![p.clone()]);
        assert!(matches!(next(), Some(Event::Assigned(_))));
        standing.again(&p);
        assert!(matches!((next(), next()), (Some(Event::Lost(_)), Some(Event::Assigned(_)))));
        standing.revoked(vec![p.clone()], Barrier::new(|| {}));
        standing.again(&p);
        assert!(matches!(next(), Some(Event::Revoked(..))));
        assert!(next().is_none());
        standing.let_go(std::slice::from_ref(&p));
        standing.assigned(vec![p.clone()]);
        standing.again(&p);
        assert!(matches!((next(), next(), next()), (Some(Event::Assigned(_)), Some(Event::Lost(_)), Some(_))));
    }

    #[tokio::test]
    async fn a_topic_made_anew_is_lost_and_assigned_and_its_old_positions_are_refused() {
        let (standing, p) = (Standing::new("group"), Topic::from("t").partition(Partition(0)));
        let next = || standing.next().map(|event| event.expect("it is a member"));
        let is = |id| TopicIds::from([("t".to_owned(), TopicId(id))]);
        standing.assigned(vec![p.clone()]);
        assert!(standing.compare(&is(1)).is_empty(), "it has no position there yet");
        assert!(matches!((next(), next()), (Some(Event::Assigned(_)), None)));
        standing.tell(&p, Some(TopicId(1)));
        assert!(standing.compare(&is(1)).is_empty() && standing.compare(&TopicIds::new()).is_empty());
        assert_eq!(standing.about(&p).expect("it is its own"), Some(TopicId(1)));
        assert_eq!(standing.compare(&is(2)), BTreeSet::from([p.topic.clone()]));
        assert!(standing.compare(&is(2)).is_empty(), "it is told once");
        assert!(matches!(standing.about(&p), Err(Error::Fenced(_))), "until it has asked where the group was");
        assert!(matches!((next(), next(), next()), (Some(Event::Lost(_)), Some(Event::Assigned(_)), None)));
        standing.tell(&p, Some(TopicId(2)));
        assert_eq!(standing.about(&p).expect("it is its own"), Some(TopicId(2)));
        standing.let_go(std::slice::from_ref(&p));
        assert!(standing.topics().is_empty());
    }
}
