//! A batch of records in one frame.
//!
//! A record in the frame, all integers little-endian or LEB128 (`v`):
//!
//! ```text
//! length u32 | gap v | time v (zigzag) | key length + 1 v | key | value length + 1 v | value | headers
//! ```
//!
//! `gap` counts the offsets left out before the record, `time` is its distance from the batch's
//! timestamp; both are 0 in a frame that is about to be appended, so that the embedded log stores
//! the frame as it came. A length of 0 marks an absent key or value.

use bytes::{BufMut, Bytes, BytesMut};

use super::headers::{HeaderWriter, Headers};
use super::{Offset, Timestamp};

/// A frame that is not what [`BatchBuilder`] writes: damaged, or from somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch is damaged at byte {at}")]
pub struct Corrupt {
    /// Where in the frame decoding stopped.
    pub at: usize,
}

/// An immutable run of records of one partition, in offset order. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch {
    base: Offset,
    timestamp: Timestamp,
    count: u32,
    frame: Bytes,
}

impl Batch {
    /// A batch read back from storage, checked to the last byte; every later access relies on it.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] with the place where the frame stops making sense, or holds another count.
    pub fn decode(base: Offset, timestamp: Timestamp, count: u32, frame: Bytes) -> Result<Self, Corrupt> {
        let mut rest = Cursor { frame: &frame, at: 0 };
        let (mut found, mut next) = (0, base);
        while rest.at < frame.len() {
            let record = rest.record(next, timestamp).ok_or(Corrupt { at: rest.at })?;
            record.headers.validate().ok_or(Corrupt { at: rest.at })?;
            // Gaps may add up to more than offsets can count.
            next = Offset(record.offset.0.checked_add(1).ok_or(Corrupt { at: rest.at })?);
            found += 1;
        }
        if found == count { Ok(Self { base, timestamp, count, frame }) } else { Err(Corrupt { at: frame.len() }) }
    }

    /// A batch whose frame an engine has put together from frames of batches to be appended.
    pub(crate) const fn assembled(base: Offset, timestamp: Timestamp, count: u32, frame: Bytes) -> Self {
        Self { base, timestamp, count, frame }
    }

    /// The same records at the place and time at which a log stored them.
    #[must_use]
    pub fn placed(&self, base: Offset, timestamp: Timestamp) -> Self {
        Self { base, timestamp, count: self.count, frame: self.frame.clone() }
    }

    /// The offset from which the first record's gap counts; its own where there is no gap.
    #[must_use]
    pub const fn base(&self) -> Offset {
        self.base
    }

    /// The time from which the records' times count.
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// How many records there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded records, as [`Batch::decode`] takes them.
    #[must_use]
    pub const fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The offset after the last record: the base where the batch is empty.
    #[must_use]
    pub fn next(&self) -> Offset {
        self.iter().last().map_or(self.base, |record| record.offset.next())
    }

    /// The records in offset order, borrowed from the frame.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: Cursor { frame: &self.frame, at: 0 }, next: self.base, timestamp: self.timestamp }
    }

    /// The records at or above `from`, sharing this frame.
    #[must_use]
    pub fn skip_to(&self, from: Offset) -> Self {
        let mut rest = self.iter();
        let mut skipped = 0;
        loop {
            let (at, base) = (rest.rest.at, rest.next);
            match rest.next() {
                Some(record) if record.offset < from => skipped += 1,
                _ => {
                    let frame = self.frame.slice(at..);
                    return Self { base, timestamp: self.timestamp, count: self.count - skipped, frame };
                }
            }
        }
    }

    /// Takes the first record out, as a batch of its own that shares this frame.
    pub fn pop_first(&mut self) -> Option<Self> {
        let mut rest = self.iter();
        let next = rest.next()?.offset.next();
        let end = rest.rest.at;
        let frame = self.frame.split_to(end);
        let base = std::mem::replace(&mut self.base, next);
        self.count -= 1;
        Some(Self { base, timestamp: self.timestamp, count: 1, frame })
    }

    /// Each record as a batch of its own, sharing this frame.
    pub fn singles(&self) -> impl Iterator<Item = Self> + '_ {
        let mut rest = self.iter();
        std::iter::from_fn(move || {
            let (at, base) = (rest.rest.at, rest.next);
            rest.next()?;
            let frame = self.frame.slice(at..rest.rest.at);
            Some(Self { base, timestamp: self.timestamp, count: 1, frame })
        })
    }

    /// The first record, `None` where the batch is empty.
    #[must_use]
    pub fn first(&self) -> Option<RecordRef<'_>> {
        self.iter().next()
    }

    /// The same records in a frame of their own, so that nothing else is kept alive by them.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { frame: Bytes::copy_from_slice(&self.frame), ..*self }
    }

    /// A part of one of this batch's records as shared bytes. It keeps the whole frame alive:
    /// copy what is to be held for long.
    ///
    /// # Panics
    ///
    /// If `part` was not borrowed from this batch.
    #[must_use]
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.frame.slice_ref(part)
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = RecordRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// When the log took it.
    pub timestamp: Timestamp,
    /// The key; absent is not empty.
    pub key: Option<&'a [u8]>,
    /// The value; absent is not empty.
    pub value: Option<&'a [u8]>,
    /// The headers, decoded on demand.
    pub headers: Headers<'a>,
}

