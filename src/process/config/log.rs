//! Sections `log` and `topics`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::log::Topic;
use crate::topics::Topics;

use super::{Size, Span, TopicName};

/// Where the log is, and what it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The folder of the embedded log; `seriatim-data` where neither this nor `kafka` is given.
    pub embedded: Option<PathBuf>,
    /// Properties of librdkafka, for a log in Kafka.
    pub kafka: Option<Properties>,
    /// How long records are kept; never less than until they are done with.
    pub retention: Span,
    /// How many bytes of each partition are kept; no limit where it is not given.
    pub retention_bytes: Option<Size>,
    /// How much disk the embedded log may take before messages are refused; what there is, where
    /// it is not given.
    pub max_disk: Option<Size>,
    /// How much of the disk the embedded log leaves free: with less, messages are refused.
    pub reserve: Size,
    /// Lanes; fixed at creation.
    pub partitions: NonZeroU32,
    /// Units of ownership; fixed at creation, at most as many as lanes.
    pub control_partitions: NonZeroU32,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            embedded: None,
            kafka: None,
            retention: Span::from_secs(7 * 24 * 3600),
            retention_bytes: None,
            max_disk: None,
            reserve: Size::mebibytes(256),
            partitions: NonZeroU32::MIN,
            control_partitions: NonZeroU32::MIN,
        }
    }
}

impl Log {
    /// The folder of the embedded log, `None` where the log is in Kafka.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        match (&self.embedded, &self.kafka) {
            (Some(folder), _) => Some(folder.clone()),
            (None, None) => Some(PathBuf::from("seriatim-data")),
            (None, Some(_)) => None,
        }
    }

    pub(super) fn hide(&mut self) {
        if let Some(Properties(properties)) = &mut self.kafka {
            for (_, value) in properties.iter_mut().filter(|(key, _)| is_secret(key)) {
                "***".clone_into(value);
            }
        }
    }
}

/// Whether a property of librdkafka holds something that must not be shown.
fn is_secret(property: &str) -> bool {
    let words = ["password", "secret", "token", "key.pem", "sasl.oauthbearer.config", "sasl.jaas.config"];
    words.iter().any(|word| property.contains(word))
}

/// Properties of librdkafka, by name; numbers and truth values may be written as such.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties(#[serde(deserialize_with = "texts")] pub BTreeMap<String, String>);

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = BTreeMap::<String, toml::Value>::deserialize(from)?;
    let text = |(key, value)| match value {
        toml::Value::String(text) => Ok((key, text)),
        toml::Value::Integer(number) => Ok((key, number.to_string())),
        toml::Value::Boolean(truth) => Ok((key, truth.to_string())),
        other => {
            let reason =
                format!("property \"{key}\" is a {}: write a text, a number or a truth value", other.type_str());
            Err(serde::de::Error::custom(reason))
        }
    };
    values.into_iter().map(text).collect()
}

/// Full names of topics that do not derive from the pipeline's name. Those of destinations are
/// given with the destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicNames {
    /// The input.
    pub input: Option<TopicName>,
    /// Results of work.
    pub results: Option<TopicName>,
    /// Messages that were given up.
    pub dead_letter: Option<TopicName>,
    /// Records sent out again.
    pub work: Option<TopicName>,
    /// Claims and operators' verbs.
    pub control: Option<TopicName>,
    /// State of the resequencers.
    pub cursors_resequence: Option<TopicName>,
    /// State of the deliverers.
    pub cursors_deliver: Option<TopicName>,
    /// What became of each message.
    pub ledger: Option<TopicName>,
    /// What users ask of staggered batches.
    pub batches: Option<TopicName>,
    /// Items uploaded for batches.
    pub batch_items: Option<TopicName>,
    /// The state of batches.
    pub batch_state: Option<TopicName>,
    /// What happened to batches.
    pub events: Option<TopicName>,
}

impl TopicNames {
    pub(super) fn apply(&self, to: &mut Topics) {
        for (name, topic) in [
            (&self.input, &mut to.input),
            (&self.results, &mut to.results),
            (&self.dead_letter, &mut to.dead_letter),
            (&self.work, &mut to.work),
            (&self.control, &mut to.control),
            (&self.cursors_resequence, &mut to.cursors_resequence),
            (&self.cursors_deliver, &mut to.cursors_deliver),
            (&self.ledger, &mut to.ledger),
            (&self.batches, &mut to.batches),
            (&self.batch_items, &mut to.batch_items),
            (&self.batch_state, &mut to.batch_state),
            (&self.events, &mut to.events),
        ] {
            if let Some(name) = name {
                *topic = Topic::from(name.as_str());
            }
        }
    }
}
