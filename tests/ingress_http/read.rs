//! What has become of messages, and their outputs in order.

use axum::http::StatusCode;
use futures::StreamExt as _;
use serde_json::{Value, json};
use seriatim::ingress::{LaneOptions, Options};
use seriatim::log::Log as _;
use seriatim::log::memory::Faults;
use seriatim::record::cursor::LaneCursor;
use seriatim::record::ledger::Outcome;
use seriatim::record::{Offset, Partition, Source, Status};
use tokio::time::Duration;

use crate::fixture::{Fixture, get, post, sent, source};

async fn state(fixture: &Fixture, id: &str) -> Value {
    fixture.call(get(&format!("/v1/messages/{id}"))).await.json()
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_message_follows_its_way() {
    let fixture = Fixture::new(1, Options::default()).await;
    for _ in 0..9 {
        fixture.call(post("x")).await;
    }
    assert_eq!(state(&fixture, "0-8").await, json!({"id": "0-8", "lane": 0, "offset": 8, "state": "accepted"}));
    let lane = LaneCursor { limit: 9, ..LaneCursor::default() };
    fixture.own(lane).await;
    assert_eq!(state(&fixture, "0-8").await["state"], "sent");
    let reason = || r#"{"code":"c"}"#.to_owned();
    fixture.release(1, 9, &[(0, sent("billing", 4))]).await;
    fixture
        .release(1, 9, &[(3, Outcome::DeadLettered(reason())), (7, Outcome::Partly(vec![("default".into(), 1)]))])
        .await;
    fixture.release(4, 9, &[(1, Outcome::Empty), (2, Outcome::Skipped(reason()))]).await;
    fixture.release(7, 9, &[(4, Outcome::Duplicate(1)), (5, Outcome::Empty), (6, Outcome::Empty)]).await;
    let expected = [
        json!({"state": "released", "outputs": [{"destination": "billing", "lane": 0, "sequence": 4}]}),
        json!({"state": "released", "outputs": []}),
        json!({"state": "failed", "resolution": "skipped", "error": {"code": "c"}}),
        json!({"state": "failed", "resolution": "dead-lettered", "error": {"code": "c"}}),
        json!({"state": "duplicate", "of": "0-1"}),
    ];
    for (offset, expected) in expected.into_iter().enumerate() {
        let mut state = state(&fixture, &format!("0-{offset}")).await;
        for common in ["id", "lane", "offset"] {
            state.as_object_mut().expect("it is an object").remove(common);
        }
        assert_eq!(state, expected);
    }
    let partly = state(&fixture, "0-7").await;
    assert_eq!((&partly["state"], &partly["outputs"][0]["sequence"]), (&json!("sent"), &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_is_not_found() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults { hole: 1.0, hole_size: 50, ..Faults::default() });
    let place = fixture.call(post("x")).await.json()["offset"].as_u64().expect("a number");
    assert_ne!(place, 0, "a hole lies before it");
    fixture.log.set_faults(Faults::default());
    let (hole, id, after) = (format!("0-{}", place - 1), format!("0-{place}"), format!("0-{}", place + 1));
    for id in [&hole, &after, "1-0", "0-x", "x", "0-18446744073709551615"] {
        let answer = fixture.call(get(&format!("/v1/messages/{id}"))).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "not-found"), "{id}");
    }
    assert_eq!(state(&fixture, &id).await["state"], "accepted");
    // Also once the lane has gone past the hole.
    fixture.release(place + 1, place + 1, &[(place, Outcome::Empty)]).await;
    assert_eq!(state(&fixture, &hole).await["code"], "not-found");
    assert_eq!(state(&fixture, &id).await["state"], "released");
    // And the ledger, then the input, forget.
    let end = Offset(fixture.log.bounds(&fixture.ledger()).await.expect("it exists").end.0);
    fixture.log.delete_below(&fixture.ledger(), end).expect("it exists");
    fixture.log.delete_below(&fixture.topics.input.partition(Partition(0)), Offset(place + 1)).expect("it exists");
    assert_eq!(state(&fixture, &id).await["code"], "removed");
}

