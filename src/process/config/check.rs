//! What values have to agree on among each other.

use std::collections::BTreeMap;

use crate::log::kafka::{self, Refusal};
use crate::resequence::MOST_DESTINATIONS;

use super::{Address, Config, Log, Order, Problem, Retry, Work};
use crate::framing::Framing;

/// The most lanes times destinations that one control partition may have. Its whole state is one
/// record of at most 512 KiB, of which a lane and each of its destinations take some 100 bytes
/// even where nothing is released above the frontier; the rest is for what is.
const LANES_TIMES_DESTINATIONS_MAX: u64 = 2048;

/// The least of a disk that is kept free. A quarter of it is what commits leave: it has to hold what
/// a busy topic gathers in memory before that is written out.
const LEAST_RESERVE: u64 = 32 << 20;

/// The least that the embedded log is to be given: its store writes journals of 64 MiB, of which it takes
/// all at once, and begins the next before the last has gone.
const LEAST_DISK: u64 = 128 << 20;

/// All that does not fit together.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    log(&config.log, config.destinations.len() as u64, &mut found);
    work(&config.work, &mut found);
    order(&config.order, config.ingress.max_body.get(), &mut found);
    batch(config, &mut found);
    destinations(config, &mut found);
    topics(config, &mut found);
    ports(config, &mut found);
    found
}

/// The longest media type and name of a principal that are given to each message of a port.
const LONGEST_TEXT: usize = 255;

fn ports(config: &Config, found: &mut Vec<Problem>) {
    let fixed = |address: &Address| !address.as_str().ends_with(":0");
    if config.admin.listen == config.ingress.http && fixed(&config.admin.listen) {
        found.push(Problem::at("admin.listen", "is the address of ingress.http, too; give one of them another port"));
    }
    let mut taken = vec![("ingress.http", &config.ingress.http), ("admin.listen", &config.admin.listen)];
    for port in &config.ingress.tcp {
        let mut wrong = |reason: String| found.push(Problem::at("ingress.tcp", format!("{}: {reason}", port.listen)));
        if let Some((other, _)) = taken.iter().find(|(_, address)| **address == port.listen && fixed(address)) {
            wrong(format!("is the address of {other}, too; give one of them another port"));
        }
        taken.push(("another port of ingress.tcp", &port.listen));
        if port.ack.is_some_and(|ack| !ack.fits(port.framing)) {
            let kinds = if port.framing == Framing::Mllp { "none, mllp-commit, hl7" } else { "none, line" };
            wrong(format!("with this framing ack is one of {kinds}"));
        }
        for (key, text) in [("content_type", &port.content_type), ("principal", &port.principal)] {
            let fine = |text: &String| (1..=LONGEST_TEXT).contains(&text.len()) && text.bytes().all(is_plain);
            if !text.as_ref().is_none_or(fine) {
                wrong(format!("{key} has to have 1 to {LONGEST_TEXT} printable ASCII characters"));
            }
        }
    }
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e)
}

fn log(log: &Log, destinations: u64, found: &mut Vec<Problem>) {
    if log.embedded.is_some() && log.kafka.is_some() {
        found.push(Problem::at("log.kafka", "log.embedded is given, too; keep one of them"));
    }
    for Refusal { property, reason } in log.kafka.iter().flat_map(|properties| kafka::refusals(&properties.0)) {
        found.push(Problem::at(format!("log.kafka.{property}"), reason));
    }
    if log.reserve.get() < LEAST_RESERVE {
        let least = bytesize::ByteSize(LEAST_RESERVE);
        let reason = format!("{} is too little to finish what was taken in; give {least} at least", log.reserve);
        found.push(Problem::at("log.reserve", reason));
    }
    if let Some(most) = log.max_disk.filter(|most| most.get() < LEAST_DISK) {
        let least = bytesize::ByteSize(LEAST_DISK);
        let reason = format!("{most} is less than the log's journals take; give {least} at least");
        found.push(Problem::at("log.max_disk", reason));
    }
    let (lanes, owners) = (log.partitions.get(), log.control_partitions.get());
    if owners > lanes {
        let reason = format!("{owners} is more than log.partitions, which is {lanes}; an owner needs a lane to own");
        found.push(Problem::at("log.control_partitions", reason));
    }
    let together = u64::from(lanes.div_ceil(owners)) * (destinations + 1);
    if together > LANES_TIMES_DESTINATIONS_MAX {
        let reason = format!(
            "{lanes} lanes and {destinations} destinations do not fit into the state of {owners} control partitions; \
             raise log.control_partitions, which has to be done before the first start"
        );
        found.push(Problem::at("log.partitions", reason));
    }
}

