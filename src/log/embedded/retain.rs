//! Retention: what is old or too much goes, but nothing that somebody still needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Embedded;
use super::marks::{Marks, end_of};
use super::store::scan;
use super::thread::{Op, Removal};
use crate::log::{Cleanup, Error, TopicPartition};
use crate::record::{Offset, Timestamp};

/// How many batches are removed in one step, so that none delays the appends behind it.
const STEP: usize = 256;

/// What is kept; without limits, everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Batches that are older are removed.
    pub age: Option<Duration>,
    /// What a partition holds beyond so many bytes is removed, oldest first.
    pub bytes: Option<u64>,
}

impl Embedded {
    /// Removes what `retention` does not keep from the partitions for which a floor is given, in
    /// whole stored batches, never at or above the floor, and never the last batch. Of topics
    /// that are not of [`Cleanup::Delete`] nothing is removed. Returns how many batches went.
    ///
    /// To be called now and then; what it removes is gone from the disk when the store next
    /// merges its files, which is now where the disk is full. Readers below the new start get [`Error::Lost`].
    ///
    /// # Errors
    ///
    /// As reading and appending have them; what was removed before stays removed.
    pub async fn retain(
        &self,
        floors: &BTreeMap<TopicPartition, Offset>,
        retention: Retention,
    ) -> Result<usize, Error> {
        let mut removed = 0;
        for (of, floor) in floors {
            let marks = self.0.topics.get(of)?;
            if marks.cleanup != Cleanup::Delete {
                continue;
            }
            loop {
                let (of, floor) = (Arc::clone(&marks), *floor);
                let plan = tokio::task::spawn_blocking(move || plan(&of, floor, retention, Timestamp::system()));
                let plan = plan.await.map_err(|e| Error::Damaged(format!("{}: retention failed: {e}", marks.at)))?;
                let Some(removal) = plan? else { break };
                removed += removal.bases.len();
                self.0.writing.ask(|reply| Op::Remove { removal, reply }).await?;
            }
        }
        // Where nothing is taken in any more, nothing would ever make the store merge.
        if removed > 0 && self.refuses_intake().is_some() {
            let (store, topics) = (self.0.room.store.clone(), self.0.topics.keyspaces());
            let reclaimed = tokio::task::spawn_blocking(move || store.reclaim(&topics)).await;
            let failed = |e: &dyn std::fmt::Display| Error::Unavailable(format!("files could not be merged: {e}"));
            reclaimed.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        }
        Ok(removed)
    }
}

/// The batches to be removed next, `None` where all that is left is to be kept.
fn plan(marks: &Arc<Marks>, floor: Offset, retention: Retention, now: Timestamp) -> Result<Option<Removal>, Error> {
    let head = marks.head(now);
    let mut removal = Removal { from: Arc::clone(marks), bases: Vec::new(), start: head.start };
    for stored in scan(&marks.keyspace, &marks.at, head.start)?.take(STEP) {
        let stored = stored?;
        let end = end_of(&stored.batch);
        // The last batch says where the partition ends.
        let needed = end > floor || end >= head.end;
        let old = retention.age.is_some_and(|age| now.since(stored.batch.timestamp()) > age);
        let much = retention.bytes.is_some_and(|bytes| head.bytes.saturating_sub(stored.bytes_before) > bytes);
        if needed || !(old || much) {
            break;
        }
        removal.bases.push(stored.batch.base());
        removal.start = end;
    }
    Ok((!removal.bases.is_empty()).then_some(removal))
}
