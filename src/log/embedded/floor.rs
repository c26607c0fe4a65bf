//! The floor: how far each partition reaches at least, kept beside the store.
//!
//! The store reads its journal for as long as it makes sense and takes that for the end. One that
//! was cut between two records, or is gone, would open without a word, and what was acknowledged
//! would be gone with it. So the ends are noted in a file of their own, now and then and at
//! closing, and a log that falls short of them is refused.
//!
//! Only what is durable is noted: no crash leaves less than that. Ends never go back, whatever
//! retention removes; a topic that was made since the last note is simply not in it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::folder::{FLOOR, Lock, OpenError, replace};
use super::topics::Topics;
use crate::log::Topic;
use crate::record::Partition;

/// The offset after the last record, by topic and partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ends(pub(super) BTreeMap<String, Vec<u64>>);

/// How many partitions a refusal names.
const NAMED: usize = 3;

/// Refuses a log that ends before its floor. Where there is no floor every log will do: it is
/// new, of an older build, or somebody has accepted what is lost.
pub(super) fn check(lock: &Lock, topics: &Topics) -> Result<(), OpenError> {
    let text = match std::fs::read(lock.folder().join(FLOOR)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|e| lock.failed("read its floor", &e))?,
    };
    let Ends(floor) = serde_json::from_slice(&text).map_err(|e| lock.lost(format!("{FLOOR} cannot be read: {e}")))?;
    let Ends(ends) = topics.ends();
    let mut missing = Vec::new();
    for (topic, floor) in floor {
        let found = ends.get(&topic).map_or(&[][..], Vec::as_slice);
        for (number, floor) in (0..).zip(floor) {
            let end = found.get(number as usize).copied().unwrap_or_default();
            if end < floor {
                let at = Topic::from(topic.clone()).partition(Partition(number));
                missing.push(format!("{at} ends at {end} and has reached {floor}"));
            }
        }
    }
    let more = missing.len().saturating_sub(NAMED);
    missing.truncate(NAMED);
    match (missing.is_empty(), more) {
        (true, _) => Ok(()),
        (false, 0) => Err(lock.lost(missing.join(", "))),
        (false, more) => Err(lock.lost(format!("{}, and {more} more", missing.join(", ")))),
    }
}

/// Notes the ends for as long as it lives, and once more when it is dropped.
pub(super) struct Keeper {
    end: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn start(topics: Arc<Topics>, folder: PathBuf, every: Duration) -> io::Result<Self> {
        let (end, ended) = sync_channel(0);
        let run = move || {
            let mut noted = None;
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                note(&topics, &folder, &mut noted);
            }
            note(&topics, &folder, &mut noted);
        };
        let thread = std::thread::Builder::new().name("seriatim-floor".to_owned()).spawn(run)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // Where it has panicked, the last note stands.
            drop(thread.join());
        }
    }
}

/// A note that cannot be written leaves the former one, which is only lower; the next may succeed.
fn note(topics: &Topics, folder: &Path, noted: &mut Option<Ends>) {
    let ends = topics.ends();
    if noted.as_ref() == Some(&ends) {
        return;
    }
    let written = serde_json::to_vec(&ends).map_err(io::Error::from).and_then(|text| replace(folder, FLOOR, &text));
    match written {
        Ok(()) => *noted = Some(ends),
        Err(error) => tracing::warn!(%error, "the ends of the log's partitions cannot be noted"),
    }
}
