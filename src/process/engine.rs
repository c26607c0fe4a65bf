//! Which log a process stands on.

use std::sync::Arc;

use super::Error;
use super::config::Config;
use crate::log::Log;
use crate::log::embedded::{Embedded, Options};
use crate::topics::Topics;

/// An open log.
#[derive(Debug, Clone)]
pub struct Engine {
    /// The one that has a folder, for what only that can do.
    pub(super) embedded: Embedded,
}

impl Engine {
    /// Opens the log that the configuration names. Takes as long as reading its journal again.
    ///
    /// # Errors
    ///
    /// Where this build has no such engine, or the folder is in use, foreign, damaged or out of reach.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        let Some(folder) = config.log.folder() else {
            let reason = "this build has the embedded log only; give log.embedded a folder instead";
            return Err(Error::Unsupported { key: "log.kafka", reason });
        };
        let max_disk = config.log.max_disk.map(super::config::Size::get);
        let options = Options { max_disk, intake: [config.topics().input].into(), ..Options::default() };
        // Opening reads and writes files for as long as it takes, which is no work for the runtime.
        let opened = tokio::task::spawn_blocking(move || Embedded::open(folder, options)).await;
        Ok(Self { embedded: opened.expect("opening has no reason to panic, and nobody cancels it")? })
    }

    /// As the stages see it.
    #[must_use]
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.embedded.clone())
    }

    /// Makes sure that the topics exist as they have to be.
    ///
    /// # Errors
    ///
    /// Naming the topic and what to do, where one is otherwise: `partitions` and
    /// `control_partitions` are fixed at creation.
    pub async fn ensure(&self, topics: &Topics) -> Result<(), Error> {
        Ok(self.embedded.ensure(&topics.shapes()).await?)
    }
}
