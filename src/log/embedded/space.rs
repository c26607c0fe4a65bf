//! Whether there is room on the disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::Instant;

use super::store::Store;

/// How old an answer may be: a disk takes longer to fill the reserve.
const FRESH: Duration = Duration::from_millis(100);

/// What of the reserve, as its divisor, is kept even from what finishes accepted work, and even
/// from commits: intake stops first, so that what was taken in can come to its end.
const WORK_RESERVE: u64 = 2;
const COMMIT_RESERVE: u64 = 4;

/// The disk, and what may be used of it.
#[derive(Clone)]
pub(super) struct Room {
    folder: PathBuf,
    pub(super) store: Store,
    reserve: u64,
    max_disk: Option<u64>,
}

impl Room {
    pub(super) fn new(folder: &Path, store: Store, reserve: u64, max_disk: Option<u64>) -> Self {
        Self { folder: folder.to_owned(), store, reserve, max_disk }
    }

    /// Why nothing new can be taken in, if so.
    pub(super) fn refuses_intake(&self) -> Option<String> {
        let used = self.max_disk.map(|max| (self.store.disk_space(), max));
        nearly_full(&self.folder, self.reserve).or_else(|| over(used))
    }
}

/// Looks at the disk now and then.
pub(super) struct Space {
    room: Room,
    looked: Option<Instant>,
    intake: Option<String>,
    work: Option<String>,
    commit: Option<String>,
}

impl Space {
    pub(super) fn new(room: Room) -> Self {
        Self { room, looked: None, intake: None, work: None, commit: None }
    }

    /// Why no plain append can be taken, if so; `intake` brings in new work.
    pub(super) fn refuses_append(&mut self, intake: bool) -> Option<&str> {
        self.look();
        if intake { self.intake.as_deref() } else { self.work.as_deref() }
    }

    /// Why not even a commit can be taken, if so.
    pub(super) fn refuses_commits(&mut self) -> Option<&str> {
        self.look();
        self.commit.as_deref()
    }

    fn look(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < FRESH) {
            return;
        }
        let Room { folder, reserve, .. } = &self.room;
        self.work = nearly_full(folder, reserve / WORK_RESERVE);
        self.commit = nearly_full(folder, reserve / COMMIT_RESERVE);
        self.intake = self.room.refuses_intake();
        self.looked = Some(Instant::now());
    }
}

/// What there is to say where less than `reserve` bytes are free on the disk of `folder`. Where the
/// file system cannot be asked, a failing write will tell.
#[must_use]
pub fn nearly_full(folder: &Path, reserve: u64) -> Option<String> {
    let free = rustix::fs::statvfs(folder).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let (free_text, reserve_text) = (ByteSize(free), ByteSize(reserve));
    (free < reserve).then(|| format!("disk nearly full: {free_text} free, {reserve_text} are kept in reserve"))
}

fn over(used: Option<(u64, u64)>) -> Option<String> {
    let (used, max) = used.filter(|(used, max)| used >= max)?;
    Some(format!("disk nearly full: the log takes {} of the {} it may", ByteSize(used), ByteSize(max)))
}
