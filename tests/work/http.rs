//! HTTP workers on real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response};
use futures::stream;
use seriatim::record::Status;
use seriatim::work::http::{Http, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::support::{Rig, Seen};

const MAX_OUTPUT: usize = 2000;

async fn rig(url: String) -> Rig {
    let http = Http::new(Options { url, connections: 100, max_output: MAX_OUTPUT }).expect("the URL is one");
    Rig::with(1, 1, Arc::new(http)).await
}

fn options() -> seriatim::work::Options {
    let mut options = Rig::options();
    options.timeout = Duration::from_millis(500);
    options.retry.backoff = Duration::from_millis(20);
    options.retry.attempts = 2;
    options.max_output = MAX_OUTPUT;
    options
}

/// Answers each body as it asks for; the first attempt of `twice CODE` with that status.
async fn worker(busy: Arc<AtomicUsize>) -> String {
    let answer = move |headers: HeaderMap, body: Bytes| {
        let busy = Arc::clone(&busy);
        async move {
            let asked: String = serde_json::from_slice(&body).expect("bodies are JSON strings");
            let (what, rest) = asked.split_once(' ').unwrap_or((&asked, ""));
            answer(what, rest, &headers, &busy).await
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
    let url = format!("http://{}/work", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    url
}

async fn answer(what: &str, rest: &str, headers: &HeaderMap, busy: &AtomicUsize) -> Response<Body> {
    let status = |code: u16| Response::builder().status(code);
    let first = headers["seriatim-attempt"] == "1";
    let response = match what {
        "ok" => status(200).header("content-type", "text/x").body("fine".into()),
        "status" => status(rest.parse().expect("a status")).body(r#"{"title":"so it is"}"#.into()),
        "twice" if first => status(rest.parse().expect("a status")).body(Body::empty()),
        "twice" => status(200).body("second".into()),
        "to" => status(200).header("seriatim-destination", "a").header("seriatim-destination", "b, c").body("x".into()),
        "outputs" => status(200)
            .header("content-type", "Application/vnd.seriatim.outputs+json; charset=utf-8")
            .body(rest.to_owned().into()),
        "busy" if busy.fetch_add(1, SeqCst) == 0 => {
            let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
            status(503).header("retry-after", if rest == "date" { date } else { "1".to_owned() }).body(Body::empty())
        }
        "busy" => status(200).body("at last".into()),
        "slow" if first => std::future::pending().await,
        "slow" => status(200).body("quick".into()),
        "endless" => {
            let zeros = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'0'; 512])));
            status(200).body(Body::from_stream(zeros))
        }
        "large" => status(200).body(vec![b'0'; MAX_OUTPUT + 1].into()),
        "limit" => status(200).body(vec![b'0'; MAX_OUTPUT].into()),
        "garbled" => status(200).header("seriatim-destination", &b"\xff"[..]).body("x".into()),
        "headers" => {
            let seen: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap_or("?"))).collect();
            status(200).body(seen.join("\n").into())
        }
        other => panic!("nobody knows {other}"),
    };
    response.expect("it is a response")
}

