//! Take-over: the batches of a lane as their last committed records say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::owner::Shared;
use super::{Active, Batches, Events};
use crate::log::Error;
use crate::record::batches::{BatchRecord, StartProcessing, start_key};
use crate::record::cursor::{LaneCursor, decode};
use crate::record::{Offset, Partition};
use crate::takeover::scan;

impl Batches {
    /// Reads what runs, and what is remembered of what has ended.
    ///
    /// # Errors
    ///
    /// Those of the log; [`Error::Damaged`] for a record that no owner writes.
    pub(in super::super) async fn load(shared: &Shared, lane: Partition, cursor: &LaneCursor) -> Result<Self, Error> {
        let events = Events::new(shared.options.batch_events.clone(), shared.epoch, &cursor.events);
        let mut batches = Self::new(lane, &shared.topics, &shared.options, Offset(cursor.batches), events);
        let of = shared.topics.batch_state.partition(lane);
        let bounds = shared.log.bounds(&of).await?;
        let mut last: BTreeMap<Vec<u8>, (Offset, Vec<u8>)> = BTreeMap::new();
        scan(&*shared.log, &of, bounds.start, bounds.end, |record| {
            let key = record.key.unwrap_or_default();
            match record.value {
                Some(value) => last.insert(key.to_vec(), (record.offset, value.to_vec())),
                None => last.remove(key),
            };
            true
        })
        .await?;
        let mut ended = BTreeSet::new();
        for (key, (offset, value)) in &last {
            let Some(id) = std::str::from_utf8(key).ok().filter(|id| !id.contains(':')) else { continue };
            let damaged = |reason: String| Error::Damaged(format!("{of} at {offset}, batch {id}: {reason}"));
            let record: BatchRecord = decode(value).map_err(|reason| damaged(reason.to_string()))?;
            if record.state.has_ended() {
                ended.insert((*offset, Arc::from(id)));
                continue;
            }
            let (_, start) =
                last.get(start_key(id).as_bytes()).ok_or_else(|| damaged("its start is missing".to_owned()))?;
            let size = start.len();
            let start: StartProcessing = serde_json::from_slice(start).map_err(|reason| damaged(reason.to_string()))?;
            batches.active.insert(id.into(), Active::resume(record, &start, size));
        }
        batches.ended.extend(ended.into_iter().map(|(_, id)| id));
        Ok(batches)
    }
}
