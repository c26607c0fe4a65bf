//! A folder for one run, gone with it.

use std::path::{Path, PathBuf};

/// Removes the folder when dropped, unless the user named it.
#[derive(Debug)]
pub(in crate::cli) struct Scratch {
    folder: PathBuf,
    keep: bool,
}

impl Scratch {
    /// The folder that the user named, which stays, or one of its own.
    pub(in crate::cli) fn new(named: Option<&Path>) -> Self {
        match named {
            Some(folder) => Self { folder: folder.to_owned(), keep: true },
            None => {
                let name = format!("seriatim-{}-{:016x}", std::process::id(), fastrand::u64(..));
                Self { folder: std::env::temp_dir().join(name), keep: false }
            }
        }
    }

    /// As a value in TOML.
    pub(in crate::cli) fn toml(&self) -> String {
        toml::Value::String(self.folder.display().to_string()).to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What is left over lies in the system's folder for such things.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
