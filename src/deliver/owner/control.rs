//! Operators' orders, from the control log.

use futures::FutureExt as _;

use super::super::Shared;
use super::Owner;
use super::tasks::{self, Done, Fetch};
use crate::log::{self, Bounds, TopicPartition};
use crate::record::push::{HaltedItems, Held, PUSH_VERB, PushAction, PushPosition, PushVerb};
use crate::record::{Name, Offset, RecordRef};
use crate::takeover;

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

    /// Executes orders in their order; one about an item that has to be read again first waits, and
    /// one that accepts a loss until it is known what the log still has.
    pub(super) fn obey(&mut self) {
        while let Some((_, verb)) = self.verbs.front() {
            if self.has_to_wait(verb) {
                return;
            }
            if let Some(feed) = self.accepts(verb) {
                self.accept(feed);
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
            PushAction::Accept { .. } => {}
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

    /// The feed whose loss this order accepts, if it has one.
    fn accepts(&self, verb: &PushVerb) -> Option<usize> {
        let PushAction::Accept { lane } = verb.action else { return None };
        self.feed_of(&verb.destination, lane).filter(|feed| self.feeds[*feed].lost.is_some())
    }

    /// Asks what the log still has.
    fn accept(&mut self, feed: usize) {
        if !self.accepting {
            self.accepting = true;
            let (log, at) = (self.shared.log.clone(), self.feeds[feed].at.clone());
            self.tasks.push(tasks::bounds(log, at).map(move |bounds| Done::Accepted { feed, bounds }).boxed());
        }
    }

    /// Goes on from the position where the log still has it, else from the log's beginning.
    pub(super) fn accepted(&mut self, feed: usize, bounds: Result<Bounds, log::Error>) {
        self.accepting = false;
        let at = self.feeds[feed].at.clone();
        match bounds {
            Ok(bounds) => {
                let committed = self.state.topics.get(at.topic.as_str()).and_then(|lanes| lanes.get(&at.partition.0));
                let known = self.feeds[feed].position().or_else(|| committed.cloned()).unwrap_or_default();
                let is_there = bounds.start.0 <= known.position && known.position <= bounds.end.0;
                let begins = PushPosition { position: bounds.start.0, ..PushPosition::default() };
                let position = if is_there { PushPosition { lost: None, ..known } } else { begins };
                tracing::warn!(%at, from = position.position, "a loss was accepted");
                let options = self.targets[self.feeds[feed].target].options.clone();
                self.feeds[feed].restart(position, &options);
                self.dirty = true;
            }
            Err(error) if tasks::is_passing(&error) => tracing::warn!(%at, %error, "asking again what the log has"),
            Err(error) => {
                tracing::error!(%at, %error, "the loss stands: accept it again");
                self.verbs.pop_front();
                self.dirty = true;
            }
        }
    }

    fn feed_of(&self, destination: &str, lane: u32) -> Option<usize> {
        let target = self.targets.iter().find(|target| *target.name == *destination)?;
        target.feeds.clone().find(|feed| self.feeds[*feed].at.partition.0 == lane)
    }
}

/// Nothing is pushed until an operator accepts, for any of the lanes: then each topic is pushed as
/// if for the first time.
pub(super) async fn cursor_lost(
    lost: &takeover::Error,
    shared: &Shared,
    control: &TopicPartition,
) -> Result<Offset, takeover::Error> {
    tracing::error!(%control, error = %lost, "halted: nothing is pushed");
    shared.show_all(control, |destination| destination.halted.set(1));
    let accepts =
        |record: RecordRef<'_>| verb(record).is_some_and(|(_, verb)| matches!(verb.action, PushAction::Accept { .. }));
    takeover::order(&*shared.log, control, accepts).await
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
