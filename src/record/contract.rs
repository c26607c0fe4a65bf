//! The `seriatim-` headers of each kind of record, as typed structs with one encoder and one
//! decoder each. What is decoded comes from strangers: every field is checked, nothing panics.

use std::fmt;

use super::headers::{HeaderWriter, Headers, Name};
use super::{Epoch, Offset, Partition, Round, Sequence, Source, decimal};

/// What became of one attempt to work on a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Worked on; the value is the output, or several.
    Done,
    /// Worked on; there is no output.
    Empty,
    /// Given up; the error says why.
    Failed,
    /// An attempt failed and another follows. Informs, resolves nothing.
    Retrying,
}

impl Status {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Empty => "empty",
            Self::Failed => "failed",
            Self::Retrying => "retrying",
        }
    }

    fn from_bytes(text: &[u8]) -> Option<Self> {
        [Self::Done, Self::Empty, Self::Failed, Self::Retrying].into_iter().find(|s| s.as_str().as_bytes() == text)
    }
}

/// Why a result cannot be judged at all; it is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No readable `seriatim-source`.
    #[error("header seriatim-source is missing or is not LANE:OFFSET")]
    Source,
    /// No readable `seriatim-check`.
    #[error("header seriatim-check is missing or is not a number of 32 bits")]
    Check,
    /// An unreadable `seriatim-round`.
    #[error("header seriatim-round is not a number of 32 bits")]
    Round,
}

/// The headers of a record on a results topic, and of a record on a work topic (without status).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultHeaders<'a> {
    /// The input record it answers.
    pub source: Source,
    /// The round it answers; 0 where the header is missing.
    pub round: Round,
    /// Proof that the worker read that very record.
    pub check: u32,
    /// `None` where the header is missing or unknown: the result does not decode, which is a failure.
    pub status: Option<Status>,
    /// Where the output goes, separated by `, `; `None` leaves it to the message or the default.
    pub destinations: Option<&'a [u8]>,
    /// The media type of the value.
    pub content_type: Option<&'a [u8]>,
    /// Why it failed, JSON.
    pub error: Option<&'a [u8]>,
    /// Which attempt it was, from 1.
    pub attempt: Option<u32>,
    /// Who worked on it.
    pub worker: Option<&'a [u8]>,
}

impl<'a> ResultHeaders<'a> {
    /// A result of round 0 without anything optional.
    #[must_use]
    pub const fn new(source: Source, check: u32, status: Status) -> Self {
        Self {
            source,
            round: Round(0),
            check,
            status: Some(status),
            destinations: None,
            content_type: None,
            error: None,
            attempt: None,
            worker: None,
        }
    }

    /// Decodes what a worker wrote.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where it cannot even be told which record of which life it answers.
    pub fn decode(headers: Headers<'a>) -> Result<Self, Malformed> {
        let (mut source, mut check) = (None, None);
        let (mut round, mut status) = (Some(Round(0)), None);
        let (mut destinations, mut content_type, mut error, mut attempt, mut worker) = (None, None, None, None, None);
        for (name, value) in headers.known() {
            match name {
                Name::Source => source = number_pair(value),
                Name::Check => check = number(value),
                Name::Round => round = number(value).map(Round),
                Name::Status => status = Status::from_bytes(value),
                Name::Destination => destinations = Some(value),
                Name::ContentType => content_type = Some(value),
                Name::Error => error = Some(value),
                Name::Attempt => attempt = number(value),
                Name::Worker => worker = Some(value),
                _ => {}
            }
        }
        Ok(Self {
            source: source.ok_or(Malformed::Source)?,
            round: round.ok_or(Malformed::Round)?,
            check: check.ok_or(Malformed::Check)?,
            status,
            destinations,
            content_type,
            error,
            attempt,
            worker,
        })
    }

