//! One attempt at one item, as the contract with receivers has it.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use crate::record::{Batch, Epoch, Name, Offset, OutputHeaders, Partition, RecordRef, Sequence, Timestamp};

/// One attempt to deliver one record of an output topic. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Push {
    /// The name of the destination.
    pub destination: Arc<str>,
    /// The lane.
    pub lane: Partition,
    /// The record's place in the destination's topic.
    pub offset: Offset,
    /// The epoch of the deliverer. Grows with every take-over.
    pub epoch: Epoch,
    /// Every sequence number of this destination and lane below it is done for good. `None` for a
    /// record without provenance.
    pub done_below: Option<Sequence>,
    /// Where the record comes from; `None` where a stranger wrote it.
    pub provenance: Option<OutputHeaders>,
    /// When the attempt was made.
    pub timestamp: Timestamp,
    /// Which attempt of this deliverer it is, from 1.
    pub attempt: u32,
    /// The replay that it is part of.
    pub replay: Option<Arc<str>>,
    /// Whether it is an operator's test, and no item of any topic: `offset` is then that of the order.
    pub test: bool,
    /// The record itself, alone.
    pub(super) record: Batch,
}

impl Push {
    /// The stable id of the item: the same for every attempt, unlike that of any other item of any
    /// destination. ASCII without `.`, as the signed content `id.timestamp.body` needs it.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = match &self.provenance {
            Some(from) => format!("{}-{}-{}-", from.source.lane, from.source.offset, from.output),
            None if self.test => format!("test-{}-{}-", self.lane, self.offset),
            None => format!("at-{}-{}-", self.lane, self.offset),
        };
        for byte in self.destination.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => id.push(char::from(byte)),
                other => write!(id, "~{other:02x}").expect("a string takes everything"),
            }
        }
        id
    }

    /// The body, byte by byte as the worker gave it; empty where the record has no value.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.record().and_then(|record| record.value).map_or_else(Bytes::new, |value| self.record.share(value))
    }

    /// The media type of the body.
    #[must_use]
    pub fn content_type(&self) -> Option<&[u8]> {
        self.record()?.headers.get(Name::ContentType)
    }

    /// The id of several items that go together: the same whenever the same go.
    #[must_use]
    pub fn id_of_many(pushes: &[Self]) -> String {
        let last = pushes.last().map(Self::id).unwrap_or_default();
        let first = pushes.first().map(Self::id).unwrap_or_default();
        format!("{}-{first}-{last}", pushes.len())
    }

    /// The headers of the contract for several items that go together, but for those that sign.
    #[must_use]
    pub fn headers_of_many(pushes: &[Self]) -> Vec<(&'static str, String)> {
        const OF_ONE: [&str; 4] = ["seriatim-group", "seriatim-sequence", "seriatim-source", "idempotency-key"];
        let Some(first) = pushes.first() else { return Vec::new() };
        let mut headers = first.protocol_headers();
        headers.retain(|(name, _)| !OF_ONE.contains(name));
        headers.push(("seriatim-lane", first.lane.to_string()));
        headers.push(("seriatim-items", pushes.len().to_string()));
        headers.push(("idempotency-key", Self::id_of_many(pushes)));
        headers
    }

    /// The headers of the contract, but for those of Standard Webhooks, which sign.
    #[must_use]
    pub fn protocol_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("seriatim-destination", self.destination.to_string()),
            ("seriatim-epoch", self.epoch.0.to_string()),
            ("idempotency-key", self.id()),
        ];
        if let Some(from) = &self.provenance {
            headers.push(("seriatim-group", format!("{:016x}", from.group)));
            headers.push(("seriatim-sequence", from.sequence.0.to_string()));
            headers.push(("seriatim-source", format!("{}:{}", from.source.lane, from.source.offset)));
        }
        if let Some(below) = self.done_below {
            headers.push(("seriatim-done-below", below.0.to_string()));
        }
        if let Some(replay) = &self.replay {
            headers.push(("seriatim-replay", replay.to_string()));
        }
        if self.test {
            headers.push(("seriatim-test", "true".to_owned()));
        }
        headers
    }

    /// The record's own headers under their HTTP names, lower case; CloudEvents' `ce_` becomes
    /// `ce-`. Those that would change the request itself, sign or identify it are left out: what
    /// is in a record comes from strangers.
    pub fn own_headers(&self) -> impl Iterator<Item = (String, &[u8])> {
        let headers = self.record().map(|record| record.headers.iter()).into_iter().flatten();
        headers.filter_map(|(name, value)| {
            let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
            let name = name.strip_prefix("ce_").map_or_else(|| name.clone(), |attribute| format!("ce-{attribute}"));
            (!is_reserved(&name)).then_some((name, value))
        })
    }

    pub(super) fn record(&self) -> Option<RecordRef<'_>> {
        self.record.iter().next()
    }
}

fn is_reserved(name: &str) -> bool {
    const PREFIXES: [&str; 5] = ["seriatim-", "webhook-", "proxy-", "sec-", "x-forwarded-"];
    const NAMES: [&str; 16] = [
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "idempotency-key",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Source};

    fn push(destination: &str, headers: &[(&[u8], &[u8])]) -> Push {
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(b"body"), |h| headers.iter().for_each(|(name, value)| h.put_named(name, value)));
        Push {
            destination: destination.into(),
            lane: Partition(2),
            offset: Offset(9),
            epoch: Epoch(5),
            done_below: Some(Sequence(3)),
            provenance: Some(OutputHeaders {
                source: Source { lane: Partition(2), offset: Offset(70) },
                output: 1,
                group: 0xab,
                sequence: Sequence(4),
                epoch: Epoch(1),
            }),
            timestamp: Timestamp(0),
            attempt: 1,
            replay: None,
            test: false,
            record: builder.finish(),
        }
    }

    #[test]
    fn ids_hold_no_dot_and_tell_destinations_apart() {
        assert_eq!(push("crm.eu", &[]).id(), "2-70-1-crm~2eeu");
        assert_ne!(push("crm.eu", &[]).id(), push("crm~2eeu", &[]).id());
        assert_eq!(Push { provenance: None, ..push("a", &[]) }.id(), "at-2-9-a");
    }

    #[test]
    fn strangers_cannot_forge_what_signs_or_steers_the_request() {
        let headers: [(&[u8], &[u8]); 7] = [
            (b"ce_type", b"t"),
            (b"X-Tenant", b"7"),
            (b"Webhook-Signature", b"v1,x"),
            (b"seriatim-sequence", b"0"),
            (b"Transfer-Encoding", b"chunked"),
            (b"host", b"evil"),
            (b"\xff", b"x"),
        ];
        let push = push("a", &headers);
        let own: Vec<_> = push.own_headers().collect();
        assert_eq!(own, [("ce-type".to_owned(), &b"t"[..]), ("x-tenant".to_owned(), &b"7"[..])]);
    }
}
