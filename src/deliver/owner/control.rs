//! Operators' orders, from the control log.

use futures::FutureExt as _;

use super::Owner;
use super::tasks::{self, Done, Fetch};
use crate::log::{self, Bounds};
use crate::record::push::{HaltedItems, Held, PUSH_VERB, PushAction, PushVerb};
use crate::record::{Name, Offset, RecordRef};

impl Owner {
    /// Takes in what the control log holds, and reads on.
    pub(super) fn control_read(&mut self, fetch: Fetch) {
        self.listening = false;
        match fetch.fetched {
            Ok(fetched) => {
                let verbs = fetched.batches.iter().flatten().filter_map(verb);
                self.verbs.extend(verbs);
                self.control_read = fetched.next;
            }
            Err(error) if tasks::is_passing(&error) => {}
            Err(error) => {
                // Operators are not heard any more; what is pushed does not depend on them.
                tracing::error!(control = %self.control, %error, "the control log cannot be read");
                self.listening = true;
            }
        }
        self.control_reader = fetch.reader;
    }

    /// Reads the control log on, once the orders read so far are executed.
    pub(super) fn listen(&mut self) {
        if !self.listening && self.verbs.is_empty() {
            self.listening = true;
            let reader = self.control_reader.take();
            let fetch = tasks::fetch(self.shared.log.clone(), self.control.clone(), reader, self.control_read);
            self.tasks.push(fetch.map(Done::Control).boxed());
        }
    }

    /// Executes orders in their order; one about an item that has to be read again first waits.
    pub(super) fn obey(&mut self) {
        while let Some((_, verb)) = self.verbs.front() {
            if self.has_to_wait(verb) {
                return;
            }
            if let Some((offset, verb)) = self.verbs.pop_front() {
                tracing::info!(at = %offset, ?verb, "an operator's order");
                self.execute(verb);
                self.dirty = true;
            }
        }
    }

    /// The position below which every order is executed.
    pub(super) fn control_done(&self) -> Offset {
        self.verbs.front().map_or(self.control_read, |(offset, _)| *offset)
    }

    fn has_to_wait(&self, verb: &PushVerb) -> bool {
        let PushAction::Skip(items) = &verb.action else { return false };
        self.feed_of(&verb.destination, items.lane).is_some_and(|feed| {
            let feed = &self.feeds[feed];
            feed.lost.is_none() && targets(feed, items).iter().any(|offset| feed.is_unread(*offset))
        })
    }

    fn execute(&mut self, verb: PushVerb) {
        let Some(target) = self.targets.iter().position(|target| *target.name == *verb.destination) else { return };
        match verb.action {
            PushAction::Pause => self.targets[target].held = Some(Held::Paused(verb.reason)),
            PushAction::Resume => self.targets[target].held = None,
            PushAction::Retry(items) => self.resume(&verb.destination, &items, false),
            PushAction::Skip(items) => self.resume(&verb.destination, &items, true),
            PushAction::Accept { lane } => self.accept(&verb.destination, lane),
        }
    }

    fn resume(&mut self, destination: &str, items: &HaltedItems, skip: bool) {
        if let Some(feed) = self.feed_of(destination, items.lane) {
            let feed = &mut self.feeds[feed];
            for offset in targets(feed, items) {
                feed.resume(offset, skip);
            }
        }
    }

    /// Goes on where the log begins now.
    fn accept(&mut self, destination: &str, lane: u32) {
        let Some(feed) = self.feed_of(destination, lane).filter(|feed| self.feeds[*feed].lost.is_some()) else {
            return;
        };
        let (log, at) = (self.shared.log.clone(), self.feeds[feed].at.clone());
        let accept = async move { Done::Accepted { feed, bounds: log.bounds(&at).await } };
        self.tasks.push(accept.boxed());
    }

    pub(super) fn accepted(&mut self, feed: usize, bounds: Result<Bounds, log::Error>) {
        match bounds {
            Ok(bounds) if self.feeds[feed].lost.is_some() => {
                let options = self.targets[self.feeds[feed].target].options.clone();
                tracing::warn!(at = %self.feeds[feed].at, from = %bounds.start, "a loss was accepted");
                self.feeds[feed].restart(bounds.start, &options);
                self.dirty = true;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(at = %self.feeds[feed].at, %error, "the loss stands: accept it again"),
        }
    }

    fn feed_of(&self, destination: &str, lane: u32) -> Option<usize> {
        let target = self.targets.iter().find(|target| *target.name == *destination)?;
        target.feeds.clone().find(|feed| self.feeds[*feed].at.partition.0 == lane)
    }
}

/// The halted items that are meant.
fn targets(feed: &super::Feed, items: &HaltedItems) -> Vec<Offset> {
    if items.offsets.is_empty() {
        return feed.halted.keys().copied().collect();
    }
    items.offsets.iter().map(|offset| Offset(*offset)).collect()
}

/// What is no order, or not one that can be read, is passed over.
fn verb(record: RecordRef<'_>) -> Option<(Offset, PushVerb)> {
    if record.headers.get(Name::Kind) != Some(PUSH_VERB) {
        return None;
    }
    match serde_json::from_slice(record.value?) {
        Ok(verb) => Some((record.offset, verb)),
        Err(error) => {
            tracing::warn!(at = %record.offset, %error, "an order that cannot be read is passed over");
            None
        }
    }
}
