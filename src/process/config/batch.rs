//! Section `batch`.

use serde::{Deserialize, Serialize};

use super::DestinationName;
use crate::record::batches::StartProcessing;

/// How staggered batches are run where their start does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Items generated and not finished at once, of each batch.
    pub window: Window,
    /// The destination that gets the events of batches as it gets outputs; nobody where it is not given.
    pub events: Option<DestinationName>,
    /// Whether the end of each item is among these events.
    pub item_events: bool,
}

/// A window that a batch may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Window(u32);

impl Window {
    /// The number of items, from 1.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Window {
    /// The pattern's number.
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u32> for Window {
    type Error = String;

    fn try_from(window: u32) -> Result<Self, String> {
        let most = StartProcessing::LARGEST_WINDOW;
        if (1..=most).contains(&window) { Ok(Self(window)) } else { Err(format!("write a window from 1 to {most}")) }
    }
}

impl From<Window> for u32 {
    fn from(window: Window) -> Self {
        window.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_bounds() {
        for window in [0, 10_001] {
            assert_eq!(Window::try_from(window), Err("write a window from 1 to 10000".to_owned()));
        }
        assert_eq!(Window::try_from(10_000).map(Window::get), Ok(10_000));
    }
}
