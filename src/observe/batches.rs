//! The batches of a lane as their owner has committed them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{probe, unreadable};
use crate::log::{Error, Log, TopicPartition, Visibility};
use crate::record::batches::BatchRecord;
use crate::record::cursor::decode;
use crate::record::{Offset, RecordRef, partition_of_key};
use crate::topics::Topics;

/// Bytes of states read at once.
const READ_BYTES: usize = 256 << 10;

/// Before a log that failed is read again.
const PAUSE: Duration = Duration::from_secs(1);

/// The last state of one batch; `None` where it has not begun, or was forgotten.
///
/// # Errors
///
/// Those of the log.
pub async fn find(log: &dyn Log, topics: &Topics, id: &str) -> Result<Option<BatchRecord>, Error> {
    let of = topics.batch_state.partition(partition_of_key(id.as_bytes(), topics.lanes));
    let bounds = log.bounds(&of).await?;
    let mut last = None;
    each(log, &of, bounds.start, bounds.stable_end, |record| {
        if record.key == Some(id.as_bytes()) {
            last = record.value.map(<[u8]>::to_vec);
        }
    })
    .await?;
    last.map(|value| decode(&value).map_err(|reason| unreadable(&format!("{of}, batch {id}"), &reason))).transpose()
}

/// How the items of these indices ended, by index: the last event of each, without what names the
/// event and the batch. Reads the lane's events once, from the first that is kept.
///
/// # Errors
///
/// Those of the log.
pub async fn ends(
    log: &dyn Log,
    topics: &Topics,
    id: &str,
    indices: std::ops::Range<u64>,
) -> Result<BTreeMap<u64, Value>, Error> {
    let of = topics.events.partition(partition_of_key(id.as_bytes(), topics.lanes));
    let bounds = log.bounds(&of).await?;
    let mut found = BTreeMap::new();
    each(log, &of, bounds.start, bounds.stable_end, |record| {
        if let Some((index, item)) = end_of_item(&record, id.as_bytes()).filter(|(index, _)| indices.contains(index)) {
            found.insert(index, item);
        }
    })
    .await?;
    Ok(found)
}

fn end_of_item(record: &RecordRef<'_>, id: &[u8]) -> Option<(u64, Value)> {
    if record.key != Some(id) {
        return None;
    }
    let mut event: Value = serde_json::from_slice(record.value?).ok()?;
    if event["type"] != "WorkOrderCompleted" {
        return None;
    }
    let index = event["index"].as_u64()?;
    let members = event.as_object_mut()?;
    members.shift_remove("type");
    members.shift_remove("id");
    Some((index, event))
}

/// What `show` makes of the record at `at` of a partition; `None` where it was removed.
///
/// # Errors
///
/// Those of the log.
pub async fn shown_at<T>(
    log: &dyn Log,
    of: &TopicPartition,
    at: Offset,
    show: impl Fn(RecordRef<'_>) -> T,
) -> Result<Option<T>, Error> {
    let bounds = log.bounds(of).await?;
    if at < bounds.start {
        return Ok(None);
    }
    let end = bounds.stable_end.min(at.next());
    let found = probe::first(log, of, at, end, |_, record| Some(show(record))).await?;
    Ok(found.map(|(_, shown)| shown))
}

/// Shows every record from `from` to `end`.
async fn each(
    log: &dyn Log,
    of: &TopicPartition,
    from: Offset,
    end: Offset,
    mut see: impl FnMut(RecordRef<'_>),
) -> Result<(), Error> {
    if from >= end {
        return Ok(());
    }
    let mut reader = probe::open(log, of, from, READ_BYTES).await?;
    while reader.position() < end {
        let fetched = probe::next(&mut *reader, of).await?;
        fetched.batches.iter().flatten().filter(|record| record.offset < end).for_each(&mut see);
    }
    Ok(())
}

/// The states of one lane's batches, kept up by [`Board::follow`]. Cheap to clone. Its size is
/// bounded by the owner, who forgets batches that ended long ago.
#[derive(Clone, Debug)]
pub struct Board {
    states: Arc<Mutex<BTreeMap<String, Arc<BatchRecord>>>>,
    /// Up to where states were read; `None` until those were that had been there at the start.
    read: Arc<watch::Sender<Option<Offset>>>,
}

impl Default for Board {
    fn default() -> Self {
        Self { states: Arc::default(), read: Arc::new(watch::Sender::new(None)) }
    }
}

impl Board {
    /// A board that shows nothing until it is kept up.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the board up. Never ends; dropping it leaves the board as it is.
    pub async fn follow(self, log: Arc<dyn Log>, of: TopicPartition) {
        loop {
            if let Err(error) = self.session(&*log, &of).await {
                tracing::warn!(%of, %error, "cannot follow the states of batches");
            }
            sleep(PAUSE).await;
        }
    }

    async fn session(&self, log: &dyn Log, of: &TopicPartition) -> Result<(), Error> {
        let bounds = log.bounds(of).await?;
        let mut reader = log.read(of, bounds.start, Visibility::Durable, READ_BYTES).await?;
        loop {
            if reader.position() >= bounds.stable_end {
                self.read.send_replace(Some(reader.position()));
            }
            let fetched = reader.next().await?;
            let mut states = self.lock();
            for record in fetched.batches.iter().flatten() {
                note(&mut states, &record).map_err(|reason| Error::Damaged(format!("{of}: {reason}")))?;
            }
        }
    }

    /// The state of a batch.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<BatchRecord>> {
        self.lock().get(id).cloned()
    }

    /// How many have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.lock().values().filter(|record| !record.state.has_ended()).count()
    }

    /// All of them, by id.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Arc<BatchRecord>)> {
        self.lock().iter().map(|(id, record)| (id.clone(), record.clone())).collect()
    }

    /// Waits until the board shows what was there when it began to follow, at most `patience`;
    /// whether it does.
    pub async fn ready(&self, patience: Duration) -> bool {
        let mut read = self.read.subscribe();
        // The sender is held by `self`, so waiting cannot fail.
        matches!(timeout(patience, read.wait_for(Option::is_some)).await, Ok(Ok(_)))
    }

    /// Waits until a batch is as wanted, at most `patience`; how it is then.
    pub async fn wait_for(
        &self,
        id: &str,
        patience: Duration,
        wanted: impl Fn(&BatchRecord) -> bool,
    ) -> Option<Arc<BatchRecord>> {
        let mut read = self.read.subscribe();
        let reached = read.wait_for(|_| self.get(id).is_some_and(|record| wanted(&record)));
        // Whether it is so or not is read from the board.
        let _ = timeout(patience, reached).await;
        self.get(id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<BatchRecord>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(states: &mut BTreeMap<String, Arc<BatchRecord>>, record: &RecordRef<'_>) -> Result<(), String> {
    let Some(id) = record.key.and_then(|key| std::str::from_utf8(key).ok()).filter(|id| !id.contains(':')) else {
        return Ok(());
    };
    match record.value {
        None => states.remove(id),
        Some(value) => {
            let state = decode(value).map_err(|reason| format!("batch {id} at {}: {reason}", record.offset))?;
            states.insert(id.to_owned(), Arc::new(state))
        }
    };
    Ok(())
}
