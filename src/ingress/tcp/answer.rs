//! What a peer is told of its messages.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::BytesMut;

use super::hl7::{self, Header};
use super::{Ack, Options};
use crate::framing::Framing;
use crate::ingress::problem::{Code, Problem};
use crate::log::Offsets;
use crate::record::{Partition, Source, Timestamp};

/// The commit acknowledgement of MLLP release 2, and its refusal.
const COMMITTED: u8 = 0x06;
const NOT_COMMITTED: u8 = 0x15;

/// The longest explanation within an HL7 acknowledgement: the length of MSA-3.
const LONGEST_TEXT: usize = 80;

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    Close,
}

/// Writes answers of one kind.
#[derive(Debug)]
pub(super) struct Answers {
    options: Arc<Options>,
}

impl Answers {
    pub(super) fn new(options: Arc<Options>) -> Self {
        Self { options }
    }

    /// Acknowledges messages that are durable.
    pub(super) fn accepted(
        &self,
        lane: Partition,
        offsets: &Offsets,
        header: Option<&Header>,
        now: Timestamp,
        to: &mut BytesMut,
    ) {
        match self.options.ack {
            Ack::None => {}
            Ack::Line => offsets.iter().for_each(|offset| {
                writeln!(to, r#"{{"id":"{lane}-{offset}","lane":{lane},"offset":{offset}}}"#)
                    .expect("a growing buffer takes everything");
            }),
            Ack::MllpCommit => offsets.iter().for_each(|_| block(&[COMMITTED], to)),
            Ack::Hl7 => {
                let Some(code) = self.options.hl7.accepted.code() else { return };
                for offset in offsets.iter() {
                    let id = Source { lane, offset }.to_string();
                    let mut message = Vec::new();
                    hl7::acknowledge(header, code, &id, "", now, &mut message);
                    block(&message, to);
                }
            }
        }
    }

    /// Tells that a message was not written, or perhaps not.
    pub(super) fn refused(
        &self,
        header: Option<&Header>,
        problem: &Problem,
        now: Timestamp,
        to: &mut BytesMut,
    ) -> Then {
        let unknown = problem.code() == Code::OutcomeUnknown;
        match self.options.ack {
            Ack::Line => {
                let problem = serde_json::to_string(problem).expect("plain data always serializes");
                writeln!(to, "{problem}").expect("a growing buffer takes everything");
                Then::Close
            }
            Ack::MllpCommit if !unknown => {
                block(&[NOT_COMMITTED], to);
                Then::Close
            }
            // A refusal would say that it was not written. Who gets no answer sends again.
            Ack::None | Ack::MllpCommit => Then::Close,
            Ack::Hl7 if unknown => Then::Close,
            Ack::Hl7 => self.refused_by_hl7(header, problem, now, to),
        }
    }

    fn refused_by_hl7(&self, header: Option<&Header>, problem: &Problem, now: Timestamp, to: &mut BytesMut) -> Then {
        let content = matches!(problem.code(), Code::InvalidBody | Code::BodyTooLarge | Code::Rejected);
        let verdict = if content { self.options.hl7.content } else { self.options.hl7.unavailable };
        let Some(code) = verdict.code() else { return Then::Close };
        let id = header.map_or_else(|| "0".into(), |header| String::from_utf8_lossy(header.control_id()));
        let mut message = Vec::new();
        hl7::acknowledge(header, code, &id, &text(problem.detail(), header), now, &mut message);
        block(&message, to);
        // Nothing was sent to the log for it, so that nothing is in doubt.
        if problem.code() == Code::InvalidBody { Then::GoOn } else { Then::Close }
    }
}

/// An explanation as HL7 can carry it: nothing in it separates anything, neither by the usual signs nor by those of
/// the sender.
fn text(detail: &str, header: Option<&Header>) -> String {
    let separates = |c| "|^~\\&".contains(c) || header.is_some_and(|header| header.separates(c));
    detail.chars().map(|c| if c.is_ascii_graphic() && !separates(c) { c } else { ' ' }).take(LONGEST_TEXT).collect()
}

/// Answers of ours hold what the sender's own header holds, which came in a block, too.
fn block(body: &[u8], to: &mut BytesMut) {
    Framing::Mllp.put(body, to).expect("it holds no byte of the framing");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::tcp::Verdict;
    use crate::record::Offset;

    fn answers(framing: Framing, change: impl FnOnce(&mut Options)) -> Answers {
        let mut options = Options::new(framing);
        change(&mut options);
        Answers::new(Arc::new(options))
    }

    fn refuse(answers: &Answers, code: Code) -> (String, Then) {
        let mut to = BytesMut::new();
        let then = answers.refused(None, &Problem::new(code, "no|way\r"), Timestamp(0), &mut to);
        (String::from_utf8_lossy(&to).into_owned(), then)
    }

    #[test]
    fn every_durable_message_has_its_line() {
        let mut to = BytesMut::new();
        let offsets = Offsets::run(Offset(7), 2);
        answers(Framing::Newline, |_| {}).accepted(Partition(1), &offsets, None, Timestamp(0), &mut to);
        assert_eq!(to, "{\"id\":\"1-7\",\"lane\":1,\"offset\":7}\n{\"id\":\"1-8\",\"lane\":1,\"offset\":8}\n");
    }

    #[test]
    fn an_unknown_outcome_is_never_told_as_a_refusal() {
        let commit = answers(Framing::Mllp, |options| options.ack = Ack::MllpCommit);
        let hl7 = answers(Framing::Mllp, |_| {});
        assert_eq!(refuse(&commit, Code::OutcomeUnknown), (String::new(), Then::Close));
        assert_eq!(refuse(&hl7, Code::OutcomeUnknown), (String::new(), Then::Close));
        assert_eq!(refuse(&commit, Code::LogUnavailable), ("\x0b\x15\x1c\r".to_owned(), Then::Close));
        let (line, then) = refuse(&answers(Framing::Newline, |_| {}), Code::OutcomeUnknown);
        assert!(line.contains(r#""outcome":"unknown""#) && line.ends_with('\n') && then == Then::Close, "{line}");
    }

    #[test]
    fn an_explanation_loses_only_what_separates() {
        assert_eq!(text("a_b (ingress.max_body) 50%|^~\\&\r\u{e9}", None), "a_b (ingress.max_body) 50%       ");
        let header = Header::read(b"MSH%_#~@%A%B%C%D%%%ADT%1%P%2.4\r").expect("it is one");
        assert_eq!(text("a_b 50% #1", Some(&header)), "a b 50   1");
    }

    #[test]
    fn hl7_verdicts_are_those_that_are_configured() {
        let usual = answers(Framing::Mllp, |_| {});
        let (message, then) = refuse(&usual, Code::InvalidBody);
        assert!(message.contains("\rMSA|AE||no way \r") && then == Then::GoOn, "{message}");
        let (message, then) = refuse(&usual, Code::LogUnavailable);
        assert!(message.contains("\rMSA|AR|") && then == Then::Close, "{message}");
        let other = answers(Framing::Mllp, |options| {
            options.hl7.content = Verdict::CommitError;
            options.hl7.unavailable = Verdict::Close;
        });
        assert!(refuse(&other, Code::Rejected).0.contains("\rMSA|CE|"));
        assert_eq!(refuse(&other, Code::Overloaded), (String::new(), Then::Close));
    }
}
