//! Where the log of one run is, and how it goes with the run.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::log::Topic;
use crate::log::kafka::{Kafka, Options};
use crate::process::Engine;
use crate::process::config::{Config, Name, Properties};

/// A folder, or topics of its own in Kafka.
#[derive(Debug)]
pub(in crate::cli) enum Ground {
    Folder(Folder),
    Kafka(Properties),
}

impl Ground {
    /// In Kafka where these properties are given, else in the folder that the user named, which
    /// stays, or in one of its own.
    pub(in crate::cli) fn new(kafka: Option<&Properties>, folder: Option<&Path>) -> Self {
        match (kafka, folder) {
            (Some(properties), _) => Self::Kafka(properties.clone()),
            (None, Some(folder)) => Self::Folder(Folder { path: folder.to_owned(), keep: true }),
            (None, None) => Self::Folder(Folder { path: std::env::temp_dir().join(unique()), keep: false }),
        }
    }

    /// Puts the log of this configuration here.
    pub(super) fn take(&self, config: &mut Config) {
        match self {
            Self::Folder(folder) => config.log.embedded = Some(folder.path.clone()),
            Self::Kafka(properties) => {
                config.log.kafka = Some(properties.clone());
                config.name = Name::try_from(unique()).expect("letters, digits and dashes make a name");
            }
        }
    }

    /// Makes what the pipeline needs, runs, and removes it again, whatever became of the run.
    pub(super) async fn hold<T>(
        self,
        config: &Config,
        run: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let Self::Kafka(properties) = self else { return run.await };
        let ran = match create(config).await {
            Ok(()) => run.await,
            Err(error) => Err(error),
        };
        let cleared = delete(properties, config).await;
        let ran = ran?;
        cleared?;
        Ok(ran)
    }
}

/// The folder of an embedded log. Dropping it removes it, unless the user named it.
#[derive(Debug)]
pub(in crate::cli) struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // What is left over lies in the system's folder for such things.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// So that runs side by side, and what an ended one has left behind, stay apart.
fn unique() -> String {
    format!("seriatim-bench-{}-{:016x}", std::process::id(), fastrand::u64(..))
}

/// Makes the topics. Ctrl-C ends it with an error, so that those are deleted that are there already.
async fn create(config: &Config) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        made = async { Engine::open(config).await?.create(&config.topics()).await } => Ok(made?),
    }
}

async fn delete(Properties(properties): Properties, config: &Config) -> anyhow::Result<()> {
    let topics: Vec<Topic> = config.topics().all().into_iter().map(|(_, topic, _)| topic.clone()).collect();
    let left = || format!("the topics whose names begin with {}. may be left over", config.name);
    let log = Kafka::connect(Options { properties, ..Options::default() }).await.with_context(left)?;
    log.delete(&topics).await.with_context(left)
}
