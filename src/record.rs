//! Wire types: everything that is written to a log, in one place.
//!
//! A [`Batch`] is the unit on every hot path, from socket to disk: one contiguous frame of
//! records, built once by a [`BatchBuilder`] and read in place through [`RecordRef`], so that a
//! record costs no allocation of its own. [`Headers`] are decoded on demand; typed structs such as
//! [`ResultHeaders`] encode and decode the `seriatim-` headers of the public contract.

mod batch;
pub mod batches;
mod contract;
pub mod control;
pub mod cursor;
mod headers;
pub mod ledger;
pub mod outputs;
pub(crate) mod present;
pub mod push;

use std::collections::BTreeMap;
use std::fmt;

pub use batch::{Batch, BatchBuilder, Corrupt, RecordRef};
pub use contract::{BatchItem, EventMark, Malformed, OutputHeaders, ResultHeaders, Status, destinations, error_json};
pub use headers::{HeaderWriter, Headers, Name};

/// A record's position in its partition. Strictly increasing, never dense: transaction markers,
/// aborted batches and deletions leave holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Self = Self(0);

    /// The offset after this one, which may be a hole.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a partition of a topic. The same number names the lane that hangs on it, or the
/// control partition, by the topic it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u32);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fencing token of one ownership of one control partition; strictly increasing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// What tells a topic from another one that had its name before, or has it after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TopicId(pub u128);

/// Which topics somebody knows, by name.
pub type TopicIds = BTreeMap<String, TopicId>;

/// A contiguous number that an output has in its destination's partition; the first is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// How often an operator has sent a record round again; results of another round do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round(pub u32);

/// Milliseconds since the Unix epoch, as the log stamped the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Now, by the system's clock. Stages ask their log instead, so that simulation can turn it.
    #[must_use]
    pub fn system() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// The time since `earlier`, zero where the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The moment this long before, to the millisecond.
    #[must_use]
    pub fn before(self, by: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The moment this long after, to the millisecond.
    #[must_use]
    pub fn after(self, wait: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Where a message came in: `LANE:OFFSET` in headers, `LANE-OFFSET` as the public id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The input partition.
    pub lane: Partition,
    /// The offset in it.
    pub offset: Offset,
}

impl Source {
    /// Parses the public id, `LANE-OFFSET`; `None` if it is not one.
    #[must_use]
    pub fn from_id(id: &str) -> Option<Self> {
        Self::split(id, '-')
    }

    pub(crate) fn split(text: &str, separator: char) -> Option<Self> {
        let (lane, offset) = text.split_once(separator)?;
        Some(Self { lane: Partition(decimal(lane)?), offset: Offset(decimal(offset)?) })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.lane, self.offset)
    }
}

/// Plain decimal digits only: `+1` and ` 1`, which `parse` takes, are no numbers of the contract.
pub(crate) fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The number of the sequence group that a name stands for, or that of those without a name.
///
/// SHA-256, because names come from strangers, who could otherwise choose many that collide, and
/// because receivers keep state under this number, so that it must be the same for ever.
#[must_use]
pub fn group_hash(name: Option<&[u8]>) -> u64 {
    use sha2::Digest as _;
    let digest = match name {
        Some(name) => sha2::Sha256::new().chain_update([1]).chain_update(name).finalize(),
        None => sha2::Sha256::digest([0]),
    };
    u64::from_be_bytes(*digest.first_chunk().expect("SHA-256 has 32 bytes"))
}

/// CRC-32C over an input record's key, value and timestamp, each with its length: only who read
/// that very record knows it, so results of strangers and of a topic's former life fall out.
#[must_use]
pub fn check(record: &RecordRef<'_>) -> u32 {
    let mut crc = crc32c::crc32c(&record.timestamp.0.to_be_bytes());
    for part in [record.key, record.value] {
        // -1 for an absent part, so that it differs from an empty one.
        let length = part.map_or(-1, |p| i64::try_from(p.len()).unwrap_or(i64::MAX));
        crc = crc32c::crc32c_append(crc, &length.to_be_bytes());
        crc = crc32c::crc32c_append(crc, part.unwrap_or_default());
    }
    crc
}

/// The partition that Java's default partitioner picks for a key: murmur2 with Kafka's seed, the
/// sign bit cleared, modulo the number of partitions.
///
/// # Panics
///
/// If `partitions` is 0, which no topic has.
#[must_use]
pub fn partition_of_key(key: &[u8], partitions: u32) -> Partition {
    Partition((murmur2(key) & 0x7fff_ffff) % partitions)
}

/// MurmurHash2, 32 bit, by Austin Appleby, with the seed of `org.apache.kafka.common.utils.Utils`.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    #[allow(clippy::cast_possible_truncation)] // as the reference does
    let mut h = SEED ^ data.len() as u32;
    let (chunks, rest) = data.as_chunks::<4>();
    for chunk in chunks {
        let mut k = u32::from_le_bytes(*chunk).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (i, byte) in rest.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * i);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_agrees_with_kafka() {
        for (key, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    #[test]
    fn public_ids_round_trip_and_refuse_what_is_none() {
        let source = Source { lane: Partition(3), offset: Offset(42) };
        assert_eq!(Source::from_id(&source.to_string()), Some(source));
        for bad in ["", "3", "3-", "-42", "3-+4", "3-4-5", "a-1", "3:42", "99999999999-1"] {
            assert_eq!(Source::from_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn check_tells_absent_from_empty_and_sees_the_time() {
        let record =
            |key, value, time| check(&RecordRef::new(Offset(0), Timestamp(time), key, value, Headers::default()));
        let base = record(None, Some(&b"v"[..]), 1);
        assert_ne!(base, record(Some(&b""[..]), Some(&b"v"[..]), 1));
        assert_ne!(base, record(None, Some(&b"v"[..]), 2));
        assert_ne!(record(Some(&b"a"[..]), Some(&b"b"[..]), 1), record(Some(&b"ab"[..]), Some(&b""[..]), 1));
    }
}
