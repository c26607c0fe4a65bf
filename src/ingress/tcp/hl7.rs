//! What ingress knows of HL7 version 2: the header segment of a message, and how one is
//! acknowledged. Everything else of a message is the workers' concern.

use crate::record::Timestamp;

/// The longest header segment that is taken. Real ones have a few hundred bytes.
const LONGEST_HEADER: usize = 4 * 1024;

/// What a message begins with, before its field separator.
const NAME: &[u8] = b"MSH";

/// A field of the header segment by its number in HL7's books, from 3 (MSH-3) to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(u8);

impl Field {
    /// Sending application.
    pub const SENDER: Self = Self(3);
    /// Sending facility.
    pub const FACILITY: Self = Self(4);
    const RECEIVER: Self = Self(5);
    const RECEIVING_FACILITY: Self = Self(6);
    const TYPE: Self = Self(9);
    const CONTROL_ID: Self = Self(10);
    const PROCESSING_ID: Self = Self(11);
    const VERSION: Self = Self(12);

    /// A field by its text, as in `MSH-4`; `None` where that is no such field.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.trim().strip_prefix("MSH-")?.parse().ok()?;
        (number >= Self::SENDER.0).then_some(Self(number))
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MSH-{}", self.0)
    }
}

/// The header segment of a message, copied out of it so that an acknowledgement can be made later.
#[derive(Clone, Debug)]
pub(super) struct Header {
    segment: Box<[u8]>,
    separator: u8,
}

/// A message that is none of HL7's, or has no control id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotHl7 {
    #[error("the message does not begin with MSH and a field separator")]
    NoHeader,
    #[error("the segment MSH is longer than {LONGEST_HEADER} bytes")]
    LongHeader,
    #[error("MSH-10, the message's control id, is empty")]
    NoControlId,
}

impl Header {
    /// Reads the header of a message.
    pub(super) fn read(message: &[u8]) -> Result<Self, NotHl7> {
        let separator = match message.strip_prefix(NAME) {
            Some([separator, ..]) if separator.is_ascii_punctuation() => *separator,
            _ => return Err(NotHl7::NoHeader),
        };
        // Segments end with a carriage return; files that were edited have line feeds.
        let end = message.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(message.len());
        if end > LONGEST_HEADER {
            return Err(NotHl7::LongHeader);
        }
        let header = Self { segment: message[..end].into(), separator };
        if header.control_id().is_empty() { Err(NotHl7::NoControlId) } else { Ok(header) }
    }

    /// A field's content; empty where the segment ends before it.
    pub(super) fn field(&self, field: Field) -> &[u8] {
        // MSH-1 is the separator itself, so that splitting at it makes field n the n-1st part.
        self.segment.split(|byte| *byte == self.separator).nth(usize::from(field.0) - 1).unwrap_or_default()
    }

    pub(super) fn control_id(&self) -> &[u8] {
        self.field(Field::CONTROL_ID)
    }

    /// Several fields, joined as they are in the header.
    pub(super) fn joined(&self, fields: &[Field]) -> Vec<u8> {
        fields.iter().map(|field| self.field(*field)).collect::<Vec<_>>().join(&self.separator)
    }

    /// Whether it is one of the signs that separate something in this message.
    pub(super) fn separates(&self, sign: char) -> bool {
        u8::try_from(sign).is_ok_and(|byte| byte == self.separator || self.encoding().contains(&byte))
    }

    /// What follows `MSH`: the separator and the encoding characters, MSH-1 and MSH-2.
    fn encoding(&self) -> &[u8] {
        self.segment.split(|byte| *byte == self.separator).nth(1).unwrap_or_default()
    }
}

