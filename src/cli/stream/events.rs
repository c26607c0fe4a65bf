//! Server-sent events, as WHATWG has them, from lines.

use bytes::{BufMut as _, Bytes, BytesMut};

/// An event that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: Option<String>,
    pub(super) data: Bytes,
}

/// Puts events together. Comments and fields of no use here are passed over.
#[derive(Debug, Default)]
pub(super) struct Events {
    id: Option<String>,
    data: Option<BytesMut>,
}

impl Events {
    /// Takes the next line; the event, where the line ends one.
    pub(super) fn line(&mut self, line: &[u8]) -> Option<Event> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let data = self.data.take()?.freeze();
            return Some(Event { id: self.id.take(), data });
        }
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"id" => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"data" => match &mut self.data {
                Some(data) => {
                    data.put_u8(b'\n');
                    data.put_slice(value);
                }
                none => *none = Some(BytesMut::from(value)),
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_and_the_rest_is_passed_over() {
        let mut events = Events::default();
        let text = ": hello\n\nid: 0:4\ndata: {\"a\":1}\n\nretry: 5\nevent: x\n\ndata:a\r\ndata: b\n\n:\n\ndata: cut";
        let found: Vec<_> = text.split('\n').filter_map(|line| events.line(line.as_bytes())).collect();
        let event = |id: Option<&str>, data: &'static str| Event { id: id.map(str::to_owned), data: data.into() };
        assert_eq!(found, [event(Some("0:4"), "{\"a\":1}"), event(None, "a\nb")]);
    }
}
