//! `seriatim run`: the pipeline, until it is told to end.

use clap::Args;
use tracing::{info, warn};

use super::Exit;
use crate::process::config::Config;
use crate::process::signal::Signals;
use crate::process::{Error, Process, Role, Roles, telemetry};

/// Run the pipeline: take messages in, have them worked on, put the results in order, deliver
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  seriatim run
  seriatim run --config pipeline.toml
  SERIATIM_WORK__HTTP__URL=http://127.0.0.1:9000/work seriatim run

SIGTERM or Ctrl-C ends it in order within process.drain (exit code 0, or 5 if that was too short);
a second one ends it at once (exit code 1). Neither loses anything: what was being worked on is
worked on again.")]
pub(super) struct Run {
    /// The roles to run, separated by commas: ingress, work, resequence, deliver; all where not given
    #[arg(long, value_delimiter = ',', value_name = "ROLES")]
    role: Vec<Role>,
}

impl Run {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<Exit> {
        telemetry::start(config.process.log);
        let roles = if self.role.is_empty() { Role::needed(config) } else { self.role.iter().copied().collect() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let exit = runtime.block_on(run(config, &roles));
        // Whatever still runs in the background was abandoned on purpose.
        runtime.shutdown_background();
        exit
    }
}

async fn run(config: &Config, roles: &Roles) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    let started = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, "ended while starting");
            return Ok(Exit::Ok);
        }
        started = Process::start(config, roles) => started,
    };
    let mut process = started?;
    let failure = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, drain = %config.process.drain, "ending in order; a second signal ends at once");
            None
        }
        error = process.failed() => {
            warn!(%error, "ending the other roles in order");
            Some(error)
        }
    };
    let drained = tokio::select! {
        biased;
        signal = signals.next() => {
            warn!(signal, "ended at once; what was being worked on is worked on again at the next start");
            return Ok(Exit::Failed);
        }
        drained = process.drain() => drained,
    };
    match (failure, drained) {
        (None, Ok(())) => {
            info!("ended in order");
            Ok(Exit::Ok)
        }
        (None, Err(error @ Error::DrainTimedOut { .. })) => {
            warn!(%error, "ended");
            Ok(Exit::TimedOut)
        }
        (Some(error), _) | (None, Err(error)) => Err(error.into()),
    }
}
