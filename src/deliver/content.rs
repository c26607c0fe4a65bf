//! The forms in which items are posted.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::Push;
use super::options::Content;
use crate::record::present::{self, Body, Output};

/// The media type of one event in structured mode.
const EVENT: &str = "application/cloudevents+json";

/// That of several events.
const EVENTS: &str = "application/cloudevents-batch+json";

/// That of several items: an array of what `/v1/outputs` has a line of each.
const ITEMS: &str = "application/vnd.seriatim.items+json";

/// The type of events that are made here of outputs which are none.
const TYPE: &str = "seriatim.output";

/// What is posted, but for what the contract adds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Posted {
    /// Names are lower case.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) content_type: Option<Vec<u8>>,
    pub(super) body: Bytes,
}

/// An item as a destination wants it.
pub(super) fn posted(content: Content, push: &Push) -> Posted {
    let own = push.own_headers().map(|(name, value)| {
        let value = if name.starts_with("ce-") { encoded(value).into_owned() } else { value.to_vec() };
        (name, value)
    });
    let content_type = push.content_type().map(<[u8]>::to_vec);
    match content {
        Content::Raw => Posted { headers: own.collect(), content_type, body: push.body() },
        Content::CloudEvents => {
            let mut headers: Vec<_> = own.collect();
            for (name, value) in made(push) {
                let name = format!("ce-{name}");
                if headers.iter().all(|(own, _)| *own != name) {
                    headers.push((name, encoded(value.as_bytes()).into_owned()));
                }
            }
            Posted { headers, content_type, body: push.body() }
        }
        Content::CloudEventsStructured => {
            let headers = own.filter(|(name, _)| !name.starts_with("ce-")).collect();
            let body = serde_json::to_vec(&event(push)).expect("plain data always serializes");
            Posted { headers, content_type: Some(EVENT.into()), body: body.into() }
        }
    }
}

/// Several items in one body.
pub(super) fn posted_many(content: Content, pushes: &[Push]) -> Posted {
    let (content_type, body) = match content {
        Content::Raw => {
            let outputs: Vec<_> = pushes.iter().filter_map(output).collect();
            (ITEMS, serde_json::to_vec(&outputs))
        }
        Content::CloudEvents | Content::CloudEventsStructured => {
            (EVENTS, serde_json::to_vec(&pushes.iter().map(event).collect::<Vec<_>>()))
        }
    };
    let body = body.expect("plain data always serializes").into();
    Posted { headers: Vec::new(), content_type: Some(content_type.into()), body }
}

fn output(push: &Push) -> Option<Output<'_>> {
    let place = push.provenance.map(|provenance| (push.lane, provenance));
    Some(Output { destination: None, place, record: push.record()? })
}

/// The attributes of an event that are made where an item does not have them.
fn made(push: &Push) -> Vec<(&'static str, String)> {
    let record = push.record();
    let time = record.map_or(0, |record| u64::try_from(record.timestamp.0).unwrap_or(0));
    let mut made = vec![
        ("specversion", "1.0".to_owned()),
        ("id", push.id()),
        ("source", format!("/seriatim/{}/{}", push.destination, push.lane)),
        ("type", TYPE.to_owned()),
        ("time", humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(time)).to_string()),
    ];
    if let Some(Ok(key)) = record.and_then(|record| record.key).map(std::str::from_utf8) {
        made.push(("partitionkey", key.to_owned()));
    }
    if let Some(from) = &push.provenance {
        // As wide as every number, so that texts compare as numbers do.
        made.push(("sequence", format!("{:020}", from.sequence.0)));
    }
    made
}

/// An item as one JSON object.
fn event(push: &Push) -> Map<String, Value> {
    let mut event = Map::new();
    for (name, value) in push.own_headers() {
        // What no attribute can be called stays in the topic.
        let attribute = name.strip_prefix("ce-").filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric()));
        if let (Some(attribute), Ok(value)) = (attribute, std::str::from_utf8(value)) {
            event.insert(attribute.to_owned(), value.into());
        }
    }
    for (name, value) in made(push) {
        event.entry(name).or_insert_with(|| value.into());
    }
    let content_type = push.content_type().and_then(|value| std::str::from_utf8(value).ok());
    match content_type {
        Some(content_type) => event.insert("datacontenttype".to_owned(), content_type.into()),
        None => event.remove("datacontenttype"),
    };
    event.remove("data");
    let body = push.body();
    let (name, data) = match present::body(content_type, push.record().and_then(|record| record.value)) {
        Body::Json(raw) => match serde_json::from_str(raw.get()) {
            Ok(data) => ("data", data),
            Err(_) => ("data_base64", BASE64_STANDARD.encode(&body).into()),
        },
        Body::Text(None) => return event,
        // Without a media type data is taken for JSON: a text would be read as something else.
        Body::Text(Some(text)) if content_type.is_some() => ("data", text.into()),
        Body::Text(_) | Body::Bytes(_) => ("data_base64", BASE64_STANDARD.encode(&body).into()),
    };
    event.insert(name.to_owned(), data);
    event
}