#[tokio::test]
async fn every_kind_of_answer_has_its_meaning() {
    use Status::{Done, Empty, Failed};
    let url = worker(Arc::default()).await;
    let rig = rig(url).await;
    let cases = [
        ("ok", Done, 1, ""),
        ("status 204", Empty, 1, ""),
        ("status 404", Failed, 1, "worker-status"),
        ("status 422", Failed, 1, "worker-status"),
        ("status 302", Failed, 1, "worker-status"),
        ("status 201", Failed, 1, "worker-status"),
        ("status 500", Failed, 2, "worker-status"),
        ("twice 500", Done, 2, ""),
        ("twice 502", Done, 2, ""),
        ("twice 504", Done, 2, ""),
        ("twice 408", Done, 2, ""),
        ("twice 425", Done, 2, ""),
        ("slow", Done, 2, ""),
        ("to", Done, 1, ""),
        (r#"outputs [{\"body\":1},{\"body\":2}]"#, Done, 1, ""),
        ("outputs []", Empty, 1, ""),
        (r#"outputs [{\"body\":1},{\"sequence\":2}]"#, Failed, 1, "outputs-invalid"),
        ("endless", Failed, 1, "output-too-large"),
        ("large", Failed, 1, "output-too-large"),
        ("limit", Done, 1, ""),
        ("garbled", Failed, 1, "destination-invalid"),
        ("headers", Done, 1, ""),
    ];
    let bodies = cases.map(|(body, ..)| format!("\"{body}\""));
    rig.bodies(&bodies.each_ref().map(String::as_str)).await;
    let stage = rig.start_with("a", options());
    rig.until("all are answered", || rig.answered(0) == cases.len()).await;
    let ends = rig.ends();
    for ((case, status, attempt, code), (seen, _)) in cases.iter().zip(&ends) {
        let Seen { status: s, attempt: a, code: c, error, .. } = seen;
        assert_eq!((*s, *a, c.as_str()), (*status, *attempt, *code), "{case}: {error}");
    }
    let value = |index: usize| String::from_utf8_lossy(ends[index].1.value.as_deref().unwrap_or_default()).into_owned();
    let header = |index: usize, name: &str| {
        let headers = &ends[index].1.headers;
        headers.iter().find(|(n, _)| n == name.as_bytes()).map(|(_, v)| String::from_utf8_lossy(v).into_owned())
    };
    assert_eq!((value(0), header(0, "content-type")), ("fine".to_owned(), Some("text/x".to_owned())));
    assert_eq!(ends[2].0.error["problem"]["title"], "so it is");
    assert_eq!(header(13, "seriatim-destination").as_deref(), Some("a, b, c"));
    assert_eq!(
        (value(14), header(14, "content-type").as_deref()),
        (r#"[{"body":1},{"body":2}]"#.to_owned(), Some("application/vnd.seriatim.outputs+json"))
    );
    let seen = value(21);
    for line in [
        "seriatim-lane: 0",
        "seriatim-offset: 21",
        "seriatim-id: 0-21",
        "seriatim-key: key",
        "seriatim-attempt: 1",
        "content-type: application/json",
    ] {
        assert!(seen.lines().any(|l| l == line), "{line} in {seen}");
    }
    stage.drain().await;
}

#[tokio::test]
async fn a_busy_worker_is_left_alone_for_as_long_as_it_asks() {
    for (asked, shortest) in [("busy seconds", 1000), ("busy date", 1900)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let rig = rig(worker(Arc::clone(&calls)).await).await;
        rig.bodies(&[&format!("\"{asked}\"")]).await;
        let since = Instant::now();
        let stage = rig.start_with("a", options());
        rig.until("it is answered", || rig.answered(0) == 1).await;
        assert!(since.elapsed() >= Duration::from_millis(shortest), "{asked}: {:?}", since.elapsed());
        let (seen, _) = &rig.ends()[0];
        assert_eq!((seen.status, seen.attempt, calls.load(SeqCst), rig.results(0).len()), (Status::Done, 1, 2, 1));
        stage.drain().await;
    }
}

#[tokio::test]
async fn a_worker_that_refuses_connections_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let rig = rig(format!("http://{address}/")).await;
    rig.bodies(&["1", "2", "3"]).await;
    let stage = rig.start_with("a", options());
    // Longer than all attempts would take.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.results(0).len(), 0);
    let listener = TcpListener::bind(address).await.expect("it is still free");
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(|| async { "back" })).await });
    rig.until("all are answered", || rig.answered(0) == 3).await;
    assert!(rig.ends().iter().all(|(seen, _)| (seen.status, seen.attempt) == (Status::Done, 1)));
    stage.drain().await;
}

#[tokio::test]
async fn names_that_do_not_resolve_and_broken_tls_are_a_worker_that_is_not_there() {
    let plain = worker(Arc::default()).await.replace("http:", "https:");
    for url in ["http://no-such-host.invalid/".to_owned(), plain] {
        let rig = rig(url.clone()).await;
        rig.bodies(&["1"]).await;
        let stage = rig.start_with("a", options());
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(rig.results(0).len(), 0, "{url}: no attempt is used up");
        stage.drain().await;
    }
}

/// What a broken worker does with a connection once it has a request.
async fn broken(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move { misbehave(&mut connection, answer).await });
        }
    });
    url
}

async fn misbehave(connection: &mut TcpStream, answer: &[u8]) {
    let mut request = [0; 4096];
    let read = connection.read(&mut request).await.unwrap_or_default();
    if read > 0 {
        // The other end may be gone, which is no concern of a broken worker.
        let _ = connection.write_all(answer).await;
    }
}

#[tokio::test]
async fn broken_answers_count_as_attempts_and_end_as_failures() {
    for answer in [
        &b""[..],
        b"hello, this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let rig = rig(broken(answer).await).await;
        rig.bodies(&["1"]).await;
        let stage = rig.start_with("a", options());
        let what = String::from_utf8_lossy(answer).into_owned();
        rig.until(&format!("{what:?} is given up"), || rig.answered(0) == 1).await;
        let (seen, _) = &rig.ends()[0];
        assert_eq!((seen.status, seen.attempt, seen.code.as_str()), (Status::Failed, 2, "worker-broken"), "{what:?}");
        stage.drain().await;
    }
}

#[test]
fn urls_that_cannot_be_posted_to_are_refused() {
    for (url, says) in [("", "relative URL"), ("ftp://x/", "http or https"), ("http://", "empty host")] {
        let options = Options { url: url.to_owned(), connections: 1, max_output: 1 };
        let error = Http::new(options).expect_err(url).to_string();
        assert!(error.contains("work.http.url") && error.contains(says), "{error}");
    }
}
