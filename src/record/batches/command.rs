//! What users and operators ask of a batch, as records on the `batches` topic.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::start::{check_percentage, check_window, millis};
use super::{Mode, Refused, Rules, StartProcessing};

/// A command; executed once, in log order, by the owner of the lane.
#[derive(Clone, Debug)]
pub enum Command {
    /// Begin.
    Start(Box<StartProcessing>),
    /// Generate no more, and end once what is out has finished.
    Cancel {
        /// The batch.
        id: String,
        /// Why, for the record.
        reason: Option<String>,
    },
    /// Generate no more until resumed.
    Pause {
        /// The batch.
        id: String,
    },
    /// Go on.
    Resume {
        /// The batch.
        id: String,
    },
    /// Do held items again.
    Retry {
        /// The batch.
        id: String,
        /// Which items.
        which: Selection,
    },
    /// Give held items up.
    Discard {
        /// The batch.
        id: String,
        /// Which items.
        which: Selection,
    },
    /// Run it otherwise from now on.
    Change {
        /// The batch.
        id: String,
        /// How.
        change: Change,
    },
}

/// Which of the held items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// Those of these indices, where they are held.
    Items(Vec<u64>),
}

/// What can be changed while a batch runs; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    /// See [`Rules::window`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// See [`Rules::interval`].
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// See [`Rules::tolerated_count`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerated_failure_count: Option<u64>,
    /// See [`Rules::tolerated_percentage`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerated_failure_percentage: Option<f64>,
}

/// Commands but for the start, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Steering {
    CancelProcessing {
        id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    PauseProcessing {
        id: String,
    },
    ResumeProcessing {
        id: String,
    },
    RetryWorkOrders {
        id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        items: Option<Vec<u64>>,
    },
    DiscardWorkOrders {
        id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        items: Option<Vec<u64>>,
    },
    ChangeProcessing {
        id: String,
        change: Change,
    },
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

impl Command {
    /// Reads a record's value.
    ///
    /// # Errors
    ///
    /// What is wrong, in words: it comes from strangers.
    pub fn decode(value: &[u8]) -> Result<Self, String> {
        let typed: Typed = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        if typed.kind == "StartProcessing" {
            let start = serde_json::from_slice(value).map_err(|error| error.to_string())?;
            return Ok(Self::Start(Box::new(start)));
        }
        let steering: Steering = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        Ok(match steering {
            Steering::CancelProcessing { id, reason } => Self::Cancel { id, reason },
            Steering::PauseProcessing { id } => Self::Pause { id },
            Steering::ResumeProcessing { id } => Self::Resume { id },
            Steering::RetryWorkOrders { id, items } => Self::Retry { id, which: items.into() },
            Steering::DiscardWorkOrders { id, items } => Self::Discard { id, which: items.into() },
            Steering::ChangeProcessing { id, change } => Self::Change { id, change },
        })
    }

    /// The record's value, JSON with its `type` first.
    ///
    /// # Panics
    ///
    /// Never: all of it is plain data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let id = self.id().to_owned();
        let steering = match self {
            Self::Start(start) => return serde_json::to_vec(start).expect("plain data always serializes"),
            Self::Cancel { reason, .. } => Steering::CancelProcessing { id, reason: reason.clone() },
            Self::Pause { .. } => Steering::PauseProcessing { id },
            Self::Resume { .. } => Steering::ResumeProcessing { id },
            Self::Retry { which, .. } => Steering::RetryWorkOrders { id, items: which.items() },
            Self::Discard { which, .. } => Steering::DiscardWorkOrders { id, items: which.items() },
            Self::Change { change, .. } => Steering::ChangeProcessing { id, change: change.clone() },
        };
        serde_json::to_vec(&steering).expect("plain data always serializes")
    }

    /// The batch that it is for.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Start(start) => &start.id,
            Self::Cancel { id, .. }
            | Self::Pause { id }
            | Self::Resume { id }
            | Self::Retry { id, .. }
            | Self::Discard { id, .. }
            | Self::Change { id, .. } => id,
        }
    }
}

impl Selection {
    /// Whether the item is meant.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        match self {
            Self::All => true,
            Self::Items(items) => items.contains(&index),
        }
    }

    fn items(&self) -> Option<Vec<u64>> {
        match self {
            Self::All => None,
            Self::Items(items) => Some(items.clone()),
        }
    }
}

impl From<Option<Vec<u64>>> for Selection {
    fn from(items: Option<Vec<u64>>) -> Self {
        items.map_or(Self::All, Self::Items)
    }
}

impl Change {
    /// The rules with this change.
    ///
    /// # Errors
    ///
    /// [`Refused`], with what is allowed; then nothing changes.
    pub fn apply(&self, rules: &Rules) -> Result<Rules, Refused> {
        let mut changed = rules.clone();
        if let Some(window) = self.window {
            changed.window = check_window(window)?;
        }
        if let Some(interval) = self.interval.map(millis) {
            if rules.mode != Mode::Paced || interval == 0 {
                return Err(Refused::Interval);
            }
            changed.interval = interval;
        }
        check_percentage(self.tolerated_failure_percentage)?;
        changed.tolerated_count = self.tolerated_failure_count.or(rules.tolerated_count);
        changed.tolerated_percentage = self.tolerated_failure_percentage.or(rules.tolerated_percentage);
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_round_trip_with_their_type_first() {
        let id = || "a".to_owned();
        let which = Selection::Items(vec![3, 5]);
        for command in [
            Command::Cancel { id: id(), reason: Some("b".to_owned()) },
            Command::Pause { id: id() },
            Command::Resume { id: id() },
            Command::Retry { id: id(), which: Selection::All },
            Command::Discard { id: id(), which },
            Command::Change { id: id(), change: Change { window: Some(5), ..Change::default() } },
            Command::Start(Box::new(StartProcessing { id: id(), count: Some(3), ..StartProcessing::default() })),
        ] {
            let encoded = command.encode();
            assert!(encoded.starts_with(br#"{"type":""#), "{command:?}");
            let decoded = Command::decode(&encoded).expect("it was encoded just now");
            assert_eq!(format!("{decoded:?}"), format!("{command:?}"));
        }
    }

    #[test]
    fn what_strangers_write_is_refused_with_a_reason() {
        for (value, expected) in [
            ("{", "EOF"),
            ("{}", "missing field `type`"),
            (r#"{"type":"Stop"}"#, "unknown variant `Stop`"),
            (r#"{"type":"PauseProcessing"}"#, "missing field `id`"),
            (r#"{"type":"StartProcessing","id":"a","cuont":1}"#, "unknown field `cuont`"),
        ] {
            let reason = Command::decode(value.as_bytes()).expect_err(value);
            assert!(reason.contains(expected), "{value}: {reason}");
        }
    }

    #[test]
    fn an_interval_is_changed_only_where_there_is_one() {
        let paced = Rules { mode: Mode::Paced, window: 1, interval: 5, ..Rules::default() };
        let change = Change { interval: Some(Duration::from_millis(9)), window: Some(7), ..Change::default() };
        let changed = change.apply(&paced).expect("it is right");
        assert_eq!((changed.interval, changed.window), (9, 7));
        assert_eq!(change.apply(&Rules { mode: Mode::Window, ..paced }), Err(Refused::Interval));
    }
}
