//! What became of a message, from the ledger.

use super::{cursor, probe, unreadable};
use crate::log::{Error, Log, TopicPartition};
use crate::record::cursor::decode;
use crate::record::ledger::{LedgerRecord, Outcome};
use crate::record::{Offset, RecordRef, Source};
use crate::topics::Topics;

/// Bytes of the ledger read at once while scanning.
const SCAN_BYTES: usize = 1024 * 1024;

/// What the ledger says of an input offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It has left, so. Outputs of all its parts are put together in [`Outcome::Sent`].
    Released(Outcome),
    /// It has not left; of its outputs, these have, each in the order of its own group.
    Pending(Vec<(String, u64)>),
    /// Everything up to it is done, and it is not among it: the input has no such record, or the
    /// ledger has forgotten it (then the ledger's log starts above 0).
    Absent {
        /// Whether retention has removed ledger records in which it may have stood.
        perhaps_forgotten: bool,
    },
}

/// Collects what ledger records say of one message.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    partly: Vec<(String, u64)>,
}

impl Trace {
    /// Takes the next outcome in ledger order; the final one where it is that.
    pub fn push(&mut self, outcome: Outcome) -> Option<Outcome> {
        match outcome {
            Outcome::Partly(sent) => {
                self.add(sent);
                None
            }
            Outcome::Sent(sent) => {
                self.add(sent);
                Some(Outcome::Sent(std::mem::take(&mut self.partly)))
            }
            Outcome::Empty if !self.partly.is_empty() => Some(Outcome::Sent(std::mem::take(&mut self.partly))),
            other => Some(other),
        }
    }

    fn add(&mut self, sent: Vec<(String, u64)>) {
        // A torn transaction may have put an entry into the ledger twice.
        for output in sent {
            if !self.partly.contains(&output) {
                self.partly.push(output);
            }
        }
    }
}

/// Decodes a record of the ledger.
///
/// # Errors
///
/// [`Error::Damaged`] where this program cannot read it.
pub fn read(of: &TopicPartition, record: RecordRef<'_>) -> Result<LedgerRecord, Error> {
    let value = record.value.unwrap_or_default();
    decode(value).map_err(|e| unreadable(&format!("{of} at offset {}", record.offset), &e))
}

/// Looks a message up. Takes a number of reads logarithmic in the ledger's length, and a scan over
/// the releases that happened while the message was under way. What the ledger says of a record that had the
/// message's offset before, and was lost, is passed over.
///
/// # Errors
///
/// Those of the log, and [`Error::Damaged`] for a ledger that this program cannot read.
pub async fn find(log: &dyn Log, topics: &Topics, message: Source) -> Result<Found, Error> {
    let of = topics.ledger.partition(message.lane);
    let lane =
        cursor::of_lane(log, topics, message.lane).await?.and_then(|mut owner| owner.lanes.remove(&message.lane.0));
    let lane = lane.unwrap_or_default();
    let is_lost = lane.lost_from.is_some_and(|from| message.offset.0 >= from);
    if is_lost || lane.about.contains_key(topics.input.as_str()) {
        // All that the ledger holds is about another input, of which the lane knows nothing yet.
        return Ok(Found::Pending(Vec::new()));
    }
    let bounds = log.bounds(&of).await?;
    let (wanted, end) = (message.offset.0, bounds.stable_end);
    let start = lane.voided.valid_from(message.offset).max(bounds.start);
    let read_to = |record: RecordRef<'_>| read(&of, record).ok().map(|ledger| ledger.read_to);
    let from = probe::search(log, &of, start..end, wanted.saturating_add(1), read_to).await?;
    let absent = Found::Absent { perhaps_forgotten: bounds.start > Offset::ZERO };
    scan(log, &of, from..end, wanted).await.map(|found| found.unwrap_or(absent))
}

/// `None` where the lane went past the message without a word of it.
async fn scan(
    log: &dyn Log,
    of: &TopicPartition,
    range: std::ops::Range<Offset>,
    wanted: u64,
) -> Result<Option<Found>, Error> {
    let mut trace = Trace::default();
    if range.start < range.end {
        let mut reader = probe::open(log, of, range.start, SCAN_BYTES).await?;
        while reader.position() < range.end {
            let fetched = probe::next(&mut *reader, of).await?;
            for record in fetched.batches.iter().flatten() {
                let ledger = read(of, record)?;
                if let Some(outcome) = ledger.outcomes(wanted).find_map(|outcome| trace.push(outcome)) {
                    return Ok(Some(Found::Released(outcome)));
                }
                if ledger.frontier > wanted {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some(Found::Pending(trace.partly)))
}
