//! Several outputs in one answer: `application/vnd.seriatim.outputs+json`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The media type of several outputs.
pub const OUTPUTS: &str = "application/vnd.seriatim.outputs+json";

/// No message becomes more outputs than that: each is a record of one release.
pub const MAX_OUTPUTS: usize = 10_000;

/// One output as it is written in JSON. Exactly one of `body` and `body_base64` is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OutputJson {
    /// Destinations, separated by `, `; absent: those of the message, else the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The output's key; absent: the message's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Further headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The media type of the body; absent: `application/json` for JSON that is no string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The body: a string is its text, other JSON stays as it was written.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<RawValue>>,
    /// The body where it is not text, in standard Base64 with padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// `null` is a body like any other JSON, and not the absence of one.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

/// What is wrong with an array of outputs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not the JSON that it has to be.
    #[error("the outputs are not the JSON array they should be: {0}")]
    Json(String),
    /// Too many.
    #[error("{0} outputs; at most {MAX_OUTPUTS} are allowed")]
    TooMany(usize),
    /// One of them is wrong, so that none counts.
    #[error("output {index}: {reason}")]
    Output {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl OutputJson {
    /// The bytes that reach the destination.
    #[must_use]
    pub fn value(&self) -> Vec<u8> {
        match (&self.body, &self.body_base64) {
            (Some(body), _) => match serde_json::from_str::<String>(body.get()) {
                Ok(text) => text.into_bytes(),
                Err(_) => body.get().as_bytes().to_vec(),
            },
            // Looked at when the array was checked.
            (None, encoded) => BASE64_STANDARD.decode(encoded.as_deref().unwrap_or_default()).unwrap_or_default(),
        }
    }

    /// Their media type, where it is known.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        let is_json = self.body.as_ref().is_some_and(|body| !body.get().starts_with('"'));
        self.content_type.as_deref().or(is_json.then_some("application/json"))
    }

    fn invalid(&self) -> Option<String> {
        match (&self.body, &self.body_base64) {
            (None, None) => return Some("there is neither `body` nor `bodyBase64`".to_owned()),
            (Some(_), Some(_)) => return Some("there are both `body` and `bodyBase64`".to_owned()),
            (None, Some(text)) => {
                if let Err(error) = BASE64_STANDARD.decode(text) {
                    return Some(format!("`bodyBase64` is not Base64: {error}"));
                }
            }
            (Some(_), None) => {}
        }
        let reserved = self.headers.keys().find(|name| is_reserved(name.as_bytes()));
        if let Some(name) = reserved {
            return Some(format!("the header {name:?} is not for workers to set"));
        }
        let texts = self.destination.iter().chain(&self.content_type).chain(self.headers.values());
        texts
            .clone()
            .find(|text| text.chars().any(char::is_control))
            .map(|text| format!("{text:?} holds control characters"))
    }
}

/// Whether a header name is one that no worker may set on an output.
#[must_use]
pub fn is_reserved(name: &[u8]) -> bool {
    name.is_empty() || name.len() >= 9 && name[..9].eq_ignore_ascii_case(b"seriatim-")
}

/// Parses and checks an array of outputs. One invalid output makes the whole array invalid.
///
/// # Errors
///
/// [`Invalid`], naming the output.
pub fn check(json: &[u8]) -> Result<Vec<OutputJson>, Invalid> {
    let mut from = serde_json::Deserializer::from_slice(json);
    let outputs: Vec<OutputJson> = serde_path_to_error::deserialize(&mut from)
        .map_err(|e| Invalid::Json(format!("{} at {}", e.inner(), e.path())))?;
    from.end().map_err(|e| Invalid::Json(e.to_string()))?;
    if outputs.len() > MAX_OUTPUTS {
        return Err(Invalid::TooMany(outputs.len()));
    }
    let wrong = outputs.iter().enumerate().find_map(|(index, output)| Some((index, output.invalid()?)));
    match wrong {
        Some((index, reason)) => Err(Invalid::Output { index, reason }),
        None => Ok(outputs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_taken_whole_or_not_at_all() {
        let good = r#"[{"body":null},{"destination":"a, b","key":"k","headers":{"x":"1"},"contentType":"text/plain",
            "body":"t"},{"bodyBase64":"AAE="}]"#;
        assert_eq!(check(good.as_bytes()).map(|outputs| outputs.len()), Ok(3));
        for (bad, says) in [
            ("{}", "array"),
            ("[{\"body\":1}] x", "trailing"),
            (r#"[{"body":1},{}]"#, "output 1: there is neither"),
            (r#"[{"body":1,"bodyBase64":"AA=="}]"#, "both"),
            (r#"[{"bodyBase64":"A"}]"#, "not Base64"),
            (r#"[{"body":1,"headers":{"Seriatim-Sequence":"1"}}]"#, "not for workers"),
            (r#"[{"body":1,"destination":"a\nb"}]"#, "control"),
            (r#"[{"body":1,"colour":2}]"#, "unknown field `colour`"),
            (r#"[{"body":1,"destination":7}]"#, "[0].destination"),
        ] {
            let error = check(bad.as_bytes()).expect_err(bad).to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn bodies_stay_as_they_were_written() {
        let outputs = check(br#"[{"body": 1.0e2 },{"body":"a\n"},{"body":null},{"bodyBase64":"/w=="}]"#).expect("good");
        let values: Vec<_> = outputs.iter().map(|output| (output.value(), output.media_type())).collect();
        let json = Some("application/json");
        assert_eq!(
            values,
            [(b"1.0e2".to_vec(), json), (b"a\n".to_vec(), None), (b"null".to_vec(), json), (vec![0xff], None)]
        );
    }
}
