//! Messages over HTTP into the log: every answer, and what stands in the log after it.

use axum::http::StatusCode;
use serde_json::json;
use seriatim::ingress::Options;
use seriatim::log::memory::{Delay, Faults};
use tokio::time::{Duration, Instant};

use crate::fixture::{Fixture, always, post};

#[tokio::test(start_paused = true)]
async fn a_message_is_kept_as_it_came_and_its_place_is_told() {
    let fixture = Fixture::new(1, Options::default()).await;
    let answer = fixture
        .call(
            post("{\"a\": 1 }\n")
                .header("content-type", "application/json; charset=utf-8")
                .header("seriatim-key", "k1")
                .header("seriatim-destination", "billing,default")
                .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
                .header("x-other", "stays out"),
        )
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.json(), json!({"id": "0-0", "lane": 0, "offset": 0}));
    assert_eq!(answer.header("location"), "/v1/messages/0-0");
    let stored = &fixture.input(0)[0];
    assert_eq!(stored.key.as_deref(), Some(&b"k1"[..]));
    assert_eq!(stored.value.as_deref(), Some(&b"{\"a\": 1 }\n"[..]));
    let headers: Vec<_> = stored.headers.iter().map(|(n, v)| (text(n), text(v))).collect();
    let expected = [
        ("content-type", "application/json; charset=utf-8"),
        ("seriatim-destination", "billing, default"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    assert_eq!(headers, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it was text")
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_before_the_log_has_acknowledged() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_secs(3)), ..Faults::default() });
    let began = Instant::now();
    assert_eq!(fixture.call(post("x")).await.status, StatusCode::ACCEPTED);
    assert!(began.elapsed() >= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn many_senders_share_appends_while_the_log_is_slow() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_secs(1)), ..Faults::default() });
    let began = Instant::now();
    let calls = (0..1_000).map(|i| fixture.call(post(&i.to_string())));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::ACCEPTED));
    assert!(began.elapsed() <= Duration::from_secs(3), "one by one it would be 250 s: {:?}", began.elapsed());
    let mut offsets: Vec<_> = answers.iter().map(|a| a.json()["offset"].as_u64().expect("it has one")).collect();
    for (i, offset) in offsets.iter().enumerate() {
        let at = usize::try_from(*offset).expect("it is small");
        assert_eq!(fixture.input(0)[at].value.as_deref(), Some(i.to_string().as_bytes()));
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (0..1_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_has_a_key_goes_to_its_lane_in_the_order_of_sending() {
    let fixture = Fixture::new(4, Options::default()).await;
    fixture.log.set_faults(Faults {
        acknowledge_delay: Delay::always(Duration::ZERO..Duration::from_millis(50)),
        ..Faults::default()
    });
    // Each key is one client that sends one message after the other.
    let clients = (0..20).map(|key| {
        let fixture = &fixture;
        async move {
            for i in 0..20 {
                let answer = fixture.call(post(&format!("{key}:{i}")).header("seriatim-key", key.to_string())).await;
                assert_eq!(answer.status, StatusCode::ACCEPTED);
                let lane = seriatim::record::partition_of_key(key.to_string().as_bytes(), 4);
                assert_eq!(answer.json()["lane"], lane.0);
            }
        }
    });
    futures::future::join_all(clients).await;
    let mut seen = [0; 20];
    for record in (0..4).flat_map(|lane| fixture.input(lane)) {
        let value = text(&record.value.expect("it has one"));
        let (key, i) = value.split_once(':').expect("as it was sent");
        let next = &mut seen[key.parse::<usize>().expect("a number")];
        assert_eq!(i.parse(), Ok(*next), "key {key}");
        *next += 1;
    }
    assert_eq!(seen, [20; 20]);
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_is_written_once_and_its_place_is_told_again() {
    let fixture = Fixture::new(4, Options::default()).await;
    let send = |body: &'static str| fixture.call(post(body).header("idempotency-key", "\"pay 1\""));
    let first = send("a").await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let again = send("a").await;
    assert_eq!((again.status, again.json()), (first.status, first.json()));
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = send("b").await;
    assert_eq!((other.status, other.code()), (StatusCode::UNPROCESSABLE_ENTITY, "key-reused".to_owned()));
    let lane = first.json()["lane"].as_u64().expect("a number");
    let stored = fixture.input(u32::try_from(lane).expect("it is small"));
    assert_eq!(stored.len(), 1);
    assert!(stored[0].headers.contains(&(b"seriatim-id".to_vec(), b"anonymous/pay%201".to_vec())));
}

#[tokio::test(start_paused = true)]
async fn a_key_in_flight_is_a_conflict_even_when_its_sender_has_gone() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_secs(3)), ..Faults::default() });
    let send = || fixture.call(post("a").header("idempotency-key", "k"));
    let gone = tokio::time::timeout(Duration::from_secs(1), send()).await;
    assert!(gone.is_err(), "it hung up after a second");
    let conflict = send().await;
    assert_eq!((conflict.status, conflict.code()), (StatusCode::CONFLICT, "key-in-flight".to_owned()));
    assert_eq!(conflict.header("retry-after"), "1");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let replayed = send().await;
    assert_eq!(replayed.status, StatusCode::ACCEPTED);
    assert_eq!(replayed.header("idempotent-replayed"), "true");
    assert_eq!(fixture.input(0).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_no_failure_and_a_retry_under_the_same_key_is_written_again() {
    for written in [true, false] {
        let fixture = Fixture::new(1, Options::default()).await;
        let chance = |yes: bool| if yes { 1.0 } else { 0.0 };
        fixture.log.set_faults(Faults {
            append_unknown_written: chance(written),
            append_unknown_lost: chance(!written),
            ..Faults::default()
        });
        let send = |body: &'static str| fixture.call(post(body).header("idempotency-key", "k"));
        let unknown = send("a").await;
        assert_eq!((unknown.status, unknown.code()), (StatusCode::GATEWAY_TIMEOUT, "outcome-unknown".to_owned()));
        assert_eq!(unknown.json()["outcome"], "unknown");
        fixture.log.set_faults(Faults { append_unavailable: 1.0, ..Faults::default() });
        assert_eq!(send("a").await.status, StatusCode::SERVICE_UNAVAILABLE);
        fixture.log.set_faults(Faults::default());
        assert_eq!(send("b").await.code(), "key-reused", "a failed attempt in between leaves it unknown");
        let known = send("a").await;
        assert_eq!(known.status, StatusCode::ACCEPTED);
        assert!(!known.headers.contains_key("idempotent-replayed"));
        let input = fixture.input(0);
        assert_eq!(input.len(), if written { 2 } else { 1 }, "the repeat is left to those who read in log order");
        let ids = input.iter().map(|r| r.headers.iter().find(|(n, _)| n == b"seriatim-id").map(|(_, v)| v.clone()));
        assert!(ids.into_iter().all(|id| id.as_deref() == Some(b"anonymous/k")));
        assert_eq!(send("a").await.json(), known.json());
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_leaves_the_outcome_unknown() {
    let fixture = Fixture::new(1, Options { append_timeout: Duration::from_secs(5), ..Options::default() }).await;
    fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_secs(60)), ..Faults::default() });
    let began = Instant::now();
    let send = || fixture.call(post("a").header("idempotency-key", "k"));
    assert_eq!(send().await.code(), "outcome-unknown");
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(send().await.code(), "key-in-flight");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(send().await.header("idempotent-replayed"), "true");
    assert_eq!(fixture.input(0).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_refuses_is_unavailable_and_nothing_is_written() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults { append_unavailable: 1.0, ..Faults::default() });
    let answer = fixture.call(post("a").header("idempotency-key", "k")).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "log-unavailable".to_owned()));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.json()["retryable"], true);
    fixture.log.set_faults(Faults::default());
    let answer = fixture.call(post("other body").header("idempotency-key", "k")).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "nothing was written under this key");
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_refused_and_what_was_accepted_is_there() {
    let options = Options { queue_length: 8, ..Options::default() };
    let fixture = Fixture::new(1, options).await;
    fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_secs(1)), ..Faults::default() });
    let answers = futures::future::join_all((0..100).map(|i| fixture.call(post(&i.to_string())))).await;
    let accepted = answers.iter().filter(|a| a.status == StatusCode::ACCEPTED).count();
    let refused: Vec<_> = answers.iter().filter(|a| a.status != StatusCode::ACCEPTED).collect();
    assert!(!refused.is_empty() && accepted >= 8, "{accepted}");
    for answer in refused {
        assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "overloaded".to_owned()));
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(fixture.input(0).len(), accepted);
    assert_eq!(fixture.call(post("after")).await.status, StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn queued_bytes_are_bounded_too() {
    let options = Options { queue_memory: 0, max_body: 256 * 1024, ..Options::default() };
    let fixture = Fixture::new(1, options).await;
    fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_secs(1)), ..Faults::default() });
    let body = "x".repeat(256 * 1024);
    let answers = futures::future::join_all((0..20).map(|_| fixture.call(post(&body)))).await;
    let accepted = answers.iter().filter(|a| a.status == StatusCode::ACCEPTED).count();
    // Twice the longest body, 1 MiB and 64 KiB, less a few bytes a record.
    assert_eq!(accepted, 6);
    assert!(answers.iter().all(|a| a.status == StatusCode::ACCEPTED || a.code() == "overloaded"));
}

