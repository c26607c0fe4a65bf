//! Stretches of a log that cannot be read: where they begin, and where it goes on behind them.

use std::ops::Range;

use super::{Error, Log, TopicPartition, Visibility};
use crate::record::Offset;

/// How much is read at once on the way to the damage.
const READ_BYTES: usize = 1 << 20;

/// The first stretch at or above `from` and below `end` that cannot be read, `None` where all of it can.
///
/// Where it ends is found by trying ever further ahead, and then halfway back: what can be read
/// between two stretches that lie close together may be taken for a part of them.
///
/// # Errors
///
/// The log's, but for [`Error::Damaged`].
pub(crate) async fn first(
    log: &dyn Log,
    of: &TopicPartition,
    from: Offset,
    end: Offset,
) -> Result<Option<Range<Offset>>, Error> {
    if from >= end {
        return Ok(None);
    }
    let mut reader = log.read(of, from, Visibility::Written, READ_BYTES).await?;
    while reader.position() < end {
        match reader.next().await {
            Ok(_) => {}
            Err(Error::Damaged(_)) => return behind(log, of, reader.position(), end).await.map(Some),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reading fails at `first`: up to where it does.
async fn behind(log: &dyn Log, of: &TopicPartition, first: Offset, end: Offset) -> Result<Range<Offset>, Error> {
    let (mut damaged, mut step) = (first.0, 1);
    let mut sound = loop {
        let ahead = damaged.saturating_add(step).min(end.0);
        if is_sound(log, of, Offset(ahead), end).await? {
            break ahead;
        }
        (damaged, step) = (ahead, step * 2);
    };
    while sound - damaged > 1 {
        let middle = damaged + (sound - damaged) / 2;
        if is_sound(log, of, Offset(middle), end).await? {
            sound = middle;
        } else {
            damaged = middle;
        }
    }
    Ok(first..Offset(sound))
}

/// The stretch that begins at `from` and cannot be read, `None` where what is there can.
///
/// # Errors
///
/// As [`first`].
pub(crate) async fn at(
    log: &dyn Log,
    of: &TopicPartition,
    from: Offset,
    end: Offset,
) -> Result<Option<Range<Offset>>, Error> {
    if is_sound(log, of, from, end).await? { Ok(None) } else { behind(log, of, from, end).await.map(Some) }
}

async fn is_sound(log: &dyn Log, of: &TopicPartition, at: Offset, end: Offset) -> Result<bool, Error> {
    if at >= end {
        return Ok(true);
    }
    match log.read(of, at, Visibility::Written, 1).await?.next().await {
        Ok(_) => Ok(true),
        Err(Error::Damaged(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
