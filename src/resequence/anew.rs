//! Topics that were deleted, and made anew under their names or not. The log tells them apart by ids, which the cursor
//! holds, so that what a position or counter is about is known however far a new topic has grown.

use std::time::Duration;

use tokio::time::Instant;

use crate::log::{Error, Log, Topic};
use crate::record::{TopicId, TopicIds};
use crate::topics::Topics;

/// How often a living owner looks, and every process that may become one. What a new topic takes in before that is
/// not lost, for the verdict comes from the ids; so it is only how long an owner may go on in vain, and a question of
/// this size to a cluster is nothing.
const EVERY: Duration = Duration::from_secs(5);

/// The looks of a living owner.
pub(super) struct Looks {
    topics: TopicIds,
    next: Instant,
    under_way: bool,
    replaced: bool,
}

impl Looks {
    /// Of one whose lanes are about these topics.
    pub(super) fn new(topics: TopicIds) -> Self {
        Self { topics, next: Instant::now() + EVERY, under_way: false, replaced: false }
    }

    /// The topics that the lanes are about.
    pub(super) const fn topics(&self) -> &TopicIds {
        &self.topics
    }

    /// Whether one is to be begun now. None ever is where the log does not tell topics apart.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = !self.under_way && !self.topics.is_empty() && now >= self.next;
        self.under_way |= due;
        due
    }

    /// Takes what was found.
    pub(super) fn ended(&mut self, found: Result<TopicIds, Error>, now: Instant) {
        (self.under_way, self.next) = (false, now + EVERY);
        match found.map(|found| replaced(&self.topics, &found)) {
            Ok(replaced) if replaced.is_empty() => {}
            Ok(replaced) => {
                tracing::error!(reason = reason(&replaced), "the lanes are restored");
                self.replaced = true;
            }
            Err(error) => tracing::debug!(%error, "looking again whether topics are what they were"),
        }
    }

    /// Whether a topic is not what it was: the lanes have to be restored.
    pub(super) const fn found_replaced(&self) -> bool {
        self.replaced
    }
}

/// The topics that a lane's positions and counters are about.
pub(super) fn compared(topics: &Topics) -> Vec<Topic> {
    let read = [&topics.input, &topics.results, &topics.ledger, &topics.batches];
    read.into_iter().chain(topics.destinations.values()).cloned().collect()
}

/// The topics as they are now. One that is not there just now stays what it was known as: who needs it is told so
/// by the log. What is ours no longer is forgotten.
///
/// # Errors
///
/// Those of the log.
pub(super) async fn look(log: &dyn Log, topics: &Topics, known: &TopicIds) -> Result<TopicIds, Error> {
    let compared = compared(topics);
    let found = log.identities(&compared).await?;
    let known = compared.iter().filter_map(|topic| known.get_key_value(topic.as_str()));
    Ok(known.map(|(name, id)| (name.clone(), *id)).chain(found).collect())
}

/// Looks again and again, so that the log knows which topics are gone before anybody takes over or writes to
/// them, and no owner has to wait until that is certain.
pub(super) async fn keep_looking(log: &dyn Log, topics: &Topics) -> ! {
    let written = [&topics.dead_letter, &topics.events, &topics.batch_state];
    let all: Vec<Topic> = compared(topics).into_iter().chain(written.into_iter().cloned()).collect();
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = log.identities(&all).await {
            tracing::debug!(%error, "looking which topics there are");
        }
    }
}

/// Those of the known ones that are others now, as they were.
pub(super) fn replaced(known: &TopicIds, now: &TopicIds) -> TopicIds {
    let other = |name: &str, id: &TopicId| now.get(name).is_some_and(|now| now != id);
    known.iter().filter(|(name, id)| other(name.as_str(), id)).map(|(name, id)| (name.clone(), *id)).collect()
}

/// Why a lane stands still over them.
pub(super) fn reason(replaced: &TopicIds) -> String {
    let names: Vec<&str> = replaced.keys().map(String::as_str).collect();
    let (were, it) = if names.len() == 1 { ("was", "it") } else { ("were", "they") };
    format!("{} {were} deleted and made anew: what {it} held before is lost", names.join(", "))
}

/// Why a lane stands still that has something to write to a topic which is not there any more.
pub(super) fn missing(topic: &Topic) -> String {
    format!(
        "{topic} was deleted and is not there: make it anew with `seriatim topics apply`; what it held before is lost"
    )
}
