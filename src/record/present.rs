//! Records as JSON: outputs as readers over HTTP get them, and receivers who take several at once; dead
//! letters.
//!
//! `body` holds JSON as it is where the content type says JSON and it is JSON (line breaks between
//! its tokens become blanks, so that it fits a line), and other text as a string; `bodyBase64`
//! holds everything else. A key that is not UTF-8 stands in `keyBase64` instead of `key`; a header
//! value that is not is an object `{"base64":"..."}`. A header that occurs twice counts as its
//! last; names that are not UTF-8 are given with replacement characters.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::{Name, OutputHeaders, Partition, RecordRef, Source};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    /// Which destination it went to, where several are told apart.
    pub(crate) destination: Option<&'a str>,
    /// Its lane and provenance, where they are told.
    pub(crate) place: Option<(Partition, OutputHeaders)>,
    pub(crate) record: RecordRef<'a>,
}

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        if let Some(destination) = self.destination {
            map.serialize_entry("destination", destination)?;
        }
        if let Some((lane, headers)) = &self.place {
            map.serialize_entry("lane", &lane.0)?;
            map.serialize_entry("sequence", &headers.sequence.0)?;
            map.serialize_entry("source", &Place(headers.source))?;
        }
        content(self.record, &[Name::ContentType, Name::Source, Name::Sequence], &mut map)?;
        map.end()
    }
}

/// A record of the dead-letter topic as JSON: what was to be worked on, or pushed, and why it was not.
#[derive(Debug)]
pub(crate) struct DeadLetter<'a> {
    pub(crate) lane: Partition,
    pub(crate) record: RecordRef<'a>,
}

impl Serialize for DeadLetter<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let headers = self.record.headers;
        let source = headers.text(Name::Source).and_then(|source| Source::split(source, ':'));
        let error = headers.text(Name::Error).unwrap_or_default();
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("lane", &self.lane.0)?;
        map.serialize_entry("offset", &self.record.offset.0)?;
        map.serialize_entry("source", &source.map(Place))?;
        match json(error.as_bytes()) {
            Some(raw) => map.serialize_entry("error", &raw)?,
            None => map.serialize_entry("error", error)?,
        }
        content(self.record, &[Name::ContentType, Name::Source, Name::Error], &mut map)?;
        map.end()
    }
}

/// Key, headers, media type and body; of the headers all but those that have a member of their own.
fn content<M: SerializeMap>(record: RecordRef<'_>, own: &[Name], to: &mut M) -> Result<(), M::Error> {
    match record.key.map(std::str::from_utf8) {
        None => to.serialize_entry("key", &())?,
        Some(Ok(key)) => to.serialize_entry("key", key)?,
        Some(Err(_)) => to.serialize_entry("keyBase64", &base64(record.key))?,
    }
    let others =
        record.headers.iter().filter(|(name, _)| Name::from_bytes(name).is_none_or(|name| !own.contains(&name)));
    let headers: BTreeMap<_, _> = others.map(|(name, value)| (String::from_utf8_lossy(name), Value(value))).collect();
    to.serialize_entry("headers", &headers)?;
    let content_type = record.headers.text(Name::ContentType);
    to.serialize_entry("contentType", &content_type)?;
    body(content_type, record.value).write(to)
}

struct Place(Source);

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("lane", &self.0.lane.0)?;
        map.serialize_entry("offset", &self.0.offset.0)?;
        map.end()
    }
}

/// A header's value.
struct Value<'a>(&'a [u8]);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(self.0) {
            return to.serialize_str(text);
        }
        let mut map = to.serialize_map(Some(1))?;
        map.serialize_entry("base64", &base64(Some(self.0)))?;
        map.end()
    }
}

/// How a record's value is written within JSON.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    /// JSON as it is.
    Json(Box<RawValue>),
    /// Text, `None` where there is no value.
    Text(Option<&'a str>),
    /// Everything else, for Base64.
    Bytes(&'a [u8]),
}

impl Body<'_> {
    /// Writes the member that it is: `body` or `bodyBase64`.
    pub(crate) fn write<M: SerializeMap>(&self, to: &mut M) -> Result<(), M::Error> {
        match self {
            Self::Json(raw) => to.serialize_entry("body", raw),
            Self::Text(text) => to.serialize_entry("body", text),
            Self::Bytes(bytes) => to.serialize_entry("bodyBase64", &base64(Some(bytes))),
        }
    }
}

