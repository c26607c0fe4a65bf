//! The roles that a process can run.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::config::Config;

/// One of the parts of a pipeline. The order is that of the flow, and of ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes messages in.
    Ingress,
    /// Works on them.
    Work,
    /// Puts results in order and releases them.
    Resequence,
    /// Sends outputs to receivers.
    Deliver,
}

impl Role {
    /// All of them, in the order of the flow.
    pub const ALL: [Self; 4] = [Self::Ingress, Self::Work, Self::Resequence, Self::Deliver];

    /// Those that a configuration needs: deliver only where something is pushed.
    #[must_use]
    pub fn needed(config: &Config) -> Roles {
        let pushes = config.destinations.values().any(|destination| destination.push.is_some());
        Self::ALL.into_iter().filter(|role| *role != Self::Deliver || pushes).collect()
    }

    /// Its name on the command line, in logs and spans.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Work => "work",
            Self::Resequence => "resequence",
            Self::Deliver => "deliver",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("there is no role \"{text}\"; there are ingress, work, resequence and deliver"))
    }
}

/// The roles that one process runs.
pub type Roles = BTreeSet<Role>;