async fn lines(fixture: &Fixture, uri: &str) -> Vec<Value> {
    let answer = fixture.call(get(uri)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    answer.text().lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn sequences(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["sequence"].as_u64().expect("a number")).collect()
}

#[tokio::test(start_paused = true)]
async fn outputs_are_listed_from_any_sequence_number_over_any_holes() {
    let fixture = Fixture::new(2, Options::default()).await;
    fixture.log.set_faults(Faults { hole: 0.7, hole_size: 9, ..Faults::default() });
    let of = Source { lane: Partition(1), offset: Offset(5) };
    let topic = fixture.topics.destinations["billing"].partition(Partition(1));
    for sequence in 0..60 {
        fixture.output("billing", of, sequence, &sequence.to_string(), "application/json").await;
        if sequence % 7 == 0 {
            // A stranger's record is no output.
            fixture.append(&topic, |batch| batch.push(None, Some(b"stranger"), |_| {})).await;
        }
    }
    for from in [0, 1, 2, 30, 58, 59, 60, 1_000] {
        let found = lines(&fixture, &format!("/v1/outputs/billing?lane=1&from={from}")).await;
        assert_eq!(sequences(&found), (from..60).collect::<Vec<_>>());
    }
    let first = &lines(&fixture, "/v1/outputs/billing?lane=1").await[0];
    assert_eq!(first["source"], json!({"lane": 1, "offset": 5}));
    assert_eq!((&first["lane"], &first["key"], &first["body"]), (&json!(1), &json!("k"), &json!(0)));
    assert!(lines(&fixture, "/v1/outputs/billing?lane=0").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_listed_is_told() {
    let fixture = Fixture::new(2, Options::default()).await;
    for (uri, status, code, detail) in [
        ("/v1/outputs/nowhere", 404, "unknown-destination", "billing, default"),
        ("/v1/outputs/billing", 400, "invalid-query", "lane=0"),
        ("/v1/outputs/billing?lane=2", 404, "not-found", "the last one is 1"),
        ("/v1/outputs/billing?lane=0&from=x", 400, "invalid-query", "from"),
        ("/v1/outputs/billing?lane=0&form=1", 400, "invalid-query", "form"),
        ("/v1/outputs/%ff", 404, "not-found", ""),
    ] {
        let answer = fixture.call(get(uri)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{uri}");
        assert!(answer.json()["detail"].as_str().expect("text").contains(detail), "{}", answer.text());
    }
}

#[tokio::test(start_paused = true)]
async fn what_retention_has_removed_is_never_passed_over_in_silence() {
    let fixture = Fixture::new(1, Options::default()).await;
    for sequence in 0..10 {
        fixture.output("default", source(sequence), sequence, "x", "text/plain").await;
    }
    let topic = fixture.topics.destinations["default"].partition(Partition(0));
    fixture.log.delete_below(&topic, Offset(4)).expect("it exists");
    let answer = fixture.call(get("/v1/outputs/default?from=3")).await;
    assert_eq!((answer.code().as_str(), &answer.json()["first"]), ("removed", &json!(4)));
    assert_eq!(sequences(&lines(&fixture, "/v1/outputs/default?from=4").await), (4..10).collect::<Vec<_>>());
    assert_eq!(sequences(&lines(&fixture, "/v1/outputs/default").await), (4..10).collect::<Vec<_>>());
}

/// Reads events until `count` have come; their ids and bodies.
async fn events(fixture: &Fixture, last: Option<&str>, count: usize) -> Vec<(String, Value)> {
    let mut call = get("/v1/outputs/default").header("accept", "text/event-stream");
    if let Some(last) = last {
        call = call.header("last-event-id", last);
    }
    let response = fixture.open(call).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    let mut text = String::new();
    while text.matches("\n\n").count() < count + 1 + text.matches(":\n\n").count() {
        let piece = body.next().await.expect("it goes on").expect("it does not break off");
        text.push_str(std::str::from_utf8(&piece).expect("it is text"));
    }
    let event = |block: &str| {
        let (id, data) = block.strip_prefix("id: ")?.split_once("\ndata: ")?;
        Some((id.to_owned(), serde_json::from_str(data).expect("it is JSON")))
    };
    text.split("\n\n").filter_map(event).collect()
}

#[tokio::test(start_paused = true)]
async fn events_follow_and_resume_after_the_last_one_seen() {
    let fixture = Fixture::new(1, Options::default()).await;
    for sequence in 0..3 {
        fixture.output("default", source(sequence), sequence, "x", "text/plain").await;
    }
    let later = async {
        for sequence in 3..6 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            fixture.output("default", source(sequence), sequence, "x", "text/plain").await;
        }
    };
    let (seen, ()) = tokio::join!(events(&fixture, None, 6), later);
    let ids: Vec<_> = seen.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["0:0", "0:1", "0:2", "0:3", "0:4", "0:5"]);
    assert_eq!(seen[5].1["sequence"], 5);
    let resumed = events(&fixture, Some("0:3"), 2).await;
    assert_eq!(resumed.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["0:4", "0:5"]);
    let bad = get("/v1/outputs/default").header("accept", "text/event-stream").header("last-event-id", "x");
    assert_eq!(fixture.call(bad).await.code(), "invalid-header");
}

#[tokio::test(start_paused = true)]
async fn a_silent_event_stream_beats_and_ends_with_the_process() {
    let fixture = Fixture::new(1, Options::default()).await;
    let response = fixture.open(get("/v1/outputs/default").header("accept", "text/event-stream")).await;
    let mut body = response.into_body().into_data_stream();
    let began = tokio::time::Instant::now();
    let mut piece = async || body.next().await.map(|piece| piece.expect("it does not break off"));
    assert_eq!(piece().await.as_deref(), Some(&b": seriatim\n\n"[..]));
    assert_eq!(piece().await.as_deref(), Some(&b":\n\n"[..]));
    assert_eq!(began.elapsed().as_secs(), 15);
    fixture.drain.cancel();
    assert_eq!(piece().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_says_for_what() {
    let options = Options { lanes: Some(LaneOptions::default()), ..Options::default() };
    let fixture = Fixture::new(1, options).await;
    for body in ["a", "b", "c", "d"] {
        fixture.call(post(body)).await;
    }
    let lane = LaneCursor { limit: 4, order: "lane".to_owned(), ..LaneCursor::default() };
    fixture.own(lane.clone()).await;
    let error = br#"{"code":"boom"}"#;
    fixture.result(1, Status::Done, None).await;
    fixture.result(2, Status::Failed, Some(error)).await;
    fixture.result(0, Status::Retrying, Some(error)).await;
    let first = state(&fixture, "0-0").await;
    assert_eq!(
        (&first["state"], &first["attempt"], &first["worker"], &first["error"]["code"]),
        (&json!("retrying"), &json!(2), &json!("w1"), &json!("boom"))
    );
    let second = state(&fixture, "0-1").await;
    assert_eq!((&second["state"], &second["waitsFor"]), (&json!("ready"), &json!("0-0")));
    let third = state(&fixture, "0-2").await;
    assert_eq!((&third["state"], &third["waitsFor"]), (&json!("failed"), &json!("0-0")));
    assert_eq!(state(&fixture, "0-3").await["state"], "sent");
    // A second later it is looked at again: the head has failed for good.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fixture.result(0, Status::Failed, Some(error)).await;
    let halted = state(&fixture, "0-0").await;
    assert_eq!(
        (&halted["state"], &halted["round"], &halted["error"]["code"]),
        (&json!("halted"), &json!(0), &json!("boom"))
    );
    fixture.own(LaneCursor { halted: Some("torn".to_owned()), ..lane }).await;
    assert_eq!(state(&fixture, "0-1").await["reason"], "torn");
}
