//! Items that were uploaded before their batch: read from the log a little ahead of their turn.
//!
//! Uploads of one lane lie in one partition, in between each other; each record's key says whose
//! it is and its header which item. What other uploads left there is passed over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::log::Fetched;
use crate::record::batches::{BatchState, ItemState, Phase, Upload};
use crate::record::{BatchItem, Name, Offset, RecordRef};

/// A read of uploaded items, to be made by the shell.
#[derive(Clone, Debug)]
pub(in super::super) struct ItemsWanted {
    pub(super) id: Arc<str>,
    /// From where.
    pub(in super::super) from: Offset,
    /// The item that is to be sent once more, where it is for one; else new ones.
    again: Option<u64>,
}

impl ItemsWanted {
    /// Bytes read at once: a few hundred usual items, or one of the largest; so much is held of each
    /// upload that runs.
    pub(in super::super) const FETCH_BYTES: usize = 256 << 10;
}

/// The items of an upload, as far as they were read and not sent.
#[derive(Debug)]
pub(super) struct Uploaded {
    token: String,
    /// New items in index order, with their offsets.
    fresh: VecDeque<(Offset, String)>,
    /// Where reading goes on for new ones.
    next: Offset,
    /// Items that are to be sent once more.
    again: BTreeMap<u64, String>,
    /// Where the open items stand.
    bodies: BTreeMap<u64, u64>,
    reading: bool,
}

impl Uploaded {
    pub(super) fn new(upload: Upload) -> Self {
        let (fresh, again, bodies) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
        Self { token: upload.token, fresh, next: Offset(upload.first), again, bodies, reading: false }
    }

    pub(super) fn resume(&mut self, items: u64, bodies: BTreeMap<u64, u64>) {
        self.next = Offset(items);
        self.bodies = bodies;
    }

    /// From where items above the high-water mark are read.
    pub(super) fn position(&self) -> Offset {
        self.fresh.front().map_or(self.next, |(offset, _)| *offset)
    }

    pub(super) const fn bodies(&self) -> &BTreeMap<u64, u64> {
        &self.bodies
    }

    /// The lowest offset that is still needed.
    pub(super) fn needed(&self) -> Offset {
        let open = self.bodies.values().min().map(|at| Offset(*at));
        open.map_or(self.position(), |open| open.min(self.position()))
    }

    pub(super) fn fresh(&self) -> usize {
        self.fresh.len()
    }

    pub(super) fn has_again(&self, index: u64) -> bool {
        self.again.contains_key(&index)
    }

    /// The body of an item that goes out now.
    pub(super) fn take(&mut self, index: u64) -> Option<String> {
        if let Some(body) = self.again.remove(&index) {
            return Some(body);
        }
        let (offset, body) = self.fresh.pop_front()?;
        self.bodies.insert(index, offset.0);
        Some(body)
    }

    /// The item has ended.
    pub(super) fn settled(&mut self, index: u64) {
        self.bodies.remove(&index);
        self.again.remove(&index);
    }

    /// The read that is to be made now, if any; one at a time.
    pub(super) fn wanted(&mut self, id: &Arc<str>, state: &BatchState) -> Option<ItemsWanted> {
        if self.reading || state.phase != Phase::Running {
            return None;
        }
        // No more of these, either, before those that were read are sent.
        let mut waiting = state.open.iter().filter(|(_, open)| open.state == ItemState::Again);
        let again = waiting.next().filter(|_| self.again.is_empty()).map(|(index, _)| *index);
        let from = match again {
            Some(index) => Offset(*self.bodies.get(&index)?),
            None if self.fresh.is_empty() && state.generated < state.total => self.next,
            None => return None,
        };
        self.reading = true;
        Some(ItemsWanted { id: id.clone(), from, again })
    }

    /// Takes what was read.
    pub(super) fn read(&mut self, wanted: &ItemsWanted, fetched: &Fetched, state: &BatchState) -> Result<(), String> {
        self.reading = false;
        for record in fetched.batches.iter().flatten() {
            let Some(index) = self.index_of(&record) else { continue };
            match wanted.again {
                Some(_) => self.add_again(index, &record, state)?,
                None => self.add(index, &record, state)?,
            }
        }
        match wanted.again {
            None => self.next = fetched.next,
            Some(index) if self.is_wanted_again(index, wanted.from, state) && !self.has_again(index) => {
                return Err(format!("item {index} is not at offset {} any more", wanted.from));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn add_again(&mut self, index: u64, record: &RecordRef<'_>, state: &BatchState) -> Result<(), String> {
        if self.is_wanted_again(index, record.offset, state) {
            self.again.insert(index, body(record)?);
        }
        Ok(())
    }

    /// Whether the record at `offset` is an item that is to be sent once more.
    fn is_wanted_again(&self, index: u64, offset: Offset, state: &BatchState) -> bool {
        let waits = state.open.get(&index).is_some_and(|open| open.state == ItemState::Again);
        waits && self.bodies.get(&index) == Some(&offset.0)
    }

    fn add(&mut self, index: u64, record: &RecordRef<'_>, state: &BatchState) -> Result<(), String> {
        let expected = state.generated + self.fresh.len() as u64;
        if index > expected {
            return Err(format!("item {expected} is missing before item {index}, at offset {}", record.offset));
        }
        if index == expected && index < state.total {
            self.fresh.push_back((record.offset, body(record)?));
        }
        Ok(())
    }

    /// The index of an item of this upload.
    fn index_of(&self, record: &RecordRef<'_>) -> Option<u64> {
        let item = BatchItem::decode(record.headers.text(Name::Batch)?)?;
        (record.key == Some(self.token.as_bytes())).then_some(item.index)
    }
}

/// An item's JSON, checked, because it is put into the JSON of a work order.
fn body(record: &RecordRef<'_>) -> Result<String, String> {
    let checked = serde_json::from_slice::<&RawValue>(record.value.unwrap_or_default());
    let json = checked.map_err(|error| format!("the item at offset {} is no JSON: {error}", record.offset))?;
    Ok(json.get().to_owned())
}
