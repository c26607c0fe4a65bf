//! Many messages in one request.

use axum::http::StatusCode;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use seriatim::ingress::Options;
use seriatim::log::memory::Faults;
use tokio::time::{Duration, Instant};

use crate::fixture::{Call, Fixture, always, post};

fn ndjson(body: &str) -> Call {
    post(body).header("content-type", "application/x-ndjson")
}

fn statuses(answer: &Value) -> Vec<u64> {
    let results = answer["results"].as_array().expect("it has results");
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["index"], index);
        assert_eq!(result["status"] == 202, result.get("problem").is_none());
    }
    results.iter().map(|result| result["status"].as_u64().expect("a number")).collect()
}

fn values(fixture: &Fixture, lane: u32) -> Vec<String> {
    let text = |value: Option<Vec<u8>>| String::from_utf8(value.expect("it has one")).expect("it was text");
    fixture.input(lane).into_iter().map(|record| text(record.value)).collect()
}

#[tokio::test(start_paused = true)]
async fn every_line_is_one_message_and_a_bad_one_hurts_no_other() {
    let fixture = Fixture::new(1, Options { max_body: 20, ..Options::default() }).await;
    let long = format!("\"{}\"", "x".repeat(40));
    let lines = format!("{{\"a\": 1}}\r\n\n  \n{{\"b\":\n{long}\n[2,  3]\nnull null\n\"\u{e9}\"\n4");
    let call = ndjson(&lines).header("seriatim-key", "k").header("seriatim-destination", "billing");
    let answer = fixture.call(call).await;
    assert_eq!(answer.status, StatusCode::MULTI_STATUS);
    let answer = answer.json();
    assert_eq!(statuses(&answer), [202, 400, 413, 202, 400, 202, 202]);
    assert_eq!(answer["results"][0], json!({"index": 0, "status": 202, "id": "0-0", "lane": 0, "offset": 0}));
    assert_eq!(answer["results"][1]["problem"]["code"], "invalid-body");
    assert_eq!(answer["results"][3]["offset"], 1);
    assert_eq!(answer["results"][6]["offset"], 3);
    assert_eq!(values(&fixture, 0), ["{\"a\": 1}", "[2,  3]", "\"\u{e9}\"", "4"]);
    let first = &fixture.input(0)[0];
    assert_eq!(first.key.as_deref(), Some(&b"k"[..]));
    let headers = [("content-type", "application/json"), ("seriatim-destination", "billing")];
    assert_eq!(first.headers, headers.map(|(n, v)| (n.into(), v.into())));
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_upload_names_every_line_by_its_number() {
    let fixture = Fixture::new(1, Options::default()).await;
    let upload = |body| ndjson(body).header("idempotency-key", "night 7");
    let first = fixture.call(upload("1\n\nbroken\n2")).await.json();
    assert_eq!(statuses(&first), [202, 400, 202]);
    let again = fixture.call(upload("1\n3\n2")).await.json();
    assert_eq!(statuses(&again), [202, 202, 202], "which of them are duplicates is decided downstream");
    let ids: Vec<_> = fixture.input(0).into_iter().map(|record| record.headers[1].clone()).collect();
    let id = |line: u64| ("seriatim-id".into(), format!("anonymous/night%207%2F{line}").into());
    assert_eq!(ids, [id(0), id(2), id(0), id(1), id(2)]);
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_while_its_messages_are_being_written() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_millis(100)), ..Faults::default() });
    let pieces = futures::stream::iter((0..200).map(|i| Ok::<_, std::io::Error>(format!("{i}\n{i}\n"))));
    let began = Instant::now();
    let answer = fixture.call(ndjson("").streaming(pieces)).await.json();
    assert_eq!(statuses(&answer), vec![202; 400]);
    assert!(began.elapsed() < Duration::from_secs(3), "one by one it would be 20 s: {:?}", began.elapsed());
    let expected: Vec<_> = (0..400).map(|i| (i / 2).to_string()).collect();
    assert_eq!(values(&fixture, 0), expected);
    let offsets = answer["results"].as_array().expect("results").iter().map(|r| r["offset"].as_u64());
    assert!(offsets.eq((0..400).map(Some)));
}

