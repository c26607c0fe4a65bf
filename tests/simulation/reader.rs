//! A reader of the ordered topics, while things go wrong: what it has seen must be what is there
//! in the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use seriatim::log::memory::Stored;
use seriatim::log::{Log as _, TopicPartition, Visibility};
use seriatim::record::Offset;
use tokio::time::sleep;

use crate::world::Shared;

/// Enough for a few records only, so that much is read in many steps.
const BYTES: usize = 2_000;

/// What a reader has seen of a partition.
pub(crate) type Seen = Rc<RefCell<Vec<(Offset, Option<Vec<u8>>)>>>;

/// Reads a partition for ever and keeps what it sees.
pub(crate) async fn read(world: Shared, of: TopicPartition, seen: Seen) {
    let mut position = Offset::ZERO;
    loop {
        if let Ok(mut reader) = world.log.read(&of, position, Visibility::Durable, BYTES).await {
            while let Ok(fetched) = reader.next().await {
                let records = fetched.batches.iter().flatten();
                seen.borrow_mut().extend(records.map(|r| (r.offset, r.value.map(<[u8]>::to_vec))));
                position = fetched.next;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Whether the reader of a partition has seen just what is there.
pub(crate) fn check(of: &TopicPartition, seen: &Seen, there: &[Stored]) -> Result<(), String> {
    let there: Vec<_> = there.iter().map(|record| (record.offset, record.value.clone())).collect();
    let seen = seen.borrow();
    if *seen == there {
        return Ok(());
    }
    let first = seen.iter().zip(&there).position(|(a, b)| a != b).unwrap_or(seen.len().min(there.len()));
    let (seen, there) = (seen.len(), there.len());
    Err(format!("I18: a reader of {of} saw {seen} records, there are {there}; they differ from number {first} on"))
}
