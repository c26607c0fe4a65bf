//! Where the logs ended when the audit began.

use std::collections::BTreeMap;

use super::Scope;
use crate::log::{Bounds, Error, Log, TopicPartition};
use crate::record::Partition;

/// The bounds of everything that belongs to one control partition.
///
/// Taken in this order: cursors, outputs, ledger, outputs once more, results, dead letters, input.
/// As a release is atomic, what a cursor counts is among the outputs and in the ledger; what is
/// among the outputs of the first look is in the ledger; what is in the ledger is among those of
/// the second look and answers something in the input.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) cursors: (TopicPartition, Bounds),
    pub(super) lanes: Vec<LaneCut>,
    /// Nothing was committed meanwhile: the logs have to agree exactly.
    pub(super) quiet: bool,
}

/// The bounds of one lane's partitions.
#[derive(Debug)]
pub(super) struct LaneCut {
    pub(super) lane: Partition,
    /// By destination: its partition, its bounds at the first and at the second look.
    pub(super) outputs: BTreeMap<String, (TopicPartition, Bounds, Bounds)>,
    pub(super) ledger: Bounds,
    pub(super) results: Bounds,
    pub(super) dead_letters: Bounds,
    pub(super) input: Bounds,
}

impl Cut {
    pub(super) async fn take(log: &dyn Log, scope: Scope<'_>, control: Partition) -> Result<Self, Error> {
        let of = scope.topics.cursors_resequence.partition(control);
        let before = log.bounds(&of).await?;
        let mut lanes = Vec::new();
        for lane in scope.topics.lanes_of(control) {
            lanes.push(LaneCut::take(log, scope, lane).await?);
        }
        let quiet = log.bounds(&of).await?.end == before.stable_end;
        Ok(Self { cursors: (of, before), lanes, quiet })
    }

    /// How many records there may be to read.
    pub(super) fn records(&self) -> u64 {
        let of = |bounds: &Bounds| bounds.stable_end.0.saturating_sub(bounds.start.0);
        let lane = |lane: &LaneCut| {
            let outputs: u64 = lane.outputs.values().map(|(_, _, bounds)| of(bounds)).sum();
            [lane.ledger, lane.results, lane.dead_letters, lane.input].iter().map(of).sum::<u64>() + outputs
        };
        of(&self.cursors.1) + self.lanes.iter().map(lane).sum::<u64>()
    }
}

impl LaneCut {
    async fn take(log: &dyn Log, scope: Scope<'_>, lane: Partition) -> Result<Self, Error> {
        let topics = scope.topics;
        let mut first = Vec::new();
        for (name, topic) in &topics.destinations {
            if scope.destination.is_none_or(|only| only == name) {
                let of = topic.partition(lane);
                let bounds = log.bounds(&of).await?;
                first.push((name.clone(), of, bounds));
            }
        }
        let ledger = log.bounds(&topics.ledger.partition(lane)).await?;
        let mut outputs = BTreeMap::new();
        for (name, of, before) in first {
            let after = log.bounds(&of).await?;
            outputs.insert(name, (of, before, after));
        }
        let results = log.bounds(&topics.results.partition(lane)).await?;
        let dead_letters = log.bounds(&topics.dead_letter.partition(lane)).await?;
        let input = log.bounds(&topics.input.partition(lane)).await?;
        Ok(Self { lane, outputs, ledger, results, dead_letters, input })
    }
}
