//! Taking over a control partition: what the resequencer and the deliverer do alike before they
//! may act as the owner of its lanes.
//!
//! [`hold()`] keeps a place in the role's group and one owner running for every control partition
//! that is assigned; it claims (which fences every former owner) and hands each owner a [`Claim`].
//! The owner then calls [`take_over`], which finds out under the fence whether this is the role's
//! first claim ever, reads the last committed cursor, writes the claim record and settles the
//! epoch. What remains is the owner's own: it commits a cursor with the new epoch before its first
//! effect.
//!
//! Nothing here is kept across an error: an owner whose writer failed ends, [`hold()`] claims again
//! while the assignment holds, and the state comes from the log.

mod hold;

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

pub use hold::{Place, hold};

use crate::log::{self, Append, Log, TopicPartition, Visibility, Writer, Written};
use crate::metrics::{self, Role};
use crate::record::cursor::{OwnerCursor, Unreadable, decode, encode};
use crate::record::{Batch, BatchBuilder, Epoch, Name, Offset, RecordRef};

/// The `seriatim-kind` of a claim record.
pub const CLAIM: &[u8] = b"claim";

/// How much of a log is held at once while it is searched: a few cursors of the largest size.
const READ_BYTES: usize = 4 << 20;

/// Why an owner cannot take over, or cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The log failed. [`Error::is_passing`] says whether taking over again helps.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The role has claimed before, yet its cursor is gone. Only an operator can accept that loss.
    #[error("{0} holds no cursor although this is not the first claim: its state is lost")]
    CursorLost(TopicPartition),
    /// The cursor is there and cannot be read.
    #[error("the cursor at {at}: {reason}")]
    Unreadable {
        /// Where.
        at: TopicPartition,
        /// Why.
        reason: Unreadable,
    },
}

impl Error {
    /// Whether to take over again, from the log: the cause passes, or another owner was faster.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Log(log::Error::Unavailable(_) | log::Error::Unknown(_) | log::Error::Fenced(_)))
    }
}

/// The state of a control partition, as its role's cursor records hold it.
pub trait State: Serialize + DeserializeOwned {
    /// The epoch of the owner that wrote it.
    fn epoch(&self) -> Epoch;
}

impl State for OwnerCursor {
    fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }
}

/// A control partition that was claimed: every former owner is fenced, nothing is known yet.
pub struct Claim {
    /// The control partition.
    pub control: TopicPartition,
    /// The only writer whose commits count. Used for nothing before [`take_over`].
    pub writer: Box<dyn Writer>,
    /// Who claims, for operators.
    pub member: String,
    /// Cancelled when the partition is to be let go: finish what is under way and return.
    pub stop: CancellationToken,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("control", &self.control).field("member", &self.member).finish_non_exhaustive()
    }
}

/// A control partition whose last state is known and whose epoch is settled.
pub struct TakenOver<C> {
    /// Commits on behalf of the control partition.
    pub writer: Box<dyn Writer>,
    /// The epoch of this ownership: higher than that of every cursor and claim before it.
    pub epoch: Epoch,
    /// The last committed state; its epoch is that of the owner before.
    pub cursor: C,
    /// Where the claim record stands in the control log: what stands below it was there before.
    pub claimed_at: Offset,
    /// Why the cursor is the empty one, if it is.
    pub empty: Option<Empty>,
}

/// Why a control partition begins with an empty cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// The role has never claimed it before.
    First,
    /// Its cursor was lost, and an operator accepts that.
    Accepted,
}

impl<C: fmt::Debug> fmt::Debug for TakenOver<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakenOver").field("epoch", &self.epoch).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

/// Settles a claim: has all that was committed to `written`, which is what this role's commits may
/// write to, readable; finds the last cursor in `cursors`, which has to have the same partition
/// number as the claim, writes the claim record, and with it the empty cursor where the role has
/// never claimed before.
///
/// Where the role has claimed before and its cursor is gone, `lost` decides: it waits for as long
/// as the partition has to stand still, and answers with the control log's position from which
/// operators' orders count. `empty` makes the cursor that has executed all below that position.
///
/// Dropping the future leaves a claim record at most. Nothing in it has to be undone.
///
/// # Errors
///
/// Where [`Error::is_passing`], claim again while the assignment holds. [`Error::Unreadable`] from
/// a newer release ends the role in this process. And whatever `lost` answers.
pub async fn take_over<C: State>(
    claim: Claim,
    log: &dyn Log,
    role: Role,
    cursors: &TopicPartition,
    written: &Written,
    empty: impl FnOnce(Offset) -> C,
    lost: impl AsyncFnOnce(Error) -> Result<Offset, Error>,
) -> Result<TakenOver<C>, Error> {
    let Claim { control, mut writer, member, .. } = claim;
    writer.settle(written).await?;
    // A cursor counts even where the control log was made anew: its epoch goes on.
    let (cursor, why_empty) = match last_cursor::<C>(log, role, cursors).await? {
        Some(cursor) => (cursor, None),
        None if is_first(log, role, &control).await? => (empty(Offset::ZERO), Some(Empty::First)),
        None => (empty(lost(Error::CursorLost(cursors.clone())).await?), Some(Empty::Accepted)),
    };
    let mut appends = vec![Append { to: control, batch: claim_record(role, &member) }];
    // After an accepted loss the owner's first cursor is the first: until then it stays lost.
    if why_empty == Some(Empty::First) {
        appends.push(cursor_append(role, cursors, &cursor));
    }
    let offsets = writer.commit_claim(appends).await?;
    let claimed_at = offsets
        .first()
        .and_then(|offsets| offsets.get(0))
        .ok_or_else(|| log::Error::Damaged("the log acknowledged a claim without its offset".to_owned()))?;
    let epoch = Epoch(claimed_at.0.max(cursor.epoch().0 + 1));
    metrics::owner(role).takeovers.inc();
    tracing::info!(control = %cursors.partition, epoch = epoch.0, "taken over");
    Ok(TakenOver { writer, epoch, cursor, claimed_at, empty: why_empty })
}