impl<'a> RecordRef<'a> {
    /// A record that lies in no batch.
    #[must_use]
    pub const fn new(
        offset: Offset,
        timestamp: Timestamp,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        headers: Headers<'a>,
    ) -> Self {
        Self { offset, timestamp, key, value, headers }
    }

    /// Bytes of key, value and headers together.
    #[must_use]
    pub fn size(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.size()
    }
}

/// The records of a [`Batch`] in offset order.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: Cursor<'a>,
    next: Offset,
    timestamp: Timestamp,
}

impl<'a> Iterator for Iter<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        if self.rest.at == self.rest.frame.len() {
            return None;
        }
        let record = self.rest.record(self.next, self.timestamp)?;
        self.next = record.offset.next();
        Some(record)
    }
}

/// Collects records into one frame.
///
/// ```
/// use seriatim::record::{BatchBuilder, Name};
/// let mut builder = BatchBuilder::default();
/// builder.push(Some(b"key"), Some(b"value"), |h| h.put(Name::ContentType, b"text/plain"));
/// let batch = builder.finish();
/// let record = batch.iter().next().unwrap();
/// assert_eq!(record.value, Some(&b"value"[..]));
/// assert_eq!(record.headers.get(Name::ContentType), Some(&b"text/plain"[..]));
/// ```
#[derive(Debug, Default)]
pub struct BatchBuilder {
    frame: BytesMut,
    count: u32,
    next: Option<Offset>,
}

impl BatchBuilder {
    /// Adds a record to be appended, which takes the next free offset and the log's time.
    pub fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: impl FnOnce(&mut HeaderWriter<'_>)) {
        self.put(0, 0, key, value, headers);
    }

