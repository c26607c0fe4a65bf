//! The configuration: a TOML file, then the environment, over defaults.
//!
//! One struct a section, in the order of the file; every value is of a type that can only hold
//! what makes sense, and [`Config::load`] checks what sections have to agree on. Unknown keys are
//! refused. An error says where the value came from, down to line and column or to the variable.
//!
//! ```
//! use seriatim::process::config::Config;
//! let config = Config::parse("[work]\nbuiltin = 'echo'", [("SERIATIM_WORK__CONCURRENCY", "8")])?;
//! assert_eq!(config.work.concurrency.get(), 8);
//! let error = Config::parse("[work]\nconcurency = 8", []).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "config:2:1: work.concurency: there is no such key; did you mean `concurrency`?"
//! );
//! # Ok::<(), seriatim::process::config::Error>(())
//! ```

mod batch;
mod check;
mod destinations;
mod error;
mod ingress;
mod log;
mod order;
mod source;
mod surface;
mod value;
mod work;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::log::Topic;
use crate::topics::Topics;
pub use batch::{Batch, Window};
pub use destinations::{
    Content, Destination, HttpPush, Progress, Push, PushFailure, PushOrder, PushRetry, Start, TcpPush,
};
pub use error::{Error, Problem};
pub use ingress::{Hl7, Ingress, Quota, TcpPort, Tls};
pub use log::{Log, Properties, TopicNames};
pub use order::{By, OnFailure, Order};
pub use surface::{Admin, LogFormat, Process};
pub use value::{Address, DestinationName, HttpUrl, Name, Size, Span, TopicName};
pub use work::{Builtin, ExecWorker, HttpWorker, Retry, Work};

/// The file that is read where none is named and it exists.
pub const DEFAULT_FILE: &str = "seriatim.toml";

/// The destination that takes every output that names none. It always exists.
pub const DEFAULT_DESTINATION: &str = "default";

/// The whole configuration of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The pipeline's name: prefix of topics, groups and transactional ids.
    pub name: Name,
    /// Where the log is and what it is like.
    pub log: Log,
    /// Topics that exist already under other names.
    pub topics: TopicNames,
    /// How messages come in.
    pub ingress: Ingress,
    /// Who works on them.
    pub work: Work,
    /// In which order results leave.
    pub order: Order,
    /// How staggered batches are run where their start does not say.
    pub batch: Batch,
    /// Where they go, by name.
    pub destinations: BTreeMap<DestinationName, Destination>,
    /// The admin port.
    pub admin: Admin,
    /// The process itself.
    pub process: Process,
}

impl Config {
    /// Reads the file, or [`DEFAULT_FILE`] if `None` and it exists, then lays the `SERIATIM_`
    /// variables of this process's environment over it, and checks the whole.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, and for everything in it or in the environment that is unknown
    /// or makes no sense.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let (name, text) = source::read(file)?;
        // Other variables need not be UTF-8; ours must be, or they are no config.
        let env =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.to_string_lossy().into_owned())));
        Self::from_parts(&name, &text, env)
    }

    /// As [`Config::load`], from a text and variables given. Variables without the prefix are ignored.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn parse<'a>(text: &str, env: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        Self::from_parts("config", text, env.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())))
    }

    fn from_parts(name: &str, text: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let source = source::Source::new(name, text, env)?;
        let mut config: Self = source.deserialize()?;
        config.destinations.entry(DestinationName::default()).or_default();
        let problems = check::problems(&config);
        if problems.is_empty() { Ok(config) } else { Err(source.located(problems)) }
    }

    /// The pipeline's topics under their full names.
    #[must_use]
    pub fn topics(&self) -> Topics {
        let names: Vec<&str> = self.destinations.keys().map(DestinationName::as_str).collect();
        let (lanes, owners) = (self.log.partitions.get(), self.log.control_partitions.get());
        let mut topics = Topics::derive(self.name.as_str(), &names, lanes, owners);
        self.topics.apply(&mut topics);
        for (name, destination) in &self.destinations {
            if let Some(topic) = &destination.topic {
                topics.destinations.insert(name.to_string(), Topic::from(topic.as_str()));
            }
        }
        topics
    }

    /// The effective configuration as TOML, with passwords and the like hidden.
    #[must_use]
    pub fn dump(&self) -> String {
        toml::to_string_pretty(&self.hidden()).expect("every section is plain TOML")
    }

    fn hidden(&self) -> Self {
        let mut shown = self.clone();
        shown.log.hide();
        shown.work.hide();
        for destination in shown.destinations.values_mut() {
            destination.hide();
        }
        shown
    }
}
