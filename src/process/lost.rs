//! Topics that were deleted under the pipeline, and made anew or not: the resequencers' cursors know which topics they
//! are about.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::log::{Log, Topic};
use crate::observe::cursor;
use crate::record::cursor::{LaneCursor, OwnerCursor};
use crate::record::{Partition, TopicId};
use crate::topics::Topics;

/// What became of a topic that positions or counters of a lane are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// There is none of this name any more.
    Deleted,
    /// There is another one of this name, and nobody has accepted that yet.
    MadeAnew,
}

impl Lost {
    /// What that means, and what to do.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Deleted => {
                "deleted, though cursors count on it: what it held is lost, and once it is made anew lanes stand still \
                 until `seriatim lanes accept`"
            }
            Self::MadeAnew => {
                "deleted and made anew under the pipeline: what it held before is lost, and lanes stand still until \
                 `seriatim lanes accept`"
            }
        }
    }
}

/// The topics that are not those which the last cursors are about; `is_missing` says of a topic that there is none
/// of its name. Says nothing of cursors that are not there or cannot be read, nor where the log does not tell topics
/// of one name apart. Bounded as everything in [`crate::observe`] is, for each control partition.
pub(super) async fn lost(log: &dyn Log, topics: &Topics, is_missing: impl Fn(&Topic) -> bool) -> BTreeMap<Topic, Lost> {
    let all: Vec<Topic> = topics.all().into_iter().map(|(_, topic, _)| topic.clone()).collect();
    let now = log.identities(&all).await.unwrap_or_default();
    let mut lost = BTreeMap::new();
    for control in (0..topics.control_partitions).map(Partition) {
        let last = cursor::last(log, &topics.cursors_resequence.partition(control)).await;
        let last = last.inspect_err(|error| tracing::debug!(%error, "cannot look what the cursors are about"));
        let Ok(Some(last)) = last else { continue };
        for topic in &all {
            let became = match now.get(topic.as_str()) {
                Some(now) if counts_on_another(&last, topics, topic, Some(*now)) => Lost::MadeAnew,
                None if is_missing(topic) && counts_on_another(&last, topics, topic, None) => Lost::Deleted,
                _ => continue,
            };
            lost.insert(topic.clone(), became);
        }
    }
    lost
}

/// Whether a lane's cursor is about what another topic of this name held: of an output topic, where it counts outputs
/// there.
fn counts_on_another(owner: &OwnerCursor, topics: &Topics, topic: &Topic, now: Option<TopicId>) -> bool {
    let is_output = topics.destinations.values().any(|output| output == topic);
    let counts = |lane: &LaneCursor| {
        let number = |of: &BTreeMap<String, u64>| of.get(topic.as_str()).copied().unwrap_or(0);
        !is_output || number(&lane.sequences) > number(&lane.begins)
    };
    let mut lanes = owner.lanes.iter().filter(|(_, lane)| counts(lane));
    lanes.any(|(number, _)| owner.about(*number, topic.as_str()).is_some_and(|known| Some(known) != now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::Memory;
    use crate::metrics::Role;
    use crate::takeover::cursor_append;

    async fn told(log: &Memory, topics: &Topics) -> Vec<(String, Lost)> {
        let shapes = topics.shapes();
        let mut missing = Vec::new();
        for (topic, _) in &shapes {
            if log.shape(topic).await.expect("no faults").is_none() {
                missing.push(topic.clone());
            }
        }
        let lost = lost(log, topics, |topic| missing.contains(topic)).await;
        lost.into_iter().map(|(topic, lost)| (topic.to_string(), lost)).collect()
    }

    /// As the owner of both lanes writes it, which has put something out in the second one.
    async fn write_cursor(log: &Memory, topics: &Topics) {
        let all: Vec<Topic> = topics.shapes().into_iter().map(|(topic, _)| topic).collect();
        let mut cursor = OwnerCursor { topics: log.identities(&all).await.expect("no faults"), ..Default::default() };
        cursor.lanes.insert(0, LaneCursor::default());
        let sequences = BTreeMap::from([("t.output".to_owned(), 7)]);
        cursor.lanes.insert(1, LaneCursor { sequences, ..Default::default() });
        let append = cursor_append(Role::Resequence, &topics.cursors_resequence.partition(Partition(0)), &cursor);
        log.append(&append.to, append.batch).await.expect("there is room").await.expect("no faults");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cursors_are_about_and_is_not_there_is_told() {
        let topics = Topics::derive("t", &["default", "other"], 2, 1);
        let log = Memory::new(1);
        log.ensure(&topics.shapes()).await.expect("no faults");
        assert_eq!(told(&log, &topics).await, [], "nobody counts on anything yet");
        write_cursor(&log, &topics).await;
        assert_eq!(told(&log, &topics).await, []);

        let output = |name: &str| topics.destinations[name].clone();
        [topics.input.clone(), output("default"), output("other")].iter().for_each(|topic| log.delete(topic));
        let both = |lost| [("t.input".to_owned(), lost), ("t.output".to_owned(), lost)];
        assert_eq!(told(&log, &topics).await, both(Lost::Deleted), "nothing was put out to the other one");
        log.ensure(&topics.shapes()).await.expect("no faults");
        assert_eq!(told(&log, &topics).await, both(Lost::MadeAnew));
        write_cursor(&log, &topics).await;
        assert_eq!(told(&log, &topics).await, [], "that was accepted");

        log.delete(&topics.input);
        log.recreate(&topics.cursors_resequence);
        assert_eq!(told(&log, &topics).await, [], "without a cursor nothing is known");
    }
}
