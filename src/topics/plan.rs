//! What topics have to be like in Kafka, and what is wrong with those that are there.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Partitions, Topics};
use crate::log::{Cleanup, Topic, TopicShape};

/// What every record may have beside a message's body, in bytes: key, headers, the error of a dead letter.
pub(crate) const BESIDE_THE_BODY: u64 = 256 << 10;

/// What every topic takes at least; a cursor needs it.
const LEAST_MESSAGE: u64 = 1 << 20;

/// What the configuration says about records.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// How long they are kept.
    pub retention: Duration,
    /// How many bytes of each partition are kept; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// The largest message's body.
    pub max_body: u64,
}

/// A topic as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub topic: Topic,
    /// Partitions and cleanup.
    pub shape: TopicShape,
    /// What its number of partitions follows.
    pub follows: Partitions,
    /// Settings, by Kafka's names, for its creation.
    pub settings: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many partitions it has.
    pub partitions: u32,
    /// Copies of each partition, of the one that has fewest.
    pub replicas: u32,
    /// Its settings, by Kafka's names, the broker's defaults included.
    pub settings: BTreeMap<String, String>,
}

/// Something about a topic that is otherwise than it has to be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Whether the pipeline refuses to run on it.
    pub refused: bool,
    /// What is so, why it matters and what to do.
    pub reason: String,
}

impl Topics {
    /// What each topic has to be like in Kafka, in the order of [`Topics::all`].
    #[must_use]
    pub fn wanted(&self, keeping: &Keeping) -> Vec<Wanted> {
        let shapes = self.shapes().into_iter().zip(self.all());
        let wanted =
            |((topic, shape), (_, _, description)): ((Topic, TopicShape), (String, &Topic, &super::Description))| {
                let mut settings = settings(&shape, keeping);
                for (name, value) in &description.creation {
                    settings.insert(name.clone(), value.clone());
                }
                // The data files know what a cursor needs, the configuration what a message does.
                settings.insert("max.message.bytes".to_owned(), max_message(keeping.max_body).to_string());
                Wanted { topic, shape, follows: description.partitions, settings }
            };
        shapes.map(wanted).collect()
    }
}

/// The largest record that topics have to take, in bytes, where messages have bodies up to `max_body`.
#[must_use]
pub const fn max_message(max_body: u64) -> u64 {
    let largest = max_body.saturating_add(BESIDE_THE_BODY);
    if largest < LEAST_MESSAGE { LEAST_MESSAGE } else { largest }
}

