//! Sections `log` and `topics`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::log::Topic;
use crate::topics::Topics;

use super::{Size, Span, TopicName};

/// Where the log is, and what it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The folder of the embedded log; `seriatim-data` where neither this nor `kafka` is given.
    pub embedded: Option<PathBuf>,
    /// Properties of librdkafka, for a log in Kafka.
    pub kafka: Option<Properties>,
    /// How long records are kept; never less than until they are done with.
    pub retention: Span,
    /// How many bytes of each partition are kept; no limit where it is not given.
    pub retention_bytes: Option<Size>,
    /// How much disk the embedded log may take before messages are refused; what there is, where
    /// it is not given.
    pub max_disk: Option<Size>,
    /// How much of the disk the embedded log leaves free: with less, messages are refused.
    pub reserve: Size,
    /// Lanes; fixed at creation.
    pub partitions: NonZeroU32,
    /// Units of ownership; fixed at creation, at most as many as lanes.
    pub control_partitions: NonZeroU32,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            embedded: None,
            kafka: None,
            retention: Span::from_secs(7 * 24 * 3600),
            retention_bytes: None,
            max_disk: None,
            reserve: Size::mebibytes(256),
            partitions: NonZeroU32::MIN,
            control_partitions: NonZeroU32::MIN,
        }
    }
}

impl Log {
    /// The folder of the embedded log, `None` where the log is in Kafka.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        match (&self.embedded, &self.kafka) {
            (Some(folder), _) => Some(folder.clone()),
            (None, None) => Some(PathBuf::from("seriatim-data")),
            (None, Some(_)) => None,
        }
    }

    pub(super) fn hide(&mut self) {
        if let Some(Properties(properties)) = &mut self.kafka {
            for (_, value) in properties.iter_mut().filter(|(key, _)| is_secret(key)) {
                "***".clone_into(value);
            }
        }
    }
}

/// Whether a property of librdkafka holds, or may hold, something that must not be shown. What is in PEM may have a
/// private key beside what the property is for, and a command its arguments.
fn is_secret(property: &str) -> bool {
    let words = ["password", "passphrase", "secret", "token", "jaas", "kinit.cmd"];
    let named = ["ssl_key", "ssl_certificate", "ssl_ca", "sasl.oauthbearer.config", "sasl.oauthbearer.extensions"];
    words.iter().any(|word| property.contains(word)) || property.ends_with(".pem") || named.contains(&property)
}

/// Properties of librdkafka, by name; numbers and truth values may be written as such.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties(#[serde(deserialize_with = "texts")] pub BTreeMap<String, String>);

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = match toml::Value::deserialize(from)? {
        toml::Value::Table(values) => values,
        // A table that was not written as one is a text. It may hold a password, so it is not repeated.
        other => {
            let reason =
                format!("is a {}: write a table, as in {{ \"bootstrap.servers\" = \"k1:9092\" }}", other.type_str());
            return Err(serde::de::Error::custom(reason));
        }
    };
    let text = |(key, value)| match value {
        toml::Value::String(text) => Ok((key, text)),
        toml::Value::Integer(number) => Ok((key, number.to_string())),
        toml::Value::Boolean(truth) => Ok((key, truth.to_string())),
        other => {
            let reason =
                format!("property \"{key}\" is a {}: write a text, a number or a truth value", other.type_str());
            Err(serde::de::Error::custom(reason))
        }
    };
    values.into_iter().map(text).collect()
}

/// Full names of topics that do not derive from the pipeline's name. Those of destinations are
/// given with the destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicNames {
    /// The input.
    pub input: Option<TopicName>,
    /// Results of work.
    pub results: Option<TopicName>,
    /// Messages that were given up.
    pub dead_letter: Option<TopicName>,
    /// Records sent out again.
    pub work: Option<TopicName>,
    /// Claims and operators' verbs.
    pub control: Option<TopicName>,
    /// State of the resequencers.
    pub cursors_resequence: Option<TopicName>,
    /// State of the deliverers.
    pub cursors_deliver: Option<TopicName>,
    /// What became of each message.
    pub ledger: Option<TopicName>,
    /// What users ask of staggered batches.
    pub batches: Option<TopicName>,
    /// Items uploaded for batches.
    pub batch_items: Option<TopicName>,
    /// The state of batches.
    pub batch_state: Option<TopicName>,
    /// What happened to batches.
    pub events: Option<TopicName>,
}

impl TopicNames {
    pub(super) fn apply(&self, to: &mut Topics) {
        for (name, topic) in [
            (&self.input, &mut to.input),
            (&self.results, &mut to.results),
            (&self.dead_letter, &mut to.dead_letter),
            (&self.work, &mut to.work),
            (&self.control, &mut to.control),
            (&self.cursors_resequence, &mut to.cursors_resequence),
            (&self.cursors_deliver, &mut to.cursors_deliver),
            (&self.ledger, &mut to.ledger),
            (&self.batches, &mut to.batches),
            (&self.batch_items, &mut to.batch_items),
            (&self.batch_state, &mut to.batch_state),
            (&self.events, &mut to.events),
        ] {
            if let Some(name) = name {
                *topic = Topic::from(name.as_str());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    /// All that librdkafka 2.12.1 documents under these names, and its settings by code, which have none of the dots.
    const SECRET: &str = "\
        ssl.key.password ssl.key.pem ssl_key ssl.certificate.pem ssl_certificate https.ca.pem ssl.ca.pem ssl_ca \
        ssl.keystore.password sasl.kerberos.kinit.cmd sasl.password sasl.oauthbearer.config \
        oauthbearer_token_refresh_cb \
        sasl.oauthbearer.client.credentials.client.secret sasl.oauthbearer.client.secret sasl.oauthbearer.extensions \
        sasl.oauthbearer.token.endpoint.url sasl.oauthbearer.assertion.private.key.passphrase \
        sasl.oauthbearer.assertion.private.key.pem sasl.jaas.config";
    const SHOWN: &str = "\
        security.protocol ssl.cipher.suites ssl.curves.list ssl.sigalgs.list ssl.key.location ssl.certificate.location \
        ssl.ca.location https.ca.location ssl.ca.certificate.stores ssl.crl.location ssl.keystore.location \
        ssl.providers \
        ssl.engine.location ssl.engine.id ssl_engine_callback_data enable.ssl.certificate.verification \
        ssl.endpoint.identification.algorithm ssl.certificate.verify_cb sasl.mechanisms sasl.mechanism \
        sasl.kerberos.service.name sasl.kerberos.principal sasl.kerberos.keytab sasl.kerberos.min.time.before.relogin \
        sasl.username enable.sasl.oauthbearer.unsecure.jwt sasl.oauthbearer.method sasl.oauthbearer.client.id \
        sasl.oauthbearer.client.credentials.client.id sasl.oauthbearer.scope sasl.oauthbearer.grant.type \
        sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.private.key.file \
        sasl.oauthbearer.assertion.file sasl.oauthbearer.assertion.claim.aud \
        sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.iss \
        sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.nbf.seconds \
        sasl.oauthbearer.assertion.claim.sub sasl.oauthbearer.assertion.jwt.template.file \
        sasl.oauthbearer.metadata.authentication.type bootstrap.servers client.id linger.ms partitioner \
        plugin.library.paths interceptors";

    #[test]
    fn every_property_that_may_hold_a_secret_is_hidden_and_no_other() {
        let wrong =
            |names: &'static str, hidden| names.split_whitespace().filter(move |name| is_secret(name) != hidden);
        assert_eq!(wrong(SECRET, true).chain(wrong(SHOWN, false)).collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
