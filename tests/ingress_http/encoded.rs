//! Compressed bodies, and quotas.

use std::io::Write as _;
use std::num::NonZeroU32;

use axum::http::StatusCode;
use seriatim::ingress::{Options, Quota, Tokens};
use tokio::time::{Duration, Instant, advance};

use crate::fixture::{Call, Fixture, post};

const ENCODINGS: [&str; 2] = ["gzip", "zstd"];

fn compressed(encoding: &str, text: &[u8]) -> Vec<u8> {
    if encoding == "zstd" {
        return zstd::encode_all(text, 3).expect("memory takes it");
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn send(encoding: &'static str, body: &[u8]) -> Call {
    let pieces: Vec<_> = body.chunks(100).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    post("").streaming(futures::stream::iter(pieces)).header("content-encoding", encoding)
}

fn values(fixture: &Fixture) -> Vec<Vec<u8>> {
    fixture.input(0).into_iter().filter_map(|record| record.value).collect()
}

#[tokio::test(start_paused = true)]
async fn compressed_messages_are_stored_as_they_were() {
    for encoding in ENCODINGS {
        let fixture = Fixture::new(1, Options::default()).await;
        let text = "a message ".repeat(5000);
        assert_eq!(fixture.call(send(encoding, &compressed(encoding, text.as_bytes()))).await.status, 202);
        assert_eq!(values(&fixture), [text.as_bytes()]);
        let broken = compressed(encoding, text.as_bytes());
        let answer = fixture.call(send(encoding, &broken[..broken.len() - 3])).await;
        assert_eq!(answer.code(), "invalid-body", "{encoding}");
        assert_eq!(fixture.call(send(encoding, b"plain")).await.code(), "invalid-body", "{encoding}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bomb_is_refused_whatever_it_hides_in() {
    for encoding in ENCODINGS {
        let fixture = Fixture::new(1, Options { max_body: 100_000, ..Options::default() }).await;
        let bomb = compressed(encoding, &vec![b' '; 50_000_000]);
        let answer = fixture.call(send(encoding, &bomb)).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large".to_owned()));

        let lines = compressed(encoding, &b"1\n".repeat(50_000_000));
        for bomb in [bomb, lines] {
            let upload = send(encoding, &bomb).header("content-type", "application/x-ndjson");
            let answer = fixture.call(upload).await;
            let results = answer.json()["results"].clone();
            let last = results.as_array().and_then(|results| results.last()).expect("it says why");
            assert_eq!(last["problem"]["code"], "body-too-large", "{encoding}");
        }
        let most = 100_000 + 100 * compressed(encoding, &b"1\n".repeat(50_000_000)).len();
        assert!(fixture.input(0).len() < most, "what was taken is bounded by what was sent");
    }
}

#[tokio::test(start_paused = true)]
async fn compressed_uploads_are_taken_line_by_line() {
    for encoding in ENCODINGS {
        let fixture = Fixture::new(1, Options::default()).await;
        let text: String = (0..10_000).map(|n| format!("{{\"number\":{n}}}\n")).collect();
        let upload = send(encoding, &compressed(encoding, text.as_bytes()));
        let answer = fixture.call(upload.header("content-type", "application/x-ndjson")).await;
        assert_eq!(answer.json()["results"].as_array().map(Vec::len), Some(10_000));
        assert_eq!(values(&fixture).join(&b'\n'), text.trim_end().as_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn other_encodings_are_refused_with_those_that_are_known() {
    let fixture = Fixture::new(1, Options::default()).await;
    for media in ["text/plain", "application/x-ndjson"] {
        let answer = fixture.call(send("br", b"x").header("content-type", media)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media".to_owned())
        );
        assert_eq!(answer.header("accept-encoding"), "gzip, zstd");
    }
}

fn quota(messages: u32, seconds: u64) -> Options {
    let messages = NonZeroU32::new(messages).expect("above zero");
    Options { quota: Some(Quota { messages, per: Duration::from_secs(seconds) }), ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_told_kept_and_comes_back() {
    let tokens = Tokens::parse("one alice\ntwo bob\n").expect("it is well formed");
    let fixture = Fixture::new(1, Options { tokens: Some(tokens), ..quota(3, 60) }).await;
    let send = |token: &str| fixture.call(post("a").header("authorization", format!("Bearer {token}")));
    let first = send("one").await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    assert_eq!(first.header("ratelimit-policy"), r#""messages";q=3;w=60"#);
    assert_eq!(first.header("ratelimit"), r#""messages";r=2;t=20"#);
    assert_eq!((send("one").await.status, send("one").await.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    let refused = send("one").await;
    assert_eq!((refused.status, refused.code()), (StatusCode::TOO_MANY_REQUESTS, "quota-exceeded".to_owned()));
    assert_eq!((refused.header("retry-after"), refused.header("ratelimit")), ("20", r#""messages";r=0;t=20"#));
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["messages"]));
    assert_eq!(refused.json()["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(send("two").await.status, StatusCode::ACCEPTED, "another principal has its own");
    advance(Duration::from_secs(20)).await;
    assert_eq!(send("one").await.status, StatusCode::ACCEPTED);
    assert_eq!(fixture.input(0).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_no_faster_than_the_quota() {
    let fixture = Fixture::new(1, quota(10, 10)).await;
    let began = Instant::now();
    let answer = fixture.call(post(&"1\n".repeat(25)).header("content-type", "application/x-ndjson")).await;
    assert_eq!(answer.json()["results"].as_array().map(Vec::len), Some(25));
    assert_eq!((began.elapsed().as_secs(), fixture.input(0).len()), (15, 25));
    let events = format!("[{}]", [r#"{"specversion":"1.0","id":"8","source":"/s","type":"t"}"#; 11].join(","));
    let batch = post(&events).header("content-type", "application/cloudevents-batch+json");
    assert_eq!(fixture.call(batch).await.code(), "body-too-large", "it never fits");
}
