//! What a client's thread is to do with its partitions. Readers never wait for the thread, which may be
//! waiting for a broker: the last word on each partition counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::feed::Feed;
use crate::log::TopicPartition;

/// What is new of each partition: fetch for this reader, from where it wants to go on, or for none.
pub(super) type Changes = BTreeMap<TopicPartition, Option<Arc<Feed>>>;

#[derive(Default)]
struct State {
    changes: Changes,
    over: bool,
}

/// The readers' end; when it is dropped, the thread ends.
#[derive(Default)]
pub(super) struct Orders(Arc<Mutex<State>>);

/// The thread's end.
pub(super) struct Taken(Arc<Mutex<State>>);

impl Orders {
    pub(super) fn taken(&self) -> Taken {
        Taken(Arc::clone(&self.0))
    }

    pub(super) fn fetch(&self, feed: &Arc<Feed>) {
        lock(&self.0).changes.insert(feed.of.clone(), Some(Arc::clone(feed)));
    }

    pub(super) fn leave(&self, of: &TopicPartition) {
        lock(&self.0).changes.insert(of.clone(), None);
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        lock(&self.0).over = true;
    }
}

impl Taken {
    /// What is new since this was asked last; `None` when there will never be anything more.
    pub(super) fn next(&self) -> Option<Changes> {
        let mut state = lock(&self.0);
        (!state.over).then(|| std::mem::take(&mut state.changes))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder of this lock panics")
}
