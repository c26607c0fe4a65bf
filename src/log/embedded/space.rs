//! Whether there is room on the disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::Instant;

use super::store::Store;

/// How old an answer may be: a disk takes longer to fill the reserve.
const FRESH: Duration = Duration::from_millis(100);

/// The share of the reserve that is kept even from commits.
const LAST_RESERVE: u64 = 4;

/// Looks at the disk now and then.
pub(super) struct Space {
    folder: PathBuf,
    store: Store,
    reserve: u64,
    max_disk: Option<u64>,
    looked: Option<Instant>,
    plain: Option<String>,
    commit: Option<String>,
}

impl Space {
    pub(super) fn new(folder: &Path, store: Store, reserve: u64, max_disk: Option<u64>) -> Self {
        let folder = folder.to_owned();
        Self { folder, store, reserve, max_disk, looked: None, plain: None, commit: None }
    }

    /// Why no plain append can be taken, if so.
    pub(super) fn refuses_appends(&mut self) -> Option<&str> {
        self.look();
        self.plain.as_deref()
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
        // Where the file system cannot be asked, a failing write will tell.
        let free = rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        let used = self.max_disk.map(|max| (self.store.disk_space(), max));
        self.plain = nearly_full(free, self.reserve).or_else(|| over(used));
        self.commit = nearly_full(free, self.reserve / LAST_RESERVE);
        self.looked = Some(Instant::now());
    }
}

fn nearly_full(free: u64, reserve: u64) -> Option<String> {
    let (free_text, reserve_text) = (ByteSize(free), ByteSize(reserve));
    (free < reserve).then(|| format!("disk nearly full: {free_text} free, {reserve_text} are kept in reserve"))
}

fn over(used: Option<(u64, u64)>) -> Option<String> {
    let (used, max) = used.filter(|(used, max)| used >= max)?;
    Some(format!("disk nearly full: the log takes {} of the {} it may", ByteSize(used), ByteSize(max)))
}
