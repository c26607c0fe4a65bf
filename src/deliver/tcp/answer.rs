//! What a receiver's answer over TCP means, in the statuses that answers over HTTP have.

use super::super::verdict::{Answer, Failure, FailureKind};

/// Statuses by which an attempt is judged.
const ACCEPTED: u16 = 200;
const REFUSED: u16 = 422;
const UNAVAILABLE: u16 = 503;

/// The commit acknowledgement of MLLP release 2, and its refusal.
const COMMITTED: &[u8] = &[0x06];
const NOT_COMMITTED: &[u8] = &[0x15];

/// How much of an answer operators get to see.
const LONGEST_DETAIL: usize = 500;

pub(super) const fn accepted() -> Answer {
    Answer::new(ACCEPTED, String::new())
}

/// The message will never do.
pub(super) fn refused(detail: &str) -> Answer {
    answer(REFUSED, detail)
}

/// A line: a problem that refuses, or anything else, which accepts.
pub(super) fn of_line(line: &[u8]) -> Answer {
    #[derive(serde::Deserialize)]
    struct Problem {
        code: String,
        detail: String,
        retryable: bool,
    }
    match serde_json::from_slice::<Problem>(line) {
        Err(_) => accepted(),
        Ok(Problem { code, detail, retryable }) => {
            answer(if retryable { UNAVAILABLE } else { REFUSED }, &format!("{code}: {detail}"))
        }
    }
}

/// A block: the commit acknowledgement of MLLP, or an acknowledgement of HL7's for `sent`.
///
/// # Errors
///
/// A block that is neither, or acknowledges another message: then nothing on this connection can be
/// trusted.
pub(super) fn of_block(block: &[u8], sent: &[u8]) -> Result<Answer, Failure> {
    match block {
        COMMITTED => return Ok(accepted()),
        NOT_COMMITTED => return Ok(answer(UNAVAILABLE, "it was not committed")),
        _ => {}
    }
    let out_of_step = |detail: &str| Failure { kind: FailureKind::Connection, detail: detail.to_owned() };
    let mut segments = block.split(|byte| matches!(byte, b'\r' | b'\n'));
    let verdict = segments.find(|segment| segment.starts_with(b"MSA"));
    let verdict = verdict.ok_or_else(|| out_of_step("the answer holds no segment MSA"))?;
    let (of, about) = (field(verdict, 2), control_id(sent));
    if !of.is_empty() && !about.is_empty() && of != about {
        return Err(out_of_step("the answer acknowledges another message"));
    }
    let text = String::from_utf8_lossy(verdict);
    match field(verdict, 1) {
        b"AA" | b"CA" => Ok(accepted()),
        b"AE" | b"CE" => Ok(answer(REFUSED, &text)),
        b"AR" | b"CR" => Ok(answer(UNAVAILABLE, &text)),
        _ => Err(out_of_step("the answer's MSA-1 is none of AA, AE, AR, CA, CE, CR")),
    }
}

/// The message's control id, MSH-10; empty where it is no message of HL7's.
fn control_id(message: &[u8]) -> &[u8] {
    let end = message.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(message.len());
    // MSH-1 is the separator itself.
    if message.starts_with(b"MSH") { field(&message[..end], 9) } else { b"" }
}

/// What stands behind so many separators, of which the first follows the segment's name.
fn field(segment: &[u8], number: usize) -> &[u8] {
    let Some(separator) = segment.get(3) else { return b"" };
    segment.split(|byte| byte == separator).nth(number).unwrap_or_default()
}

fn answer(status: u16, detail: &str) -> Answer {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    Answer::new(status, detail.chars().take(LONGEST_DETAIL).map(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &[u8] = b"MSH|^~\\&|A|B|C|D|20260101||ORU|17|P|2.5\rOBX|1\r";

    fn block(text: &str) -> Result<u16, String> {
        of_block(text.as_bytes(), SENT).map(|answer| answer.status).map_err(|failure| failure.detail)
    }

    #[test]
    fn hl7_verdicts_are_those_of_the_message() {
        let head = "MSH|^~\\&|C|D|A|B|20260101||ACK|1|P|2.5\r";
        for (verdict, status) in [("AA", 200), ("CA", 200), ("AE", 422), ("CE", 422), ("AR", 503), ("CR", 503)] {
            assert_eq!(block(&format!("{head}MSA|{verdict}|17|text\r")), Ok(status));
            assert_eq!(block(&format!("{head}MSA|{verdict}|\r")), Ok(status), "some leave the id out");
        }
        assert_eq!(block(&format!("{head}MSA|AA|16\r")).unwrap_err(), "the answer acknowledges another message");
        assert!(block(&format!("{head}MSA|XX|17\r")).is_err());
        assert!(block(head).is_err());
        assert_eq!((block("\x06"), block("\x15")), (Ok(200), Ok(503)));
    }

    #[test]
    fn a_line_accepts_unless_it_is_a_problem() {
        for fine in [&b"ok"[..], b"{}", br#"{"id":"0-1","lane":0,"offset":1}"#, b"\xff"] {
            assert_eq!(of_line(fine).status, 200);
        }
        let problem = |retryable: bool| format!(r#"{{"code":"full","detail":"no room","retryable":{retryable}}}"#);
        assert_eq!(of_line(problem(true).as_bytes()), answer(503, "full: no room"));
        assert_eq!(of_line(problem(false).as_bytes()).status, 422);
    }
}
