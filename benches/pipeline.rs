//! The whole pipeline on the embedded log with no work to do: how fast messages that wait already
//! get through, every commit durable.
//!
//! `cargo bench --bench pipeline -- [MESSAGES]`; the folder lies under the system's temporary one.

use std::sync::Arc;
use std::time::Duration;

use seriatim::log::embedded::Embedded;
use seriatim::log::{Log, Visibility};
use seriatim::record::cursor::{OwnerCursor, decode};
use seriatim::record::{BatchBuilder, Offset, Partition};
use seriatim::topics::Topics;
use seriatim::work::builtin::Echo;
use seriatim::{resequence, work};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const BODY: [u8; 100] = [b'x'; 100];
const BATCH: u64 = 1000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let messages: u64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(500_000);
    let folder = tempfile::tempdir()?;
    let log = Arc::new(Embedded::open(folder.path(), Default::default())?);
    let topics = Topics::derive("bench", &["default"], 1, 1);
    log.ensure(&topics.shapes()).await?;
    let filled = fill(&log, &topics, messages).await?;
    println!("filled  {:>9.0} messages/s in durable batches of {BATCH}", messages as f64 / filled.as_secs_f64());
    let drained = drain(log, &topics, messages).await?;
    println!("drained {:>9.0} messages/s through work and resequence", messages as f64 / drained.as_secs_f64());
    Ok(())
}

async fn fill(log: &Embedded, topics: &Topics, messages: u64) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let input = topics.input.partition(Partition(0));
    let mut last = None;
    for _ in 0..messages / BATCH {
        let mut builder = BatchBuilder::default();
        for _ in 0..BATCH {
            builder.push(None, Some(&BODY), |_| {});
        }
        last = Some(log.append(&input, builder.finish()).await?);
    }
    if let Some(last) = last {
        last.await?;
    }
    Ok(start.elapsed())
}

async fn drain(log: Arc<Embedded>, topics: &Topics, messages: u64) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let stop = CancellationToken::new();
    let options = resequence::Options::default();
    let (owners, workers): (Arc<dyn Log>, Arc<dyn Log>) = (log.clone(), log.clone());
    let (owned, worked, stop_owner, stop_work) = (topics.clone(), topics.clone(), stop.clone(), stop.clone());
    let owner = tokio::spawn(async move {
        resequence::run(owners, owned, options, "bench.resequence", "owner", 1, stop_owner).await
    });
    let options = work::Options::for_pipeline("bench");
    let worker = tokio::spawn(work::run(workers, worked, options, Arc::new(Echo), "worker".into(), 2, stop_work));
    let cursors = topics.cursors_resequence.partition(Partition(0));
    let mut reader = log.read(&cursors, Offset::ZERO, Visibility::Durable, 1 << 20).await?;
    'wait: loop {
        for record in reader.next().await?.batches.iter().flatten() {
            let cursor: OwnerCursor = decode(record.value.unwrap_or_default())?;
            if cursor.lanes.get(&0).is_some_and(|lane| lane.frontier >= messages) {
                break 'wait;
            }
        }
    }
    let drained = start.elapsed();
    stop.cancel();
    owner.await??;
    worker.await??;
    Ok(drained)
}