/// Writes an acknowledgement of the message with this header: from its receiver to its sender, in
/// its own encoding and version. `id` becomes the acknowledgement's control id, `text` says what is
/// wrong where something is. Without a header it answers nobody in particular.
pub(super) fn acknowledge(header: Option<&Header>, code: &str, id: &str, text: &str, now: Timestamp, to: &mut Vec<u8>) {
    let none = Header { segment: b"MSH|^~\\&|||||||||P|2.3".as_slice().into(), separator: b'|' };
    let of = header.unwrap_or(&none);
    let component = *of.encoding().first().unwrap_or(&b'^');
    // ACK, with the event that the message tells of: ADT^A01 is acknowledged by ACK^A01.
    let event = of.field(Field::TYPE).split(|byte| *byte == component).nth(1).filter(|event| !event.is_empty());
    let kind = event.map_or_else(|| b"ACK".to_vec(), |event| [b"ACK", event].join(&component));
    let time = date_time(now);
    let head: [&[u8]; 12] = [
        NAME,
        of.encoding(),
        of.field(Field::RECEIVER),
        of.field(Field::RECEIVING_FACILITY),
        of.field(Field::SENDER),
        of.field(Field::FACILITY),
        time.as_bytes(),
        b"",
        &kind,
        id.as_bytes(),
        of.field(Field::PROCESSING_ID),
        of.field(Field::VERSION),
    ];
    let verdict: [&[u8]; 4] = [b"MSA", code.as_bytes(), header.map_or(&b""[..], Header::control_id), text.as_bytes()];
    let verdict = &verdict[..if text.is_empty() { 3 } else { 4 }];
    for segment in [&head[..], verdict] {
        to.extend_from_slice(&segment.join(&of.separator));
        to.push(b'\r');
    }
}

/// `YYYYMMDDHHMMSS+0000`.
fn date_time(at: Timestamp) -> String {
    let seconds = at.0.div_euclid(1000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}+0000")
}

/// The Gregorian date of a day counted from 1970-01-01. Years are taken to begin in March, so that
/// the leap day is the last one, and in eras of 400 years, which all have the same days.
const fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIT: &[u8] = b"MSH|^~\\&|ADT1|MCM|LABADT|LAB|198808181126|SECURITY|ADT^A01|MSG00001|P|2.4\rEVN|A01\r";

    fn answer(message: &[u8], code: &str, text: &str) -> String {
        let header = Header::read(message).ok();
        let mut to = Vec::new();
        acknowledge(header.as_ref(), code, "0-7", text, Timestamp(951_827_696_000), &mut to);
        String::from_utf8(to).expect("it is ASCII")
    }

    #[test]
    fn an_answer_goes_back_to_the_sender() {
        assert_eq!(
            answer(ADMIT, "AA", ""),
            "MSH|^~\\&|LABADT|LAB|ADT1|MCM|20000229123456+0000||ACK^A01|0-7|P|2.4\rMSA|AA|MSG00001\r"
        );
    }

    #[test]
    fn the_senders_own_encoding_is_kept() {
        let message = b"MSH#*~\\&#A#B#C#D#1##ORU*R01#7#T#2.5";
        assert_eq!(
            answer(message, "AR", "no room"),
            "MSH#*~\\&#C#D#A#B#20000229123456+0000##ACK*R01#0-7#T#2.5\rMSA#AR#7#no room\r"
        );
    }

    #[test]
    fn what_is_no_message_is_answered_to_nobody() {
        assert_eq!(answer(b"hello", "AE", "what"), "MSH|^~\\&|||||20000229123456+0000||ACK|0-7|P|2.3\rMSA|AE||what\r");
    }

    #[test]
    fn fields_are_read_as_far_as_they_are_there() {
        let header = Header::read(ADMIT).expect("it is a message");
        assert_eq!(header.joined(&[Field::FACILITY, Field::SENDER]), b"MCM|ADT1");
        assert_eq!(header.field(Field(200)), b"");
        assert_eq!(Header::read(b"MSH|^~\\&|A").unwrap_err(), NotHl7::NoControlId);
        assert_eq!(Header::read(b"MSH").unwrap_err(), NotHl7::NoHeader);
        assert_eq!(Header::read(b"MSHA").unwrap_err(), NotHl7::NoHeader);
        assert_eq!(Header::read(b"PID|1").unwrap_err(), NotHl7::NoHeader);
        assert_eq!(Header::read(&[b"MSH|".as_slice(), &[b'x'; 5000]].concat()).unwrap_err(), NotHl7::LongHeader);
    }

    #[test]
    fn fields_are_named_as_in_the_books() {
        assert_eq!(Field::parse("MSH-4"), Some(Field::FACILITY));
        for bad in ["MSH-2", "MSH-0", "MSH-256", "MSH-", "PID-3", "4", ""] {
            assert_eq!(Field::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "19700101000000+0000"),
            (-1, "19691231235959+0000"),
            (951_782_400, "20000229000000+0000"),
            (1_709_164_800, "20240229000000+0000"),
            (4_107_542_399, "21000228235959+0000"),
            (4_107_542_400, "21000301000000+0000"),
        ] {
            assert_eq!(date_time(Timestamp(seconds * 1000)), expected);
        }
    }
}
