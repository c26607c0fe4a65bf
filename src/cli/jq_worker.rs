//! `seriatim jq-worker`: what `run` starts for `work.jq`; nobody else needs it.

use clap::Args;

use super::Exit;
use crate::work::jq;

/// Run a jq filter for the process that started this one
#[derive(Debug, Args)]
#[command(name = jq::VERB, hide = true)]
pub(super) struct JqWorker {
    /// The most bytes that all outputs of a record have together
    max_output: usize,
}

impl JqWorker {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        jq::serve(self.max_output)?;
        Ok(Exit::Ok)
    }
}
