//! CloudEvents 1.0: what keeps attributes, or a JSON text in structured mode, from being an event.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The attributes that every event has, each a text that is not empty.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// Where a JSON object holds the event's data.
const DATA: &str = "data";
const DATA_BASE64: &str = "data_base64";

/// A JSON object as it came: its members in order, the same name perhaps twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(OfMembers)
    }
}

struct OfMembers;

impl<'de> Visitor<'de> for OfMembers {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// What keeps this JSON text from being a CloudEvent; `None` where it is one.
pub(super) fn fault(text: &str) -> Option<String> {
    let Ok(Members(members)) = serde_json::from_str(text) else {
        return Some("it is no JSON object, so it is no CloudEvent".to_owned());
    };
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Some(format!("{:?} is there more than once", twice[0]));
    }
    let is_there = |name: &str| names.binary_search(&name).is_ok();
    if is_there(DATA) && is_there(DATA_BASE64) {
        return Some("an event has data or data_base64, not both".to_owned());
    }
    if let Some(fault) = members.iter().find_map(|(name, value)| member_fault(name, value)) {
        return Some(fault);
    }
    let is_text = |value: &RawValue| value.get().starts_with('"') && value.get() != r#""""#;
    let missing = REQUIRED.into_iter().find(|required| {
        let value = members.iter().find(|(name, _)| name == required);
        !value.is_some_and(|(_, value)| is_text(value))
    });
    missing.map(|name| format!("a CloudEvent needs the attribute {name}, a text that is not empty"))
}

fn member_fault(name: &str, value: &RawValue) -> Option<String> {
    let text: Option<String> = serde_json::from_str(value.get()).ok();
    match name {
        DATA => None,
        DATA_BASE64 => {
            let valid = text.is_some_and(|text| BASE64_STANDARD.decode(text).is_ok());
            (!valid).then(|| "data_base64 is no Base64".to_owned())
        }
        // A null is an attribute that is not there.
        "time" if text.is_none() && value.get() != "null" => Some("time: it is no text".to_owned()),
        _ => attribute_fault(name, text.as_deref().unwrap_or_default()).map(|fault| format!("{name}: {fault}")),
    }
}

/// What is wrong with an attribute; a value that is empty is another's concern.
pub(super) fn attribute_fault(name: &str, value: &str) -> Option<String> {
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fault = match name {
        _ if !is_name => "an attribute's name has lower-case letters and digits only",
        "specversion" if !value.is_empty() && value != "1.0" => "only events of version 1.0 are taken",
        "time" if !value.is_empty() && !is_time(value) => "it is no time as RFC 3339 has it",
        _ => return None,
    };
    Some(fault.to_owned())
}

/// Whether this is a date and time with its offset (RFC 3339, 5.6).
fn is_time(text: &str) -> bool {
    // The parser takes anything between the date and the time.
    let separator = text.as_bytes().get(10);
    separator.is_some_and(|byte| byte.eq_ignore_ascii_case(&b'T')) && OffsetDateTime::parse(text, &Rfc3339).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_four_attributes() {
        let event = r#"{"specversion":"1.0","id":"8","source":"/s","type":"t","data":[1]}"#;
        assert_eq!(fault(event), None);
        assert_eq!(fault(&event.replace("/s", "\\u00e9\\n")), None);
        for (name, broken) in [("id", event.replace("\"8\"", "8")), ("type", event.replace("\"t\"", "\"\""))] {
            let expected = format!("a CloudEvent needs the attribute {name}, a text that is not empty");
            assert_eq!(fault(&broken), Some(expected), "{broken}");
        }
        assert!(fault(r#"{"specversion":"1.0"}"#).is_some_and(|fault| fault.contains("attribute id")));
        for other in ["3", "[]", r#"["1.0","8","/s","t"]"#, "null", "{", "{}x"] {
            assert_eq!(fault(other).as_deref(), Some("it is no JSON object, so it is no CloudEvent"), "{other}");
        }
    }

    #[test]
    fn what_the_specification_forbids_is_told() {
        let event = |more: &str| format!(r#"{{"specversion":"1.0","id":"8","source":"/s","type":"t"{more}}}"#);
        for good in ["", r#","data_base64":"AA==""#, r#","time":null"#, r#","ext1":7"#, r#","data":{"A_b":1}"#] {
            assert_eq!(fault(&event(good)), None, "{good}");
        }
        for (bad, says) in [
            (event("").replace("1.0", "0.3"), "version 1.0"),
            (event(r#","id":"9""#), "\"id\" is there more than once"),
            (event(r#","data":1,"data_base64":"AA==""#), "not both"),
            (event(r#","data_base64":"A""#), "no Base64"),
            (event(r#","data_base64":7"#), "no Base64"),
            (event(r#","time":"yesterday""#), "RFC 3339"),
            (event(r#","time":7"#), "no text"),
            (event(r#","myExt":"1""#), "lower-case"),
            (event(r#","my_ext":"1""#), "lower-case"),
        ] {
            assert!(fault(&bad).is_some_and(|fault| fault.contains(says)), "{bad}: {:?}", fault(&bad));
        }
    }

    #[test]
    fn times_are_those_of_rfc_3339() {
        for good in [
            "2024-02-29T23:59:60Z",
            "1985-04-12t23:20:50.52z",
            "1996-12-19T16:39:57-08:00",
            "2000-02-29T00:00:00.000001+23:59",
        ] {
            assert!(is_time(good), "{good}");
        }
        for bad in [
            "",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01 00:00:00Z",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00+:00",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:00Zx",
            "\u{e9}024-01-01T00:00:00Z",
        ] {
            assert!(!is_time(bad), "{bad}");
        }
    }
}
