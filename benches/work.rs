//! What the work stage costs: records/s with a worker that does nothing, in this process and over
//! HTTP. `cargo bench --bench work`; the log is the one in memory, so that it is the stage that is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

use seriatim::log::memory::Memory;
use seriatim::log::{Cleanup, Log, TopicPartition, TopicShape, Visibility};
use seriatim::record::cursor::{LaneCursor, OwnerCursor, encode};
use seriatim::record::{BatchBuilder, Offset, Partition};
use seriatim::topics::Topics;
use seriatim::work::builtin::Echo;
use seriatim::work::http::{self, Http};
use seriatim::work::jq::{self, Jq};
use seriatim::work::{self, Options, Processor};
use tokio_util::sync::CancellationToken;

const BODY: &[u8] = &[b'7'; 100];

fn main() {
    // `cargo test` runs benchmarks, too: once, briefly.
    let scale = if std::env::args().any(|argument| argument == "--bench") { 1 } else { 1000 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there is a runtime");
    let measured = |name: &str, records: usize, concurrency: usize, processor: Arc<dyn Processor>| {
        let records = records / scale;
        let rate = runtime.block_on(rate(records, concurrency, processor));
        println!("{name:<32} {rate:>10.0} records/s");
    };
    measured("echo", 2_000_000, 1000, Arc::new(Echo));
    let filter = jq::Options {
        filter: ".".to_owned(),
        command: [env!("CARGO_BIN_EXE_seriatim"), jq::VERB].map(str::to_owned).to_vec(),
        patience: std::time::Duration::from_secs(5),
        max_output: 1 << 20,
    };
    measured("jq '.'", 200_000, 1000, Arc::new(Jq::new(filter).expect("it is a filter")));
    let address = serve();
    for concurrency in [100, 1000] {
        let options =
            http::Options { url: format!("http://{address}/"), connections: concurrency, max_output: 1 << 20 };
        let worker = Arc::new(Http::new(options).expect("it is a URL"));
        measured(&format!("http, {concurrency} at once"), 200_000, concurrency, worker);
    }
}

/// A worker that echoes, on a thread of its own.
fn serve() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there is a runtime");
        runtime.block_on(async move {
            listener.set_nonblocking(true).expect("sockets can be");
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is a socket");
            let echo = axum::Router::new().fallback(|body: axum::body::Bytes| async { body });
            axum::serve(listener, echo).await
        })
    });
    address
}

async fn rate(records: usize, concurrency: usize, processor: Arc<dyn Processor>) -> f64 {
    let memory = Memory::new(1);
    let topics = Topics::derive("b", &["default"], 1, 1);
    let shape = |partitions| TopicShape { partitions, cleanup: Cleanup::Keep };
    let all = [
        (topics.input.clone(), shape(1)),
        (topics.results.clone(), shape(1)),
        (topics.work.clone(), shape(topics.work_partitions)),
        (topics.cursors_resequence.clone(), shape(1)),
    ];
    memory.ensure(&all).await.expect("they do not exist");
    let first = |topic: &seriatim::log::Topic| topic.partition(Partition(0));
    let mut builder = BatchBuilder::default();
    for number in 0..records {
        builder.push(None, Some(BODY), |_| {});
        if builder.len() == 1000 || number + 1 == records {
            append(&memory, &first(&topics.input), &mut builder).await;
        }
    }
    let lanes = [(0, LaneCursor { limit: u64::MAX, ..LaneCursor::default() })].into();
    builder.push(Some(b"resequence"), Some(&encode(&OwnerCursor { lanes, ..OwnerCursor::default() })), |_| {});
    append(&memory, &first(&topics.cursors_resequence), &mut builder).await;

    let since = Instant::now();
    let drain = CancellationToken::new();
    let options = Options { concurrency, ..Options::for_pipeline("b") };
    let log: Arc<dyn Log> = Arc::new(memory.clone());
    let results = first(&topics.results);
    let stage = tokio::spawn(work::run(log, topics, options, processor, "bench".to_owned(), 1, drain.clone()));
    let mut reader =
        memory.read(&results, Offset::ZERO, Visibility::Durable, 1 << 20).await.expect("there is such a partition");
    while reader.position() < Offset(records as u64) {
        reader.next().await.expect("memory does not fail");
    }
    let rate = records as f64 / since.elapsed().as_secs_f64();
    drain.cancel();
    stage.await.expect("it does not panic").expect("it ends well");
    rate
}

async fn append(log: &Memory, to: &TopicPartition, builder: &mut BatchBuilder) {
    log.append(to, builder.finish()).await.expect("memory does not fail").await.expect("memory does not fail");
}
