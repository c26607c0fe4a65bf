//! Starts of batches: retries under a key, and quotas. A real owner takes them; nobody works on them.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::http::StatusCode;
use seriatim::ingress::{Options, Quota, Tokens};
use seriatim::log::Topic;
use seriatim::record::batches::{BatchRecord, BatchState, ItemStatus, MOST_RUNNING, STATUSES, work_order_completed};
use seriatim::record::cursor::encode;
use seriatim::record::{BatchBuilder, Name, Partition};
use seriatim::resequence;
use tokio::time::{Duration, Instant};

use crate::fixture::{Answer, Call, Fixture, get, post};

async fn fixture(options: Options) -> Fixture {
    let fixture = Fixture::new(2, options).await;
    own(&fixture);
    fixture
}

fn own(fixture: &Fixture) {
    let (log, topics) = (Arc::new(fixture.log.clone()), (*fixture.topics).clone());
    let (options, drain) = (resequence::Options::default(), fixture.drain.clone());
    tokio::spawn(async move {
        let ended = resequence::run(log, topics, options, "t.resequence", "owner", 1, drain).await;
        ended.expect("nothing goes wrong with this log");
    });
}

fn start(body: &str) -> Call {
    post(body).uri("/v1/batches")
}

fn upload(query: &str, lines: &str) -> Call {
    post(lines).uri(&format!("/v1/batches?{query}")).header("content-type", "application/x-ndjson")
}

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    let id = answer.json()["id"].as_str().expect("it has one").to_owned();
    assert_eq!(answer.header("location"), format!("/v1/batches/{id}"));
    id
}

/// Records of all partitions of a topic.
fn count(fixture: &Fixture, topic: &Topic) -> usize {
    topic.partitions(2).map(|of| fixture.log.snapshot(&of).len()).sum()
}

