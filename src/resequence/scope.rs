//! The order scope: which records have to leave in order among themselves.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::order::Group;
use crate::record::batches::EventType;
use crate::record::{EventMark, Name, RecordRef, destinations, group_hash};

use super::destinations::{MOST_NAMED, Mask, numbers};

/// Which sequence group a record belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// The whole lane is one group.
    #[default]
    Lane,
    /// One group for each destination that the message names; a record has a part in each.
    Destination,
    /// One group for each key. Messages without a key share one.
    Key,
    /// One group for each value of this header. Messages without it share one.
    Header(String),
    /// Each record is a group of its own.
    None,
}

impl Scope {
    /// Puts the groups of a record into `groups`; none where it is one of its own. Its destinations are
    /// bits of `mask`; there are none where it names an unknown one.
    pub(super) fn groups(&self, record: &RecordRef<'_>, mask: Mask, groups: &mut Vec<Group>) {
        groups.clear();
        match self {
            Self::Lane => groups.push(Group(0)),
            Self::None => {}
            Self::Destination if mask == 0 => named_groups(record, groups),
            Self::Destination => groups.extend(numbers(mask).map(|number| Group(number as u64))),
            Self::Key => groups.push(group_of(record.key)),
            Self::Header(name) => {
                let values = record.headers.iter().filter(|(n, _)| *n == name.as_bytes());
                groups.push(group_of(values.map(|(_, value)| value).last()));
            }
        }
    }
}

/// The groups of a batch's item: that of its key, which the items of an ordered batch share, else
/// none, so that it stands alone.
pub(super) fn item_groups(record: &RecordRef<'_>, groups: &mut Vec<Group>) {
    groups.clear();
    groups.extend(record.key.map(|key| group_of(Some(&[b"seriatim-batch:", key].concat()))));
}

/// The groups of a batch's event: that of the items of an ordered batch, so that it comes after
/// their outputs; none where it has to be told at once.
pub(super) fn event_groups(event: &EventMark<'_>, record: &RecordRef<'_>, groups: &mut Vec<Group>) {
    groups.clear();
    if EventType::is_in_order(event.kind) {
        item_groups(record, groups);
    }
}

/// The groups of a record that names an unknown destination: one for each name, in the order of
/// the names, as for those that are known. So a part that has left stays that part, whatever
/// destinations the configuration has lost or regained since.
fn named_groups(record: &RecordRef<'_>, groups: &mut Vec<Group>) {
    let header = String::from_utf8_lossy(record.headers.get(Name::Destination).unwrap_or_default()).into_owned();
    let names: BTreeSet<&str> = destinations(&header).collect();
    groups.extend(names.into_iter().take(MOST_NAMED).map(|name| group_of(Some(name.as_bytes()))));
}

fn group_of(name: Option<&[u8]>) -> Group {
    Group(group_hash(name))
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lane => f.write_str("lane"),
            Self::Destination => f.write_str("destination"),
            Self::Key => f.write_str("key"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lane" => Ok(Self::Lane),
            "destination" => Ok(Self::Destination),
            "key" => Ok(Self::Key),
            "none" => Ok(Self::None),
            _ => match text.strip_prefix("header:") {
                Some(name) if !name.is_empty() => Ok(Self::Header(name.to_owned())),
                _ => Err(format!("`{text}` is no order: use lane, destination, key, header:NAME or none")),
            },
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_round_trip_as_text() {
        for text in ["lane", "destination", "key", "none", "header:tenant"] {
            assert_eq!(text.parse::<Scope>().map(|s| s.to_string()), Ok(text.to_owned()));
        }
        assert!("header:".parse::<Scope>().is_err());
        assert!("partition".parse::<Scope>().is_err());
    }

    #[test]
    fn an_absent_name_is_not_an_empty_one() {
        assert_ne!(group_of(None), group_of(Some(b"")));
        assert_ne!(group_of(Some(b"a")), group_of(Some(b"b")));
    }
}
