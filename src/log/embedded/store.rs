//! The store: how batches, starts and positions lie in `fjall`, and how its troubles are told.
//!
//! A stored batch, integers big-endian:
//!
//! ```text
//! partition u32 | base offset u64  =>  timestamp i64 | count u32 | bytes before u64 | frame
//! ```
//!
//! `bytes before` counts all that was ever stored in the partition before this batch, so that the
//! size of any stretch is a subtraction.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::{BufMut as _, Bytes, BytesMut};
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::folder::{Lock, OpenError};
use super::marks::{Found, end_of};
use crate::log::{Error, TopicPartition};
use crate::record::{Batch, Offset, Partition, Timestamp};

/// Memory for blocks read from disk: readers go front to back, so there is little to gain.
const BLOCK_CACHE: u64 = 8 << 20;
/// What a topic gathers in memory before it is written out. Few topics are busy at a time; with
/// one full, one being written out and the journal's copy on disk it bounds memory.
const MEMTABLE: u64 = 8 << 20;
/// Journals are kept until all topics have written out what is in them; this bounds how many, and
/// with it how long opening takes after a crash.
const JOURNALS: u64 = 128 << 20;
/// One for writing out, one for merging.
const WORKERS: usize = 2;
/// Open table files that are kept at hand.
const OPEN_FILES: usize = 256;

const META: &str = "$meta";
const HEADER: usize = 8 + 4 + 8;

/// The database and the keyspace for everything that is not a record.
#[derive(Clone)]
pub(super) struct Store {
    database: Database,
    meta: Keyspace,
}

/// A batch and what is stored with it.
#[derive(Clone, Debug)]
pub(super) struct StoredBatch {
    pub(super) batch: Batch,
    pub(super) bytes_before: u64,
}

impl Store {
    pub(super) fn open(lock: &Lock) -> Result<Self, OpenError> {
        let path = lock.store();
        let topics = lock.marker()?.topics;
        // fjall would begin anew where its own marker is missing, if nothing else were there either.
        if !path.join("version").exists() {
            if !topics.is_empty() {
                return Err(lock.damaged(format!("{} topics were made, but {} is gone", topics.len(), path.display())));
            }
            remove_unfinished(&path).map_err(|e| lock.failed("clear its unfinished store", &e))?;
        }
        let open = || {
            let database = Database::builder(&path)
                .cache_size(BLOCK_CACHE)
                .max_journaling_size(JOURNALS)
                .journal_compression(CompressionType::None)
                .worker_threads(WORKERS)
                .max_cached_files(Some(OPEN_FILES))
                .manual_journal_persist(true)
                .open()?;
            let meta = database.keyspace(META, KeyspaceCreateOptions::default)?;
            // What a killed process wrote and did not sync is read again, and from here on it counts as durable.
            database.persist(PersistMode::SyncData)?;
            Ok::<_, fjall::Error>(Self { database, meta })
        };
        // On some damage it panics.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(store)) => Ok(store),
            Ok(Err(fjall::Error::Locked)) => Err(OpenError::InUse { folder: lock.folder().to_owned(), pid: None }),
            Ok(Err(fjall::Error::Io(e))) => Err(lock.failed("open its store", &e)),
            Ok(Err(e)) => Err(lock.damaged(format!("its store does not open: {e}"))),
            Err(panic) => Err(lock.damaged(format!("its store does not open: {}", words(&*panic)))),
        }
    }

    pub(super) fn has(&self, topic: &str) -> bool {
        self.database.keyspace_exists(topic)
    }

    /// The keyspace of a topic, made where there is none.
    pub(super) fn topic(&self, topic: &str) -> fjall::Result<Keyspace> {
        self.database.keyspace(topic, || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE)
                .data_block_size_policy(BlockSizePolicy::all(16 << 10))
                // Batches are found by ranges, never by asking whether a key is there.
                .filter_policy(FilterPolicy::disabled())
                .manual_journal_persist(true)
        })
    }

    /// One atomic step, to be filled and committed.
    pub(super) fn step(&self) -> OwnedWriteBatch {
        self.database.batch()
    }

    /// Writes out what topics hold in memory, so that journals can go, and merges the files of each, so that
    /// what was removed leaves the disk. Blocks for as long as writing what is left takes.
    pub(super) fn reclaim(&self, topics: &[Keyspace]) -> fjall::Result<()> {
        for topic in topics.iter().chain([&self.meta]) {
            topic.rotate_memtable_and_wait()?;
        }
        topics.iter().try_for_each(Keyspace::major_compact)
    }

    /// Everything committed so far survives a crash of the machine once this returns.
    pub(super) fn sync(&self) -> fjall::Result<()> {
        self.database.persist(PersistMode::SyncData)
    }

    pub(super) fn disk_space(&self) -> u64 {
        // It counts files; where one just goes the next look is right again.
        self.database.disk_space().unwrap_or_default()
    }

    pub(super) fn put_meta(&self, step: &mut OwnedWriteBatch, key: &[u8], value: Offset) {
        step.insert(&self.meta, key, value.0.to_be_bytes());
    }

    /// All offsets in `meta` under a prefix, with the rest of their keys.
    pub(super) fn meta(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Offset)>, String> {
        let mut found = Vec::new();
        for entry in self.meta.prefix(prefix) {
            let (key, value) = entry.into_inner().map_err(|e| e.to_string())?;
            let value = value.first_chunk().copied().ok_or("an offset in it is too short")?;
            found.push((key[prefix.len()..].to_vec(), Offset(u64::from_be_bytes(value))));
        }
        Ok(found)
    }
}

