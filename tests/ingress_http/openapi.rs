//! The description of the calls, against the router.

use std::collections::BTreeSet;
use std::path::Path;

use axum::http::StatusCode;
use serde_json::Value;
use seriatim::ingress::{Code, Options, Tokens};

use crate::fixture::{Fixture, get, post};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

fn described() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).expect("it is JSON")
}

/// The paths in every `.route("...")` of these sources.
fn routed(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the sources are here") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            routed(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("it is text");
        let paths = text.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1));
        found.extend(paths.map(str::to_owned));
    }
}

#[test]
fn every_route_is_described() {
    let mut found = BTreeSet::new();
    routed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ingress"), &mut found);
    let described = described();
    let paths = described["paths"].as_object().expect("there are paths");
    assert_eq!(found, paths.keys().cloned().collect());
}

#[tokio::test(start_paused = true)]
async fn what_is_described_is_there_and_nothing_else_is() {
    let fixture = Fixture::new(1, Options::default()).await;
    for (path, calls) in described()["paths"].as_object().expect("there are paths") {
        let uri = path.replace(['{', '}'], "");
        for method in METHODS {
            let answer = fixture.call(get(&uri).method(&method.to_uppercase())).await;
            // Whoever may get something may get its head.
            let expected = calls.get(method).is_some() || (method == "head" && calls.get("get").is_some());
            assert_eq!(answer.status != StatusCode::METHOD_NOT_ALLOWED, expected, "{method} {uri}");
            if !expected && method != "head" {
                assert_eq!(answer.code(), "method-not-allowed", "{method} {uri}");
                let allowed = answer.header("allow").to_lowercase();
                let listed = METHODS.iter().filter(|method| calls.get(**method).is_some());
                assert!(listed.into_iter().all(|method| allowed.contains(method)), "{uri} allows {allowed:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn anybody_gets_the_description() {
    let tokens = Tokens::parse("one alice").expect("it is well formed");
    let fixture = Fixture::new(1, Options { tokens: Some(tokens), ..Options::default() }).await;
    let answer = fixture.call(get("/openapi.json")).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, described()));
    assert_eq!(fixture.call(post("x")).await.status, StatusCode::UNAUTHORIZED);
}

#[test]
fn problems_are_described_as_they_are() {
    let described = described();
    let required = described["components"]["schemas"]["Problem"]["required"].as_array().expect("it is a list");
    for code in Code::ALL {
        let problem = serde_json::to_value(seriatim::ingress::Problem::new(code, "x")).expect("it serializes");
        assert!(required.iter().all(|name| problem.get(name.as_str().expect("a text")).is_some()), "{problem}");
    }
}
