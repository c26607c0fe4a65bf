//! Limits that only a socket shows.

use std::net::SocketAddr;
use std::sync::Arc;

use seriatim::ingress::{Options, Ports, Service, Tls, run};
use seriatim::log::memory::Memory;
use seriatim::log::{Log as _, Topic};
use seriatim::record::Partition;
use seriatim::topics::Topics;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) struct Server {
    pub(crate) log: Memory,
    pub(crate) address: SocketAddr,
    drain: CancellationToken,
    running: JoinHandle<()>,
}

async fn serve(options: Options) -> Server {
    serve_over(None, options).await
}

pub(crate) async fn serve_over(tls: Option<Tls>, options: Options) -> Server {
    let log = Memory::new(1);
    let topics = Arc::new(Topics::derive("t", &["default"], 1, 1));
    log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
    let drain = CancellationToken::new();
    let (service, driver) = Service::new(Arc::new(log.clone()), topics, options, drain.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let ports = Ports { tls, ..Ports::from(listener) };
    Server { log, address, drain, running: tokio::spawn(run(ports, service, driver)) }
}

impl Server {
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }
}

pub(crate) const POST: &[u8] = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx";

/// Reads until the peer closes, or until `end` has come.
pub(crate) async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match timeout(Duration::from_secs(20), stream.read(&mut buffer)).await.expect("it does not hang") {
            Ok(0) | Err(_) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
        }
        if String::from_utf8_lossy(&text).contains(end) {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) const NEVER: &str = "\u{0}never\u{0}";

pub(crate) fn quick() -> Options {
    Options {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(600),
        body_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(500),
        ..Options::default()
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = serve(Options::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(&POST.repeat(50)).await.expect("it reads");
    let answers = read_until(&mut stream, "\"0-49\"").await;
    let places: Vec<_> = answers.match_indices("\"offset\":").map(|(at, text)| &answers[at + text.len()..]).collect();
    assert_eq!(places.len(), 50);
    for (i, place) in places.iter().enumerate() {
        assert!(place.starts_with(&format!("{i}}}")), "{place}");
    }
}

#[tokio::test]
async fn slow_heads_slow_first_bytes_and_idle_connections_are_cut_off() {
    let server = serve(quick()).await;
    for head in [&b""[..], b"P", b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut stream = server.connect().await;
        stream.write_all(head).await.expect("it reads");
        let answer = read_until(&mut stream, NEVER).await;
        assert!(!answer.contains("202"), "{answer}");
    }
    let mut stream = server.connect().await;
    stream.write_all(POST).await.expect("it reads");
    let answer = read_until(&mut stream, NEVER).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

#[tokio::test]
async fn drip_by_drip_heads_do_not_live_longer() {
    let server = serve(quick()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /v1/messages HTTP/1.1\r\n").await.expect("it reads");
    let drips = async {
        // Ends with an error once the server has closed.
        while stream.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(20), drips).await.expect("it is cut off");
}

#[tokio::test]
async fn a_slow_body_is_told_and_a_large_one_too() {
    let server = serve(Options { max_body: 1000, ..quick() }).await;
    let mut stream = server.connect().await;
    let head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nx";
    stream.write_all(head).await.expect("it reads");
    let answer = read_until(&mut stream, "request-timeout").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");

    let mut stream = server.connect().await;
    let head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n";
    stream.write_all(head).await.expect("it reads");
    stream.write_all(&vec![b'x'; 3_000_000]).await.expect("what is too large is read and dropped");
    let answer = read_until(&mut stream, "body-too-large").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    let mut stream = server.connect().await;
    let head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3000000\r\n\r\n";
    stream.write_all(head).await.expect("it reads");
    let answer = read_until(&mut stream, "body-too-large").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "who asks first need not send it: {answer}");
}

#[tokio::test]
async fn drip_by_drip_bodies_do_not_live_longer() {
    let server = serve(quick()).await;
    for media in ["text/plain", "application/x-ndjson"] {
        let mut stream = server.connect().await;
        let head =
            format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: {media}\r\ncontent-length: 100000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let (mut reader, mut writer) = stream.split();
        let drips = async {
            while writer.write_all(b"1").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let answer = tokio::select! {
            answer = read_until(&mut reader, "request-timeout") => answer,
            () = drips => String::new(),
        };
        assert!(answer.contains("request-timeout"), "{media}: {answer}");
    }
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let server = serve(Options::default()).await;
    for headers in ["x-a: b\r\n".repeat(1_000), format!("x-a: {}\r\n", "b".repeat(100_000))] {
        let mut stream = server.connect().await;
        let request = format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\n{headers}content-length: 0\r\n\r\n");
        // It may close before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = read_until(&mut stream, NEVER).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn connections_are_bounded_and_idle_ones_make_room() {
    let server = serve(Options { max_connections: 2, ..quick() }).await;
    let idle = [server.connect().await, server.connect().await];
    let mut third = server.connect().await;
    third.write_all(POST).await.expect("the system takes it");
    let answer = read_until(&mut third, "\"0-0\"").await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    drop(idle);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let server = serve(quick()).await;
    let mut stream = server.connect().await;
    let request = b"GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    let flood = async {
        // Ends with an error once the server has closed.
        while stream.write_all(&request).await.is_ok() {}
    };
    timeout(Duration::from_secs(60), flood).await.expect("it is cut off");
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_what_was_whole() {
    let server = serve(Options::default()).await;
    let mut stream = server.connect().await;
    let head =
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: 100\r\n\r\n";
    stream.write_all(head).await.expect("it reads");
    stream.write_all(b"1\n2\n3").await.expect("it reads");
    drop(stream);
    let of = Topic::from("t.input").partition(Partition(0));
    let written = async {
        while server.log.snapshot(&of).len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), written).await.expect("the whole lines are written");
    let values: Vec<_> = server.log.snapshot(&of).into_iter().filter_map(|record| record.value).collect();
    assert_eq!(values, [b"1", b"2"]);
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_ends() {
    let server = serve(Options::default()).await;
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    let head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
    busy.write_all(head).await.expect("it reads");
    assert!(read_until(&mut busy, "\r\n\r\n").await.starts_with("HTTP/1.1 100"), "it is being handled");
    let mut events = server.connect().await;
    let follow = b"GET /v1/outputs/default HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n";
    events.write_all(follow).await.expect("it reads");
    assert!(read_until(&mut events, ": seriatim").await.contains("text/event-stream"));
    server.drain.cancel();
    busy.write_all(b"x").await.expect("it reads");
    assert!(read_until(&mut busy, "}").await.starts_with("HTTP/1.1 202"));
    assert_eq!(read_until(&mut idle, NEVER).await, "");
    assert!(read_until(&mut events, NEVER).await.ends_with("0\r\n\r\n"), "the stream ends properly");
    timeout(Duration::from_secs(20), server.running).await.expect("it ends").expect("it does not panic");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}
