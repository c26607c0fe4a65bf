//! A jq filter as the worker.

use std::sync::Arc;
use std::time::Duration;

use seriatim::record::Status;
use seriatim::work::jq::{Jq, Options};

use crate::support::Rig;

fn jq(filter: &str) -> Arc<Jq> {
    let patience = Duration::from_millis(300);
    Arc::new(Jq::new(Options { filter: filter.to_owned(), patience, max_output: 1000 }).expect("it compiles"))
}

#[tokio::test]
async fn values_become_outputs_and_bad_bodies_failures() {
    let rig = Rig::with(1, 1, jq("if .n > 1 then range(.n) else select(.n == 1) | .n = 7 end")).await;
    rig.bodies(&[r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":"#]).await;
    let stage = rig.start("a");
    rig.until("all are answered", || rig.answered(0) == 4).await;
    let ends = rig.ends();
    let found: Vec<_> =
        ends.iter().map(|(seen, stored)| (seen.status, stored.value.as_deref().unwrap_or_default())).collect();
    let several = br#"[{"contentType":"application/json","body":0},{"contentType":"application/json","body":1}]"#;
    let expected =
        [(Status::Empty, &b""[..]), (Status::Done, br#"{"n":7}"#), (Status::Done, several), (Status::Failed, b"")];
    assert_eq!(found, expected);
    assert_eq!((ends[3].0.code.as_str(), ends[3].0.attempt), ("not-json", 1));
    stage.drain().await;
}

#[tokio::test]
async fn a_filter_that_takes_too_long_fails_its_record_and_stalls_no_other() {
    // It does end, so that its threads do not stay with the tests that follow.
    let rig = Rig::with(1, 1, jq("if . == 1 then last(limit(20000000; repeat(1))) else . end")).await;
    rig.bodies(&["1", "2", "1", "3", "1", "4"]).await;
    let stage = rig.start("a");
    rig.until("all are answered", || rig.answered(0) == 6).await;
    let codes: Vec<_> = rig.ends().into_iter().map(|(seen, _)| seen.code).collect();
    assert_eq!(codes, ["filter-too-slow", "", "filter-too-slow", "", "filter-too-slow", ""]);
    stage.drain().await;
}
