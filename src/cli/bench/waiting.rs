//! Messages that wait already: how fast they come out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::time::Instant;

use super::Load;
use super::figures::{Delays, peak_kib, reset_peak};
use super::ground::Ground;
use super::pipeline::{Noted, Outputs, Plan, commits, echo, start};
use super::report::{Figures, Measured, Second};
use super::task::{Timed, body, ideal, works};
use crate::process::Engine;
use crate::process::config::Config;
use crate::record::{BatchBuilder, Name, Partition};

/// Bytes of a batch that is put into the log.
const BATCH_BYTES: usize = 1 << 20;

/// How long nothing may come out before the run is given up, beyond the longest work.
const STALL: Duration = Duration::from_secs(60);

/// Puts the messages into a new log, starts the roles and reads until all have come out. The
/// clock starts just before the roles do. Ctrl-C ends it without figures.
pub(super) async fn run(load: &Load, messages: u64, plan: &Plan, bar: &ProgressBar) -> anyhow::Result<Figures> {
    let ground = Ground::new(load.kafka.as_ref(), load.data.as_deref());
    let config = plan.config(&ground)?;
    let measured = async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            figures = measure(load, &config, messages, plan, bar) => figures,
        }
    };
    ground.hold(&config, measured).await
}

async fn measure(
    load: &Load,
    config: &Config,
    messages: u64,
    plan: &Plan,
    bar: &ProgressBar,
) -> anyhow::Result<Figures> {
    fill(config, load, messages).await?;
    reset_peak();
    // Echo answers at once; a clock for each message is only for those that take time.
    let own = if load.longest().is_zero() { echo() } else { Arc::new(Timed::default()) };
    let worker = Arc::new(Noted::new(plan.processor(config, own)?));
    let (before, began) = (commits(), Instant::now());
    let process = start(config, false, worker.clone()).await?;
    let mut outputs = Outputs::open(&process).await?;
    let (mut delays, mut count, mut series) = (Delays::default(), 0, Vec::<Second>::new());
    while count < messages {
        let patience = STALL + load.longest();
        let read = outputs.next(|_| {
            count += 1;
            delays.add(began.elapsed());
        });
        tokio::time::timeout(patience, read).await.context("nothing came out any more")??;
        bar.set_position(count);
        let seconds = began.elapsed().as_secs_f64();
        if load.series && series.last().is_none_or(|last| seconds >= last.seconds + 1.0) {
            series.push(Second { seconds, out: count, accepted: None, refused: None, delay: None });
        }
    }
    let total = began.elapsed();
    let (in_order, commits, peak_memory_kib) = (outputs.in_order, Some(commits() - before), peak_kib());
    drop(outputs);
    process.drain().await?;
    let works = works(load.work, load.tail).zip(0..messages).map(|(work, _)| work);
    let ideal = Some(ideal(works, plan.concurrency as usize));
    let starting = worker.begun().map(|begun| begun - began);
    let measured = Measured { messages, total, ideal, starting, delays, in_order, ..Measured::default() };
    Ok(Measured { commits, peak_memory_kib, series, ..measured }.into())
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