/// Stored batches of a partition in offset order, from the one that holds `from` on; an error where
/// the store cannot tell which that is.
pub(super) fn scan(
    keyspace: &Keyspace,
    at: &TopicPartition,
    from: Offset,
) -> Result<impl Iterator<Item = Result<StoredBatch, Error>> + use<>, Error> {
    let lowest = key(at.partition, Offset::ZERO);
    let holder = keyspace.range(lowest..=key(at.partition, from)).next_back().map(Guard::key).transpose();
    let first = holder.map_err(|e| damaged(at, &e))?.map_or_else(|| lowest.to_vec(), |key| key.to_vec());
    let at = at.clone();
    Ok(keyspace.range(first..=key(at.partition, Offset(u64::MAX)).to_vec()).map(move |guard| {
        let (key, value) = guard.into_inner().map_err(|e| damaged(&at, &e))?;
        decode(&at, &key, &value.into())
    }))
}

/// Where a partition ends and what its last batch says.
pub(super) fn last(keyspace: &Keyspace, at: &TopicPartition) -> Result<Option<Found>, Error> {
    let range = key(at.partition, Offset::ZERO)..=key(at.partition, Offset(u64::MAX));
    let Some(guard) = keyspace.range(range).next_back() else { return Ok(None) };
    let (key, value) = guard.into_inner().map_err(|e| damaged(at, &e))?;
    let StoredBatch { batch, bytes_before } = decode(at, &key, &value.into())?;
    let bytes = bytes_before + batch.frame().len() as u64;
    Ok(Some(Found { start: Offset::ZERO, end: end_of(&batch), stamped: batch.timestamp(), bytes }))
}

/// The key of a stored batch.
pub(super) fn key(partition: Partition, base: Offset) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.0.to_be_bytes());
    key[4..].copy_from_slice(&base.0.to_be_bytes());
    key
}

/// Frames that follow each other as one stored batch: what goes into the store, and what stays in
/// memory, which shares its bytes.
pub(super) fn encode(base: Offset, timestamp: Timestamp, bytes_before: u64, parts: &[Batch]) -> (Bytes, Batch) {
    let size: usize = parts.iter().map(|part| part.frame().len()).sum();
    let count =
        u32::try_from(parts.iter().map(Batch::len).sum::<usize>()).expect("records take bytes, and those are bounded");
    let mut value = BytesMut::with_capacity(HEADER + size);
    value.put_i64(timestamp.0);
    value.put_u32(count);
    value.put_u64(bytes_before);
    for part in parts {
        value.put_slice(part.frame());
    }
    let value = value.freeze();
    let batch = Batch::assembled(base, timestamp, count, value.slice(HEADER..));
    (value, batch)
}

fn decode(at: &TopicPartition, key: &[u8], value: &Bytes) -> Result<StoredBatch, Error> {
    let damaged = |what: &str| Error::Damaged(format!("{at}: a stored batch has {what}"));
    let (_, base) = key.split_last_chunk::<8>().ok_or_else(|| damaged("a short key"))?;
    let base = Offset(u64::from_be_bytes(*base));
    let (timestamp, rest) = value.split_first_chunk::<8>().ok_or_else(|| damaged("no time"))?;
    let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("no count"))?;
    let (before, _) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("no size"))?;
    let timestamp = Timestamp(i64::from_be_bytes(*timestamp));
    let batch = Batch::decode(base, timestamp, u32::from_be_bytes(*count), value.slice(HEADER..))
        .map_err(|e| Error::Damaged(format!("{at}: at offset {base} {e}")))?;
    Ok(StoredBatch { batch, bytes_before: u64::from_be_bytes(*before) })
}

fn damaged(at: &TopicPartition, error: &fjall::Error) -> Error {
    Error::Damaged(format!("{at}: a block cannot be read: {error}"))
}

/// Clears what a process left that was killed while it made the store for the first time.
fn remove_unfinished(store: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(store) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What a panic said.
pub(super) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}
