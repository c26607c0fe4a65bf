//! What the data files in `topics/` say.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::log::Cleanup;

/// The files, embedded, so that a program needs nothing beside it.
const FILES: [&str; 13] = [
    include_str!("../../topics/input.toml"),
    include_str!("../../topics/results.toml"),
    include_str!("../../topics/output.toml"),
    include_str!("../../topics/dead-letter.toml"),
    include_str!("../../topics/work.toml"),
    include_str!("../../topics/control.toml"),
    include_str!("../../topics/cursors.resequence.toml"),
    include_str!("../../topics/cursors.deliver.toml"),
    include_str!("../../topics/ledger.toml"),
    include_str!("../../topics/batches.toml"),
    include_str!("../../topics/batch-items.toml"),
    include_str!("../../topics/batch-state.toml"),
    include_str!("../../topics/events.toml"),
];

static DESCRIPTIONS: LazyLock<Vec<Description>> = LazyLock::new(|| {
    FILES.iter().map(|file| toml::from_str(file).expect("the files are those that the tests have read")).collect()
});

/// A topic, as its data file describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Its name in the pipeline, without the pipeline's.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Who writes to it.
    pub producers: Vec<String>,
    /// Who reads it.
    pub consumers: Vec<String>,
    /// What the key of a record is.
    pub key: String,
    /// What its value and headers are.
    pub value: String,
    /// What its number of partitions follows.
    pub partitions: Partitions,
    /// What is removed from it.
    pub cleanup: Cleanup,
    /// What to mind.
    pub note: String,
    /// Settings for its creation in Kafka, by Kafka's names.
    pub creation: BTreeMap<String, String>,
}

/// What a topic's number of partitions follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitions {
    /// One a lane.
    Lanes,
    /// One a unit of ownership.
    Control,
    /// As many as there may be workers that read it.
    Work,
}

/// All topics that a pipeline has; `output` stands for each destination's.
#[must_use]
pub fn descriptions() -> &'static [Description] {
    &DESCRIPTIONS
}

/// The description of a topic of [`super::Topics`].
pub(super) fn of(name: &str) -> &'static Description {
    let found = descriptions().iter().find(|description| description.name == name);
    found.expect("a test holds that every topic has a file")
}
