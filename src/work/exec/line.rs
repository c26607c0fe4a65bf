//! The lines that go to a child and come from it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record::Source;
use crate::record::outputs::{self, OutputJson};
use crate::work::processor::{Answer, Failure, Job, Output};

/// Exactly one of `body` and `body_base64` is there; a key that is not UTF-8 is in `key_base64`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JobLine<'a> {
    id: String,
    lane: u32,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    attempt: u32,
    headers: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Body<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Json(Box<RawValue>),
    Text(&'a str),
}

/// The line of a job, with its end. A body whose content type is JSON is put in as JSON, other
/// text as a string. Headers that are not UTF-8 are left out.
pub(super) fn encode(job: &Job) -> Vec<u8> {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let content_type = job.content_type().and_then(text);
    let body = body(job.body(), content_type);
    let line = JobLine {
        id: job.id(),
        lane: job.source.lane.0,
        offset: job.source.offset.0,
        key: job.key().and_then(text),
        key_base64: job.key().filter(|key| text(key).is_none()).map(|key| BASE64_STANDARD.encode(key)),
        attempt: job.attempt,
        headers: job.headers().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect(),
        content_type,
        body_base64: body.is_none().then(|| BASE64_STANDARD.encode(job.body())),
        body,
    };
    let mut line = serde_json::to_vec(&line).expect("texts and numbers always serialize");
    line.push(b'\n');
    line
}

fn body<'a>(body: &'a [u8], content_type: Option<&str>) -> Option<Body<'a>> {
    let text = std::str::from_utf8(body).ok()?;
    let json = content_type.is_some_and(is_json).then(|| {
        // A line must not be broken; between its tokens JSON may as well have a blank.
        RawValue::from_string(text.replace(['\n', '\r'], " ")).ok()
    });
    Some(json.flatten().map_or(Body::Text(text), Body::Json))
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json")
}

/// What a child answers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerLine {
    id: String,
    outputs: Option<Box<RawValue>>,
    error: Option<ErrorLine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorLine {
    #[serde(default = "unnamed")]
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    retryable: bool,
}

fn unnamed() -> String {
    "worker-error".to_owned()
}

/// Which record a line answers, and how; else what is wrong with the line.
pub(super) fn decode(line: &str) -> Result<(Source, Result<Answer, Failure>), String> {
    let AnswerLine { id, outputs, error } = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let source = Source::from_id(&id).ok_or_else(|| format!("the id {id:?} is none that was given"))?;
    let outcome = match (outputs, error) {
        (Some(outputs), None) => answer(&outputs).map_err(|e| Failure::fail("outputs-invalid", e)),
        (None, Some(ErrorLine { code, detail, retryable: true })) => Err(Failure::retry(code, detail)),
        (None, Some(ErrorLine { code, detail, retryable: false })) => Err(Failure::fail(code, detail)),
        _ => return Err("there has to be either `outputs` or `error`".to_owned()),
    };
    Ok((source, outcome))
}

/// The id at the very beginning of a line, of which there may be no more than that.
pub(super) fn id_of(head: &[u8]) -> Option<Source> {
    let text = String::from_utf8_lossy(head);
    let mut rest = text.as_ref();
    for token in ["{", "\"id\"", ":", "\""] {
        rest = rest.trim_start().strip_prefix(token)?;
    }
    Source::from_id(rest.split_once('"')?.0)
}

fn answer(outputs: &RawValue) -> Result<Answer, outputs::Invalid> {
    let json = outputs.get();
    let mut list = outputs::check(json.as_bytes())?;
    Ok(match list.len() {
        0 => Answer::Empty,
        1 if list[0].key.is_none() && list[0].headers.is_empty() => Answer::One(single(list.swap_remove(0))),
        _ => Answer::Several(Bytes::copy_from_slice(json.as_bytes())),
    })
}

