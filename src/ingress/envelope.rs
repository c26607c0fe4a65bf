//! What the headers of a request say about its messages.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::auth::Principal;
use super::event;
use super::problem::{Code, Problem};
use crate::order::MAX_PARTS;
use crate::record::{BatchBuilder, Name, destinations, partition_of_key};
use crate::topics::Topics;

/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 255;

/// The longest identity, in bytes: principal and key, percent-encoded.
const MAX_ID: usize = 512;

/// What the number of a line adds to an identity, in bytes: an encoded slash and the digits of a `u64`.
const MAX_LINE: usize = 3 + 20;

/// A client's idempotency key, and the identity that it makes together with who sent it.
#[derive(Clone, Debug)]
pub(super) struct Idempotency {
    key: Vec<u8>,
    /// `PRINCIPAL/KEY`, both percent-encoded.
    pub(super) id: Arc<str>,
}

/// What every message of a request carries beside its body.
#[derive(Debug)]
pub(super) struct Envelope {
    key: Option<Vec<u8>>,
    destinations: Option<String>,
    traceparent: Option<Vec<u8>>,
    /// CloudEvents attributes of the binary mode under their names in Kafka, `ce_*`.
    event: Vec<(String, Vec<u8>)>,
    /// The media type as it was sent.
    pub(super) content_type: Option<Vec<u8>>,
    /// The idempotency key, where there is one.
    pub(super) idempotency: Option<Idempotency>,
}

impl Envelope {
    /// Reads and checks the headers.
    ///
    /// # Errors
    ///
    /// [`Code::InvalidHeader`] and [`Code::UnsupportedMedia`], naming the header; an unknown
    /// destination is named together with those that are known.
    pub(super) fn read(headers: &HeaderMap, principal: &Principal, topics: &Topics) -> Result<Self, Problem> {
        Ok(Self {
            key: single(headers, "seriatim-key")?.map(key).transpose()?,
            destinations: named_destinations(headers, topics)?,
            traceparent: headers.get("traceparent").filter(|v| is_traceparent(v.as_bytes())).map(bytes),
            event: attributes(headers)?,
            content_type: single(headers, header::CONTENT_TYPE.as_str())?.map(bytes),
            idempotency: Idempotency::of(headers, principal)?,
        })
    }

    /// The lane of these messages, `None` where any lane of the connection's choice will do.
    pub(super) fn lane(&self, lanes: u32) -> Option<u32> {
        let key = self.key.as_ref().or(self.idempotency.as_ref().map(|idempotency| &idempotency.key))?;
        Some(partition_of_key(key, lanes).0)
    }

    /// Adds a message with this body.
    pub(super) fn push(&self, to: &mut BatchBuilder, body: &[u8], content_type: Option<&[u8]>) {
        let id = self.idempotency.as_ref().map(|idempotency| &*idempotency.id);
        self.push_as(to, body, content_type, id);
    }

    /// Adds the message that is entry `index` of its request, from 0: with an idempotency key
    /// `KEY` of the request it has the key `KEY/index`.
    pub(super) fn push_entry(&self, to: &mut BatchBuilder, index: u64, body: &[u8], content_type: Option<&[u8]>) {
        let id = self.idempotency.as_ref().map(|idempotency| idempotency.of_entry(index));
        self.push_as(to, body, content_type, id.as_deref());
    }

    fn push_as(&self, to: &mut BatchBuilder, body: &[u8], content_type: Option<&[u8]>, id: Option<&str>) {
        to.push(self.key.as_deref(), Some(body), |h| {
            if let Some(content_type) = content_type {
                h.put(Name::ContentType, content_type);
            }
            if let Some(destinations) = &self.destinations {
                h.put(Name::Destination, destinations.as_bytes());
            }
            if let Some(id) = id {
                h.put(Name::Id, id.as_bytes());
            }
            if let Some(traceparent) = &self.traceparent {
                h.put(Name::TraceParent, traceparent);
            }
            for (name, value) in &self.event {
                h.put_named(name.as_bytes(), value);
            }
        });
    }