    /// Writes the headers; round 0 and what is absent take no room.
    pub fn encode(&self, to: &mut HeaderWriter<'_>) {
        to.put_source(Name::Source, self.source);
        to.put_decimal(Name::Check, self.check.into());
        if let Some(status) = self.status {
            to.put(Name::Status, status.as_str().as_bytes());
        }
        if self.round.0 > 0 {
            to.put_decimal(Name::Round, self.round.0.into());
        }
        if let Some(attempt) = self.attempt {
            to.put_decimal(Name::Attempt, attempt.into());
        }
        let texts = [
            (Name::Destination, self.destinations),
            (Name::ContentType, self.content_type),
            (Name::Error, self.error),
            (Name::Worker, self.worker),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                to.put(name, value);
            }
        }
    }
}

/// The headers that every output record carries: its provenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputHeaders {
    /// The input record it comes from.
    pub source: Source,
    /// Its index among that record's outputs.
    pub output: u32,
    /// The hash of its sequence group.
    pub group: u64,
    /// Its number in the destination's partition, contiguous from 0.
    pub sequence: Sequence,
    /// The epoch of the owner that wrote it.
    pub epoch: Epoch,
}

impl OutputHeaders {
    /// The provenance of an output record, `None` where the record carries none that is readable.
    #[must_use]
    pub fn decode(headers: Headers<'_>) -> Option<Self> {
        let (mut source, mut output, mut group, mut sequence, mut epoch) = (None, None, None, None, None);
        for (name, value) in headers.known() {
            match name {
                Name::Source => source = number_pair(value),
                Name::Output => output = number(value),
                Name::Group => group = std::str::from_utf8(value).ok().and_then(|t| u64::from_str_radix(t, 16).ok()),
                Name::Sequence => sequence = number(value).map(Sequence),
                Name::Epoch => epoch = number(value).map(Epoch),
                _ => {}
            }
        }
        Some(Self { source: source?, output: output?, group: group?, sequence: sequence?, epoch: epoch? })
    }

    /// Writes the headers.
    pub fn encode(&self, to: &mut HeaderWriter<'_>) {
        to.put_source(Name::Source, self.source);
        to.put_decimal(Name::Output, self.output.into());
        to.put_hex(Name::Group, self.group);
        to.put_decimal(Name::Sequence, self.sequence.0);
        to.put_decimal(Name::Epoch, self.epoch.0);
    }
}

/// The names in a `seriatim-destination` header, in order, without blanks and empty ones.
pub fn destinations(header: &str) -> impl Iterator<Item = &str> {
    header.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Writes a failure as the JSON of a `seriatim-error` header.
#[must_use]
pub fn error_json(code: &str, detail: impl fmt::Display) -> String {
    serde_json::json!({ "code": code, "detail": detail.to_string() }).to_string()
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    decimal(std::str::from_utf8(value).ok()?)
}

fn number_pair(value: &[u8]) -> Option<Source> {
    Source::split(std::str::from_utf8(value).ok()?, ':')
}

/// The value of an item's `seriatim-batch` header, `ID:INDEX:ROUND`; the id may hold colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchItem<'a> {
    /// The batch.
    pub id: &'a str,
    /// The item's index in it, from 0.
    pub index: u64,
    /// The item's round.
    pub round: Round,
}

impl<'a> BatchItem<'a> {
    /// `None` where it is not of that form.
    #[must_use]
    pub fn decode(header: &'a str) -> Option<Self> {
        let (rest, round) = header.rsplit_once(':')?;
        let (id, index) = rest.rsplit_once(':')?;
        (!id.is_empty()).then_some(())?;
        Some(Self { id, index: decimal(index)?, round: Round(decimal(round)?) })
    }
}

impl fmt::Display for BatchItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.id, self.index, self.round.0)
    }
}

/// The value of the `seriatim-event` header of an input record that is no work: an event of a
/// batch, on its way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMark<'a> {
    /// The epoch of the owner that wrote it, and its number among those of that owner and lane.
    pub id: (u64, u64),
    /// Its type, a word of the contract.
    pub kind: &'a str,
}

