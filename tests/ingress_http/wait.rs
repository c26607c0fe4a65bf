//! `?wait`: answers when the message is released.

use axum::http::StatusCode;
use serde_json::json;
use seriatim::ingress::{LaneOptions, Options};
use seriatim::log::memory::Faults;
use seriatim::record::Status;
use seriatim::record::cursor::LaneCursor;
use seriatim::record::ledger::Outcome;
use tokio::time::{Duration, Instant, sleep};

use crate::fixture::{Answer, Call, Fixture, always, post, sent, source};

fn waiting(body: &str) -> Call {
    post(body).uri("/v1/messages?wait=30s")
}

/// Posts and, a second later, releases as `release` does.
async fn released_by(fixture: &Fixture, release: impl AsyncFnOnce()) -> Answer {
    let owner = async {
        sleep(Duration::from_secs(1)).await;
        release().await;
    };
    let (answer, ()) = tokio::join!(fixture.call(waiting("x")), owner);
    answer
}

#[tokio::test(start_paused = true)]
async fn one_output_is_the_answer() {
    let fixture = Fixture::new(1, Options::default()).await;
    let began = Instant::now();
    let answer = released_by(&fixture, async || {
        fixture.output("billing", source(0), 0, "<a/>", "text/xml").await;
        fixture.release(1, 1, &[(0, sent("billing", 0))]).await;
    })
    .await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "<a/>"));
    assert_eq!(answer.header("content-type"), "text/xml");
    assert_eq!(answer.header("location"), "/v1/messages/0-0");
    assert_eq!(began.elapsed().as_secs(), 1, "it is told at once");
}

#[tokio::test(start_paused = true)]
async fn several_outputs_are_an_array() {
    let fixture = Fixture::new(1, Options::default()).await;
    let answer = released_by(&fixture, async || {
        fixture.output("billing", source(0), 0, "{\"a\":1}", "application/json").await;
        fixture.output("default", source(0), 0, "b", "text/plain").await;
        let both = Outcome::Sent(vec![("billing".to_owned(), 0), ("default".to_owned(), 0)]);
        fixture.release(1, 1, &[(0, both)]).await;
    })
    .await;
    assert_eq!(answer.header("content-type"), "application/vnd.seriatim.outputs+json");
    let outputs = answer.json();
    assert_eq!((&outputs[0]["destination"], &outputs[0]["body"]), (&json!("billing"), &json!({"a": 1})));
    assert_eq!((&outputs[1]["destination"], &outputs[1]["body"]), (&json!("default"), &json!("b")));
    assert_eq!(outputs[1]["contentType"], "text/plain");
}

#[tokio::test(start_paused = true)]
async fn parts_that_leave_one_by_one_are_put_together() {
    let fixture = Fixture::new(1, Options::default()).await;
    let answer = released_by(&fixture, async || {
        fixture.output("billing", source(0), 0, "a", "text/plain").await;
        fixture.release(0, 1, &[(0, Outcome::Partly(vec![("billing".to_owned(), 0)]))]).await;
        sleep(Duration::from_secs(1)).await;
        fixture.output("default", source(0), 0, "b", "text/plain").await;
        fixture.release(1, 1, &[(0, sent("default", 0))]).await;
    })
    .await;
    let outputs = answer.json();
    assert_eq!(outputs.as_array().map(Vec::len), Some(2), "{outputs}");
}

#[tokio::test(start_paused = true)]
async fn no_output_failure_and_skip_have_their_status() {
    let reason = || r#"{"code":"worker","detail":"no"}"#.to_owned();
    for (outcome, status) in
        [(Outcome::Empty, 204), (Outcome::DeadLettered(reason()), 422), (Outcome::Skipped(reason()), 422)]
    {
        let fixture = Fixture::new(1, Options::default()).await;
        let answer = released_by(&fixture, async || fixture.release(1, 1, &[(0, outcome.clone())]).await).await;
        assert_eq!(answer.status, status);
        if status == 422 {
            assert_eq!((answer.code().as_str(), &answer.json()["error"]["code"]), ("message-failed", &json!("worker")));
            assert_eq!(answer.header("location"), "/v1/messages/0-0");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_has_the_outcome_of_its_original() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.call(post("original")).await;
    fixture.output("default", source(0), 0, "first", "text/plain").await;
    fixture.release(1, 1, &[(0, sent("default", 0))]).await;
    let answer = released_by(&fixture, async || fixture.release(2, 2, &[(1, Outcome::Duplicate(0))]).await).await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "first"));
    assert_eq!(answer.header("location"), "/v1/messages/0-1");
}

#[tokio::test(start_paused = true)]
async fn a_replay_finds_what_was_released_long_ago() {
    let fixture = Fixture::new(1, Options::default()).await;
    let call = |uri: &str| post("x").header("idempotency-key", "k").uri(uri);
    fixture.call(call("/v1/messages")).await;
    fixture.output("default", source(0), 0, "done", "text/plain").await;
    fixture.release(1, 1, &[(0, sent("default", 0))]).await;
    for _ in 0..2 {
        let answer = fixture.call(call("/v1/messages?wait=1")).await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "done"));
        assert_eq!(answer.header("idempotent-replayed"), "true");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_released_before_it_is_acknowledged_is_not_missed() {
    let fixture = Fixture::new(1, Options::default()).await;
    // Somebody else waits, so that the ledger is followed already.
    let other = fixture.call(waiting("other"));
    let late = async {
        sleep(Duration::from_secs(1)).await;
        fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_secs(5)), ..Faults::default() });
        fixture.call(waiting("late")).await
    };
    let owner = async {
        sleep(Duration::from_secs(3)).await;
        fixture.log.set_faults(Faults::default());
        fixture.release(2, 2, &[(0, Outcome::Empty), (1, Outcome::Empty)]).await;
    };
    let began = Instant::now();
    let (other, late, ()) = tokio::join!(other, late, owner);
    assert_eq!((other.status, late.status), (StatusCode::NO_CONTENT, StatusCode::NO_CONTENT));
    assert_eq!(began.elapsed().as_secs(), 6, "at the acknowledgement");
}