    /// Adds a record that already has its place and time; both count from the batch's `base`
    /// and `timestamp` given to [`BatchBuilder::finish_at`]. For engines that re-frame foreign records.
    ///
    /// # Panics
    ///
    /// If `offset` is below the place after the record before it.
    pub fn push_at(
        &mut self,
        base: (Offset, Timestamp),
        at: (Offset, Timestamp),
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl FnOnce(&mut HeaderWriter<'_>),
    ) {
        let next = self.next.unwrap_or(base.0);
        assert!(at.0 >= next, "offsets of a batch go up: {} after {next}", at.0);
        self.put(at.0.0 - next.0, at.1.0 - base.1.0, key, value, headers);
        self.next = Some(at.0.next());
    }

    fn put(
        &mut self,
        gap: u64,
        time: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl FnOnce(&mut HeaderWriter<'_>),
    ) {
        let start = self.frame.len();
        self.frame.put_u32_le(0);
        put_varint(&mut self.frame, gap);
        put_varint(&mut self.frame, ((time << 1) ^ (time >> 63)).cast_unsigned());
        for part in [key, value] {
            put_varint(&mut self.frame, part.map_or(0, |p| p.len() as u64 + 1));
            self.frame.put_slice(part.unwrap_or_default());
        }
        headers(&mut HeaderWriter::new(&mut self.frame));
        let length = u32::try_from(self.frame.len() - start - 4).expect("records are bounded far below 4 GiB");
        self.frame[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
    }

    /// How many records were added.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether none was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the frame so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.frame.len()
    }

    /// The batch, to be appended; the builder is empty again and keeps its spare capacity.
    #[must_use]
    pub fn finish(&mut self) -> Batch {
        self.finish_at(Offset::ZERO, Timestamp(0))
    }

    /// The batch of records added with [`BatchBuilder::push_at`] and the same base.
    #[must_use]
    pub fn finish_at(&mut self, base: Offset, timestamp: Timestamp) -> Batch {
        self.next = None;
        let count = std::mem::take(&mut self.count);
        Batch { base, timestamp, count, frame: self.frame.split().freeze() }
    }
}

pub(super) fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.put_u8(value.to_le_bytes()[0]);
}

/// Reads the frame front to back; every step refuses to leave it.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    frame: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn record(&mut self, next: Offset, timestamp: Timestamp) -> Option<RecordRef<'a>> {
        let length = u32::from_le_bytes(*self.take(4)?.first_chunk()?) as usize;
        let end = self.at.checked_add(length).filter(|end| *end <= self.frame.len())?;
        let gap = self.varint()?;
        let time = self.varint()?;
        let time = (time >> 1).cast_signed() ^ -((time & 1).cast_signed());
        let key = self.part()?;
        let value = self.part()?;
        let headers = Headers::new(self.frame.get(self.at..end)?);
        self.at = end;
        let offset = Offset(next.0.checked_add(gap)?);
        Some(RecordRef::new(offset, Timestamp(timestamp.0.checked_add(time)?), key, value, headers))
    }

    fn part(&mut self) -> Option<Option<&'a [u8]>> {
        match self.varint()? {
            0 => Some(None),
            length => self.take(usize::try_from(length - 1).ok()?).map(Some),
        }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let part = self.frame.get(self.at..end)?;
        self.at = end;
        Some(part)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.frame.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Name;
    use proptest::prelude::*;

    type Part = Option<Vec<u8>>;

    fn records() -> impl Strategy<Value = Vec<(u64, i64, Part, Part, Vec<u8>)>> {
        let part = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
        proptest::collection::vec(
            (0u64..1000, -5i64..1000, part(), part(), proptest::collection::vec(any::<u8>(), 0..9)),
            0..20,
        )
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_went_in(records in records(), base in 0u64..1 << 40, from in 0u64..20_000) {
            let base = (Offset(base), Timestamp(7));
            let mut builder = BatchBuilder::default();
            let mut expected = Vec::new();
            let mut next = base.0.0;
            for (gap, time, key, value, header) in &records {
                let at = (Offset(next + gap), Timestamp(7 + time));
                next = at.0.0 + 1;
                builder.push_at(base, at, key.as_deref(), value.as_deref(), |h| {
                    h.put(Name::Source, header);
                    h.put_named(b"other", header);
                });
                expected.push((at, key.as_deref(), value.as_deref(), header.as_slice()));
            }
            let batch = builder.finish_at(base.0, base.1);
            let batch = Batch::decode(base.0, base.1, u32::try_from(batch.len()).unwrap(), batch.frame().clone()).unwrap();
            let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
            let one = |r: RecordRef<'_>| {
                let header = r.headers.get(Name::Source).unwrap().to_vec();
                ((r.offset, r.timestamp), owned(r.key), owned(r.value), header)
            };
            let seen = |batch: &Batch| batch.iter().map(one).collect::<Vec<_>>();
            let expected: Vec<_> =
                expected.into_iter().map(|(at, k, v, h)| (at, owned(k), owned(v), h.to_vec())).collect();
            prop_assert_eq!(seen(&batch), expected.clone());
            let singles: Vec<_> = batch.singles().flat_map(|single| seen(&single.detached())).collect();
            prop_assert_eq!(singles, expected.clone());
            let from = Offset(base.0.0 + from);
            let skipped = batch.skip_to(from);
            let expected: Vec<_> = expected.into_iter().filter(|((o, _), ..)| *o >= from).collect();
            prop_assert_eq!(skipped.len(), expected.len());
            let mut rest = skipped.clone();
            let singles: Vec<_> = std::iter::from_fn(|| rest.pop_first()).flat_map(|one| seen(&one.detached())).collect();
            prop_assert_eq!(&singles, &expected);
            prop_assert!(rest.is_empty() && rest.frame().is_empty());
            prop_assert_eq!(seen(&skipped), expected);
        }

        #[test]
        fn gaps_beyond_all_offsets_are_refused(gaps in proptest::collection::vec(prop_oneof![0..2u64, u64::MAX - 2..], 0..4)) {
            let mut frame = BytesMut::new();
            for gap in &gaps {
                let mut record = BytesMut::new();
                put_varint(&mut record, *gap);
                record.put_slice(&[0, 0, 0]);
                frame.put_u32_le(u32::try_from(record.len()).unwrap());
                frame.put_slice(&record);
            }
            let fits = gaps.iter().try_fold(1u64, |next, gap| next.checked_add(*gap)?.checked_add(1)).is_some();
            let batch = Batch::decode(Offset(1), Timestamp(0), u32::try_from(gaps.len()).unwrap(), frame.freeze());
            prop_assert_eq!(batch.is_ok(), fits);
            prop_assert!(batch.is_ok_and(|batch| batch.iter().count() == gaps.len()) == fits);
        }

        #[test]
        fn damage_is_refused_and_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..300), count in 0u32..4) {
            if let Ok(batch) = Batch::decode(Offset(1), Timestamp(0), count, frame.into()) {
                prop_assert_eq!(batch.iter().count(), count as usize);
                for record in &batch {
                    record.headers.iter().for_each(drop);
                }
            }
        }
    }
}
