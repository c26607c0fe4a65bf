//! Readers that are slower than Kafka, that stop, and that come back elsewhere: what they get, what it
//! costs, and who is held up by them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seriatim::log::kafka::Kafka;
use seriatim::log::{Cleanup, Log as _, Reader, Topic, TopicPartition, TopicShape, Visibility};
use seriatim::record::{Offset, Partition};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::kafka_cluster::Cluster;
use crate::words::{Place, batch, connect, log_on, to};

const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than a full reader's partition is kept as it is.
const STANDSTILL: Duration = Duration::from_millis(1_500);

/// Many times what a client fetches ahead.
const RECORDS: usize = 40_000;

/// Its bytes, the number first.
fn value(number: usize) -> String {
    format!("{number:0>1000}")
}

/// Stands between the engine and its broker, and counts what is fetched.
struct Counter {
    replied: Arc<AtomicU64>,
    serving: JoinSet<()>,
}

impl Counter {
    async fn start(listener: std::net::TcpListener, broker: SocketAddr) -> Self {
        listener.set_nonblocking(true).expect("it is a socket");
        let listener = TcpListener::from_std(listener).expect("it listens");
        let replied = Arc::new(AtomicU64::new(0));
        let (mut serving, count) = (JoinSet::new(), Arc::clone(&replied));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(relay(client, broker, Arc::clone(&count)));
            }
        });
        Self { replied, serving }
    }

    fn replied(&self) -> u64 {
        self.replied.load(Ordering::Relaxed)
    }
}

/// Until either end closes.
async fn relay(client: TcpStream, broker: SocketAddr, replied: Arc<AtomicU64>) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = TcpStream::connect(broker).await?.into_split();
    let requests = tokio::io::copy(&mut from_client, &mut to_broker);
    let replies = async {
        let mut space = vec![0; 64 << 10];
        loop {
            let count = from_broker.read(&mut space).await?;
            if count == 0 {
                return Ok(0);
            }
            replied.fetch_add(count as u64, Ordering::Relaxed);
            to_client.write_all(&space[..count]).await?;
        }
    };
    tokio::select! {
        done = requests => done.map(drop),
        done = replies => done.map(drop),
    }
}

async fn fill(log: &Kafka, of: &TopicPartition, numbers: std::ops::Range<usize>) {
    let mut acknowledged = Vec::new();
    for first in numbers.clone().step_by(500) {
        let values: Vec<_> = (first..numbers.end.min(first + 500)).map(value).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        acknowledged.push(log.append(of, batch(&values)).await.expect("there is room"));
    }
    for acknowledged in acknowledged {
        acknowledged.await.expect("the broker is there");
    }
}

/// The next numbers of a partition, with the offset after them.
async fn some(reader: &mut Box<dyn Reader>) -> Vec<usize> {
    let fetched = tokio::time::timeout(PATIENCE, reader.next()).await;
    let fetched = fetched.expect("it does not take long").expect("nothing was removed");
    let number = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
    let values = fetched.batches.iter().flatten().map(|record| number(record.value.unwrap_or_default()));
    values.map(|number| number.expect("it was written as one")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_slower_than_kafka_has_nothing_fetched_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it listens").port().to_string();
    let cluster = Cluster::start(&["--proxy", &port]);
    let mut counter = Counter::start(listener, cluster.behind_proxy()).await;
    let mut properties = cluster.properties();
    properties.insert("bootstrap.servers".to_owned(), format!("127.0.0.1:{port}"));
    let log = connect(properties).await.expect("the broker is there");
    let place = Place::new(&log, "fetched-once").await;
    fill(&log, &place.0, 0..RECORDS).await;
    let before = counter.replied();
    // It is full all the time, and each time only some of what was fetched ahead fits in.
    let mut reader = log.read(&place.0, Offset::ZERO, Visibility::Durable, 50_000).await.expect("it exists");
    let mut read = 0;
    while read < RECORDS {
        for number in some(&mut reader).await {
            assert_eq!(number, read);
            read += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (fetched, bytes) = (counter.replied() - before, (RECORDS * value(0).len()) as u64);
    assert!(fetched >= bytes, "{fetched} of {bytes}: it does not count");
    // The reader changes its client once, when it has read for so long that it is taken for one that follows.
    assert!(fetched < bytes + bytes / 4, "{fetched} bytes were fetched for {bytes}");
    drop((reader, log));
    counter.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_readers_hold_up_nobody_and_go_on_where_they_stopped() {
    let log = connect(Cluster::shared().properties()).await.expect("the broker is there");
    let topic = Topic::from("full-readers");
    let shape = TopicShape { partitions: 8, cleanup: Cleanup::Delete };
    log.ensure(&[(topic.clone(), shape)]).await.expect("it can be made");
    let count = 3_000;
    let mut full = Vec::new();
    // More than there are clients, so that the last one shares its client with some.
    for of in topic.partitions(7) {
        fill(&log, &of, 0..count).await;
        let mut reader = log.read(&of, Offset::ZERO, Visibility::Durable, 50_000).await.expect("it exists");
        let read = some(&mut reader).await;
        assert!(!read.is_empty() && read.len() < count, "{}", read.len());
        full.push((reader, read));
    }
    let of = topic.partition(Partition(7));
    let mut busy = log.read(&of, Offset::ZERO, Visibility::Durable, 50_000).await.expect("it exists");
    let begun = tokio::time::Instant::now();
    let mut written = 0;
    while written < 100 || begun.elapsed() < STANDSTILL {
        fill(&log, &of, written..written + 1).await;
        assert_eq!(some(&mut busy).await, [written]);
        written += 1;
    }
    for (reader, read) in &mut full {
        while read.len() < count {
            read.extend(some(reader).await);
        }
        assert!(read.iter().copied().eq(0..count), "from where it stopped, nothing twice and nothing left out");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_fetched_for_one_position_is_not_taken_for_another() {
    let (log, place) = log_on(Cluster::shared(), "positions").await;
    let (_member, mut writer) = place.sole_writer(&log, "positions").await;
    // Offsets with holes, so that a record of another position could pass for the next one.
    let mut offsets = Vec::new();
    for first in (0..3_000).step_by(30) {
        let values: Vec<_> = (first..first + 30).map(value).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        let committed = writer.commit(vec![to(&place.0, &values)]).await.expect("it is the only one");
        offsets.extend(committed.iter().flat_map(|offsets| offsets.iter().map(|offset| offset.0)));
    }
    place.stable(&log, *offsets.last().expect("there are some") + 2).await;
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..300 {
        let from = Offset(random.u64(0..*offsets.last().expect("there are some")));
        let max_bytes = random.usize(1..200_000);
        let mut reader = log.read(&place.0, from, Visibility::Durable, max_bytes).await.expect("it exists");
        let first = offsets.partition_point(|offset| *offset < from.0);
        // Some are dropped before anything has come, or with much that was fetched for them.
        if round % 5 == 0 {
            let _: Result<_, _> =
                tokio::time::timeout(Duration::from_micros(random.u64(0..3_000)), reader.next()).await;
            continue;
        }
        let mut read = Vec::new();
        while read.len() < random.usize(1..100) && first + read.len() < offsets.len() {
            read.extend(some(&mut reader).await);
        }
        assert!(read.iter().copied().eq(first..first + read.len()), "from {from}: {read:?}");
    }
}
