//! The page of the admin port: lanes, what blocks them, batches and destinations, live.
//!
//! One document with its style and script in it, and nothing from anywhere else. It only reads;
//! whoever wants to act has the command line, whose calls are recorded with a reason.

use std::sync::LazyLock;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const DOCUMENT: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The document with its parts, and the policy that lets a browser run exactly them.
struct Page {
    html: String,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
    html: DOCUMENT.replace("/* page.css */", STYLE).replace("/* page.js */", SCRIPT),
    policy: HeaderValue::try_from(policy()).expect("hashes in base64 and names of directives are ASCII"),
});

fn policy() -> String {
    let hash = |part: &str| STANDARD.encode(Sha256::digest(part));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// `GET /`. Answers anyone whom the port answers, as the JSON beneath it does.
pub(super) async fn page() -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // After an upgrade the old script must not meet the new JSON.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Html(PAGE.html.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_nobody_else() {
        assert!(PAGE.html.contains(STYLE) && PAGE.html.contains(SCRIPT));
        assert!(!PAGE.html.contains("://"), "everything is in it");
        assert!(!SCRIPT.contains("innerHTML"), "what workers say is text");
        // What would end the elements early, or make them other than what the policy names.
        assert!(!SCRIPT.contains("</") && !STYLE.contains("</"));
    }

    #[test]
    fn the_policy_names_the_parts_as_they_stand_in_the_document() {
        for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
            let (_, rest) = PAGE.html.split_once(&format!("<{tag}>")).expect("there is one");
            let (part, _) = rest.split_once(&format!("</{tag}>")).expect("it ends");
            let hash = STANDARD.encode(Sha256::digest(part));
            assert!(policy().contains(&format!("{directive} 'sha256-{hash}'")), "{tag}");
        }
    }
}
