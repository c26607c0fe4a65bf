//! Section `order`.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::Size;

/// In which order results leave, and how much may be under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// What has to stay in order among itself.
    pub by: By,
    /// What becomes of a failed record at its turn.
    pub on_failure: OnFailure,
    /// Records admitted and not yet released, per lane.
    pub window: NonZeroU32,
    /// Bytes of finished results held in memory, per process.
    pub memory: Size,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            by: By::default(),
            on_failure: OnFailure::default(),
            // Ten times the default concurrency: enough for one straggler of a thousand times the usual length.
            window: NonZeroU32::new(10_000).expect("10000 is not 0"),
            memory: Size::mebibytes(256),
        }
    }
}

/// What has to stay in order among itself: a sequence group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum By {
    /// All records of a lane.
    #[default]
    Lane,
    /// Those for the same destination.
    Destination,
    /// Those with the same key.
    Key,
    /// Those with the same value of this header, whose name is in lower case.
    Header(String),
    /// Nothing: each record leaves when it is done.
    None,
}

impl TryFrom<String> for By {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(match text.as_str() {
            "lane" => Self::Lane,
            "destination" => Self::Destination,
            "key" => Self::Key,
            "none" => Self::None,
            other => match other.strip_prefix("header:") {
                Some(name) if is_header_name(name) => Self::Header(name.to_lowercase()),
                _ => {
                    let reason = "write \"lane\", \"destination\", \"key\", \"header:NAME\" or \"none\"";
                    return Err(format!("\"{other}\" is no order: {reason}"));
                }
            },
        })
    }
}

/// Whether it is a token in the sense of HTTP, so that clients can send it.
fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

impl From<By> for String {
    fn from(by: By) -> Self {
        match by {
            By::Lane => "lane".to_owned(),
            By::Destination => "destination".to_owned(),
            By::Key => "key".to_owned(),
            By::Header(name) => format!("header:{name}"),
            By::None => "none".to_owned(),
        }
    }
}

/// What becomes of a record that failed, at its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Its group stops there until an operator retries, skips or replaces it.
    #[default]
    Halt,
    /// It goes to the dead-letter topic, and the next one follows.
    DeadLetter,
    /// It is recorded as skipped, and the next one follows.
    Skip,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_round_trip_and_headers_are_lower_case() {
        for text in ["lane", "destination", "key", "none", "header:x-tenant"] {
            let by = By::try_from(text.to_owned()).expect(text);
            assert_eq!(String::from(by), text);
        }
        assert_eq!(By::try_from("header:X-Tenant".to_owned()), Ok(By::Header("x-tenant".to_owned())));
        for bad in ["", "Lane", "header", "header:", "header:a b", "keys"] {
            assert!(By::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