#[tokio::test(start_paused = true)]
async fn after_an_unknown_outcome_every_later_line_is_unknown() {
    let fixture = Fixture::new(1, Options::default()).await;
    let (mut send, receive) = futures::channel::mpsc::channel::<Result<String, std::io::Error>>(1);
    let faults = |chance| Faults { append_unknown_written: chance, ..Faults::default() };
    let upload = fixture.call(ndjson("").streaming(receive));
    let client = async {
        for (line, chance) in [("0\n", 0.0), ("1\n", 1.0), ("2\n3\n", 0.0), ("not JSON\n", 0.0)] {
            fixture.log.set_faults(faults(chance));
            send.send(Ok(line.to_owned())).await.expect("the upload is read");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        drop(send);
    };
    let (answer, ()) = tokio::join!(upload, client);
    let answer = answer.json();
    assert_eq!(statuses(&answer), [202, 504, 504, 504, 504]);
    assert_eq!(answer["results"][4]["problem"]["outcome"], "unknown");
    assert_eq!(values(&fixture, 0), ["0", "1"], "nothing is sent after it");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_the_log_ends_the_upload_in_order() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults { append_unavailable: 1.0, ..Faults::default() });
    let answer = fixture.call(ndjson("1\n2\n")).await.json();
    assert_eq!(statuses(&answer), [503, 503]);
    assert_eq!(answer["results"][0]["problem"]["code"], "log-unavailable");
    assert!(values(&fixture, 0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_refuses_now_and_then_leaves_no_gap() {
    let fixture = Fixture::new(1, Options::default()).await;
    fixture.log.set_faults(Faults {
        acknowledge_delay: always(Duration::from_millis(30)),
        append_unavailable: 0.2,
        ..Faults::default()
    });
    let mut shares = Vec::new();
    for _ in 0..100 {
        let before = fixture.input(0).len();
        let pieces = futures::stream::iter(0..50).then(async |i| {
            tokio::time::sleep(Duration::from_millis(7)).await;
            Ok::<_, std::io::Error>(format!("{i}\n"))
        });
        let answer = fixture.call(ndjson("").streaming(pieces.boxed())).await.json();
        let taken = values(&fixture, 0).split_off(before);
        assert_eq!(taken, (0..taken.len()).map(|i| i.to_string()).collect::<Vec<_>>());
        let expected: Vec<_> = (0..50).map(|i| if i < taken.len() { 202 } else { 503 }).collect();
        assert_eq!(statuses(&answer), expected);
        shares.push(taken.len());
    }
    assert!(shares.iter().any(|taken| (1..50).contains(taken)), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_off_leaves_whole_lines_in_order() {
    let fixture = Fixture::new(1, Options::default()).await;
    let pieces = [Ok("1\n2\n3"), Ok("3\n4"), Err(std::io::Error::other("reset"))];
    let answer = fixture.call(ndjson("").streaming(futures::stream::iter(pieces))).await.json();
    assert_eq!(statuses(&answer), [202, 202, 202, 400]);
    assert_eq!(values(&fixture, 0), ["1", "2", "33"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_is_told_so() {
    let fixture = Fixture::new(1, Options::default()).await;
    let pieces = futures::stream::iter([Ok::<_, std::io::Error>("1\n2")]).chain(futures::stream::pending());
    let answer = fixture.call(ndjson("").streaming(pieces)).await.json();
    assert_eq!(statuses(&answer), [202, 408]);
    assert_eq!(values(&fixture, 0), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn answers_can_be_had_while_the_upload_goes_on() {
    let fixture = Fixture::new(1, Options::default()).await;
    let (mut send, receive) = futures::channel::mpsc::channel::<Result<&str, std::io::Error>>(1);
    let call = ndjson("").header("accept", "application/x-ndjson").streaming(receive);
    let response = fixture.open(call).await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut answers = response.into_body().into_data_stream();
    let mut seen = String::new();
    for (line, expected) in [("1\n", "\"offset\":0"), ("x\n", "invalid-body"), ("2\n", "\"offset\":1")] {
        send.send(Ok(line)).await.expect("the upload is read");
        while !seen.ends_with('\n') || !seen.contains(expected) {
            let block = answers.next().await.expect("more follows").expect("it does not break off");
            seen.push_str(std::str::from_utf8(&block).expect("it is JSON"));
        }
    }
    drop(send);
    while answers.next().await.is_some() {}
    let indexes: Vec<_> =
        seen.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["index"].clone()).collect();
    assert_eq!(indexes, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_hopeless_upload_takes_no_more_memory_for_being_long() {
    let fixture = Fixture::new(1, Options::default()).await;
    let pieces = futures::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>("}\n".repeat(1_000))));
    let answer = fixture.call(ndjson("").streaming(pieces)).await.json();
    let results = answer["results"].as_array().expect("it has results");
    assert_eq!(results.len(), 100_000);
    assert!(results[0]["problem"]["detail"].as_str().expect("text").contains("line 1 column 1"));
    assert!(results[99_999]["problem"]["detail"].as_str().expect("text").contains("left out"));
}

#[tokio::test(start_paused = true)]
async fn headers_that_every_line_repeats_take_bounded_memory() {
    let options = Options { queue_memory: 0, max_body: 1024, ..Options::default() };
    let fixture = Fixture::new(1, options).await;
    fixture.log.set_faults(Faults { acknowledge_delay: always(Duration::from_millis(10)), ..Faults::default() });
    let key = "k".repeat(50_000);
    let answer = fixture.call(ndjson(&"1\n".repeat(1_000)).header("seriatim-key", key.as_str())).await;
    assert_eq!(statuses(&answer.json()), vec![202; 1_000]);
    assert_eq!(values(&fixture, 0), vec!["1"; 1_000]);
    let events = format!("[{}]", [r#"{"specversion":"1.0","id":"8","source":"/s","type":"t"}"#; 15].join(","));
    let batch = post(&events).header("content-type", "application/cloudevents-batch+json").header("seriatim-key", key);
    assert_eq!(fixture.call(batch).await.code(), "body-too-large");
}

#[tokio::test(start_paused = true)]
async fn an_endless_upload_is_ended_by_the_end_of_the_process() {
    let fixture = Fixture::new(1, Options::default()).await;
    let endless = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, std::io::Error>("1\n"), ()))
    });
    let upload = fixture.call(ndjson("").streaming(endless));
    let end = async {
        tokio::time::sleep(Duration::from_millis(10_500)).await;
        fixture.drain.cancel();
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(upload, end);
    assert_eq!(began.elapsed().as_millis(), 15_500);
    let answer = answer.json();
    let mut expected = vec![202; 15];
    expected.push(503);
    assert_eq!(statuses(&answer), expected);
    assert_eq!(answer["results"][15]["problem"]["code"], "draining");
    assert_eq!(values(&fixture, 0).len(), 15);
}

#[tokio::test(start_paused = true)]
async fn an_empty_upload_has_an_empty_answer() {
    let fixture = Fixture::new(1, Options::default()).await;
    let answer = fixture.call(ndjson("\n\n")).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::MULTI_STATUS, json!({"results": []})));
}