    /// Bytes that each message takes beside its body, at most.
    pub(super) fn overhead(&self) -> usize {
        // Tags and lengths of a record and its fixed headers.
        const FRAMING: usize = 64;
        let key = self.key.as_ref().map_or(0, Vec::len);
        let destinations = self.destinations.as_ref().map_or(0, String::len);
        let id = self.idempotency.as_ref().map_or(0, |idempotency| idempotency.id.len() + MAX_LINE);
        let texts = [&self.traceparent, &self.content_type].into_iter().flatten().map(Vec::len).sum::<usize>();
        let event = self.event.iter().map(|(name, value)| FRAMING + name.len() + value.len()).sum::<usize>();
        FRAMING + key + destinations + id + texts + event
    }

    /// The media type without parameters, in lower case.
    pub(super) fn essence(&self) -> Option<String> {
        let text = std::str::from_utf8(self.content_type.as_ref()?).ok()?;
        Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }
}

impl Idempotency {
    /// The key of a request, if it has one.
    ///
    /// # Errors
    ///
    /// [`Code::InvalidHeader`].
    pub(super) fn of(headers: &HeaderMap, principal: &Principal) -> Result<Option<Self>, Problem> {
        single(headers, "idempotency-key")?.map(|value| Self::read(value, principal)).transpose()
    }

    /// Takes a quoted structured-field string, or the bare characters that many clients send.
    fn read(value: &HeaderValue, principal: &Principal) -> Result<Self, Problem> {
        let invalid = |detail: &'static str| Problem::new(Code::InvalidHeader, detail);
        let raw = value.as_bytes().trim_ascii();
        if !raw.iter().all(|b| matches!(b, 0x20..=0x7e)) {
            return Err(invalid("Idempotency-Key may hold printable ASCII only"));
        }
        let key = match raw.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted).ok_or_else(|| {
                invalid("Idempotency-Key begins with a quote, but is no string as structured fields have it")
            })?,
            None => raw.to_vec(),
        };
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(invalid("Idempotency-Key has to have 1 to 255 characters"));
        }
        let id = identity(principal, &key).ok_or_else(|| {
            invalid("Idempotency-Key and principal, percent-encoded, may have 511 characters together")
        })?;
        Ok(Self { key, id })
    }

    /// The identity of entry `index` of a request with this key: that of the key `KEY/index`.
    fn of_entry(&self, index: u64) -> String {
        format!("{}%2F{index}", self.id)
    }

    /// Refuses a key whose entries would have too long an identity.
    ///
    /// # Errors
    ///
    /// [`Code::InvalidHeader`].
    pub(super) fn check_entries(&self) -> Result<(), Problem> {
        if self.id.len() + MAX_LINE <= MAX_ID {
            return Ok(());
        }
        let detail = "Idempotency-Key and principal, percent-encoded, may have 488 characters together, \
                      so that the number of each message fits behind";
        Err(Problem::new(Code::InvalidHeader, detail))
    }
}

/// `PRINCIPAL/KEY`, both percent-encoded, so that none can be another; `None` where it is too long.
pub(super) fn identity(principal: &Principal, key: &[u8]) -> Option<Arc<str>> {
    let mut id = String::new();
    percent_encode(principal.as_str().as_bytes(), &mut id);
    id.push('/');
    percent_encode(key, &mut id);
    (id.len() <= MAX_ID).then(|| id.into())
}

/// The rest of a structured-field string after its opening quote (RFC 9651, 3.3.3).
fn unquote(rest: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter();
    loop {
        match bytes.next()? {
            b'"' => return bytes.next().is_none().then_some(key),
            b'\\' => key.push(*bytes.next().filter(|b| matches!(b, b'"' | b'\\'))?),
            byte => key.push(*byte),
        }
    }
}

/// Keeps the unreserved characters of RFC 3986 and writes all others as `%XX`.
fn percent_encode(bytes: &[u8], to: &mut String) {
    use std::fmt::Write as _;
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => to.push(char::from(*byte)),
            _ => write!(to, "%{byte:02X}").expect("a String takes everything"),
        }
    }
}

fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let pair = if *first == b'%' { after.split_first_chunk::<2>() } else { None };
        let byte = pair.and_then(|(hex, _)| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        (rest, _) = match (byte, pair) {
            (Some(byte), Some((_, after))) => (after, decoded.push(byte)),
            _ => (after, decoded.push(*first)),
        };
    }
    decoded
}

fn bytes(value: &HeaderValue) -> Vec<u8> {
    value.as_bytes().to_vec()
}

/// A header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Problem::new(Code::InvalidHeader, format!("{name} is there more than once"))),
    }
}

fn key(value: &HeaderValue) -> Result<Vec<u8>, Problem> {
    if value.is_empty() {
        return Err(Problem::new(Code::InvalidHeader, "Seriatim-Key is empty: leave it out or give a key"));
    }
    Ok(bytes(value))
}

fn named_destinations(headers: &HeaderMap, topics: &Topics) -> Result<Option<String>, Problem> {
    let mut names: Vec<&str> = Vec::new();
    for value in headers.get_all("seriatim-destination") {
        let text = value.to_str().unwrap_or("\u{fffd}");
        for name in destinations(text) {
            if !topics.destinations.contains_key(name) {
                let detail = format!("Seriatim-Destination names {name:?}; {}", known(topics));
                return Err(
                    Problem::new(Code::UnknownDestination, detail).with_status(StatusCode::UNPROCESSABLE_ENTITY)
                );
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if names.len() > MAX_PARTS {
        let detail = format!("Seriatim-Destination names {}, {MAX_PARTS} at most are allowed", names.len());
        return Err(Problem::new(Code::InvalidHeader, detail));
    }
    Ok((!names.is_empty()).then(|| names.join(", ")))
}

/// The destinations there are, for the detail of a problem.
pub(super) fn known(topics: &Topics) -> String {
    let names: Vec<&str> = topics.destinations.keys().map(String::as_str).collect();
    format!("the destinations are: {}", names.join(", "))
}

/// The attributes of an event in binary mode. HTTP has them percent-encoded, Kafka plain.
fn attributes(headers: &HeaderMap) -> Result<Vec<(String, Vec<u8>)>, Problem> {
    let attribute = |(name, value): (&HeaderName, &HeaderValue)| {
        let name = name.as_str().strip_prefix("ce-")?;
        Some((format!("ce_{name}"), percent_decode(value.as_bytes())))
    };
    let attributes: Vec<_> = headers.iter().filter_map(attribute).collect();
    if let Some((name, _)) = attributes.iter().find(|(_, value)| std::str::from_utf8(value).is_err()) {
        return Err(Problem::new(Code::InvalidHeader, format!("{name} is not UTF-8")));
    }
    let twice = |name: &str| attributes.iter().filter(|(other, _)| other == name).count() > 1;
    for (name, value) in &attributes {
        let fault = if twice(name) {
            Some("is there more than once".to_owned())
        } else {
            event::attribute_fault(&name["ce_".len()..], &String::from_utf8_lossy(value))
        };
        if let Some(fault) = fault {
            return Err(Problem::new(Code::InvalidHeader, format!("{}: {fault}", name.replacen('_', "-", 1))));
        }
    }
    if !attributes.is_empty() {
        for required in ["ce_specversion", "ce_id", "ce_source", "ce_type"] {
            if !attributes.iter().any(|(name, value)| name == required && !value.is_empty()) {
                let header = required.replace('_', "-");
                return Err(Problem::new(Code::InvalidHeader, format!("a CloudEvent needs the header {header}")));
            }
        }
    }
    Ok(attributes)
}

/// `00-TRACE-SPAN-FLAGS` (W3C Trace Context); a broken one is dropped, as that document has it.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    value.len() == 55
        && [2, 35, 52].iter().all(|at| value[*at] == b'-')
        && [0..2, 3..35, 36..52, 53..55].into_iter().all(|range| hex(&value[range]))
        && &value[..2] != b"ff"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(headers: &[(&'static str, &str)]) -> Result<Envelope, String> {
        let topics = Topics::derive("t", &["default", "billing"], 4, 1);
        let headers = headers.iter().map(|(name, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("it is a header value");
            (HeaderName::from_static(name), value)
        });
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        let principal = Principal("al/ice".into());
        Envelope::read(&map, &principal, &topics).map_err(|p| serde_json::to_string(&p).expect("it serializes"))
    }

    #[test]
    fn identities_join_principal_and_key_so_that_none_can_be_another() {
        fn id(value: &str) -> Result<Arc<str>, String> {
            envelope(&[("idempotency-key", value)]).map(|e| e.idempotency.expect("it is there").id)
        }
        assert_eq!(id("abc").as_deref(), Ok("al%2Fice/abc"));
        assert_eq!(id("\"abc\"").as_deref(), Ok("al%2Fice/abc"));
        assert_eq!(id(r#""a\"\\ /%""#).as_deref(), Ok("al%2Fice/a%22%5C%20%2F%25"));
        for bad in ["", "\"\"", "\"a", "\"a\"b", r#""a\b""#, "\u{e9}", &"x".repeat(256)] {
            assert!(id(bad).is_err(), "{bad}");
        }
        assert!(id(&"x".repeat(255)).is_ok());
        assert!(id(&" x".repeat(100)).is_ok());
        assert!(id(&"/".repeat(170)).unwrap_err().contains("511"));
        assert!(envelope(&[("idempotency-key", "a"), ("idempotency-key", "b")]).is_err());
    }

    #[test]
    fn an_entry_of_many_has_the_identity_of_the_key_with_its_number() {
        let many = envelope(&[("idempotency-key", "a")]).expect("it is valid").idempotency.expect("it is there");
        let single = envelope(&[("idempotency-key", "a/7")]).expect("it is valid").idempotency.expect("it is there");
        assert_eq!(many.of_entry(7), &*single.id);
        let check = |key: &str| {
            let envelope = envelope(&[("idempotency-key", key)]).expect("it is valid");
            envelope.idempotency.expect("it is there").check_entries()
        };
        assert!(check(&"/".repeat(160)).is_ok());
        assert!(check(&"/".repeat(161)).is_err());
    }

    #[test]
    fn the_lane_follows_the_key_then_the_idempotency_key() {
        let lane = |headers: &[_]| envelope(headers).expect("it is valid").lane(4);
        assert_eq!(lane(&[]), None);
        let by_key = Some(partition_of_key(b"k", 4).0);
        assert_eq!(lane(&[("seriatim-key", "k"), ("idempotency-key", "other")]), by_key);
        assert_eq!(lane(&[("idempotency-key", "\"k\"")]), by_key);
    }

    #[test]
    fn an_unknown_destination_is_named_with_the_known_ones() {
        let fine = envelope(&[("seriatim-destination", "billing, default"), ("seriatim-destination", "billing")]);
        assert_eq!(fine.expect("both are known").destinations.as_deref(), Some("billing, default"));
        let problem = envelope(&[("seriatim-destination", "billing, nowhere")]).unwrap_err();
        assert!(problem.contains("nowhere") && problem.contains("billing, default"), "{problem}");
    }

    #[test]
    fn cloud_events_become_kafka_headers() {
        let required = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        let event = envelope(&[&required[..], &[("ce-subject", "100%25 %C3%A9 %zz")]].concat()).expect("it is valid");
        assert!(event.event.contains(&("ce_subject".to_owned(), "100% é %zz".into())));
        assert!(envelope(&required[..3]).unwrap_err().contains("ce-type"));
        assert!(envelope(&[&required[..], &[("ce-x", "%ff")]].concat()).unwrap_err().contains("ce_x"));
    }

    #[test]
    fn broken_trace_context_is_dropped() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(envelope(&[("traceparent", good)]).expect("it is valid").traceparent.is_some());
        for bad in ["", "00-4bf9", &good.to_ascii_uppercase(), &good.replace('-', "_")] {
            assert!(envelope(&[("traceparent", bad)]).expect("it is ignored").traceparent.is_none(), "{bad}");
        }
    }
}
