//! Elements of `ingress.tcp`.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::super::{Address, Span};
use super::Tls;
use crate::framing::Framing;
use crate::ingress::tcp::{Ack, Field, Verdict};

/// A port for framed messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpPort {
    /// Where it listens.
    pub listen: Address,
    /// How messages are told apart.
    pub framing: Framing,
    /// How they are acknowledged; in the framing's usual way where it is not given.
    #[serde(default)]
    pub ack: Option<Ack>,
    /// Messages of one connection that are read and not yet acknowledged.
    #[serde(default)]
    pub window: Option<NonZeroU32>,
    /// The silence after which a connection is closed.
    #[serde(default)]
    pub idle_timeout: Option<Span>,
    /// The media type that messages are given.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Who sends, where no certificate says it.
    #[serde(default)]
    pub principal: Option<String>,
    /// How HL7 messages are taken.
    #[serde(default)]
    pub hl7: Hl7,
    /// TLS for this port.
    #[serde(default)]
    pub tls: Option<Tls>,
}

/// How HL7 messages are taken and acknowledged, with `ack = "hl7"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hl7 {
    /// The fields that make the message's key.
    pub key: HeaderFields,
    /// Whether a message whose key and control id came before is a duplicate.
    pub dedupe: bool,
    /// What a durable message is answered with.
    pub accepted: Verdict,
    /// What one is answered with that cannot be taken as it is.
    pub content: Verdict,
    /// What one is answered with that the log cannot take now.
    pub unavailable: Verdict,
}

impl Default for Hl7 {
    fn default() -> Self {
        let crate::ingress::tcp::Hl7 { key, dedupe, accepted, content, unavailable } = Default::default();
        Self { key: HeaderFields(key), dedupe, accepted, content, unavailable }
    }
}

/// Fields of an HL7 message's header, as in `MSH-4|MSH-3`; an empty text for none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderFields(pub(crate) Vec<Field>);

impl TryFrom<String> for HeaderFields {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let fields = text.split('|').map(Field::parse).collect::<Option<_>>();
        fields.map(Self).ok_or_else(|| {
            format!("\"{text}\" names no fields: write them as in \"MSH-4|MSH-3\", from MSH-3 on, or \"\" for no key")
        })
    }
}

impl From<HeaderFields> for String {
    fn from(fields: HeaderFields) -> Self {
        fields.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
    }
}