/// See the module's documentation.
pub(crate) fn body<'a>(content_type: Option<&str>, value: Option<&'a [u8]>) -> Body<'a> {
    let Some(value) = value else { return Body::Text(None) };
    if content_type.is_some_and(is_json) {
        return json(value).map_or(Body::Bytes(value), Body::Json);
    }
    std::str::from_utf8(value).map_or(Body::Bytes(value), |text| Body::Text(Some(text)))
}

fn base64(bytes: Option<&[u8]>) -> String {
    STANDARD.encode(bytes.unwrap_or_default())
}

/// Whether a media type says that the content is JSON.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// The value as it is, on one line. Within strings JSON has no line breaks, so those there are
/// stand between tokens.
fn json(value: &[u8]) -> Option<Box<RawValue>> {
    let raw: &RawValue = serde_json::from_slice(value).ok()?;
    if raw.get().contains(['\n', '\r']) {
        return RawValue::from_string(raw.get().replace(['\n', '\r'], " ")).ok();
    }
    Some(raw.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Epoch, Offset, Sequence};

    fn shown(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&[u8], &[u8])]) -> String {
        let place = OutputHeaders {
            source: Source { lane: Partition(1), offset: Offset(2) },
            output: 0,
            group: 0xab,
            sequence: Sequence(3),
            epoch: Epoch(4),
        };
        let mut builder = BatchBuilder::default();
        builder.push(key, value, |h| {
            place.encode(h);
            headers.iter().for_each(|(name, value)| h.put_named(name, value));
        });
        let batch = builder.finish();
        let record = batch.iter().next().expect("one was pushed");
        let output = Output { destination: None, place: Some((Partition(1), place)), record };
        serde_json::to_string(&output).expect("it serializes")
    }

    #[test]
    fn json_text_and_other_bodies_can_be_told_apart() {
        let json = |value: &[u8]| shown(Some(b"k"), Some(value), &[(b"content-type", b"application/x+json; a=b")]);
        assert_eq!(
            json(b"{\"a\":\n 1.50,\"b\":\"\\n\"}"),
            r#"{"lane":1,"sequence":3,"source":{"lane":1,"offset":2},"key":"k","headers":{"seriatim-epoch":"4","seriatim-group":"00000000000000ab","seriatim-output":"0"},"contentType":"application/x+json; a=b","body":{"a":  1.50,"b":"\n"}}"#
        );
        assert!(json(b"{").ends_with(r#""bodyBase64":"ew=="}"#));
        assert!(shown(None, Some(b"{}"), &[]).ends_with(r#""key":null,"headers":{"seriatim-epoch":"4","seriatim-group":"00000000000000ab","seriatim-output":"0"},"contentType":null,"body":"{}"}"#));
        assert!(shown(None, Some(b"\xff"), &[]).ends_with(r#""bodyBase64":"/w=="}"#));
        assert!(shown(None, None, &[]).ends_with(r#""body":null}"#));
    }

    #[test]
    fn dead_letters_say_what_failed_and_why() {
        let letter = |error: &[u8]| {
            let mut builder = BatchBuilder::default();
            builder.push(Some(b"k"), Some(b"x"), |h| {
                h.put(Name::Source, b"1:2");
                h.put(Name::Error, error);
                h.put_named(b"y", b"z");
            });
            let batch = builder.finish_at(Offset(7), crate::record::Timestamp(0));
            let record = batch.iter().next().expect("one was pushed");
            serde_json::to_string(&DeadLetter { lane: Partition(1), record }).expect("it serializes")
        };
        assert_eq!(
            letter(br#"{"code":"c"}"#),
            r#"{"lane":1,"offset":7,"source":{"lane":1,"offset":2},"error":{"code":"c"},"key":"k","headers":{"y":"z"},"contentType":null,"body":"x"}"#
        );
        assert!(letter(b"no JSON").contains(r#""error":"no JSON""#));
    }

    #[test]
    fn keys_and_headers_that_are_no_text_are_kept() {
        let text = shown(Some(b"\xff"), None, &[(b"x", b"first"), (b"x", b"\xfe")]);
        assert!(text.contains(r#""keyBase64":"/w==""#), "{text}");
        assert!(text.contains(r#""x":{"base64":"/g=="}"#), "{text}");
    }
}
