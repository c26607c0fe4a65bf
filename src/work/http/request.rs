//! The headers of a request to a worker.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::record::Timestamp;
use crate::work::processor::Job;

/// Names of messages' headers that belong to the connection or the client, or to the names below.
const NOT_FORWARDED: [&str; 13] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "user-agent",
    "accept-encoding",
];

/// Those that the worker contract names, and the message's own.
///
/// `Seriatim-Key` is percent-encoded: every byte but visible ASCII, and `%` itself. A message's
/// header that HTTP cannot carry is left out.
pub(super) fn headers(job: &Job) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    for (name, value) in job.headers() {
        if let (Some(name), Ok(value)) = (forwarded(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    if let Some(value) = job.content_type().and_then(|value| HeaderValue::from_bytes(value).ok()) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert("seriatim-lane", job.source.lane.0.into());
    headers.insert("seriatim-offset", job.source.offset.0.into());
    headers.insert("seriatim-id", ascii(job.id()));
    headers.insert("seriatim-attempt", job.attempt.into());
    headers.insert("seriatim-deadline", ascii(rfc3339(job.deadline)));
    if let Some(key) = job.key() {
        headers.insert("seriatim-key", ascii(percent_encoded(key)));
    }
    if let Some(item) = job.batch_item().and_then(|value| HeaderValue::from_bytes(value).ok()) {
        headers.insert("seriatim-batch", item);
    }
    headers
}

/// The name under which a message's header goes to the worker. `CloudEvents` calls its attributes
/// `ce_*` in Kafka and `ce-*` in HTTP.
fn forwarded(name: &[u8]) -> Option<HeaderName> {
    let name = match name.strip_prefix(b"ce_") {
        Some(attribute) => HeaderName::from_bytes(&[b"ce-", attribute].concat()),
        None => HeaderName::from_bytes(name),
    };
    name.ok().filter(|name| !NOT_FORWARDED.contains(&name.as_str()))
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("only visible ASCII is put here")
}

fn rfc3339(time: Timestamp) -> String {
    let since = Duration::from_millis(u64::try_from(time.0).unwrap_or(0));
    // What lies beyond the year 9999 cannot be written; no clock that is right gets there.
    let latest = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since.min(latest)).to_string()
}

fn percent_encoded(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            write!(text, "%{byte:02X}").expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Name, Offset, Partition, Source};

    #[test]
    fn headers_follow_the_contract_whatever_the_message_holds() {
        let mut builder = BatchBuilder::default();
        builder.push(Some("schlüssel 100%".as_bytes()), Some(b"{}"), |h| {
            h.put(Name::ContentType, b"application/json");
            h.put(Name::Batch, b"b:7:0");
            h.put(Name::TraceParent, b"00-a-b-01");
            h.put(Name::Check, b"5");
            h.put_named(b"ce_type", b"t");
            h.put_named(b"Content-Length", b"999");
            h.put_named(b"bad name", b"1");
            h.put_named(b"bad-value", b"a\r\nb: c");
        });
        let source = Source::from((Partition(3), Offset(42)));
        let headers = headers(&Job::new(source, 2, Timestamp(1_700_000_000_123), builder.finish()));
        let mut seen: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().expect("ASCII"))).collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            [
                ("ce-type", "t"),
                ("content-type", "application/json"),
                ("seriatim-attempt", "2"),
                ("seriatim-batch", "b:7:0"),
                ("seriatim-deadline", "2023-11-14T22:13:20.123Z"),
                ("seriatim-id", "3-42"),
                ("seriatim-key", "schl%C3%BCssel%20100%25"),
                ("seriatim-lane", "3"),
                ("seriatim-offset", "42"),
                ("traceparent", "00-a-b-01"),
            ]
        );
    }
}
