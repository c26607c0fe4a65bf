//! The idempotency keys that this process still knows, bounded in number and bytes.
//!
//! A key is *in flight* from the moment its message is queued until the log has answered, whoever
//! has hung up by then. What follows depends on the answer:
//!
//! | Answer of the log | State of the key | A retry |
//! |---|---|---|
//! | durable at an offset | done | same body: that position, `Idempotent-Replayed: true`; another body: 422 |
//! | not written | as before the attempt | is written |
//! | unknown | unknown | same body: written again; another body: 422 |
//! | none yet, though the client was told 504 | in flight | 409 until the log answers |
//!
//! A message that was written again after an unknown outcome may stand in the log twice; the later
//! one resolves to `duplicate` downstream, in log order, in every process. So does a retry that
//! reaches another process, or this one after the key was forgotten.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::record::Source;

/// SHA-256 of a body.
pub(super) type Fingerprint = [u8; 32];

/// What an entry takes beside its key: map slot, queue slot, allocation.
const ENTRY_BYTES: usize = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Being written; whether an earlier attempt has an unknown outcome.
    InFlight {
        again: bool,
    },
    Done(Source),
    Unknown,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    state: State,
    /// Which settlement put it into the queue of those that may be forgotten.
    stamp: u64,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Arc<str>, Entry>,
    /// Settled keys, longest settled first; one whose stamp differs was settled again later.
    settled: VecDeque<(Arc<str>, u64)>,
    stamp: u64,
    bytes: usize,
}

/// See the module's documentation. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    table: Arc<Mutex<Table>>,
    max_keys: usize,
    max_bytes: usize,
}

/// What is known of a key as a request with it arrives.
#[derive(Debug)]
pub(super) enum Known {
    /// Nothing that keeps the message from being written; the claim goes with it.
    Write(Claim),
    /// It is being written.
    InFlight,
    /// It is there.
    Done(Source),
    /// The key belongs to another body.
    Reused,
}

impl Keys {
    pub(super) fn new(max_keys: usize, max_bytes: usize) -> Self {
        Self { table: Arc::default(), max_keys, max_bytes }
    }

    /// Takes the key for a message with this body, unless it is taken.
    pub(super) fn claim(&self, id: &Arc<str>, fingerprint: Fingerprint) -> Known {
        let mut table = self.lock();
        let again = match table.entries.get(id) {
            Some(entry) if entry.fingerprint != fingerprint => return Known::Reused,
            Some(Entry { state: State::InFlight { .. }, .. }) => return Known::InFlight,
            Some(Entry { state: State::Done(source), .. }) => return Known::Done(*source),
            Some(Entry { state: State::Unknown, .. }) => true,
            None => false,
        };
        if !again {
            table.bytes += ENTRY_BYTES + id.len();
        }
        table.entries.insert(id.clone(), Entry { fingerprint, state: State::InFlight { again }, stamp: 0 });
        Known::Write(Claim { keys: self.clone(), id: Some(id.clone()) })
    }

    fn settle(&self, id: Arc<str>, state: State) {
        let mut table = self.lock();
        table.stamp += 1;
        let stamp = table.stamp;
        if let Some(entry) = table.entries.get_mut(&id) {
            entry.state = state;
            entry.stamp = stamp;
            table.settled.push_back((id, stamp));
        }
        while table.settled.len() > self.max_keys || table.bytes > self.max_bytes {
            let Some((id, stamp)) = table.settled.pop_front() else { break };
            if table.entries.get(&id).is_some_and(|entry| entry.stamp == stamp) {
                table.forget(&id);
            }
        }
    }

    fn release(&self, id: Arc<str>) {
        let mut table = self.lock();
        match table.entries.get(&id).map(|entry| entry.state) {
            Some(State::InFlight { again: true }) => {
                drop(table);
                self.settle(id, State::Unknown);
            }
            Some(State::InFlight { again: false }) => table.forget(&id),
            _ => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // Every change above is complete before anything can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, id: &Arc<str>) {
        if self.entries.remove(id).is_some() {
            self.bytes -= ENTRY_BYTES + id.len();
        }
    }
}

/// A key that is being written. Dropped without an answer, its outcome is unknown.
#[derive(Debug)]
pub(super) struct Claim {
    keys: Keys,
    id: Option<Arc<str>>,
}

impl Claim {
    /// The message is durable there.
    pub(super) fn done(mut self, source: Source) {
        if let Some(id) = self.id.take() {
            self.keys.settle(id, State::Done(source));
        }
    }

    /// The message was not written.
    pub(super) fn release(mut self) {
        if let Some(id) = self.id.take() {
            self.keys.release(id);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.keys.settle(id, State::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Offset, Partition};

    const BODY: Fingerprint = [1; 32];
    const OTHER: Fingerprint = [2; 32];

    fn at(offset: u64) -> Source {
        Source { lane: Partition(0), offset: Offset(offset) }
    }

    fn claim(keys: &Keys, id: &str) -> Claim {
        match keys.claim(&id.into(), BODY) {
            Known::Write(claim) => claim,
            other => panic!("{id} is free, not {other:?}"),
        }
    }

    #[test]
    fn a_key_goes_through_its_states() {
        let keys = Keys::new(10, 10_000);
        let id: Arc<str> = "p/k".into();
        let first = claim(&keys, "p/k");
        assert!(matches!(keys.claim(&id, BODY), Known::InFlight));
        assert!(matches!(keys.claim(&id, OTHER), Known::Reused));
        first.release();
        drop(claim(&keys, "p/k"));
        assert!(matches!(keys.claim(&id, OTHER), Known::Reused));
        // Unknown: written again; an attempt that certainly failed leaves it unknown.
        claim(&keys, "p/k").release();
        assert!(matches!(keys.claim(&id, OTHER), Known::Reused));
        claim(&keys, "p/k").done(at(7));
        assert!(matches!(keys.claim(&id, BODY), Known::Done(source) if source == at(7)));
        assert!(matches!(keys.claim(&id, OTHER), Known::Reused));
    }

    #[test]
    fn a_key_that_was_not_written_is_free_for_another_body() {
        let keys = Keys::new(10, 10_000);
        claim(&keys, "k").release();
        assert!(matches!(keys.claim(&"k".into(), OTHER), Known::Write(_)));
    }

    #[test]
    fn the_longest_settled_are_forgotten_and_those_in_flight_are_not() {
        let keys = Keys::new(2, 10_000);
        let flying = claim(&keys, "flying");
        for (id, offset) in [("a", 1), ("b", 2), ("c", 3)] {
            claim(&keys, id).done(at(offset));
        }
        assert!(matches!(keys.claim(&"flying".into(), BODY), Known::InFlight));
        assert!(matches!(keys.claim(&"b".into(), BODY), Known::Done(_)));
        assert!(matches!(keys.claim(&"c".into(), BODY), Known::Done(_)));
        assert!(matches!(keys.claim(&"a".into(), OTHER), Known::Write(_)), "a was forgotten");
        flying.release();
    }

    #[test]
    fn bytes_are_bounded_and_add_up() {
        let keys = Keys::new(1_000, 10 * (ENTRY_BYTES + 3));
        for i in 100..200 {
            claim(&keys, &i.to_string()).done(at(i));
        }
        let table = keys.lock();
        assert_eq!(table.entries.len(), 10);
        assert_eq!(table.bytes, 10 * (ENTRY_BYTES + 3));
    }
}