#[tokio::test(start_paused = true)]
async fn bad_requests_are_told_what_is_wrong() {
    let fixture = Fixture::new(2, Options { max_body: 10, ..Options::default() }).await;
    let event = || post("x").header("ce-id", "1").header("ce-source", "/s").header("ce-type", "t");
    let cases = [
        (post("12345678901"), 413, "body-too-large", "10 bytes"),
        (post("x").header("seriatim-destination", "nowhere"), 422, "unknown-destination", "billing, default"),
        (post("x").header("seriatim-key", ""), 400, "invalid-header", "Seriatim-Key"),
        (post("x").header("idempotency-key", "\"open"), 400, "invalid-header", "Idempotency-Key"),
        (post("x").header("content-encoding", "br"), 415, "unsupported-media", "Content-Encoding"),
        (post("x").header("ce-id", "1"), 400, "invalid-header", "ce-specversion"),
        (event().header("ce-specversion", "0.3"), 400, "invalid-header", "version 1.0"),
        (event().header("ce-specversion", "1.0").header("ce-id", "2"), 400, "invalid-header", "more than once"),
        (event().header("ce-specversion", "1.0").header("ce-time", "noon"), 400, "invalid-header", "RFC 3339"),
        (event().header("ce-specversion", "1.0").header("ce-my-own", "1"), 400, "invalid-header", "lower-case"),
        (post("x").uri("/v1/messages?wiat=1s"), 400, "invalid-query", "wiat"),
        (post("x").uri("/v1/nothing"), 404, "not-found", "/v1/nothing"),
        (post("x").method("PUT"), 405, "method-not-allowed", "PUT"),
        (
            post("1").header("content-type", "application/x-ndjson").header("idempotency-key", &*"/".repeat(162)),
            400,
            "invalid-header",
            "488",
        ),
    ];
    for (request, status, code, detail) in cases {
        let answer = fixture.call(request).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        for member in ["type", "title", "status", "detail", "code", "retryable"] {
            assert!(problem.get(member).is_some(), "{member} of {problem}");
        }
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().expect("text").contains(detail), "{problem}");
        assert_eq!(status == 405, answer.headers.contains_key("allow"));
    }
    assert!(fixture.input(0).is_empty() && fixture.input(1).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_is_cut_off_at_its_bound_and_in_time() {
    let fixture = Fixture::new(1, Options { max_body: 10, ..Options::default() }).await;
    let pieces = futures::stream::iter((0..4).map(|_| Ok::<_, std::io::Error>("abc")));
    let answer = fixture.call(post("").streaming(pieces)).await;
    assert_eq!(answer.code(), "body-too-large");
    let began = Instant::now();
    let answer = fixture.call(post("").streaming(futures::stream::pending::<Result<&str, std::io::Error>>())).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::REQUEST_TIMEOUT, "request-timeout".to_owned()));
    assert_eq!(began.elapsed().as_secs(), 30);
    let broken = futures::stream::iter([Ok("abc"), Err(std::io::Error::other("gone"))]);
    assert_eq!(fixture.call(post("").streaming(broken)).await.code(), "invalid-body");
    assert!(fixture.input(0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn tokens_are_asked_for_and_scope_the_keys() {
    let tokens = seriatim::ingress::Tokens::parse("one alice\ntwo bob\n").expect("it is well formed");
    let fixture = Fixture::new(1, Options { tokens: Some(tokens), ..Options::default() }).await;
    let denied = fixture.call(post("a")).await;
    assert_eq!((denied.status, denied.code()), (StatusCode::UNAUTHORIZED, "unauthorized".to_owned()));
    assert_eq!(denied.header("www-authenticate"), "Bearer");
    assert_eq!(fixture.call(post("a").header("authorization", "Bearer three")).await.status, StatusCode::UNAUTHORIZED);
    let send = |token: &str, body: &str| {
        fixture.call(post(body).header("authorization", format!("Bearer {token}")).header("idempotency-key", "k"))
    };
    assert_eq!(send("one", "a").await.status, StatusCode::ACCEPTED);
    assert_eq!(send("two", "b").await.status, StatusCode::ACCEPTED, "the same key of another principal");
    assert_eq!(send("one", "b").await.code(), "key-reused");
    assert_eq!(fixture.input(0).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn cloud_events_are_taken_in_binary_structured_and_batched_mode() {
    let fixture = Fixture::new(1, Options::default()).await;
    let binary = post("{}")
        .header("content-type", "application/json")
        .header("ce-specversion", "1.0")
        .header("ce-id", "7")
        .header("ce-source", "/s")
        .header("ce-type", "t");
    assert_eq!(fixture.call(binary).await.status, StatusCode::ACCEPTED);
    let event = r#"{"specversion":"1.0","id":"8","source":"/s","type":"t"}"#;
    let structured = post(event).header("content-type", "application/cloudevents+json");
    assert_eq!(fixture.call(structured).await.status, StatusCode::ACCEPTED);
    let batch = post(&format!("[{event}, 3 ,{event}]")).header("content-type", "application/cloudevents-batch+json");
    let answer = fixture.call(batch).await;
    assert_eq!(answer.status, StatusCode::MULTI_STATUS);
    let results = &answer.json()["results"];
    assert_eq!(results[0]["offset"], 2);
    assert_eq!((&results[1]["status"], &results[1]["problem"]["code"]), (&json!(400), &json!("invalid-body")));
    assert_eq!(results[2], json!({"index": 2, "status": 202, "id": "0-3", "lane": 0, "offset": 3}));
    let input = fixture.input(0);
    assert!(input[0].headers.contains(&(b"ce_id".to_vec(), b"7".to_vec())));
    for record in &input[1..] {
        assert_eq!(record.value.as_deref(), Some(event.as_bytes()));
        assert_eq!(record.headers, [(b"content-type".to_vec(), b"application/cloudevents+json".to_vec())]);
    }
    let broken = post("[{").header("content-type", "application/cloudevents-batch+json");
    assert_eq!(fixture.call(broken).await.code(), "invalid-body");
}
