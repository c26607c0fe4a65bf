//! How each kind of client is configured, and where librdkafka's own words go.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaConfRes;

use super::fetcher::Pace;
use super::lines::log_line;
use super::native::{Consumer, Polled, Producer};
use crate::log::Error;

/// Properties that decide what the engine promises; a config that sets one is refused.
pub(super) const FIXED: &[&str] = &[
    "acks",
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    // A member that dies would keep what it holds for a whole session; two with one id would fence each other.
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "partition.assignment.strategy",
    "request.required.acks",
    "transactional.id",
];

/// For every client; the config may say otherwise.
const COMMON: &[(&str, &str)] = &[
    ("client.id", "seriatim"),
    // Noticed within a session, so that a frozen broker does not cost an ownership.
    ("socket.timeout.ms", "10000"),
    ("socket.nagle.disable", "true"),
    ("allow.auto.create.topics", "false"),
    // A broker that was away is tried again soon: take-overs wait for it.
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
];

/// The properties that the configuration gives.
#[derive(Clone, Debug)]
pub(super) struct Properties(pub(super) BTreeMap<String, String>);

impl Properties {
    /// Defaults, then what the configuration says, then what has to be.
    fn client(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Warning);
        for (key, value) in COMMON.iter().chain(defaults) {
            config.set(*key, *value);
        }
        for (key, value) in &self.0 {
            config.set(key, value);
        }
        for (key, value) in fixed {
            config.set(*key, *value);
        }
        config
    }

    /// Whether each kind of client takes them together: librdkafka compares some of them (`delivery.timeout.ms` with
    /// `transaction.timeout.ms`, for instance) and opens files only as it makes a client. These know no broker to
    /// connect to. Blocks for milliseconds.
    pub(super) fn agree(&self) -> Result<(), Error> {
        let mut alone = self.clone();
        alone.0.remove(super::SERVERS);
        alone.reading(Pace::Lookup)?;
        alone.joining("seriatim", "seriatim", super::OWN_ASSIGNOR)?;
        alone.appending()?;
        alone.committing("seriatim").map(drop)
    }

    /// For questions: metadata, where partitions end. Never reads.
    pub(super) fn asking(&self, isolation: &str) -> Result<Consumer, Error> {
        // Of a topic that it neither reads nor writes, librdkafka forgets a dead leader only with age.
        let defaults = [("metadata.max.age.ms", "1000")];
        let config = self.client(&defaults, &[("isolation.level", isolation), ("enable.auto.commit", "false")]);
        config.create_with_context(Context).map_err(|e| refused(&e))
    }

    /// For creating topics and looking at their settings.
    pub(super) fn administering(&self) -> Result<rdkafka::admin::AdminClient<Context>, Error> {
        use rdkafka::config::FromClientConfigAndContext as _;
        let config = self.client(&[], &[]);
        rdkafka::admin::AdminClient::from_config_and_context(&config, Context).map_err(|e| refused(&e))
    }

    /// For reading committed records of partitions that are assigned by hand.
    pub(super) fn reading(&self, pace: Pace) -> Result<Polled<Consumer>, Error> {
        let defaults = [
            // A partition that is added waits for the fetch under way, and an end is told after it.
            ("fetch.wait.max.ms", if pace == Pace::Lookup { "2" } else { "50" }),
            ("fetch.queue.backoff.ms", "20"),
            ("fetch.error.backoff.ms", "100"),
            // Of each partition, besides what its reader holds: enough for the time that librdkafka takes to
            // notice that there is less, and with one reply more at most twice what most readers hold.
            ("queued.min.messages", "10000"),
            ("queued.max.messages.kbytes", "1024"),
            ("fetch.max.bytes", "8388608"),
            ("check.crcs", "true"),
        ];
        // librdkafka assigns partitions only within a group; nothing is ever stored for this one.
        let fixed = [
            ("group.id", "seriatim-reader"),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
        ];
        polled(&self.client(&defaults, &fixed))
    }

    /// For a place in a group. What it is assigned is read elsewhere, so it fetches next to nothing.
    pub(super) fn joining(&self, group: &str, member: &str, assignor: &str) -> Result<Polled<Consumer>, Error> {
        let session = crate::log::SESSION_TIMEOUT.as_millis().to_string();
        let defaults = [
            ("session.timeout.ms", session.as_str()),
            ("heartbeat.interval.ms", "1500"),
            // Who does not listen is let go of by this engine; this is for a thread that hangs.
            ("max.poll.interval.ms", "30000"),
            ("queued.min.messages", "1"),
            ("queued.max.messages.kbytes", "64"),
            ("fetch.message.max.bytes", "1024"),
        ];
        let fixed = [
            ("client.id", member),
            ("group.id", group),
            ("group.protocol", "classic"),
            ("partition.assignment.strategy", assignor),
            ("auto.offset.reset", "latest"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
        ];
        polled(&self.client(&defaults, &fixed))
    }

    /// For plain appends.
    pub(super) fn appending(&self) -> Result<Polled<Producer>, Error> {
        let defaults = [
            ("linger.ms", "1"),
            ("delivery.timeout.ms", "30000"),
            // Room is counted by the engine, in bytes and before a batch begins.
            ("queue.buffering.max.messages", "0"),
            ("message.max.bytes", LARGEST),
        ];
        polled(&self.client(&defaults, &[("enable.idempotence", "true")]))
    }

    /// For the atomic commits of one control partition.
    pub(super) fn committing(&self, transactional_id: &str) -> Result<Polled<Producer>, Error> {
        let (retry, longest) = (RETRY.to_string(), LONGEST_TRANSACTION.to_string());
        let defaults = [
            ("linger.ms", "1"),
            ("retry.backoff.ms", retry.as_str()),
            // A zombie's open transaction holds up its partitions' readers for so long at most.
            ("transaction.timeout.ms", longest.as_str()),
            ("delivery.timeout.ms", "8000"),
            ("message.max.bytes", LARGEST),
            ("queue.buffering.max.messages", "0"),
            ("queue.buffering.max.kbytes", "131072"),
        ];
        polled(&self.client(&defaults, &[("transactional.id", transactional_id), ("enable.idempotence", "true")]))
    }

    /// No request of a committing producer is sent a second time before this: librdkafka pauses for
    /// `retry.backoff.ms`, give or take a fifth, and `retry.backoff.max.ms` at most.
    pub(super) fn earliest_retry(&self) -> Duration {
        let millis = |key, default| self.0.get(key).and_then(|given| given.parse().ok()).unwrap_or(default);
        let pause = millis("retry.backoff.ms", RETRY).saturating_mul(4) / 5;
        Duration::from_millis(pause.min(millis("retry.backoff.max.ms", RETRY_MAX)))
    }

    /// The largest record that a producer takes; what a topic takes is the broker's to say.
    pub(super) fn largest_record(&self) -> usize {
        let given = self.0.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        given.unwrap_or(LARGEST.parse().expect("it is a number"))
    }
}

