//! What the embedded log does in a second, every acknowledgement durable, and what memory it takes.
//!
//! ```text
//! cargo bench --bench log            # in the system's temporary folder
//! TMPDIR=/data cargo bench --bench log
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use seriatim::log::embedded::{Embedded, Options};
use seriatim::log::{Append, Cleanup, Event, Log as _, Topic, TopicPartition, TopicShape, Visibility};
use seriatim::record::{Batch, BatchBuilder, Offset, Partition};
use tokio::time::Instant;

/// How long each measurement runs at least.
const TIME: Duration = Duration::from_secs(3);
const RECORD: usize = 100;
const WAITING: usize = 1_000_000;

fn partition(topic: &str) -> TopicPartition {
    Topic::from(topic).partition(Partition(0))
}

fn records(count: usize) -> Batch {
    let mut builder = BatchBuilder::default();
    for n in 0..count {
        // Not all alike, or a store that compresses looks better than it is.
        let value: Vec<u8> = (0..RECORD).map(|i| n.wrapping_mul(31).wrapping_add(i * 7).to_le_bytes()[0]).collect();
        builder.push(None, Some(&value), |_| {});
    }
    builder.finish()
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = Embedded::open(folder.path(), Options::default()).expect("the folder is new");
    let topics = ["single", "commit", "bulk", "waiting"];
    let shape = TopicShape { partitions: 1, cleanup: Cleanup::Delete };
    let topics: Vec<_> = topics.iter().map(|topic| (Topic::from(*topic), shape.clone())).collect();
    log.ensure(&topics).await.expect("they can be made");

    singles(&log).await;
    commits(&log).await;
    bulk(&log, 1000, 4).await;
    read(&log, "from memory and disk", &partition("bulk"), Visibility::Durable).await;
    waiting(&log).await;
    drop(log);

    let options = Options { cache: 0, ..Options::default() };
    let begun = Instant::now();
    let log = Embedded::open(folder.path(), options).expect("it opens again");
    println!("open again: {:?}, {} on disk", begun.elapsed(), bytesize::ByteSize(log.disk_space()));
    read(&log, "from disk only", &partition("bulk"), Visibility::Durable).await;
}

/// One record at a time, each acknowledged before the next.
async fn singles(log: &Embedded) {
    let batch = records(1);
    let (begun, mut count, mut times) = (Instant::now(), 0u32, Vec::new());
    while begun.elapsed() < TIME {
        let one = Instant::now();
        let appending = log.append(&partition("single"), batch.clone()).await.expect("there is room");
        appending.await.expect("it is written");
        times.push(one.elapsed());
        count += 1;
    }
    report("appends of one record, one after the other", count, begun.elapsed(), times);
}

/// As a release does: outputs and a cursor in one atomic step.
async fn commits(log: &Embedded) {
    let mut member = log.join("bench", &[Topic::from("commit")], "bench").await.expect("the topic exists");
    assert!(matches!(member.next().await, Ok(Event::Assigned(_))));
    let mut writer = member.claim(&partition("commit")).await.expect("it is assigned");
    let batch = records(1);
    let (begun, mut count, mut times) = (Instant::now(), 0u32, Vec::new());
    while begun.elapsed() < TIME {
        let one = Instant::now();
        let appends = ["commit", "single"].map(|to| Append { to: partition(to), batch: batch.clone() });
        writer.commit(appends.to_vec()).await.expect("it is the only writer");
        times.push(one.elapsed());
        count += 1;
    }
    report("atomic commits to two partitions", count, begun.elapsed(), times);
}

/// Batches in a row, a few of them in flight.
async fn bulk(log: &Embedded, size: usize, in_flight: usize) {
    let batch = records(size);
    let begun = Instant::now();
    let (mut count, mut pending) = (0, VecDeque::new());
    while begun.elapsed() < TIME {
        pending.push_back(log.append(&partition("bulk"), batch.clone()).await.expect("there is room"));
        if pending.len() == in_flight {
            pending.pop_front().expect("there are some").await.expect("it is written");
        }
        count += size;
    }
    for appending in pending {
        appending.await.expect("it is written");
    }
    rate(&format!("records of {RECORD} bytes in batches of {size}, {in_flight} in flight"), count, begun.elapsed());
}

async fn read(log: &Embedded, how: &str, of: &TopicPartition, visibility: Visibility) {
    let end = log.bounds(of).await.expect("it exists").stable_end;
    let mut reader = log.read(of, Offset::ZERO, visibility, 1 << 20).await.expect("it exists");
    let (begun, mut count) = (Instant::now(), 0);
    while reader.position() < end {
        let fetched = reader.next().await.expect("nothing was removed");
        count += fetched.batches.iter().map(Batch::len).sum::<usize>();
    }
    rate(&format!("records read {how}"), count, begun.elapsed());
}

/// A million messages that nobody reads, in small batches as ingress makes them.
async fn waiting(log: &Embedded) {
    let batch = records(10);
    let begun = Instant::now();
    let mut pending = VecDeque::new();
    for _ in 0..WAITING / batch.len() {
        pending.push_back(log.append(&partition("waiting"), batch.clone()).await.expect("there is room"));
        if pending.len() == 100 {
            pending.pop_front().expect("there are some").await.expect("it is written");
        }
    }
    for appending in pending {
        appending.await.expect("it is written");
    }
    rate("records in batches of 10, 100 in flight", WAITING, begun.elapsed());
    println!("memory with {WAITING} of them waiting: {}", memory());
    read(log, "of these", &partition("waiting"), Visibility::Durable).await;
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

fn rate(what: &str, count: usize, time: Duration) {
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = count as f64 / time.as_secs_f64();
    println!("{what}: {rate:.0}/s");
}

fn report(what: &str, count: u32, time: Duration, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: {:.0}/s, p50 {:?}, p99 {:?}", f64::from(count) / time.as_secs_f64(), at(50), at(99));
}