fn work(work: &Work, found: &mut Vec<Problem>) {
    let given = [
        ("http", work.http.is_some()),
        ("exec", work.exec.is_some()),
        ("jq", work.jq.is_some()),
        ("builtin", work.builtin.is_some()),
    ];
    let names: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    if names.len() > 1 {
        let reason = format!("{} are given, but only one of them can do the work; keep that one", names.join(" and "));
        found.push(Problem::at(format!("work.{}", names[1]), reason));
    }
    if work.exec.as_ref().is_some_and(|exec| exec.command.first().is_none_or(String::is_empty)) {
        let reason = "names no program; write it as in [\"node\", \"worker.js\"]";
        found.push(Problem::at("work.exec.command", reason));
    }
    if work.deadline <= work.timeout {
        let reason = format!(
            "{} is not longer than work.timeout, which is {}; records would be sent out again while being worked on",
            work.deadline, work.timeout
        );
        found.push(Problem::at("work.deadline", reason));
    }
    retry("work.retry", &work.retry, found);
}

fn retry(key: &str, retry: &Retry, found: &mut Vec<Problem>) {
    if retry.cap < retry.backoff {
        let reason = format!("{} is shorter than the backoff of {} that it caps", retry.cap, retry.backoff);
        found.push(Problem::at(format!("{key}.cap"), reason));
    }
}

fn order(order: &Order, max_body: u64, found: &mut Vec<Problem>) {
    if order.memory.get() < max_body {
        let reason = format!("{} cannot hold one message of ingress.max_body, which is {max_body}B", order.memory);
        found.push(Problem::at("order.memory", reason));
    }
}

fn batch(config: &Config, found: &mut Vec<Problem>) {
    match &config.batch.events {
        Some(name) if !config.destinations.contains_key(name) => {
            let reason = format!("there is no destination {name}: give it a section, [destinations.{name}]");
            found.push(Problem::at("batch.events", reason));
        }
        None if config.batch.item_events => {
            found.push(Problem::at("batch.item_events", "there is nobody to get them: name one in batch.events"));
        }
        _ => {}
    }
}

fn destinations(config: &Config, found: &mut Vec<Problem>) {
    let count = config.destinations.len();
    if count > MOST_DESTINATIONS {
        let reason = format!("{count} are given, {MOST_DESTINATIONS} at most, `default` included");
        found.push(Problem::at("destinations", reason));
    }
    for (name, destination) in &config.destinations {
        let Some(push) = &destination.push else { continue };
        let push_key = format!("destinations.{name}.push");
        match (&push.http, &push.tcp) {
            (None, None) => found.push(Problem::at(push_key, "names no receiver: give http or tcp")),
            (Some(_), Some(_)) => found.push(Problem::at(push_key, "http and tcp are given, but it is one receiver")),
            _ => {}
        }
        if push.tcp.as_ref().is_some_and(|tcp| !tcp.tls && !tcp.allow_private) {
            let reason = "plain TCP is for receivers in your own network: set tls = true, or allow_private = true";
            found.push(Problem::at(format!("destinations.{name}.push.tcp.address"), reason));
        }
        if push.http.as_ref().is_some_and(|http| http.url.as_str().starts_with("http:") && !http.allow_private) {
            let reason = "plain http is for receivers in your own network: use https, or set allow_private = true";
            found.push(Problem::at(format!("destinations.{name}.push.http.url"), reason));
        }
        if push.retry.cap < push.retry.backoff {
            let reason =
                format!("{} is shorter than the backoff of {} that it caps", push.retry.cap, push.retry.backoff);
            found.push(Problem::at(format!("destinations.{name}.push.retry.cap"), reason));
        }
    }
}

/// Two roles of one topic would mix what must stay apart, two destinations on one their sequences.
fn topics(config: &Config, found: &mut Vec<Problem>) {
    let mut taken = BTreeMap::new();
    let topics = config.topics();
    for (key, topic, _) in topics.all() {
        if let Some(other) = taken.insert(topic.clone(), key.clone()) {
            let reason = format!("topic {topic} is that of {other} already; each needs its own");
            found.push(Problem::at(key, reason));
        }
    }
}