fn single(output: OutputJson) -> Output {
    let content_type = output.media_type().map(|media| Bytes::copy_from_slice(media.as_bytes()));
    Output { body: output.value().into(), content_type, destinations: output.destination, headers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Name, Offset, Partition, Timestamp};

    fn encoded(key: Option<&[u8]>, body: &[u8], content_type: &[u8]) -> String {
        let mut builder = BatchBuilder::default();
        builder.push(key, Some(body), |h| {
            h.put(Name::ContentType, content_type);
            h.put_named(b"x", b"1");
        });
        let source = Source::from((Partition(1), Offset(2)));
        String::from_utf8(encode(&Job::new(source, 3, Timestamp(0), builder.finish()))).expect("it is text")
    }

    #[test]
    fn a_job_is_one_line_whatever_its_body() {
        let expected = concat!(
            r#"{"id":"1-2","lane":1,"offset":2,"key":"k","attempt":3,"headers":{"x":"1"},"#,
            r#""contentType":"application/json; charset=utf-8","body":{   "a": 1.00 }}"#,
            "\n"
        );
        assert_eq!(encoded(Some(b"k"), b"{\r\n \"a\": 1.00 }", b"application/json; charset=utf-8"), expected);
        assert!(encoded(None, b"a\nb", b"text/plain").ends_with("\"body\":\"a\\nb\"}\n"));
        assert!(encoded(None, b"{", b"application/json").ends_with("\"body\":\"{\"}\n"));
        let binary = encoded(Some(&[0xff]), &[0xff, 0], b"x/y");
        assert!(
            binary.contains("\"keyBase64\":\"/w==\"") && binary.ends_with("\"bodyBase64\":\"/wA=\"}\n"),
            "{binary}"
        );
    }

    #[test]
    fn the_id_is_found_where_a_line_begins_with_it_only() {
        let source = Source::from((Partition(1), Offset(2)));
        assert_eq!(id_of(b" { \"id\" : \"1-2\", \"outputs\":[{\"body"), Some(source));
        for line in ["{\"outputs\":[{\"body\":{\"id\":\"1-2\"}}]", "{\"id\":\"1-2", "{\"id\":\"x\"", "xxx", ""] {
            assert_eq!(id_of(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn answers_are_told_from_garbage() {
        let outcome = |line: &str| decode(line).map(|(_, outcome)| outcome);
        assert_eq!(outcome(r#"{"id":"0-1","outputs":[]}"#), Ok(Ok(Answer::Empty)));
        let text = Output { destinations: Some("a".to_owned()), ..Output::new("hi".into()) };
        assert_eq!(outcome(r#"{"id":"0-1","outputs":[{"body":"hi","destination":"a"}]}"#), Ok(Ok(Answer::One(text))));
        let json = Output { content_type: Some("application/json".into()), ..Output::new("[1.00]".into()) };
        assert_eq!(outcome(r#"{"id":"0-1","outputs":[{"body":[1.00]}]}"#), Ok(Ok(Answer::One(json))));
        assert!(matches!(outcome(r#"{"id":"0-1","outputs":[{"body":1,"key":"k"}]}"#), Ok(Ok(Answer::Several(_)))));
        let failed = outcome(r#"{"id":"0-1","error":{"code":"c","detail":"d","retryable":true}}"#);
        assert_eq!(failed, Ok(Err(Failure::retry("c", "d"))));
        assert_eq!(outcome(r#"{"id":"0-1","error":{}}"#), Ok(Err(Failure::fail("worker-error", ""))));
        let invalid =
            outcome(r#"{"id":"0-1","outputs":[{}]}"#).expect("the line is fine").expect_err("the outputs are not");
        assert_eq!(invalid.code, "outputs-invalid");
        for garbage in [
            "",
            "hello",
            "{}",
            r#"{"id":"x","outputs":[]}"#,
            r#"{"id":"0-1"}"#,
            r#"{"id":"0-1","outputs":[],"error":{}}"#,
        ] {
            assert!(decode(garbage).is_err(), "{garbage}");
        }
    }
}
