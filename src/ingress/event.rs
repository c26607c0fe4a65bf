//! CloudEvents in structured mode: whether a JSON text is one.

use std::collections::HashMap;

use serde_json::value::RawValue;

/// The attributes that every event has, each a text that is not empty.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// What keeps this JSON text from being a CloudEvent; `None` where it is one.
pub(super) fn fault(text: &str) -> Option<String> {
    let Ok(event) = serde_json::from_str::<HashMap<String, &RawValue>>(text) else {
        return Some("it is no JSON object, so it is no CloudEvent".to_owned());
    };
    let is_text = |value: &&RawValue| value.get().starts_with('"') && value.get() != r#""""#;
    let missing = REQUIRED.into_iter().find(|name| !event.get(*name).is_some_and(is_text));
    missing.map(|name| format!("a CloudEvent needs the attribute {name}, a text that is not empty"))
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
}
