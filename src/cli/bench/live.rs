//! Messages that come at a rate, over HTTP: how long after sending each can be read in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Client, header};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::figures::{Delays, peak_kib, reset_peak};
use super::ground::Ground;
use super::pipeline::{Outputs, Plan, commits, start};
use super::task::{Timed, body, number_of, works};
use super::{Figures, Load, Measured};
use crate::audit::{Report, Scope, audit};
use crate::process::Process;
use crate::process::config::Config;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);

/// How long the last outputs may take beyond the work itself.
const GRACE: Duration = Duration::from_secs(30);

/// How it stands.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cli) struct Standing {
    pub(in crate::cli) elapsed: Duration,
    pub(in crate::cli) sent: u64,
    pub(in crate::cli) working: u64,
    /// Worked on, and waiting for an earlier one.
    pub(in crate::cli) ready: u64,
    pub(in crate::cli) released: u64,
    /// The delay of the last output.
    pub(in crate::cli) delay: Duration,
}

/// How it ended.
pub(in crate::cli) struct Ended {
    pub(in crate::cli) figures: Figures,
    pub(in crate::cli) sent: u64,
    pub(in crate::cli) audit: Report,
}

struct Run {
    began: Instant,
    sent: Vec<Instant>,
    delays: Delays,
    standing: Standing,
    series: Vec<(f64, u64)>,
}

/// Sends for `seconds`, or until Ctrl-C, and waits for the last output.
pub(in crate::cli) async fn run(
    load: &Load,
    (rate, seconds): (f64, u64),
    plan: &Plan,
    tell: &mut dyn FnMut(&Standing),
) -> anyhow::Result<Ended> {
    let ground = Ground::new(load.kafka.as_ref(), load.data.as_deref());
    let config = plan.config(&ground)?;
    ground.hold(&config, measure(load, &config, (rate, seconds), plan, tell)).await
}

async fn measure(
    load: &Load,
    config: &Config,
    (rate, seconds): (f64, u64),
    plan: &Plan,
    tell: &mut dyn FnMut(&Standing),
) -> anyhow::Result<Ended> {
    let worker = Arc::new(Timed::default());
    let before = commits();
    let process = start(config, true, plan.processor(config, worker.clone())?).await?;
    reset_peak();
    let mut outputs = Outputs::open(&process).await?;
    let standing = Standing::default();
    let mut run = Run { began: Instant::now(), sent: Vec::new(), delays: Delays::default(), standing, series: vec![] };
    run.send_and_read(load, (rate, seconds), &process, &worker, &mut outputs, tell).await?;
    let total = run.began.elapsed();
    let (commits, peak_memory_kib, in_order) = (commits() - before, peak_kib(), outputs.in_order);
    let scope = Scope { topics: process.topics(), destination: None };
    let audit = audit(&*process.log(), scope, &mut |_, _| {}).await?;
    drop(outputs);
    process.drain().await?;
    let Run { sent, delays, standing, series, .. } = run;
    let (ideal, starting) = (None, None);
    let measured = Measured { total, ideal, starting, delays, in_order, commits, peak_memory_kib, series };
    Ok(Ended { figures: measured.figures(standing.released), sent: sent.len() as u64, audit })
}

impl Run {
    async fn send_and_read(
        &mut self,
        load: &Load,
        (rate, seconds): (f64, u64),
        process: &Process,
        worker: &Timed,
        outputs: &mut Outputs,
        tell: &mut dyn FnMut(&Standing),
    ) -> anyhow::Result<()> {
        let address = process.data_address().context("the data port was asked for")?;
        let (client, url) = (Client::new(), format!("http://{address}/v1/messages"));
        let mut works = works(load.work, load.tail);
        let mut due = interval(Duration::from_secs_f64(1.0 / rate));
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut ticks = interval(TELL);
        let end = self.began + Duration::from_secs(seconds);
        let (mut sending, mut post) = (true, None);
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        while sending || post.is_some() || self.standing.released < self.sent.len() as u64 {
            anyhow::ensure!(Instant::now() < end + load.longest() + GRACE, "the last outputs did not come in time");
            tokio::select! {
                biased;
                // What was sent is in the log, so that nothing of it is lost; it only is not waited for.
                _ = &mut interrupt => return Ok(()),
                read = outputs.next(|body| {
                    let Some(at) = number_of(body).and_then(|number| self.sent.get(number)) else { return };
                    self.standing.delay = at.elapsed();
                    self.standing.released += 1;
                    self.delays.add(self.standing.delay);
                }) => read?,
                answer = answered(&mut post), if post.is_some() => answer?,
                _ = due.tick(), if sending && post.is_none() => {
                    sending = Instant::now() < end;
                    if sending {
                        let text = body(self.sent.len() as u64, works.next().unwrap_or_default(), load.size);
                        self.sent.push(Instant::now());
                        let request = client.post(&url).header(header::CONTENT_TYPE, "text/plain").body(text);
                        post = Some(Box::pin(request.send()));
                    }
                }
                _ = ticks.tick() => {
                    let (working, done) = worker.counts();
                    let (sent, released) = (self.sent.len() as u64, self.standing.released);
                    let ready = done.saturating_sub(released);
                    self.standing = Standing { elapsed: self.began.elapsed(), sent, working, ready, ..self.standing };
                    load.note(&mut self.series, self.standing.elapsed, released);
                    tell(&self.standing);
                }
            }
        }
        Ok(())
    }
}

/// Waits for the answer to the message under way.
async fn answered<F>(post: &mut Option<std::pin::Pin<Box<F>>>) -> anyhow::Result<()>
where
    F: Future<Output = reqwest::Result<reqwest::Response>>,
{
    if let Some(request) = post {
        let response = request.await;
        *post = None;
        response?.error_for_status()?;
    }
    Ok(())
}
