//! What a user may do who has the rights of `topics plan --acls`, and what is told to one who lacks some of them. Names
//! begin with the row of docs/faults.md.

#![allow(clippy::disallowed_methods, reason = "real processes take real time, outside of any runtime")]

#[path = "support/kafka.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod kafka;
#[path = "support/kafka/rig.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod rig;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rig::{Process, Rig, call, wait_for};

/// Everything that is waited for comes before.
const PATIENCE: Duration = Duration::from_secs(90);

/// Brokers that let the user of a pipeline do what was granted, and nothing else.
struct Confined {
    rig: Rig,
    acls: String,
}

impl Confined {
    fn start(brokers: &str) -> Self {
        let rig = Rig::bare(&["--brokers", brokers, "--secure", "--authorize"]);
        let (code, acls) = rig.verb(&["topics", "plan", "--acls"], &[]);
        assert_eq!(code, Some(0), "{acls}");
        Self { rig, acls }
    }

    /// The lines for these roles.
    fn lines(&self, roles: &[&str]) -> Vec<&str> {
        self.acls.lines().filter(|line| roles.iter().any(|role| line.starts_with(role))).collect()
    }

    /// `grant` or `revoke`.
    fn order(&self, command: &str, lines: &[&str]) {
        let file = self.rig.write("rights", &lines.join("\n"));
        self.rig.cluster.order(command, file.to_str().expect("temporary folders are text"));
    }

    /// What was granted takes its time to come to all brokers.
    fn until(&self, arguments: &[&str], is_so: impl Fn(Option<i32>, &str) -> bool) -> String {
        let (mut code, mut text) = (None, String::new());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            (code, text) = self.verb(arguments);
            if is_so(code, &text) {
                return text;
            }
        }
        panic!("{arguments:?} ends with {code:?}: {text}")
    }

    fn verb(&self, arguments: &[&str]) -> (Option<i32>, String) {
        call(&self.rig.config_by("confined", &self.properties(), ""), arguments, &[])
    }

    fn run(&self, name: &str, roles: &str) -> Process {
        self.rig.run_by(name, roles, &self.rig.config_by(name, &self.properties(), ""))
    }

    fn properties(&self) -> BTreeMap<String, String> {
        let mut properties = self.rig.cluster.properties();
        properties.insert("sasl.mechanism".to_owned(), "PLAIN".to_owned());
        properties.insert("sasl.username".to_owned(), "confined".to_owned());
        properties
    }
}

const ROLES: &[&str] = &["ingress", "work", "resequence", "deliver"];

#[test]
fn f31_topics_that_the_rights_which_are_listed_suffice_for_are_as_safe_as_any() {
    let confined = Confined::start("3");
    let all = confined.lines(&["topics apply"]);
    let (of_cluster, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|line| line.contains("kafka-cluster"));
    confined.order("grant", &others);
    let text = confined.until(&["topics", "apply"], |_, text| text.contains("DescribeConfigs"));
    assert!(text.contains("DescribeConfigs on the cluster") && text.contains("topics plan --acls"), "{text}");
    let (_, text) = confined.rig.verb(&["topics", "plan"], &[]);
    assert!(text.contains(" missing: "), "none was created without it: {text}");

    confined.order("grant", &of_cluster);
    let text = confined.until(&["topics", "apply"], |code, _| code == Some(0));
    assert!(!text.contains("min.insync.replicas"), "{text}");
    let (code, text) = confined.rig.verb(&["topics", "plan"], &[]);
    assert!(code == Some(0) && !text.contains("min.insync.replicas"), "{text}");
}

#[test]
fn f31_settings_that_may_not_be_looked_at_are_not_taken_for_right() {
    let confined = Confined::start("1");
    confined.rig.create_topics();
    let all = confined.lines(ROLES);
    let fewer: Vec<_> = all.iter().map(|line| line.replace(", DescribeConfigs", "")).collect();
    confined.order("grant", &fewer.iter().map(String::as_str).collect::<Vec<_>>());
    let is_told = |text: &str| text.contains("t.input") && text.contains("DescribeConfigs on the topic");
    for verb in [&["topics", "plan"][..], &["check"]] {
        let text = confined.until(verb, |_, text| text.contains("DescribeConfigs"));
        assert!(is_told(&text) && text.contains("`seriatim topics plan --acls`"), "{text}");
        assert!(!text.contains("cleanup.policy"), "{text}");
    }
    let refused = confined.run("refused", "resequence");
    wait_for(PATIENCE, || is_told(&refused.said()).then_some(()), || refused.said());

    confined.order("grant", &all);
    confined.until(&["check"], |code, _| code == Some(0));
    let process = confined.run("all", "ingress,work,resequence,deliver").ready();
    let port = process.address("the data port");
    let file = confined.rig.write("messages.ndjson", "[0]\n[1]\n");
    let path = file.to_str().expect("temporary folders are text");
    let (code, text) = confined.rig.verb(&["send", "--key", "a", path], &[("SERIATIM_INGRESS__HTTP", &port)]);
    assert_eq!(code, Some(0), "{text}");
    let url = format!("http://{}", process.address("the admin port"));
    let have_left = || {
        let (_, text) = confined.rig.verb(&["why", "--url", &url], &[]);
        (text.matches("everything that came in has left").count() == 2).then_some(())
    };
    wait_for(PATIENCE, have_left, || process.said());

    // Whoever creates topics may read what cursors count on, without the roles' rights.
    process.terminate();
    confined.order("revoke", &all);
    confined.order("grant", &confined.lines(&["topics apply"]));
    confined.rig.delete("input");
    confined.until(&["topics", "plan"], |code, text| code == Some(4) && text.contains("cursors count on it"));
}
