//! The audit behind `seriatim verify`: whether what the logs hold is what was promised.
//!
//! Each destination's partition is judged by itself: sequence numbers go up by one, epochs never
//! go down, within a sequence group the sources go up, and nothing stands there twice. Then the
//! logs are held against each other: every input record below the frontier has exactly one outcome
//! in the ledger, whoever was worked on has a result that answers that very record, what the
//! ledger calls sent is in the destination's topic under that number and nothing else is, dead
//! letters are there, and the cursors agree and never went back.
//!
//! A log in use is audited as it stands: partitions are read up to ends that were taken in an
//! order in which each must hold at least what the one before speaks of. What retention has removed is not judged.
//!
//! One pass over each log, side by side. Memory does not grow with the logs: it holds what lies
//! between frontier and reading position (at most the window's span), `recent::KEPT` groups and
//! outputs a destination, and [`MOST_FINDINGS`] findings.

mod cursors;
mod cut;
mod lane;
mod outputs;
mod recent;
mod report;
mod scan;

pub use report::{Finding, Kind, Outcomes, Report};

use crate::log::{Error, Log};
use crate::record::Partition;
use crate::topics::Topics;
use cut::Cut;

/// Findings that are kept with their words; more are only counted.
pub const MOST_FINDINGS: usize = 1_000;

/// What is to be audited.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The pipeline's topics.
    pub topics: &'a Topics,
    /// The only destination whose topic is looked at; `None` looks at all.
    pub destination: Option<&'a str>,
}

/// Audits a pipeline. `progress` is told now and then how many records were read, and of how many.
///
/// Reads only, up to where the logs ended when it began. May be dropped at any point.
///
/// # Errors
///
/// Those of the log; [`Error::Unavailable`] also where retention was faster than the audit.
pub async fn audit(
    log: &dyn Log,
    scope: Scope<'_>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, Error> {
    let mut cuts = Vec::new();
    for control in 0..scope.topics.control_partitions {
        cuts.push(Cut::take(log, scope, Partition(control)).await?);
    }
    let total = cuts.iter().map(Cut::records).sum();
    let mut report = Report::default();
    let mut tell = |report: &Report| progress(report.read, total);
    for cut in &cuts {
        let history = cursors::audit(log, cut, &mut report).await?;
        for ends in &cut.lanes {
            lane::audit(log, scope, ends, &history, cut.quiet, &mut report, &mut tell).await?;
        }
    }
    Ok(report)
}