/// A text as the value of a `ce-` header: what HTTP cannot carry there is percent-encoded, as the
/// HTTP binding of CloudEvents has it (3.1.3.2).
fn encoded(text: &[u8]) -> Cow<'_, [u8]> {
    let plain = |byte: u8| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%');
    if text.iter().all(|byte| plain(*byte)) {
        return text.into();
    }
    let each = |byte: &u8| if plain(*byte) { vec![*byte] } else { format!("%{byte:02X}").into_bytes() };
    text.iter().flat_map(each).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Epoch, Offset, OutputHeaders, Partition, Sequence, Source, Timestamp};

    fn push(headers: &[(&[u8], &[u8])], key: &[u8], body: &[u8]) -> Push {
        let mut builder = BatchBuilder::default();
        builder.push(Some(key), Some(body), |h| headers.iter().for_each(|(name, value)| h.put_named(name, value)));
        let provenance = OutputHeaders {
            source: Source { lane: Partition(0), offset: Offset(7) },
            output: 0,
            group: 1,
            sequence: Sequence(41),
            epoch: Epoch(1),
        };
        Push {
            destination: "crm".into(),
            lane: Partition(0),
            offset: Offset(9),
            epoch: Epoch(5),
            done_below: None,
            provenance: Some(provenance),
            timestamp: Timestamp(0),
            attempt: 1,
            replay: None,
            test: false,
            record: builder.finish().placed(Offset(9), Timestamp(1_700_000_000_123)),
        }
    }

    fn header(posted: &Posted, name: &str) -> Option<String> {
        let found = posted.headers.iter().find(|(own, _)| own == name)?;
        Some(String::from_utf8_lossy(&found.1).into_owned())
    }

    #[test]
    fn an_event_in_binary_mode_keeps_its_body_and_the_attributes_that_it_has() {
        let push = push(&[(b"ce_type", b"order.paid"), (b"content-type", b"text/plain")], "K ä".as_bytes(), b"hi");
        let posted = posted(Content::CloudEvents, &push);
        assert_eq!((posted.body.as_ref(), posted.content_type.as_deref()), (&b"hi"[..], Some(&b"text/plain"[..])));
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "0-7-0-crm"),
            ("ce-source", "/seriatim/crm/0"),
            ("ce-type", "order.paid"),
            ("ce-time", "2023-11-14T22:13:20.123Z"),
            ("ce-partitionkey", "K%20%C3%A4"),
            ("ce-sequence", "00000000000000000041"),
        ] {
            assert_eq!(header(&posted, name).as_deref(), Some(value), "{name}");
        }
    }

    #[test]
    fn attributes_that_an_event_has_are_percent_encoded_in_headers_and_plain_in_json() {
        let push = push(&[(b"ce_subject", "a \"50%\" ä".as_bytes()), (b"x-own", b"a b")], b"k", b"1");
        for content in [Content::CloudEvents, Content::Raw] {
            let posted = posted(content, &push);
            assert_eq!(header(&posted, "ce-subject").as_deref(), Some("a%20%2250%25%22%20%C3%A4"));
            assert_eq!(header(&posted, "x-own").as_deref(), Some("a b"));
        }
        assert_eq!(event(&push)["subject"], "a \"50%\" ä");
    }

    #[test]
    fn an_event_in_structured_mode_holds_json_text_and_other_data() {
        let event = |content_type: &[u8], body: &[u8]| {
            let push = push(&[(b"ce_type", b"t"), (b"x-own", b"1"), (b"content-type", content_type)], b"k", body);
            let posted = posted(Content::CloudEventsStructured, &push);
            assert_eq!(posted.content_type.as_deref(), Some(EVENT.as_bytes()));
            assert_eq!(posted.headers, [("x-own".to_owned(), b"1".to_vec())]);
            serde_json::from_slice::<Value>(&posted.body).expect("it is JSON")
        };
        let json = event(b"application/json", b"{\"a\":[1]}");
        assert_eq!(
            (&json["type"], &json["data"]["a"][0], &json["partitionkey"]),
            (&"t".into(), &1.into(), &"k".into())
        );
        assert_eq!(event(b"text/plain", b"hi")["data"], "hi");
        assert_eq!(event(b"application/json", b"{")["data_base64"], "ew==");
        assert_eq!(event(b"image/png", b"\xff")["data_base64"], "/w==");
    }

    #[test]
    fn several_items_are_an_array_of_what_each_would_be() {
        let pushes = [push(&[], b"k", b"one"), push(&[(b"content-type", b"application/json")], b"k", b"[2]")];
        let many = posted_many(Content::Raw, &pushes);
        assert_eq!(many.content_type.as_deref(), Some(ITEMS.as_bytes()));
        let items: Value = serde_json::from_slice(&many.body).expect("it is JSON");
        let expected = serde_json::json!([41, "one", 41, [2]]);
        let found = [&items[0]["sequence"], &items[0]["body"], &items[1]["sequence"], &items[1]["body"]];
        assert_eq!(serde_json::json!(found), expected);
        let many = posted_many(Content::CloudEvents, &pushes);
        assert_eq!(many.content_type.as_deref(), Some(EVENTS.as_bytes()));
        let events: Value = serde_json::from_slice(&many.body).expect("it is JSON");
        assert_eq!((events.as_array().map(Vec::len), &events[1]["data"][0]), (Some(2), &2.into()));
    }

    #[test]
    fn raw_is_the_item_and_nothing_else() {
        let push = push(&[(b"ce_type", b"t"), (b"content-type", b"a/b")], b"k", b"x");
        let expected = [("ce-type".to_owned(), b"t".to_vec())];
        let posted = posted(Content::Raw, &push);
        assert_eq!((posted.headers.as_slice(), posted.body.as_ref()), (&expected[..], &b"x"[..]));
    }
}