#[tokio::test(start_paused = true)]
async fn many_wait_at_once_and_each_gets_its_own() {
    let fixture = Fixture::new(1, Options::default()).await;
    let calls = futures::future::join_all((0..100).map(|i| fixture.call(waiting(&i.to_string()))));
    let owner = async {
        sleep(Duration::from_secs(1)).await;
        for (offset, record) in (0..).zip(fixture.input(0)) {
            let body = String::from_utf8(record.value.expect("it has one")).expect("it was text");
            fixture.output("default", source(offset), offset, &body, "text/plain").await;
            fixture.release(offset + 1, 100, &[(offset, sent("default", offset))]).await;
        }
    };
    let (answers, ()) = tokio::join!(calls, owner);
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, i.to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_short_is_told_the_place() {
    let fixture = Fixture::new(1, Options::default()).await;
    let began = Instant::now();
    let answer = fixture.call(post("x").uri("/v1/messages?wait=1500ms")).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::GATEWAY_TIMEOUT, "not-released-yet"));
    assert_eq!(began.elapsed().as_millis(), 1500);
    let problem = answer.json();
    assert_eq!((&problem["id"], &problem["lane"], &problem["offset"]), (&json!("0-0"), &json!(0), &json!(0)));
    assert_eq!(problem.get("outcome"), None, "it is known to be there");
    for bad in ["x", "-1s", "61s"] {
        let answer = fixture.call(post("x").uri(&format!("/v1/messages?wait={bad}"))).await;
        assert_eq!(answer.code(), "invalid-query", "{bad}");
    }
    assert_eq!(fixture.input(0).len(), 1, "what is refused is not written");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_waiting_and_says_where_the_message_is() {
    let fixture = Fixture::new(1, Options::default()).await;
    let answer = released_by(&fixture, async || fixture.drain.cancel()).await;
    assert_eq!((answer.code().as_str(), answer.header("location")), ("not-released-yet", "/v1/messages/0-0"));
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_read_for_a_while_only_delays() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults { lookup_unavailable: 0.5, ..Faults::default() });
    let answer = released_by(&fixture, async || fixture.release(1, 1, &[(0, Outcome::Empty)]).await).await;
    // A look-up of its own may fail, which is said; the message's place is told all the same.
    assert!([204, 503].contains(&answer.status.as_u16()), "{}", answer.text());
    assert_eq!(answer.header("location"), "/v1/messages/0-0");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_only_an_operator_can_end_is_told_so() {
    let options = Options { lanes: Some(LaneOptions::default()), ..Options::default() };
    let fixture = Fixture::new(1, options).await;
    let failing = || waiting("failing").header("idempotency-key", "k");
    let began = Instant::now();
    let owner = async {
        sleep(Duration::from_secs(5)).await;
        let lane = LaneCursor { limit: 2, order: "lane".to_owned(), ..LaneCursor::default() };
        fixture.own(lane).await;
        fixture.result(0, Status::Failed, Some(br#"{"code":"boom"}"#)).await;
    };
    let (itself, ()) = tokio::join!(fixture.call(failing()), owner);
    assert_eq!((itself.status, itself.code().as_str()), (StatusCode::GATEWAY_TIMEOUT, "not-released-yet"));
    let told = itself.json();
    assert_eq!(
        (&told["id"], &told["state"], &told["error"]["code"]),
        (&json!("0-0"), &json!("halted"), &json!("boom"))
    );
    assert!((5..9).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());

    let began = Instant::now();
    let behind = fixture.call(waiting("behind")).await.json();
    assert_eq!(
        (&behind["id"], &behind["waitsFor"], &behind["error"]["code"]),
        (&json!("0-1"), &json!("0-0"), &json!("boom"))
    );
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    let again = fixture.call(failing()).await;
    assert_eq!((again.json()["state"].as_str(), again.header("idempotent-replayed")), (Some("halted"), "true"));

    fixture.own(LaneCursor { halted: Some("torn".to_owned()), ..LaneCursor::default() }).await;
    let lost = fixture.call(waiting("lost")).await.json();
    assert_eq!((&lost["state"], &lost["reason"]), (&json!("halted"), &json!("torn")));
}

#[tokio::test(start_paused = true)]
async fn work_that_takes_long_is_waited_for_to_the_end() {
    let options = Options { lanes: Some(LaneOptions::default()), ..Options::default() };
    let fixture = Fixture::new(1, options).await;
    fixture.own(LaneCursor { limit: 1, order: "lane".to_owned(), ..LaneCursor::default() }).await;
    let began = Instant::now();
    let answer = fixture.call(waiting("slow")).await;
    assert_eq!((answer.code().as_str(), answer.json()["waitsFor"].is_null()), ("not-released-yet", true));
    assert_eq!(began.elapsed().as_secs(), 30);
}