/// Waits for an order that is written to `control` from now on and that `accepts`; gives the
/// position behind it. What was ordered before the loss was known is not meant for it.
///
/// Dropping the future is harmless.
///
/// # Errors
///
/// As the log's.
pub async fn order(
    log: &dyn Log,
    control: &TopicPartition,
    accepts: impl Fn(RecordRef<'_>) -> bool,
) -> Result<Offset, Error> {
    let from = log.bounds(control).await?.end;
    let mut reader = log.read(control, from, Visibility::Durable, READ_BYTES).await?;
    loop {
        let fetched = reader.next().await.map_err(overtaken)?;
        let found = fetched.batches.iter().flatten().find(|record| accepts(*record));
        if let Some(found) = found {
            return Ok(found.offset.next());
        }
    }
}

/// The append of a cursor record, to be part of a commit.
#[must_use]
pub fn cursor_append<C: State>(role: Role, cursors: &TopicPartition, cursor: &C) -> Append {
    let mut builder = BatchBuilder::default();
    builder.push(Some(role.as_str().as_bytes()), Some(&encode(cursor)), |_| {});
    Append { to: cursors.clone(), batch: builder.finish() }
}

fn claim_record(role: Role, member: &str) -> Batch {
    let mut builder = BatchBuilder::default();
    builder.push(Some(role.as_str().as_bytes()), Some(member.as_bytes()), |h| h.put(Name::Kind, CLAIM));
    builder.finish()
}

/// Whether a role has never claimed this control partition: the log goes back to its beginning and
/// holds no claim of the role.
///
/// # Errors
///
/// As the log's.
pub async fn is_first(log: &dyn Log, role: Role, control: &TopicPartition) -> Result<bool, log::Error> {
    let bounds = log.bounds(control).await?;
    if bounds.start > Offset::ZERO {
        return Ok(false);
    }
    let mut claimed = false;
    scan(log, control, bounds.start, bounds.end, |record| {
        claimed |= record.headers.get(Name::Kind) == Some(CLAIM) && record.key == Some(role.as_str().as_bytes());
        !claimed
    })
    .await?;
    Ok(!claimed)
}

/// The last committed cursor of a role, `None` where there is none.
///
/// Looks at the tail first and then ever further back: between two compactions the log holds
/// every cursor there was.
///
/// # Errors
///
/// [`Error::Log`]; [`Error::Unreadable`] where the last cursor does not decode.
pub async fn last_cursor<C: State>(log: &dyn Log, role: Role, cursors: &TopicPartition) -> Result<Option<C>, Error> {
    let bounds = log.bounds(cursors).await?;
    let mut step = 16;
    loop {
        let from = bounds.start.max(Offset(bounds.end.0.saturating_sub(step)));
        let mut last = None;
        scan(log, cursors, from, bounds.end, |record| {
            if record.key == Some(role.as_str().as_bytes()) {
                last = record.value.map(decode::<C>);
            }
            true
        })
        .await?;
        match last {
            Some(Ok(cursor)) => return Ok(Some(cursor)),
            Some(Err(reason)) => return Err(Error::Unreadable { at: cursors.clone(), reason }),
            None if from == bounds.start => return Ok(None),
            None => step *= 16,
        }
    }
}

/// Shows the committed records from `from` up to `end`, which was taken when everything of
/// interest had been written, until `see` has seen enough and says so by `false`.
///
/// # Errors
///
/// As the log's; where retention was faster than this reader it is worth another try.
pub async fn scan(
    log: &dyn Log,
    of: &TopicPartition,
    from: Offset,
    end: Offset,
    mut see: impl FnMut(RecordRef<'_>) -> bool,
) -> Result<(), log::Error> {
    if from >= end {
        return Ok(());
    }
    let mut reader = log.read(of, from, Visibility::Written, READ_BYTES).await.map_err(overtaken)?;
    while reader.position() < end {
        let fetched = reader.next().await.map_err(overtaken)?;
        for record in fetched.batches.iter().flatten() {
            if record.offset >= end || !see(record) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn overtaken(error: log::Error) -> log::Error {
    match error {
        log::Error::Lost { .. } => log::Error::Unavailable(error.to_string()),
        other => other,
    }
}