impl<'a> EventMark<'a> {
    /// `None` where it is not of that form.
    #[must_use]
    pub fn decode(header: &'a str) -> Option<Self> {
        let (epoch, rest) = header.split_once(':')?;
        let (number, kind) = rest.split_once(':')?;
        Some(Self { id: (decimal(epoch)?, decimal(number)?), kind })
    }
}

impl fmt::Display for EventMark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.id.0, self.id.1, self.kind)
    }
}

/// A source, for those who build one from numbers.
impl From<(Partition, Offset)> for Source {
    fn from((lane, offset): (Partition, Offset)) -> Self {
        Self { lane, offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Timestamp, check};

    fn round_trip(write: impl FnOnce(&mut HeaderWriter<'_>), read: impl FnOnce(Headers<'_>)) {
        let mut builder = BatchBuilder::default();
        builder.push(None, None, write);
        let batch = builder.finish();
        read(batch.iter().next().expect("one was pushed").headers);
    }

    #[test]
    fn result_headers_round_trip() {
        let source = Source::from((Partition(2), Offset(77)));
        let plain = ResultHeaders::new(source, u32::MAX, Status::Done);
        let full = ResultHeaders {
            round: Round(3),
            status: Some(Status::Failed),
            destinations: Some(b"a, b"),
            content_type: Some(b"text/plain"),
            error: Some(b"{}"),
            attempt: Some(4),
            worker: Some(b"w1"),
            ..plain
        };
        for headers in [plain, full] {
            round_trip(|h| headers.encode(h), |h| assert_eq!(ResultHeaders::decode(h), Ok(headers)));
        }
    }

    #[test]
    fn results_that_cannot_be_judged_say_why() {
        for (name, value, expected) in [
            (Name::Source, "x", Malformed::Source),
            (Name::Check, "4294967296", Malformed::Check),
            (Name::Round, "-1", Malformed::Round),
        ] {
            round_trip(
                |h| {
                    ResultHeaders::new(Source::from((Partition(0), Offset(1))), 5, Status::Done).encode(h);
                    h.put(name, value.as_bytes());
                },
                |h| assert_eq!(ResultHeaders::decode(h), Err(expected)),
            );
        }
    }

    #[test]
    fn output_headers_round_trip() {
        let headers = OutputHeaders {
            source: Source::from((Partition(1), Offset(9))),
            output: 2,
            group: 0xfeed,
            sequence: Sequence(8),
            epoch: Epoch(7),
        };
        round_trip(|h| headers.encode(h), |h| assert_eq!(OutputHeaders::decode(h), Some(headers)));
    }

    #[test]
    fn batch_items_round_trip_with_colons_in_the_id() {
        let item = BatchItem { id: "a:b", index: 3, round: Round(1) };
        assert_eq!(BatchItem::decode(&item.to_string()), Some(item));
        assert_eq!(BatchItem::decode("3:1"), None);
        assert_eq!(BatchItem::decode(":3:1"), None);
    }

    #[test]
    fn event_marks_round_trip() {
        let mark = EventMark { id: (3, 17), kind: "WorkAllDone" };
        assert_eq!(EventMark::decode(&mark.to_string()), Some(mark));
        assert_eq!(EventMark::decode("3:WorkAllDone"), None);
        assert_eq!(EventMark::decode("-3:1:x"), None);
    }

    #[test]
    fn the_check_of_a_record_is_stable() {
        let mut builder = BatchBuilder::default();
        builder.push(Some(b"k"), Some(b"v"), |_| {});
        let batch = builder.finish().placed(Offset(5), Timestamp(1_700_000_000_000));
        // Stored in results of running systems: a change of this number loses their results.
        assert_eq!(check(&batch.iter().next().expect("one was pushed")), 3_326_163_624);
    }
}