fn settings(shape: &TopicShape, keeping: &Keeping) -> BTreeMap<String, String> {
    let retention = keeping.retention.as_millis().to_string();
    let bytes = keeping.retention_bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
    let (policy, retention, bytes) = match shape.cleanup {
        Cleanup::Delete => ("delete", retention, bytes),
        Cleanup::Keep => ("delete", "-1".to_owned(), "-1".to_owned()),
        Cleanup::Compact => ("compact", "-1".to_owned(), "-1".to_owned()),
    };
    [
        ("cleanup.policy", policy.to_owned()),
        ("retention.ms", retention),
        ("retention.bytes", bytes),
        // The brokers' clock stamps records, whoever writes them: retention and overdue clocks rely on it.
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("unclean.leader.election.enable", "false".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// All that is otherwise with a topic, what is refused first.
#[must_use]
pub fn differences(wanted: &Wanted, found: &Found) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut refuse = |reason: String| differences.push(Difference { refused: true, reason });
    if found.partitions != wanted.shape.partitions {
        refuse(other_partitions(wanted.follows, wanted.shape.partitions, found.partitions));
    }
    cleanup(wanted, found, &mut refuse);
    let least = number(&wanted.settings, "max.message.bytes").unwrap_or(0);
    if let Some(max) = number(&found.settings, "max.message.bytes").filter(|max| *max < least) {
        refuse(format!("max.message.bytes is {max}, but the largest record may have {least} bytes: raise it"));
    }
    if found.settings.get("unclean.leader.election.enable").is_some_and(|value| value == "true") {
        refuse("unclean.leader.election.enable is true, which loses acknowledged records: set it to false".to_owned());
    }
    let mut tell = |reason: String| differences.push(Difference { refused: false, reason });
    if found.settings.get("message.timestamp.type").is_some_and(|value| value != "LogAppendTime") {
        tell(
            "message.timestamp.type is not LogAppendTime: a client with a wrong clock decides what is kept".to_owned(),
        );
    }
    let (replicas, in_sync) = (u64::from(found.replicas), number(&found.settings, "min.insync.replicas").unwrap_or(1));
    if replicas < 2 {
        tell("there is one copy of each record: whatever happens to its broker's disk happens to it".to_owned());
    } else if in_sync < 2 {
        tell("min.insync.replicas is 1: what one broker alone has acknowledged can be lost with it".to_owned());
    }
    if in_sync > replicas {
        differences.push(Difference {
            refused: true,
            reason: format!("min.insync.replicas is {in_sync} of {replicas} copies: nothing can be written"),
        });
    }
    differences.sort_by_key(|difference| !difference.refused);
    differences
}

/// What to say of a topic with another number of partitions than it has to have.
#[must_use]
pub fn other_partitions(follows: Partitions, wanted: u32, found: u32) -> String {
    let why = why_fixed(follows);
    let what = format!("it has {found} partitions, not {wanted}: the number is fixed at creation, because {why}");
    if found < wanted {
        return format!("{what}; keep the old number in the configuration, or drain and go on under a new name");
    }
    let or = match follows {
        Partitions::Lanes => {
            format!(", or give each topic of lanes {found} and set log.partitions, at the price of those keys' order")
        }
        Partitions::Control | Partitions::Work => String::new(),
    };
    format!(
        "{what}; put {found} back where the configuration was changed; partitions that were added to the topic cannot \
         be taken away, and what is in them is not read: drain the processes that still run and go on under a new \
         name{or}"
    )
}

/// What would go wrong with another number of partitions.
const fn why_fixed(follows: Partitions) -> &'static str {
    match follows {
        Partitions::Lanes => "keys would change lanes",
        Partitions::Control => "lanes would change owners, whose cursors they are in",
        Partitions::Work => "its readers and its writer would count on different ones",
    }
}

/// What is removed that would have to stay.
fn cleanup(wanted: &Wanted, found: &Found, refuse: &mut impl FnMut(String)) {
    let policy = found.settings.get("cleanup.policy").map_or("delete", String::as_str);
    let (compacts, deletes) = (policy.contains("compact"), policy.contains("delete"));
    match wanted.shape.cleanup {
        Cleanup::Compact if !compacts || deletes => refuse(format!(
            "cleanup.policy is {policy}, not compact: the last cursor would be removed by age, and with it all state"
        )),
        Cleanup::Delete | Cleanup::Keep if compacts => refuse(format!(
            "cleanup.policy is {policy}: compaction removes records that nobody has worked on yet; set it to delete"
        )),
        Cleanup::Compact | Cleanup::Delete | Cleanup::Keep => {}
    }
    if wanted.shape.cleanup == Cleanup::Compact {
        return;
    }
    for name in ["retention.ms", "retention.bytes"] {
        let (least, kept) = (signed(&wanted.settings, name), signed(&found.settings, name));
        let is_less = match (least, kept) {
            (_, None | Some(..0)) => false,
            (Some(0..), Some(kept)) => Some(kept) < least,
            (Some(..0) | None, Some(_)) => true,
        };
        if is_less {
            refuse(format!(
                "{name} is {}, but {} is what has to be kept: records could go before they are done with",
                kept.unwrap_or_default(),
                least.filter(|least| *least >= 0).map_or_else(|| "everything".to_owned(), |least| least.to_string()),
            ));
        }
    }
}

fn number(settings: &BTreeMap<String, String>, name: &str) -> Option<u64> {
    settings.get(name)?.parse().ok()
}

fn signed(settings: &BTreeMap<String, String>, name: &str) -> Option<i64> {
    settings.get(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(topic: &str) -> Wanted {
        let topics = Topics::derive("t", &["default"], 2, 1);
        let keeping = Keeping { retention: Duration::from_secs(60), retention_bytes: None, max_body: 1 << 20 };
        let all = topics.wanted(&keeping);
        all.into_iter().find(|wanted| wanted.topic.as_str() == topic).expect("it is one of them")
    }

    /// As it was created on three brokers.
    fn right(wanted: &Wanted) -> Found {
        Found { partitions: wanted.shape.partitions, replicas: 3, settings: wanted.settings.clone() }
    }

    /// What is said about a topic of which one setting was changed.
    fn with(topic: &str, name: &str, value: &str) -> Vec<(bool, String)> {
        let wanted = wanted(topic);
        let mut found = right(&wanted);
        found.settings.insert(name.to_owned(), value.to_owned());
        differences(&wanted, &found).into_iter().map(|d| (d.refused, d.reason)).collect()
    }

    #[test]
    fn what_was_created_is_right() {
        for topic in ["t.input", "t.results", "t.control", "t.cursors.resequence", "t.output"] {
            let wanted = wanted(topic);
            assert_eq!(differences(&wanted, &right(&wanted)), [], "{topic}");
        }
    }

    #[test]
    fn what_would_lose_records_or_break_their_order_is_refused() {
        for (topic, name, value) in [
            ("t.results", "cleanup.policy", "compact"),
            ("t.input", "cleanup.policy", "compact,delete"),
            ("t.cursors.resequence", "cleanup.policy", "delete"),
            ("t.cursors.deliver", "cleanup.policy", "compact,delete"),
            ("t.input", "retention.ms", "59999"),
            ("t.input", "retention.bytes", "1000000"),
            ("t.control", "retention.ms", "604800000"),
            ("t.input", "max.message.bytes", "1048588"),
            ("t.output", "unclean.leader.election.enable", "true"),
            ("t.input", "min.insync.replicas", "4"),
        ] {
            let found = with(topic, name, value);
            let [(true, reason)] = found.as_slice() else { panic!("{topic} {name}={value}: {found:?}") };
            assert!(reason.contains(name), "{reason}");
        }
        let wanted = wanted("t.input");
        let found = Found { partitions: 3, ..right(&wanted) };
        assert!(differences(&wanted, &found)[0].reason.starts_with("it has 3 partitions, not 2"));
        assert!(differences(&wanted, &found)[0].reason.contains("keys would change lanes"));
        assert!(differences(&wanted, &found)[0].reason.contains("cannot be taken away"));
        let found = Found { partitions: 1, ..right(&wanted) };
        assert!(differences(&wanted, &found)[0].reason.contains("keep the old number"));
        let control = self::wanted("t.control");
        let found = Found { partitions: 2, ..right(&control) };
        assert!(differences(&control, &found)[0].reason.contains("lanes would change owners"));
    }

    #[test]
    fn what_is_merely_unwise_is_told() {
        assert!(!with("t.input", "message.timestamp.type", "CreateTime")[0].0);
        assert!(!with("t.input", "min.insync.replicas", "1")[0].0);
        assert_eq!(with("t.input", "retention.ms", "60001"), []);
        assert_eq!(with("t.input", "retention.ms", "-1"), []);
        assert_eq!(with("t.cursors.resequence", "retention.ms", "5"), [], "compaction alone removes");
    }
}
