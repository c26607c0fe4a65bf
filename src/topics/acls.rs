//! The least that each role has to be allowed in Kafka, from what the data files say of who writes
//! and reads.

use super::Topics;

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Acl {
    /// Who needs it: a role, or whoever sends and reads from outside.
    pub role: &'static str,
    /// `topic`, `group`, `transactional-id` or `cluster`.
    pub resource: &'static str,
    /// Which.
    pub name: String,
    /// The operations, by Kafka's names.
    pub operations: &'static [&'static str],
}

const ROLES: [&str; 4] = ["ingress", "work", "resequence", "deliver"];

/// Whoever creates topics, and looks what they are like.
const APPLY: &str = "topics apply";

/// What Kafka calls its only cluster.
const CLUSTER: &str = "kafka-cluster";

/// The group that readers name, and none is a member of.
const READER: &str = "seriatim-reader";

impl Topics {
    /// What each role of the pipeline of this name needs, by role.
    #[must_use]
    pub fn acls(&self, name: &str) -> Vec<Acl> {
        let mut acls = Vec::new();
        for role in ROLES {
            self.of_role(role, &mut acls);
            if role != "ingress" {
                let group = format!("{name}.{role}");
                acls.push(Acl { role, resource: "group", name: group.clone(), operations: &["Read"] });
                for control in (0..self.control_partitions).filter(|_| role != "work") {
                    let name = format!("{group}.{control}");
                    acls.push(Acl { role, resource: "transactional-id", name, operations: &["Describe", "Write"] });
                }
            }
            // librdkafka asks where the group is even for partitions that are assigned by hand.
            acls.push(Acl { role, resource: "group", name: READER.to_owned(), operations: &["Describe"] });
        }
        self.of_apply(&mut acls);
        acls
    }

    /// It asks a broker how many copies there will be, and the resequencers' cursors what they count on.
    fn of_apply(&self, acls: &mut Vec<Acl>) {
        let mut allow = |resource, name: &str, operations| {
            acls.push(Acl { role: APPLY, resource, name: name.to_owned(), operations });
        };
        for (_, topic, _) in self.all() {
            let operations: &'static [&'static str] = if *topic == self.cursors_resequence {
                &["Create", "Describe", "DescribeConfigs", "Read"]
            } else {
                &["Create", "Describe", "DescribeConfigs"]
            };
            allow("topic", topic.as_str(), operations);
        }
        allow("cluster", CLUSTER, &["DescribeConfigs"]);
        allow("group", READER, &["Describe"]);
    }

    fn of_role(&self, role: &'static str, acls: &mut Vec<Acl>) {
        for (_, topic, description) in self.all() {
            // The admin port of any process answers from the logs, and takes operators' verbs.
            let is_role = |who: &str| who.strip_prefix(role).is_some_and(|why| why.is_empty() || why.starts_with(" ("));
            let does = |who: &[String]| who.iter().any(|who| is_role(who) || who.contains("any process"));
            let operations: &'static [&'static str] = match (does(&description.producers), reads(description, role)) {
                (true, _) => &["Describe", "DescribeConfigs", "Read", "Write"],
                (false, true) => &["Describe", "DescribeConfigs", "Read"],
                (false, false) => &["Describe", "DescribeConfigs"],
            };
            acls.push(Acl { role, resource: "topic", name: topic.to_string(), operations });
        }
    }
}

/// Any process answers questions about lanes, outputs and the ledger, so it reads all but what is
/// passed on to workers alone.
fn reads(description: &super::Description, role: &str) -> bool {
    description.name != "work" || description.consumers.iter().any(|who| who == role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(role: &str, resource: &str, name: &str) -> Vec<&'static str> {
        let acls = Topics::derive("t", &["default"], 2, 2).acls("t");
        let found = acls.iter().filter(|acl| (acl.role, acl.resource, acl.name.as_str()) == (role, resource, name));
        found.flat_map(|acl| acl.operations).copied().collect()
    }

    #[test]
    fn who_writes_may_write_and_nobody_else() {
        assert!(operations("ingress", "topic", "t.input").contains(&"Write"));
        assert!(!operations("work", "topic", "t.input").contains(&"Write"));
        assert!(operations("work", "topic", "t.input").contains(&"Read"));
        assert!(operations("resequence", "topic", "t.output").contains(&"Write"));
        assert!(!operations("deliver", "topic", "t.output").contains(&"Write"));
        for topic in ["t.input", "t.results", "t.dead-letter"] {
            assert!(operations("resequence", "topic", topic).contains(&"Write"), "{topic}");
        }
        assert!(operations("deliver", "topic", "t.dead-letter").contains(&"Write"));
        assert!(operations("deliver", "topic", "t.cursors.deliver").contains(&"Write"));
    }

    #[test]
    fn who_creates_topics_may_ask_how_many_copies_there_will_be() {
        assert_eq!(operations("topics apply", "cluster", "kafka-cluster"), ["DescribeConfigs"]);
        assert_eq!(operations("resequence", "cluster", "kafka-cluster"), Vec::<&str>::new());
        assert!(!operations("topics apply", "topic", "t.input").contains(&"Read"));
    }

    #[test]
    fn owners_may_use_their_transactional_ids() {
        for id in ["t.resequence.0", "t.resequence.1"] {
            assert_eq!(operations("resequence", "transactional-id", id), ["Describe", "Write"]);
        }
        assert_eq!(operations("work", "transactional-id", "t.work.0"), Vec::<&str>::new());
        assert_eq!(operations("work", "group", "t.work"), ["Read"]);
    }
}
