//! The configured destinations, numbered, so that a record's are bits of a mask.

use std::collections::BTreeMap;

use crate::log::Topic;
use crate::order::MAX_PARTS;
use crate::record::destinations as names_in;

/// The most destinations that one pipeline has, because a record's are bits of a [`Mask`].
pub const MOST_DESTINATIONS: usize = Mask::BITS as usize;

/// The most that one message may name: with order by destination it has a part for each.
pub const MOST_NAMED: usize = MAX_PARTS;

/// A record's destinations: a bit for each, by its number.
pub type Mask = u128;

/// The destinations by number, in the order of their names.
#[derive(Clone, Debug)]
pub struct Destinations {
    list: Vec<(String, Topic)>,
}

/// Names that do not say where to go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownDestination {
    /// A name that no destination has.
    #[error("there is no destination `{name}`; there are: {known}")]
    Name {
        /// The first part of it.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// More than a message may name.
    #[error("{0} destinations are named, {MOST_NAMED} at most are allowed")]
    TooMany(u32),
}

impl Destinations {
    /// Numbers the destinations.
    ///
    /// # Panics
    ///
    /// If there are more than [`MOST_DESTINATIONS`], which the configuration refuses.
    #[must_use]
    pub fn new(destinations: &BTreeMap<String, Topic>) -> Self {
        assert!(destinations.len() <= MOST_DESTINATIONS, "the configuration refuses more destinations");
        Self { list: destinations.iter().map(|(name, topic)| (name.clone(), topic.clone())).collect() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The name of a destination.
    pub(super) fn name(&self, number: usize) -> &str {
        &self.list[number].0
    }

    /// The topic of a destination.
    pub(super) fn topic(&self, number: usize) -> &Topic {
        &self.list[number].1
    }

    /// The mask of the destinations that a header names; of `default` where there is no header.
    pub(super) fn mask(&self, header: Option<&[u8]>) -> Result<Mask, UnknownDestination> {
        let Some(header) = header else { return self.bit("default") };
        let names = String::from_utf8_lossy(header);
        let mut mask: Mask = 0;
        for name in names_in(&names) {
            mask |= self.bit(name)?;
        }
        match mask.count_ones() {
            0 => self.bit("default"),
            count if count as usize > MOST_NAMED => Err(UnknownDestination::TooMany(count)),
            _ => Ok(mask),
        }
    }

    /// The mask of one destination.
    pub(super) fn bit(&self, name: &str) -> Result<Mask, UnknownDestination> {
        match self.list.binary_search_by(|(n, _)| n.as_str().cmp(name)) {
            Ok(number) => Ok(1 << number),
            Err(_) => Err(UnknownDestination::Name {
                name: name.chars().take(100).collect(),
                known: self.list.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
    }
}

/// The numbers in a mask, lowest first.
pub(super) fn numbers(mut mask: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let number = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_may_be_more_than_one_message_may_name() {
        let name = |number| format!("d{number:03}");
        let map = (0..MOST_DESTINATIONS).map(|number| (name(number), Topic::from(name(number)))).collect();
        let destinations = Destinations::new(&map);
        let named = |count: usize| {
            let header: Vec<String> = (0..count).map(|number| name(MOST_DESTINATIONS - 1 - number)).collect();
            destinations.mask(Some(header.join(", ").as_bytes())).map(|mask| numbers(mask).count())
        };
        assert_eq!(named(MOST_NAMED), Ok(MOST_NAMED));
        assert_eq!(named(MOST_NAMED + 1), Err(UnknownDestination::TooMany(65)));
    }

    #[test]
    fn headers_name_destinations_or_leave_the_default() {
        let map = ["b", "default", "a"].map(|n| (n.to_owned(), Topic::from(n))).into();
        let destinations = Destinations::new(&map);
        let mask =
            |header| destinations.mask(header).map(|m| numbers(m).map(|n| destinations.name(n)).collect::<Vec<_>>());
        assert_eq!(mask(None), Ok(vec!["default"]));
        assert_eq!(mask(Some(b" , ")), Ok(vec!["default"]));
        assert_eq!(mask(Some(b"b, a")), Ok(vec!["a", "b"]));
        let error = mask(Some(b"a, c")).expect_err("c is unknown");
        assert_eq!(error.to_string(), "there is no destination `c`; there are: a, b, default");
    }
}
