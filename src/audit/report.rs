//! What an audit has found.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::MOST_FINDINGS;
use crate::log::TopicPartition;
use crate::record::Offset;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Sequence numbers are missing between two outputs.
    Gap,
    /// A sequence number, or an output of a source, is there twice.
    Repeated,
    /// Within a sequence group a later message left before an earlier one.
    OutOfOrder,
    /// An output was written under an older epoch than one before it.
    EpochBack,
    /// An output names a source that this partition cannot have.
    Foreign,
    /// The ledger or the cursor knows of an output that is not in the topic.
    Missing,
    /// An output that the ledger does not know.
    Unaccounted,
    /// The ledger says one source of an output, the output another.
    Disagrees,
    /// An input record below the frontier without an outcome.
    Lost,
    /// An input record with more than one final outcome.
    Twice,
    /// The ledger speaks of an input record that does not exist.
    Invented,
    /// The ledger says that a message was worked on, and no result answers it.
    NoResult,
    /// A position that must not go back did.
    WentBack,
    /// Cursor and ledger disagree about what was released.
    Cursor,
    /// A record of the program's own that cannot be read.
    Unreadable,
}

impl Kind {
    /// Whether it is seen in one log alone, so that what another one has lost cannot be its cause.
    const fn stands_alone(self) -> bool {
        matches!(
            self,
            Self::Repeated | Self::OutOfOrder | Self::EpochBack | Self::Foreign | Self::WentBack | Self::Unreadable
        )
    }

    /// The word of the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Repeated => "repeated",
            Self::OutOfOrder => "out-of-order",
            Self::EpochBack => "epoch-back",
            Self::Foreign => "foreign",
            Self::Missing => "missing",
            Self::Unaccounted => "unaccounted",
            Self::Disagrees => "disagrees",
            Self::Lost => "lost",
            Self::Twice => "twice",
            Self::Invented => "invented",
            Self::NoResult => "no-result",
            Self::WentBack => "went-back",
            Self::Cursor => "cursor",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One thing that is not as promised. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// The partition, as `topic[3]`.
    pub partition: String,
    /// The offset in it.
    pub offset: u64,
    /// In words.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} at offset {}: {}", self.kind.as_str(), self.partition, self.offset, self.detail)
    }
}

/// How messages ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcomes {
    /// With outputs.
    pub sent: u64,
    /// Without any.
    pub empty: u64,
    /// As dead letters.
    pub dead_lettered: u64,
    /// Passed over.
    pub skipped: u64,
    /// As repeats of other messages.
    pub duplicates: u64,
}

impl Outcomes {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.sent + self.empty + self.dead_lettered + self.skipped + self.duplicates
    }
}

/// What an audit has seen and found. Displays as the summary, without the findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What is wrong, the first [`MOST_FINDINGS`] of it.
    pub findings: Vec<Finding>,
    /// How much more is wrong.
    pub more: u64,
    /// Lanes looked at.
    pub lanes: u32,
    /// Lanes that stand still because of a loss, with the reason; no finding, their state is known.
    pub halted: Vec<String>,
    /// Messages whose outcome was seen.
    pub outcomes: Outcomes,
    /// Outputs that were judged.
    pub outputs: u64,
    /// Cursors that were judged.
    pub cursors: u64,
    /// Messages above the frontier that have not left, counted by offsets.
    pub waiting: u64,
    /// Records in destinations' topics that carry no provenance: not of this pipeline.
    pub strangers: u64,
    /// Ledger entries that a torn transaction repeated, with nothing sent twice.
    pub torn: u64,
    /// What could not be judged because retention has removed the other side of it, or damage hides that, or
    /// because it was too long ago.
    pub unjudged: u64,
    /// Records read.
    pub read: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// How much is wrong.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.findings.len() as u64 + self.more
    }

    /// Takes back the findings from this one on that damage may have made.
    pub(super) fn doubt(&mut self, from: usize) {
        let found = self.findings.split_off(from.min(self.findings.len()));
        let (certain, doubtful): (Vec<_>, Vec<_>) = found.into_iter().partition(|finding| finding.kind.stands_alone());
        self.findings.extend(certain);
        self.unjudged += doubtful.len() as u64;
    }

    pub(super) fn find(&mut self, kind: Kind, at: (&TopicPartition, Offset), detail: impl Into<String>) {
        if self.findings.len() >= MOST_FINDINGS {
            self.more += 1;
            return;
        }
        let (partition, offset, detail) = (at.0.to_string(), at.1.0, detail.into());
        self.findings.push(Finding { kind, partition, offset, detail });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcomes { sent, empty, dead_lettered, skipped, duplicates } = self.outcomes;
        match self.count() {
            0 => writeln!(f, "clean: every message released once, every output in order")?,
            1 => writeln!(f, "1 finding")?,
            count => writeln!(f, "{count} findings")?,
        }
        writeln!(f, "  lanes     {}", self.lanes)?;
        write!(f, "  messages  {} released: {sent} sent", self.outcomes.total())?;
        for (count, word) in
            [(empty, "without output"), (dead_lettered, "dead-lettered"), (skipped, "skipped"), (duplicates, "repeats")]
        {
            if count > 0 {
                write!(f, ", {count} {word}")?;
            }
        }
        writeln!(f, "; {} waiting", self.waiting)?;
        writeln!(f, "  outputs   {}", self.outputs)?;
        writeln!(f, "  cursors   {}", self.cursors)?;
        for (count, words) in [
            (self.unjudged, "not judged: retention has removed, or damage hides, what they would be held against"),
            (self.strangers, "records in destinations' topics that are not of this pipeline"),
            (self.torn, "ledger entries repeated by a torn transaction, nothing sent twice"),
        ] {
            if count > 0 {
                writeln!(f, "  {count} {words}")?;
            }
        }
        for reason in &self.halted {
            writeln!(f, "  halted by loss: {reason}")?;
        }
        Ok(())
    }
}
