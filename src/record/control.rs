//! What operators ask of a lane's owner, as records on its control partition.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The value of the `seriatim-kind` header of a verb.
pub const VERB: &[u8] = b"verb";

/// An operator's order, executed once, by the lane's owner, in control-log order. JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verb {
    /// The lane.
    pub lane: u32,
    /// What to do.
    pub action: Action,
    /// Why, in the operator's words; recorded.
    pub reason: String,
    /// Who asked.
    pub by: String,
}

/// What to do. Targets are `(offset, round that the operator saw)`: a verb acts where that is
/// still the record's round, the record is unreleased and no part of it has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Action {
    /// Work on them again.
    Retry {
        /// Which.
        targets: Vec<(u64, u32)>,
    },
    /// Pass their places over, recorded.
    Skip {
        /// Which.
        targets: Vec<(u64, u32)>,
    },
    /// Send this instead of a result.
    Replace {
        /// Which.
        target: (u64, u32),
        /// The output, base64.
        body: String,
        /// Its media type.
        content_type: Option<String>,
    },
    /// End a halt by loss and go on with what there is.
    Accept,
}

/// What and which, for people.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, targets) = match self {
            Self::Retry { targets } => ("retry", targets.as_slice()),
            Self::Skip { targets } => ("skip", targets.as_slice()),
            Self::Replace { target, .. } => ("replace", std::slice::from_ref(target)),
            Self::Accept => return f.write_str("accept"),
        };
        match targets {
            [] => f.write_str(verb),
            [(only, _)] => write!(f, "{verb} {only}"),
            [(first, _), rest @ ..] => write!(f, "{verb} {first} and {} more", rest.len()),
        }
    }
}

/// The most targets of one verb, so that a control record stays far below a topic's message limit.
pub const MAX_TARGETS: usize = 10_000;
