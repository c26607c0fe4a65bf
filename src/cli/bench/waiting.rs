//! Messages that wait already: how fast they come out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::time::Instant;

use super::figures::{Delays, peak_kib, reset_peak};
use super::pipeline::{Outputs, Plan, commits, start};
use super::scratch::Scratch;
use super::task::{Tail, Timed, body, ideal, works};
use super::{Figures, Load};
use crate::process::Engine;
use crate::process::config::Config;
use crate::record::{BatchBuilder, Name, Partition};
use crate::work::Processor;

/// Bytes of a batch that is put into the log.
const BATCH_BYTES: usize = 1 << 20;

/// How long nothing may come out before the run is given up, beyond the longest work.
const STALL: Duration = Duration::from_secs(60);

/// Puts the messages into a new log, starts the roles and reads until all have come out. The
/// clock starts just before the roles do.
pub(super) async fn run(load: &Load, messages: u64, plan: &Plan, bar: &ProgressBar) -> anyhow::Result<Figures> {
    let scratch = Scratch::new(load.data.as_deref());
    let config = plan.config(&scratch)?;
    fill(&config, load, messages).await?;
    reset_peak();
    // Echo answers at once; a clock for each message is only for those that take time.
    let timed = plan.worker.is_none() && (!load.work.is_zero() || load.tail.is_some());
    let processor = timed.then(|| Arc::new(Timed::default()) as Arc<dyn Processor>);
    let began = Instant::now();
    let process = start(&config, false, processor).await?;
    let mut outputs = Outputs::open(&process).await?;
    let (mut delays, mut count, mut series) = (Delays::default(), 0, Vec::new());
    while count < messages {
        let patience = STALL + load.longest();
        let read = outputs.next(|_| {
            count += 1;
            delays.add(began.elapsed());
        });
        tokio::time::timeout(patience, read).await.context("nothing came out any more")??;
        bar.set_position(count);
        load.note(&mut series, began.elapsed(), count);
    }
    let total = began.elapsed();
    let (in_order, commits, peak) = (outputs.in_order, commits(&process).await?, peak_kib());
    drop(outputs);
    process.drain().await?;
    let best = ideal(per_message(load.work, load.tail, messages), plan.concurrency as usize);
    Ok(Figures::new(count, total, Some(best), delays, in_order, commits, peak, series))
}

fn per_message(work: Duration, tail: Option<Tail>, messages: u64) -> impl Iterator<Item = Duration> {
    works(work, tail).zip(0..messages).map(|(work, _)| work)
}

/// Leaves the messages in the log, as they would be after an outage of the workers.
async fn fill(config: &Config, load: &Load, messages: u64) -> anyhow::Result<()> {
    let engine = Engine::open(config).await?;
    let topics = config.topics();
    engine.ensure(&topics).await?;
    let (log, input) = (engine.log(), topics.input.partition(Partition(0)));
    anyhow::ensure!(log.bounds(&input).await?.end.0 == 0, "the folder holds messages already; name an empty one");
    let mut builder = BatchBuilder::default();
    for (number, work) in (0..messages).zip(works(load.work, load.tail)) {
        let body = body(number, work, load.size);
        builder.push(None, Some(body.as_bytes()), |to| to.put(Name::ContentType, b"text/plain"));
        if builder.size() >= BATCH_BYTES || number + 1 == messages {
            log.append(&input, builder.finish()).await?.await?;
        }
    }
    Ok(())
}
