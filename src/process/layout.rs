//! Partitions that somebody adds to a topic under a running process. What is in them is in no lane, and keys may have
//! changed lanes, so that this is told until it is mended. The lanes that there were go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, error, info};

use super::engine::Engine;
use crate::log::Topic;
use crate::metrics;
use crate::topics::Topics;

/// How often to look: as often as owners look whether topics were made anew. It is one question.
const EVERY: Duration = Duration::from_secs(5);

/// How often it is said again in the log while it is so.
const AGAIN: Duration = Duration::from_secs(60);

/// The topics that had another number of partitions than they have to have when it was looked last. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Layout(Arc<Mutex<BTreeMap<Topic, String>>>);

impl Layout {
    /// A sentence for each of them: how many partitions there are, and what to do.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|(topic, reason)| format!("topic {topic}: {reason}")).collect()
    }

    /// Takes what was found; whether it is otherwise than before.
    fn replace(&self, found: BTreeMap<Topic, String>) -> bool {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *problems != found;
        *problems = found;
        is_new
    }
}

/// Looks again and again, until it is dropped. Ends at once where nobody else can change topics.
pub(super) async fn watch(engine: Engine, topics: Arc<Topics>, layout: Layout) {
    if engine.embedded().is_some() {
        return;
    }
    let mut said = Instant::now();
    loop {
        sleep(EVERY).await;
        let found = match engine.other_partitions(&topics).await {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "looking how many partitions there are");
                continue;
            }
        };
        metrics::topics_otherwise().set(i64::try_from(found.len()).unwrap_or(i64::MAX));
        let is_new = layout.replace(found.clone());
        if is_new && found.is_empty() {
            info!("all topics have the number of partitions again that the configuration says");
        }
        if is_new || said.elapsed() >= AGAIN {
            said = Instant::now();
            for (topic, reason) in &found {
                error!(%topic, reason, "the number of partitions has changed; the lanes that there were go on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_until_it_is_mended() {
        let layout = Layout::default();
        let found = BTreeMap::from([(Topic::from("t.input"), "it has 3".to_owned())]);
        assert!(layout.replace(found.clone()) && !layout.replace(found));
        assert_eq!(layout.problems(), ["topic t.input: it has 3"]);
        assert!(layout.replace(BTreeMap::new()));
        assert_eq!(layout.problems(), [""; 0]);
    }
}
