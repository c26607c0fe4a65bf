//! The two loads: messages that wait already, and messages that come in at a rate.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::stream::{FuturesUnordered, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use super::measure::{Latencies, seconds};
use super::pipeline::{Setup, read};
use super::{Bench, number_of};
use crate::cli::shared::bar;

/// Requests that may be on their way at once: a rate that the ingress cannot keep shows as latency.
const MOST_IN_FLIGHT: usize = 1000;

/// All messages wait when the pipeline starts.
pub(super) async fn waiting(bench: &Bench, setup: Setup) -> anyhow::Result<Value> {
    let ordered = setup.order != "none";
    let filled = setup.fill(bench.messages, |number| bench.body(number)).await?;
    let start = Instant::now();
    let pipeline = setup.start().await?;
    let mut reader = pipeline.output().await?;
    let progress = bar(Some(bench.messages), "{bar:30} {pos}/{len} {per_sec} {elapsed}");
    let mut latencies = Latencies::default();
    let mut seen = 0;
    while seen < bench.messages {
        let mut disorder = None;
        read(&mut *reader, |body| {
            let number = number_of(body);
            if ordered && number != Some(seen) {
                disorder = disorder.or(Some((seen, number)));
            }
            latencies.add(start.elapsed());
            seen += 1;
        })
        .await?;
        ensure!(disorder.is_none(), "out of order: {disorder:?}");
        progress.set_position(seen);
    }
    let took = start.elapsed();
    progress.finish_and_clear();
    pipeline.end().await?;
    let work: Duration = (0..bench.messages).map(|number| bench.work_of(number)).sum();
    let ideal = work / bench.concurrency;
    Ok(json!({
        "messages": bench.messages,
        "seconds": seconds(took),
        "idealSeconds": seconds(ideal),
        "perSecond": bench.messages as f64 / seconds(took),
        "filledPerSecond": bench.messages as f64 / seconds(filled),
        "latency": latencies.json(),
    }))
}

/// Messages come in over HTTP at a steady rate; the latency of each is from before it is sent to
/// when it can be read in the ordered output.
pub(super) async fn at_rate(bench: &Bench, setup: Setup, rate: f64) -> anyhow::Result<Value> {
    ensure!(rate > 0.0 && rate <= 1e6, "--rate has to be between 0 and 1,000,000");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the rate is bounded and positive
    let count = (rate * bench.seconds as f64).ceil() as u64;
    let pipeline = setup.start().await?;
    let (url, mut reader) = (pipeline.messages_url()?, pipeline.output().await?);
    let sent: Arc<Mutex<Vec<Option<Instant>>>> = Arc::new(Mutex::new(vec![None; usize::try_from(count)?]));
    let sending = send(bench, &url, rate, count, sent.clone());
    let receiving = async {
        let progress = bar(Some(count), "{bar:30} {pos}/{len} {elapsed}");
        let (mut latencies, mut seen) = (Latencies::default(), 0);
        while seen < count {
            let at = &sent;
            read(&mut *reader, |body| {
                let number = number_of(body).and_then(|number| usize::try_from(number).ok());
                let sent = at.lock().expect("no holder panics");
                if let Some(sent) = number.and_then(|number| sent.get(number).copied().flatten()) {
                    latencies.add(sent.elapsed());
                }
                seen += 1;
            })
            .await?;
            progress.set_position(seen);
        }
        progress.finish_and_clear();
        anyhow::Ok(latencies)
    };
    let ((), latencies) = tokio::try_join!(sending, receiving)?;
    pipeline.end().await?;
    Ok(json!({
        "messages": count,
        "perSecond": rate,
        "seconds": bench.seconds,
        "workSeconds": seconds(bench.work),
        "latency": latencies.json(),
    }))
}

async fn send(
    bench: &Bench,
    url: &str,
    rate: f64,
    count: u64,
    sent: Arc<Mutex<Vec<Option<Instant>>>>,
) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
    let mut in_flight = FuturesUnordered::new();
    for number in 0..count {
        ticks.tick().await;
        while in_flight.len() >= MOST_IN_FLIGHT {
            in_flight.next().await.transpose()?;
        }
        sent.lock().expect("no holder panics")[usize::try_from(number)?] = Some(Instant::now());
        let request = client.post(url).body(bench.body(number)).send();
        in_flight.push(tokio::spawn(async move {
            let answer = request.await.context("a message could not be sent")?;
            ensure!(answer.status().is_success(), "a message was answered with {}", answer.status());
            anyhow::Ok(())
        }));
    }
    while let Some(answer) = in_flight.next().await {
        answer??;
    }
    Ok(())
}
