//! How many readers of one partition are served at once.
//!
//! A client holds a partition once, so each reader of it needs another client, with threads and
//! connections of its own. So there are only so many: who looks something up waits for its turn, which
//! is over in milliseconds, and who follows a partition that many follow already takes turns, too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fetcher::Pace;
use crate::log::TopicPartition;

/// So many look something up in a partition at once: a few hundred a second.
const LOOKUPS: usize = 8;

/// So many follow a partition at once. The program's own readers are a handful.
const FOLLOWERS: usize = 16;

/// So many of those who follow beyond that are fed at once, for a moment. They keep nobody waiting who
/// looks something up.
const IN_TURN: usize = 4;

/// So many clients at most hold a partition for a moment.
pub(super) const BRIEFLY: usize = LOOKUPS + IN_TURN;

/// What a reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Queue {
    LookUp,
    Follow,
    FollowInTurn,
}

/// The turns of all partitions that were ever read, of which there are only so many.
#[derive(Default)]
pub(super) struct Turns(Mutex<BTreeMap<(TopicPartition, Queue), Arc<Semaphore>>>);

/// Held by a reader while it is fed.
pub(super) type Turn = OwnedSemaphorePermit;

impl Turns {
    /// Waits for a turn, first come, first served; says at which pace that is. Cancel-safe.
    pub(super) async fn take(&self, of: &TopicPartition, wanted: Pace) -> (Pace, Turn) {
        if wanted == Pace::Follow
            && let Ok(turn) = self.of(of, Queue::Follow).try_acquire_owned()
        {
            return (wanted, turn);
        }
        let queue = if wanted == Pace::Follow { Queue::FollowInTurn } else { Queue::LookUp };
        let turn = self.of(of, queue).acquire_owned().await.expect("nobody closes it");
        (Pace::Lookup, turn)
    }

    fn of(&self, of: &TopicPartition, queue: Queue) -> Arc<Semaphore> {
        let at_once = match queue {
            Queue::LookUp => LOOKUPS,
            Queue::Follow => FOLLOWERS,
            Queue::FollowInTurn => IN_TURN,
        };
        let mut turns = self.0.lock().expect("no holder of this lock panics");
        Arc::clone(turns.entry((of.clone(), queue)).or_insert_with(|| Arc::new(Semaphore::new(at_once))))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::log::Topic;
    use crate::record::Partition;

    #[tokio::test]
    async fn who_comes_late_waits_and_followers_take_turns_then() {
        let (turns, topic) = (Turns::default(), Topic::from("t"));
        let [of, other] = [0, 1].map(|number| topic.partition(Partition(number)));
        let mut lookups = Vec::new();
        for _ in 0..LOOKUPS {
            lookups.push(turns.take(&of, Pace::Lookup).await);
        }
        let mut late = Box::pin(turns.take(&of, Pace::Lookup));
        assert!((&mut late).now_or_never().is_none());
        assert!(turns.take(&other, Pace::Lookup).now_or_never().is_some(), "another partition is free");
        let mut followers = Vec::new();
        for _ in 0..FOLLOWERS {
            followers.push(turns.take(&of, Pace::Follow).await);
        }
        assert!(followers.iter().all(|(pace, _)| *pace == Pace::Follow));
        let mut in_turn = Vec::new();
        for _ in 0..IN_TURN {
            in_turn.push(turns.take(&of, Pace::Follow).await);
        }
        assert!(in_turn.iter().all(|(pace, _)| *pace == Pace::Lookup));
        assert!(turns.take(&of, Pace::Follow).now_or_never().is_none());
        lookups.pop();
        assert_eq!(late.now_or_never().map(|(pace, _)| pace), Some(Pace::Lookup));
        in_turn.pop();
        assert_eq!(turns.take(&of, Pace::Follow).now_or_never().map(|(pace, _)| pace), Some(Pace::Lookup));
        followers.pop();
        assert_eq!(turns.take(&of, Pace::Follow).now_or_never().map(|(pace, _)| pace), Some(Pace::Follow));
    }
}
