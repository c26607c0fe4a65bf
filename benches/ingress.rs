//! How many messages a second get in over real sockets, durable in an embedded log when answered.
//!
//! `cargo bench --bench ingress`; the folder of the log is a temporary one, so `TMPDIR` picks the disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seriatim::ingress::{Options, Service, run};
use seriatim::log::Log as _;
use seriatim::log::embedded::{self, Embedded};
use seriatim::topics::Topics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Lines of one upload.
const LINES: u64 = 200_000;

/// Requests with one message each, over all clients.
const SINGLES: u64 = 20_000;

/// A JSON line of 100 bytes, its end included.
fn line() -> String {
    format!("{{\"n\":\"{}\"}}\n", "x".repeat(91))
}

async fn start(log: Embedded) -> SocketAddr {
    let topics = Arc::new(Topics::derive("bench", &["default"], 1, 1));
    log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
    let (service, driver) = Service::new(Arc::new(log), topics, Options::default(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(run(listener, service, driver));
    address
}

/// Uploads the body on an open connection and reads the answer to its end.
async fn upload(stream: &mut TcpStream, body: &[u8]) {
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream.write_all(body).await.expect("it reads");
    let mut tail = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    while !tail.ends_with(b"\r\n0\r\n\r\n") {
        let read = stream.read(&mut buffer).await.expect("it answers");
        assert_ne!(read, 0, "it answers to the end");
        tail.extend_from_slice(&buffer[..read]);
        tail.drain(..tail.len().saturating_sub(64));
    }
}

/// Sends messages one by one, each after the last one's answer.
async fn singles(address: SocketAddr, count: u64) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket has it");
    let body = line();
    let request = format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut buffer = vec![0; 4096];
    for _ in 0..count {
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let read = stream.read(&mut buffer).await.expect("it answers");
            assert_ne!(read, 0, "it answers to the end");
            answer.extend_from_slice(&buffer[..read]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(&answer));
    }
}

fn ingress(c: &mut Criterion) {
    let runtime = Runtime::new().expect("threads can be started");
    let folder = tempfile::tempdir().expect("a folder");
    let log = Embedded::open(folder.path().join("log"), embedded::Options::default()).expect("it is a new folder");
    let address = runtime.block_on(start(log));
    let mut group = c.benchmark_group("ingress");
    group.sample_size(10).measurement_time(Duration::from_secs(10));

    group.throughput(Throughput::Elements(LINES));
    let body = line().repeat(usize::try_from(LINES).expect("it is small"));
    group.bench_function("ndjson, one connection", |b| {
        let mut stream = runtime.block_on(TcpStream::connect(address)).expect("it listens");
        b.iter(|| runtime.block_on(upload(&mut stream, body.as_bytes())));
    });

    group.throughput(Throughput::Elements(SINGLES));
    for clients in [1, 64, 512] {
        group.bench_with_input(BenchmarkId::new("single, clients", clients), &clients, |b, &clients| {
            b.iter_custom(|iterations| {
                let began = Instant::now();
                for _ in 0..iterations {
                    let all = (0..clients).map(|_| singles(address, SINGLES / clients));
                    runtime.block_on(futures::future::join_all(all));
                }
                began.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ingress);
criterion_main!(benches);
