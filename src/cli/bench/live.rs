//! Messages that come at a rate, over HTTP, into a pipeline of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::super::client::Client;
use super::figures::{peak_kib, reset_peak};
use super::generator::{Generated, Generator};
use super::ground::Ground;
use super::pipeline::{Plan, commits, start};
use super::report::{Figures, Measured};
use super::task::Timed;
use super::{Load, Pace};
use crate::audit::{Report, Scope, audit};
use crate::process::config::{Config, DEFAULT_DESTINATION};

/// How long nothing may come beyond the work itself.
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
    pub(in crate::cli) accepted: u64,
    pub(in crate::cli) audit: Report,
}

/// Sends at this pace, or until Ctrl-C, and waits for the last output.
pub(in crate::cli) async fn run(
    load: &Load,
    (pace, connections): (Pace, u32),
    plan: &Plan,
    tell: &mut dyn FnMut(&Standing),
) -> anyhow::Result<Ended> {
    let ground = Ground::new(load.kafka.as_ref(), load.data.as_deref());
    let config = plan.config(&ground)?;
    ground.hold(&config, measure(load, &config, (pace, connections), plan, tell)).await
}

async fn measure(
    load: &Load,
    config: &Config,
    (pace, connections): (Pace, u32),
    plan: &Plan,
    tell: &mut dyn FnMut(&Standing),
) -> anyhow::Result<Ended> {
    let worker = Arc::new(Timed::default());
    let before = commits();
    let process = start(config, true, plan.processor(config, worker.clone())?).await?;
    reset_peak();
    let address = process.data_address().context("the data port was asked for")?;
    let client = Client::data(Some(&format!("http://{address}")), config, None)?;
    let (destination, patience) = (DEFAULT_DESTINATION, load.longest() + GRACE);
    let generator = Generator { client, destination, load, pace, connections, keys: 0, patience };
    let mut tell = |now: &Standing| {
        let (working, done) = worker.counts();
        tell(&Standing { working, ready: done.saturating_sub(now.released), ..*now });
    };
    let generated = generator.run(&mut tell).await?;
    let (commits, peak) = (commits() - before, peak_kib());
    let scope = Scope { topics: process.topics(), destination: None };
    let audit = audit(&*process.log(), scope, &mut |_, _| {}).await?;
    process.drain().await?;
    let accepted = generated.accepted;
    let measured = Measured { commits: Some(commits), peak_memory_kib: peak, ..generated.into() };
    Ok(Ended { figures: measured.into(), accepted, audit })
}

impl From<Generated> for Measured {
    fn from(generated: Generated) -> Self {
        Self {
            messages: generated.released,
            total: generated.total,
            delays: generated.delays,
            acknowledgements: generated.acknowledgements,
            after: generated.after,
            in_order: generated.in_order,
            missing: generated.missing,
            refused: generated.refused,
            series: generated.series,
            ..Self::default()
        }
    }
}
