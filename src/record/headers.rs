//! Record headers: the compact encoding, the names of the public contract, and one typed struct
//! per kind of record that encodes and decodes them.
//!
//! In a frame a header is `tag u8 | name | value length u32 LE | value`, where the tag is the
//! number of a [`Name`], which then needs no bytes of its own, or 0 before `length u16 LE | name`.

use bytes::{BufMut, BytesMut};

use super::Source;

macro_rules! names {
    ($($(#[$doc:meta])* $variant:ident = $tag:literal $text:literal;)*) => {
        /// The header names that Seriatim itself reads or writes. The numbers are stored: never change one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Name { $($(#[$doc])* $variant = $tag,)* }

        impl Name {
            /// The name as it is in Kafka.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            const fn from_tag(tag: u8) -> Option<Self> {
                match tag { $($tag => Some(Self::$variant),)* _ => None }
            }

            /// The known name with this text.
            #[must_use]
            pub fn from_bytes(text: &[u8]) -> Option<Self> {
                match text { $(t if t == $text.as_bytes() => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

names! {
    /// `LANE:OFFSET` of the input record.
    Source = 1 "seriatim-source";
    /// `done`, `empty`, `failed` or `retrying`.
    Status = 2 "seriatim-status";
    /// The round a result answers.
    Round = 3 "seriatim-round";
    /// The checksum of the input record, decimal.
    Check = 4 "seriatim-check";
    /// Why it failed, JSON.
    Error = 5 "seriatim-error";
    /// Which attempt it was, from 1.
    Attempt = 6 "seriatim-attempt";
    /// Who worked on it.
    Worker = 7 "seriatim-worker";
    /// Destination names, separated by `, `.
    Destination = 8 "seriatim-destination";
    /// `ID:INDEX:ROUND` of a batch's item.
    Batch = 9 "seriatim-batch";
    /// The index of an output among its source's outputs.
    Output = 10 "seriatim-output";
    /// The hash of the sequence group, 16 hex digits.
    Group = 11 "seriatim-group";
    /// The output's number in its destination's partition.
    Sequence = 12 "seriatim-sequence";
    /// The epoch of the owner that wrote it.
    Epoch = 13 "seriatim-epoch";
    /// A message's identity, `PRINCIPAL/KEY`.
    Id = 14 "seriatim-id";
    /// The media type of the value.
    ContentType = 15 "content-type";
    /// W3C trace context.
    TraceParent = 16 "traceparent";
    /// Which verb, verdict or kind of record this is, on the internal topics.
    Kind = 17 "seriatim-kind";
    /// `EPOCH:NUMBER:TYPE` of a batch's event that is on its way to a destination.
    Event = 18 "seriatim-event";
}

/// A record's headers, borrowed; where a name occurs twice the last counts, as with Kafka's `lastHeader`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    pub(super) const fn new(encoded: &'a [u8]) -> Self {
        Self(encoded)
    }

    /// The value of the last header of this name.
    #[must_use]
    pub fn get(&self, name: Name) -> Option<&'a [u8]> {
        self.entries().filter(|(entry, _)| *entry == Entry::Known(name)).map(|(_, value)| value).last()
    }

    /// As [`Headers::get`], where it is UTF-8.
    #[must_use]
    pub fn text(&self, name: Name) -> Option<&'a str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// All headers in the order in which they were written. Names from strangers need not be UTF-8.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.entries().map(|(entry, value)| {
            let name = match entry {
                Entry::Known(name) => name.as_str().as_bytes(),
                Entry::Other(name) => name,
            };
            (name, value)
        })
    }

    /// The known names among them, in one pass; what hot paths decode with.
    pub fn known(&self) -> impl Iterator<Item = (Name, &'a [u8])> + use<'a> {
        self.entries().filter_map(|(entry, value)| match entry {
            Entry::Known(name) => Some((name, value)),
            Entry::Other(_) => None,
        })
    }

    /// Bytes of the encoding.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.0.len()
    }

    fn entries(&self) -> Entries<'a> {
        Entries(self.0)
    }

    pub(super) fn validate(&self) -> Option<()> {
        let mut rest = self.entries();
        while rest.next().is_some() {}
        rest.0.is_empty().then_some(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry<'a> {
    Known(Name),
    Other(&'a [u8]),
}

/// Stops at the first entry that does not decode and leaves it in place.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = (Entry<'a>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (tag, mut rest) = self.0.split_first()?;
        let entry = if *tag == 0 {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (name, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
            rest = after;
            Entry::Other(name)
        } else {
            Entry::Known(Name::from_tag(*tag)?)
        };
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some((entry, value))
    }
}

/// Writes headers behind a record's value.
#[derive(Debug)]
pub struct HeaderWriter<'a>(&'a mut BytesMut);

impl<'a> HeaderWriter<'a> {
    pub(super) const fn new(frame: &'a mut BytesMut) -> Self {
        Self(frame)
    }

    /// Adds a header of a known name.
    pub fn put(&mut self, name: Name, value: &[u8]) {
        self.0.put_u8(name as u8);
        self.value(value);
    }

    /// Adds a header whose value is a number, in decimal.
    pub fn put_decimal(&mut self, name: Name, value: u64) {
        self.put(name, itoa::Buffer::new().format(value).as_bytes());
    }

    /// Adds a header whose value is where a record came in, as `LANE:OFFSET`.
    pub fn put_source(&mut self, name: Name, source: Source) {
        let (mut lane, mut offset) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (lane, offset) = (lane.format(source.lane.0), offset.format(source.offset.0));
        self.0.put_u8(name as u8);
        self.length(lane.len() + 1 + offset.len());
        self.0.put_slice(lane.as_bytes());
        self.0.put_u8(b':');
        self.0.put_slice(offset.as_bytes());
    }

    /// Adds a header whose value is a number in sixteen hexadecimal digits.
    pub fn put_hex(&mut self, name: Name, value: u64) {
        let digits: [u8; 16] = std::array::from_fn(|n| b"0123456789abcdef"[((value >> (60 - 4 * n)) & 15) as usize]);
        self.put(name, &digits);
    }

    /// Adds a header whose value is formatted straight into the frame; for what is rare, as formatting is slow.
    pub fn put_display(&mut self, name: Name, value: std::fmt::Arguments<'_>) {
        use std::fmt::Write as _;
        self.0.put_u8(name as u8);
        let start = self.0.len();
        self.length(0);
        self.0.write_fmt(value).expect("a growing buffer takes everything");
        let length = u32::try_from(self.0.len() - start - 4).expect("formatted values are short");
        self.0[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Adds a header of any name; a known one is stored by its number. Names over 65,535 bytes
    /// are cut there.
    pub fn put_named(&mut self, name: &[u8], value: &[u8]) {
        if let Some(known) = Name::from_bytes(name) {
            return self.put(known, value);
        }
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.0.put_u8(0);
        self.0.put_u16_le(length);
        self.0.put_slice(&name[..length.into()]);
        self.value(value);
    }

    /// Copies all headers as they are.
    pub fn put_all(&mut self, headers: Headers<'_>) {
        self.0.put_slice(headers.0);
    }

    fn value(&mut self, value: &[u8]) {
        self.length(value.len());
        self.0.put_slice(value);
    }

    fn length(&mut self, length: usize) {
        self.0.put_u32_le(u32::try_from(length).expect("records are bounded far below 4 GiB"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Offset, Partition};

    #[test]
    fn what_is_written_by_hand_is_as_the_formatter_writes_it() {
        for number in [0, 9, 10, 0xf00d, u64::from(u32::MAX), u64::MAX] {
            let source = Source { lane: Partition(u32::try_from(number).unwrap_or(7)), offset: Offset(number) };
            let mut builder = BatchBuilder::default();
            builder.push(None, None, |to| {
                to.put_source(Name::Source, source);
                to.put_hex(Name::Group, number);
                to.put_decimal(Name::Sequence, number);
            });
            let batch = builder.finish();
            let headers = batch.first().expect("one was pushed").headers;
            let written: Vec<_> = headers.iter().map(|(_, value)| String::from_utf8_lossy(value)).collect();
            assert_eq!(
                written,
                [format!("{}:{}", source.lane, source.offset), format!("{number:016x}"), number.to_string()]
            );
        }
    }
}
