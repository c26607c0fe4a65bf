//! The folder: whose it is, who has it open, and what topics were made in it.
//!
//! ```text
//! seriatim-log.json     the marker: format and topics, replaced as a whole
//! seriatim-floor.json   how far the partitions reach at least, replaced as a whole
//! seriatim-cut          what was cut off the end of a journal last: a write that was not finished
//! lock                  held while a process has the log open; holds its process id
//! store/                fjall's
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::log::Cleanup;

const MARKER: &str = "seriatim-log.json";
const MARKER_NEW: &str = "seriatim-log.json.new";
pub(super) const FLOOR: &str = "seriatim-floor.json";
pub(super) const CUT: &str = "seriatim-cut";
const LOCK: &str = "lock";
const STORE: &str = "store";

/// Grows with every change that an older build cannot read.
const FORMAT: u32 = 1;

/// Why a folder could not be opened as a log.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{folder} is in use by {}: stop that one, or choose another folder", holder(.pid))]
    InUse {
        /// Which.
        folder: PathBuf,
        /// The other process, where it could be learned.
        pid: Option<u32>,
    },
    /// It holds something, and that is no log.
    #[error(
        "{folder} holds {found} but no {MARKER}, so it is not a log of Seriatim: choose another folder, or an empty one"
    )]
    Foreign {
        /// Which.
        folder: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// It is a file, or would be in one.
    #[error("{folder} cannot be the log's folder, because {file} is a file: name another folder (log.embedded)")]
    File {
        /// Which.
        folder: PathBuf,
        /// What is in the way.
        file: PathBuf,
    },
    /// It was written by a newer build.
    #[error("{folder} has format {found}, this build knows {FORMAT}: use the build that wrote it, or a newer one")]
    Newer {
        /// Which.
        folder: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is a log, and something in it is not as it must be.
    #[error("{folder} is damaged: {reason}. Restore it from a copy; nothing was changed")]
    Damaged {
        /// Which.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Records that were durable are not there any more.
    #[error(
        "{folder} has lost records that were durable: {reason}. A file in {folder}/{STORE} was cut or removed: restore \
         the folder from a copy. To go on without those records remove {folder}/{FLOOR} and start again; lanes that \
         miss something then wait for `seriatim lanes accept`"
    )]
    Lost {
        /// Which.
        folder: PathBuf,
        /// Where, and how many.
        reason: String,
    },
    /// The operating system refused.
    #[error("{folder}: cannot {action}: {error}")]
    Io {
        /// Which.
        folder: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Its words.
        error: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// What the marker says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    format: u32,
    pub(super) topics: BTreeMap<String, Shape>,
}

/// A topic in the marker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape {
    pub(super) partitions: u32,
    pub(super) cleanup: Cleanup,
}

/// The folder while this process has it.
#[derive(Debug)]
pub(super) struct Lock {
    folder: PathBuf,
    /// Its lock goes when it is closed.
    _file: File,
}

impl Lock {
    /// Takes the folder for this process; makes it a log where it is new.
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let existing = folder.ancestors().find(|path| path.exists());
        if let Some(file) = existing.filter(|path| !path.is_dir()) {
            return Err(OpenError::File { folder: folder.to_owned(), file: file.to_owned() });
        }
        std::fs::create_dir_all(folder).map_err(|e| failed(folder, "create it", e))?;
        refuse_foreign(folder)?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(LOCK));
        let mut file = open.map_err(|e| failed(folder, "open its lock", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(folder)),
            Err(TryLockError::Error(e)) => return Err(failed(folder, "lock it", e)),
        }
        let mut id = || {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())
        };
        id().map_err(|e| failed(folder, "write to it", e))?;
        let lock = Self { folder: folder.to_owned(), _file: file };
        if !folder.join(MARKER).exists() {
            lock.write(&Marker { format: FORMAT, topics: BTreeMap::new() })
                .map_err(|e| lock.failed("write to it", &e))?;
        }
        Ok(lock)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn store(&self) -> PathBuf {
        self.folder.join(STORE)
    }

    pub(super) fn marker(&self) -> Result<Marker, OpenError> {
        read_marker(&self.folder)
    }

    /// Replaces the marker's topics, durably and as a whole.
    pub(super) fn set_topics(&self, topics: BTreeMap<String, Shape>) -> io::Result<()> {
        self.write(&Marker { format: FORMAT, topics })
    }

    fn write(&self, marker: &Marker) -> io::Result<()> {
        replace(&self.folder, MARKER, &serde_json::to_vec_pretty(marker)?)
    }

    pub(super) fn damaged(&self, reason: impl Into<String>) -> OpenError {
        OpenError::Damaged { folder: self.folder.clone(), reason: reason.into() }
    }

    pub(super) fn lost(&self, reason: String) -> OpenError {
        OpenError::Lost { folder: self.folder.clone(), reason }
    }

    pub(super) fn failed(&self, action: &'static str, error: &io::Error) -> OpenError {
        failed(&self.folder, action, io::Error::new(error.kind(), error.to_string()))
    }
}

/// Replaces a file of the folder durably: whoever reads it finds the former or the new one, whole.
pub(super) fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(new, folder.join(name))?;
    File::open(folder)?.sync_all()
}

fn read_marker(folder: &Path) -> Result<Marker, OpenError> {
    let damaged = |reason: String| OpenError::Damaged { folder: folder.to_owned(), reason };
    let text = std::fs::read(folder.join(MARKER)).map_err(|e| failed(folder, "read its marker", e))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| damaged(format!("{MARKER} is not JSON: {e}")))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format > u64::from(FORMAT) => {
            let found = u32::try_from(format).unwrap_or(u32::MAX);
            Err(OpenError::Newer { folder: folder.to_owned(), found })
        }
        _ => serde_json::from_value(value).map_err(|e| damaged(format!("{MARKER} cannot be read: {e}"))),
    }
}

/// The topics of the log in a folder, none where there is no log yet; whoever has it open.
pub(super) fn look(folder: &Path) -> Result<BTreeMap<String, Shape>, OpenError> {
    if !folder.exists() {
        return Ok(BTreeMap::new());
    }
    refuse_foreign(folder)?;
    if !folder.join(MARKER).exists() {
        return Ok(BTreeMap::new());
    }
    Ok(read_marker(folder)?.topics)
}

/// A folder without marker may hold what a process leaves that dies while it makes one, and nothing else.
fn refuse_foreign(folder: &Path) -> Result<(), OpenError> {
    if folder.join(MARKER).exists() {
        return Ok(());
    }
    let listing = std::fs::read_dir(folder).map_err(|e| failed(folder, "list it", e))?;
    for entry in listing {
        let name = entry.map_err(|e| failed(folder, "list it", e))?.file_name();
        if name != LOCK && name != MARKER_NEW {
            return Err(OpenError::Foreign { folder: folder.to_owned(), found: name.to_string_lossy().into_owned() });
        }
    }
    Ok(())
}

/// Looks whether another process has the folder. Holds its lock for a moment, shared.
pub(super) fn held(folder: &Path) -> Option<OpenError> {
    let lock = File::open(folder.join(LOCK)).ok()?;
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)).then(|| in_use(folder))
}

fn in_use(folder: &Path) -> OpenError {
    let text = std::fs::read_to_string(folder.join(LOCK));
    OpenError::InUse { folder: folder.to_owned(), pid: text.ok().and_then(|text| text.trim().parse().ok()) }
}

fn failed(folder: &Path, action: &'static str, error: io::Error) -> OpenError {
    OpenError::Io { folder: folder.to_owned(), action, error }
}