#[tokio::test(start_paused = true)]
async fn a_retry_under_the_same_key_gets_the_same_batch() {
    let tokens = Tokens::parse("a alice\nb bob\n").expect("they are right");
    let fixture = fixture(Options { tokens: Some(tokens), ..Options::default() }).await;
    let ask = async |token: &str, key: &'static str, body: &str| {
        let call = start(body).header("idempotency-key", key).header("authorization", format!("Bearer {token}"));
        fixture.call(call).await
    };
    let first = ask("a", "night", r#"{"count":3}"#).await;
    assert_eq!(first.header("idempotent-replayed"), "");
    let again = ask("a", "night", r#"{"count":3}"#).await;
    assert_eq!((id(&again), again.header("idempotent-replayed")), (id(&first), "true"));
    let other = ask("a", "night", r#"{"count":4}"#).await;
    assert_eq!((other.status, other.code()), (StatusCode::UNPROCESSABLE_ENTITY, "key-reused".to_owned()));
    assert_ne!(id(&ask("b", "night", r#"{"count":3}"#).await), id(&first), "another's key");
    assert_ne!(id(&ask("a", "day", r#"{"count":3}"#).await), id(&first), "another key");

    let named = r#"{"id":"mine","count":3}"#;
    assert_eq!(id(&ask("a", "named", named).await), "mine");
    assert_eq!(ask("a", "named", named).await.header("idempotent-replayed"), "true");
    assert_eq!(ask("a", "other", named).await.code(), "batch-exists");
    assert_eq!(ask("b", "named", named).await.code(), "batch-exists");
    let forged = r#"{"count":3,"request":{"identity":"","fingerprint":""}}"#;
    assert_eq!(ask("a", "forged", forged).await.code(), "invalid-batch");
    assert_eq!(count(&fixture, &fixture.topics.batches), 4, "each batch was asked for once");
}

#[tokio::test(start_paused = true)]
async fn an_upload_under_the_same_key_is_read_and_not_written_again() {
    let fixture = fixture(Options::default()).await;
    let ask = async |query: &str, lines: &str| {
        fixture.call(upload(query, lines).header("idempotency-key", "\"night\"")).await
    };
    let first = ask("window=5", "1\n2\n3\n").await;
    let again = ask("window=5", "1\n2\n3\n").await;
    assert_eq!((id(&again), again.header("idempotent-replayed")), (id(&first), "true"));
    assert_eq!(again.json()["counts"]["total"], 3);
    for (query, lines) in [("window=5", "1\n2\n4\n"), ("window=5", "1\n2\n"), ("window=6", "1\n2\n3\n")] {
        assert_eq!(ask(query, lines).await.code(), "key-reused", "{query} {lines}");
    }
    assert_eq!(count(&fixture, &fixture.topics.batch_items), 3, "nothing was written again");
}

#[tokio::test(start_paused = true)]
async fn retries_at_once_or_before_there_is_an_owner_make_one_batch() {
    let fixture = Fixture::new(2, Options::default()).await;
    let ask = || fixture.call(start(r#"{"items":[1,2]}"#).header("idempotency-key", "k"));
    let (early, too) = tokio::join!(ask(), ask());
    assert_eq!(early.json()["status"], "accepted", "nobody has taken it yet");
    assert_eq!(id(&early), id(&too));
    own(&fixture);
    let uploaded = || fixture.call(upload("", "1\n2\n").header("idempotency-key", "u"));
    let (one, other) = tokio::join!(uploaded(), uploaded());
    assert_eq!(id(&one), id(&other));
    let late = ask().await;
    assert_eq!((id(&late), late.header("idempotent-replayed")), (id(&early), "true"));
    let list = fixture.call(start("").method("GET")).await.json();
    assert_eq!(list["batches"].as_array().map(Vec::len), Some(2), "{list}");
}

#[tokio::test(start_paused = true)]
async fn items_that_are_brought_count_for_the_quota() {
    let messages = NonZeroU32::new(10).expect("above zero");
    let quota = Some(Quota { messages, per: Duration::from_secs(10) });
    let fixture = fixture(Options { quota, ..Options::default() }).await;
    let large = fixture.call(start(r#"{"items":[1,2,3,4,5,6,7,8,9,10,11]}"#)).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE, "it never fits; an upload would");
    let list = fixture.call(start(r#"{"items":[1,2,3,4,5,6,7,8]}"#)).await;
    assert_eq!((list.status, list.header("ratelimit")), (StatusCode::ACCEPTED, r#""messages";r=2;t=8"#));
    let made = fixture.call(start(r#"{"count":1000000}"#)).await;
    assert_eq!((made.status, made.header("ratelimit")), (StatusCode::ACCEPTED, r#""messages";r=1;t=9"#));
    let refused = fixture.call(start(r#"{"items":[1,2]}"#)).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::TOO_MANY_REQUESTS, "quota-exceeded".to_owned()));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let began = Instant::now();
    let uploaded = fixture.call(upload("", &"1\n".repeat(25))).await;
    assert_eq!((uploaded.status, began.elapsed().as_secs()), (StatusCode::ACCEPTED, 15), "10 at once, 15 as they come");
}

/// A result, its media type, and the end of its item's line.
type Shown = (Option<&'static [u8]>, Option<&'static str>, &'static str);

#[tokio::test(start_paused = true)]
async fn what_came_of_items_is_shown_as_it_was_written() {
    let fixture = Fixture::new(1, Options::default()).await;
    let append = async |to: &Topic, key, value: Option<&[u8]>, media: Option<&str>| {
        let build = |to: &mut BatchBuilder| {
            to.push(key, value, |h| media.into_iter().for_each(|media| h.put(Name::ContentType, media.as_bytes())));
        };
        fixture.append(&to.partition(Partition(0)), build).await;
    };
    let (id, json, text) = (Some(&b"b"[..]), Some("application/json"), Some("text/plain"));
    let results: [Shown; 6] = [
        (
            Some(b"{\"b\": 12345678901234567890123,\n\"a\":1.10}"),
            json,
            r#","body":{"b": 12345678901234567890123, "a":1.10}"#,
        ),
        (Some(b"1.10"), None, r#","body":"1.10""#),
        (Some("é\n".as_bytes()), text, r#","body":"é\n""#),
        (Some(b"\xff\0"), text, r#","bodyBase64":"/wA=""#),
        (Some(b"{"), json, r#","bodyBase64":"ew==""#),
        (None, None, ""),
    ];
    let state = BatchState { total: 6, ..BatchState::default() };
    let state = encode(&BatchRecord { state, ..BatchRecord::default() });
    append(&fixture.topics.batch_state, id, Some(&state), None).await;
    let mut expected = String::new();
    for (at, (value, media, body)) in (0..).zip(results) {
        append(&fixture.topics.results, None, value, media).await;
        let event = work_order_completed("b", (at, 0), ItemStatus::Succeeded, None, Some(at), None);
        append(&fixture.topics.events, id, Some(event.as_bytes()), json).await;
        let item = format!(r#"{{"index":{at},"round":0,"status":"succeeded","result":{at}"#);
        expected += &format!("{item}{body}}}\n");
    }
    let shown = fixture.call(get("/v1/batches/b/items?bodies=true")).await;
    assert_eq!(shown.text(), expected);
}

#[tokio::test(start_paused = true)]
async fn one_batch_too_many_is_refused_before_it_is_accepted() {
    let fixture = Fixture::new(1, Options::default()).await;
    own(&fixture);
    for number in 0..MOST_RUNNING {
        id(&fixture.call(start(&format!(r#"{{"id":"b{number}","count":1}}"#))).await);
    }
    let refused = fixture.call(start(r#"{"id":"more","count":1}"#)).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::SERVICE_UNAVAILABLE, "too-many-batches".to_owned()));
    assert_eq!(refused.header("retry-after"), "10");
    assert_eq!(fixture.call(upload("id=more", "1\n")).await.code(), "too-many-batches");
    assert_eq!(count(&fixture, &fixture.topics.batch_items), 0, "nothing of it was written");
    assert_eq!(fixture.call(get("/v1/batches/more")).await.status, StatusCode::NOT_FOUND, "the id is free");
    let there = fixture.call(start(r#"{"id":"b7","count":1}"#)).await;
    assert_eq!(there.code(), "batch-exists", "which is the more useful answer");

    // Over the topic nobody refuses it: it ends at once, also where a final item is asked for.
    let command = br#"{"type":"StartProcessing","id":"topic","count":1,"completion":{}}"#;
    let to = fixture.topics.batches.partition(Partition(0));
    fixture.append(&to, |to| to.push(Some(b"topic"), Some(command), |_| {})).await;
    let until = Instant::now() + Duration::from_secs(60);
    let mut failed = fixture.call(get("/v1/batches/topic")).await;
    while failed.status == StatusCode::NOT_FOUND && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
        failed = fixture.call(get("/v1/batches/topic")).await;
    }
    assert_eq!(failed.json()["status"], "failed", "{}", failed.text());
    assert!(failed.json()["endedAt"].is_string() && failed.json()["reason"].is_string(), "{}", failed.text());
}

#[tokio::test(start_paused = true)]
async fn words_that_no_status_has_are_refused_with_those_there_are() {
    let fixture = fixture(Options::default()).await;
    id(&fixture.call(start(r#"{"id":"b","count":1}"#)).await);
    for (uri, known) in
        [("/v1/batches?status=done", "completing, completed"), ("/v1/batches/b/items?status=running", "`timedOut`")]
    {
        let answer = fixture.call(get(uri)).await;
        assert_eq!(answer.code(), "invalid-query", "{uri}");
        assert!(answer.text().contains(known), "{}", answer.text());
    }
    for status in STATUSES {
        let answer = fixture.call(get(&format!("/v1/batches?status={status}"))).await;
        let expected = usize::from(status == "running");
        assert_eq!(answer.json()["batches"].as_array().map(Vec::len), Some(expected), "{status}");
    }
}