/// The most that `transaction.timeout.ms` may be, and what it is where nobody says otherwise: a zombie's
/// transaction that no claim ends, as it is open elsewhere, holds up readers for so long.
pub(super) const LONGEST_TRANSACTION: u64 = 10_000;

/// What is wrong with one property, whatever the others say.
pub(super) fn objection(property: &str, value: &str) -> Option<String> {
    if FIXED.contains(&property) {
        return Some("decides what is promised and is set by Seriatim: remove it".to_owned());
    }
    // The reasons are librdkafka's, which repeat values of numbers and choices, but no free text.
    match ClientConfig::new().set(property, value).create_native_config() {
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Some("librdkafka has no such property; docs/kafka.md says where they are listed".to_owned())
        }
        Err(KafkaError::ClientConfig(_, reason, ..)) => Some(reason.trim_end().to_owned()),
        Err(other) => Some(other.to_string()),
        Ok(_) if property == "transaction.timeout.ms" && !is_short(value) => Some(format!(
            "{value} is too long, as it is how long a frozen process holds up readers: give {LONGEST_TRANSACTION} at most"
        )),
        Ok(_) => None,
    }
}

/// Whether this is a `transaction.timeout.ms` that may be given.
fn is_short(millis: &str) -> bool {
    millis.parse().is_ok_and(|millis: u64| millis <= LONGEST_TRANSACTION)
}

/// Milliseconds before a committing producer sends a request again: longer than a healthy cluster
/// takes to end a transaction, see [`Properties::earliest_retry`], and short beside a session.
const RETRY: u64 = 250;

/// librdkafka's own bound of the pause, in milliseconds.
const RETRY_MAX: u64 = 1_000;

/// Above any topic's limit that makes sense, so that the topic's own limit is what refuses.
const LARGEST: &str = "67108864";

fn polled<C>(config: &ClientConfig) -> Result<Polled<C>, Error>
where
    C: super::native::Client + rdkafka::config::FromClientConfigAndContext<Context>,
{
    let client = config.create_with_context(Context).map_err(|e| refused(&e))?;
    Polled::new(client).ok_or_else(|| Error::Damaged("librdkafka made a client without a queue".to_owned()))
}

/// A client that cannot be made: its properties are wrong, and only the configuration helps.
fn refused(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, reason, key, _) => Error::Damaged(format!("log.kafka: {key}: {reason}")),
        other => Error::Damaged(format!("log.kafka: {other}")),
    }
}

/// Sends librdkafka's log lines to this process's.
pub(super) struct Context;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level as i32, &format!("{facility} {line}"));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(properties: &[(&str, &str)]) -> Properties {
        let given = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Properties(given.collect())
    }

    #[test]
    fn what_librdkafka_does_not_take_is_said_without_a_broker() {
        for (property, value, expected) in [
            ("no.such", "1", "librdkafka has no such property"),
            ("linger.ms", "abc", "Invalid value"),
            ("linger.ms", "-1", "outside allowed range"),
            ("security.protocol", "tls", "tls"),
            ("request.required.acks", "1", "decides what is promised"),
            ("transaction.timeout.ms", "10001", "10001 is too long"),
            ("sasl.oauthbearer.method", "oidc", "OIDC"),
        ] {
            let reason = objection(property, value).unwrap_or_else(|| panic!("{property}={value} is taken"));
            assert!(reason.contains(expected), "{property}={value}: {reason}");
        }
        assert_eq!(objection("linger.ms", "5"), None);
        assert_eq!(objection("sasl.password", "hush"), None);
    }

    #[test]
    fn what_properties_have_to_agree_on_is_said_without_a_broker() {
        given(&[("bootstrap.servers", "127.0.0.1:1"), ("linger.ms", "5")]).agree().expect("they agree");
        for properties in [
            [("delivery.timeout.ms", "60000"), ("linger.ms", "5")],
            [("session.timeout.ms", "45000"), ("max.poll.interval.ms", "10000")],
            [("message.max.bytes", "100000000"), ("fetch.max.bytes", "1000000")],
            [("sasl.mechanism", "GSSAPI"), ("security.protocol", "SASL_PLAINTEXT")],
            [("ssl.ca.location", "/no/such"), ("security.protocol", "SSL")],
        ] {
            let error = given(&properties).agree().expect_err("they contradict each other").to_string();
            assert!(error.starts_with("log.kafka: "), "{properties:?}: {error}");
        }
    }
}
