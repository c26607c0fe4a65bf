//! Operators' orders, from the control log.

use futures::FutureExt as _;

use super::super::Shared;
use super::Owner;
use super::tasks::{self, Done, Fetch, Remains};
use crate::log::{self, TopicPartition};
use crate::record::push::{HaltedItems, Held, PUSH_VERB, PushAction, PushPosition, PushVerb};
use crate::record::{Name, Offset, RecordRef};
use crate::takeover;

/// Tests that wait for a connection to their receiver. Who asks for one waits for what comes of it, so
/// that there are never many.
const MOST_TESTS: usize = 8;

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
    /// one that accepts a loss or begins a replay until it is known what the log still has.
    pub(super) fn obey(&mut self) {
        while let Some((_, verb)) = self.verbs.front() {
            let replayed = self.replays(verb);
            if let Some(feed) = replayed {
                self.feeds[feed].quiet = true;
            }
            let Some((_, verb)) = self.verbs.front() else { return };
            if self.has_to_wait(verb) {
                return;
            }
            if let Some(feed) = replayed.or_else(|| self.accepts(verb)) {
                self.ask(feed);
                return;
            }
            if let Some((offset, verb)) = self.verbs.pop_front() {
                let PushVerb { destination, action, reason, by } = &verb;
                tracing::info!(destination, ?action, by, reason, at = %offset, "an operator's order");
                self.execute(offset, verb);
                self.dirty = true;
            }
        }
    }

    /// The position below which every order is executed.
    pub(super) fn control_done(&self) -> Offset {
        self.verbs.front().map_or(self.control_read, |(offset, _)| *offset)
    }

    fn has_to_wait(&self, verb: &PushVerb) -> bool {
        match &verb.action {
            PushAction::Skip(items) => self.feed_of(&verb.destination, items.lane).is_some_and(|feed| {
                let feed = &self.feeds[feed];
                feed.lost.is_none() && targets(feed, items).iter().any(|offset| feed.is_unread(*offset))
            }),
            // What is under way could be repeated beside itself, and what is not read again is not known.
            PushAction::Replay { .. } => self.replays(verb).is_some_and(|feed| {
                let feed = &self.feeds[feed];
                feed.under_way > 0 || feed.is_behind()
            }),
            PushAction::Test(_) => {
                self.target_of(&verb.destination).is_some_and(|target| self.targets[target].tests.len() >= MOST_TESTS)
            }
            _ => false,
        }
    }

    fn execute(&mut self, order: Offset, verb: PushVerb) {
        let Some(target) = self.target_of(&verb.destination) else { return };
        match verb.action {
            PushAction::Pause => self.targets[target].held = Some(Held::Paused(verb.reason)),
            PushAction::Resume => self.targets[target].held = None,
            PushAction::Retry(items) => self.resume(&verb.destination, &items, false),
            PushAction::Skip(items) => self.resume(&verb.destination, &items, true),
            PushAction::Test(item) => self.targets[target].tests.push_back((order, item)),
            PushAction::Accept { .. } | PushAction::Replay { .. } => {}
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

    /// The feed that this order pushes once more, if nothing is lost there.
    fn replays(&self, verb: &PushVerb) -> Option<usize> {
        let PushAction::Replay { lane, .. } = verb.action else { return None };
        self.feed_of(&verb.destination, lane).filter(|feed| self.feeds[*feed].lost.is_none())
    }

    /// Asks what the log still has.
    fn ask(&mut self, feed: usize) {
        if !self.asking {
            self.asking = true;
            let (log, at, life) = (self.shared.log.clone(), self.feeds[feed].at.clone(), self.feeds[feed].life);
            let asked = tasks::remains(log, at, Offset(self.known(feed).position));
            self.tasks.push(asked.map(move |remains| Done::Remains { feed, life, remains }).boxed());
        }
    }

    /// Executes the order for which the log was asked. One that accepted a loss leaves the queue when the
    /// loss is over. What was asked of a topic that was made anew meanwhile is asked again.
    pub(super) fn remains(&mut self, feed: usize, life: u32, remains: Result<Remains, log::Error>) {
        self.asking = false;
        if self.feeds[feed].life != life {
            return;
        }
        let at = &self.feeds[feed].at;
        match (remains, self.verbs.front().map(|(_, verb)| &verb.action)) {
            (Ok(remains), Some(PushAction::Replay { from, id, .. })) => {
                let (from, id) = (Offset(*from).max(remains.bounds.start), id.clone());
                self.verbs.pop_front();
                self.replay(feed, from, id);
            }
            (Ok(remains), _) => self.accepted(feed, &remains),
            // The orders behind it do not wait until somebody makes the topic anew.
            (Err(error), _) if tasks::is_passing(&error) && !self.shared.log.is_gone(&at.topic) => {
                tracing::warn!(%at, %error, "asking again what the log has");
            }
            (Err(error), _) => {
                tracing::error!(%at, %error, "the order is not executed: give it again");
                self.feeds[feed].quiet = false;
                self.verbs.pop_front();
                self.dirty = true;
            }
        }
    }

    /// Goes back to an item that is done.
    fn replay(&mut self, feed: usize, from: Offset, id: String) {
        let target = self.feeds[feed].target;
        let options = self.targets[target].options.clone();
        let feed = &mut self.feeds[feed];
        match feed.again_from(from, id) {
            Some(position) => {
                tracing::info!(at = %feed.at, from = position.position, replay = ?position.replay, "pushing once more");
                feed.restart(position, &options);
                self.targets[target].settled();
            }
            None => {
                tracing::warn!(at = %feed.at, %from, "nothing there was pushed yet: there is nothing to replay");
                feed.quiet = false;
            }
        }
        self.dirty = true;
    }

    /// Where a feed stands, or stood when that was known last.
    pub(super) fn known(&self, feed: usize) -> PushPosition {
        let at = &self.feeds[feed].at;
        let committed = self.state.topics.get(at.topic.as_str()).and_then(|lanes| lanes.get(&at.partition.0));
        self.feeds[feed].position().or_else(|| committed.cloned()).unwrap_or_default()
    }

    /// Goes on from the position where the log still has it, behind what cannot be read there, else from the
    /// log's beginning, as in a topic that was made anew.
    fn accepted(&mut self, feed: usize, remains: &Remains) {
        let (mut known, bounds) = (self.known(feed), remains.bounds);
        let is_there = known.about.is_none() && bounds.start.0 <= known.position && known.position <= bounds.end.0;
        let position = match remains.behind {
            Some(behind) if is_there => {
                let halted = known.halted.split_off(&behind.0);
                PushPosition { position: behind.0, halted, replay: known.replay, ..PushPosition::default() }
            }
            _ if is_there => PushPosition { lost: None, ..known },
            _ => PushPosition { position: bounds.start.0, ..PushPosition::default() },
        };
        tracing::warn!(at = %self.feeds[feed].at, from = position.position, "a loss was accepted");
        let target = &mut self.targets[self.feeds[feed].target];
        target.settled();
        self.feeds[feed].restart(position, &target.options);
        self.dirty = true;
    }

    fn target_of(&self, destination: &str) -> Option<usize> {
        self.targets.iter().position(|target| *target.name == *destination)
    }

    fn feed_of(&self, destination: &str, lane: u32) -> Option<usize> {
        let target = &self.targets[self.target_of(destination)?];
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
