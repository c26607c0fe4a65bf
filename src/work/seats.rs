//! The partitions that the group has assigned, from assignment to revocation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::answered::{self, Look};
use super::cursors::{Cursors, Failed};
use super::feed::{Feed, FeedId, Kind, LaneState, Task};
use super::inlet::{Happened, Inlets, Subject};
use super::opening::{self, Known, Opened};
use crate::log::{self, Fetched, Log, Reader, Topic, TopicPartition};
use crate::record::cursor::{LaneCursor, OwnerCursor};
use crate::record::{Offset, Partition, TopicId};
use crate::topics::Topics;

/// Before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// What is damaged is not mended soon; an operator who has had it passed over waits no longer than this.
const DAMAGED_PAUSE: Duration = Duration::from_secs(5);

/// A feed, and what is done to fill it.
struct Seat {
    feed: Feed,
    phase: Phase,
    /// Why it cannot be read on, as it was told last.
    damage: Option<String>,
}

impl Seat {
    /// Whether nobody was told yet that it cannot be read on for this reason; somebody is now.
    fn is_news(&mut self, damage: &str) -> bool {
        let is_news = self.damage.as_deref() != Some(damage);
        self.damage = Some(damage.to_owned());
        is_news
    }
}

enum Phase {
    /// A lane that needs a cursor first: there is nothing that may be worked on.
    NoCursor,
    /// Something is waited for: its opening, or its next records.
    Busy,
    /// It has enough for now.
    Full(Box<dyn Reader>),
}

/// See the module.
pub(super) struct Seats {
    log: Arc<dyn Log>,
    topics: Topics,
    inlets: Inlets,
    seats: BTreeMap<FeedId, Seat>,
    /// The last cursor of each control partition that a lane of ours hangs on.
    cursors: BTreeMap<Partition, OwnerCursor>,
    /// The look at what is answered that partitions assigned together share.
    look: Option<Look>,
    made: u64,
}

impl Seats {
    pub(super) fn new(log: Arc<dyn Log>, topics: Topics) -> Self {
        let (inlets, seats, cursors) = (Inlets::default(), BTreeMap::new(), BTreeMap::new());
        Self { log, topics, inlets, seats, cursors, look: None, made: 0 }
    }

    /// Takes a partition that was assigned, and whose stored position is known.
    pub(super) fn add(&mut self, at: TopicPartition, stored: Option<Offset>) {
        self.made += 1;
        let id = FeedId(self.made);
        let is_lane = at.topic == self.topics.input;
        let (kind, lane) =
            if is_lane { (Kind::Lane(LaneState::default()), Some(at.partition)) } else { (Kind::Work(None), None) };
        let feed = Feed::new(id, at, kind, stored);
        self.seats.insert(id, Seat { feed, phase: Phase::NoCursor, damage: None });
        match lane {
            None => self.open(id, Duration::ZERO),
            Some(lane) => {
                let control = self.topics.control_of(lane).partition;
                self.inlets.follow(&self.log, control, self.topics.cursors_resequence.partition(control));
                self.apply_cursor(control);
            }
        }
    }

    /// Lets a partition go; its feed, if it had one.
    pub(super) fn remove(&mut self, at: &TopicPartition) -> Option<Feed> {
        let id = self.seats.iter().find(|(_, seat)| seat.feed.at == *at).map(|(id, _)| *id)?;
        let seat = self.seats.remove(&id)?;
        self.inlets.stop(Subject::Feed(id));
        let control = self.topics.control_of(at.partition).partition;
        let is_followed = |seat: &Seat| seat.feed.at.topic == self.topics.input && self.control_of(seat) == control;
        if at.topic == self.topics.input && !self.seats.values().any(is_followed) {
            self.inlets.stop(Subject::Cursors(control));
            self.cursors.remove(&control);
        }
        Some(seat.feed)
    }

    fn control_of(&self, seat: &Seat) -> Partition {
        self.topics.control_of(seat.feed.at.partition).partition
    }

    /// Whether this is the topic of the lanes' input.
    pub(super) fn is_input(&self, topic: &Topic) -> bool {
        *topic == self.topics.input
    }

    /// All partitions that are assigned.
    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.seats.values().map(|seat| seat.feed.at.clone()).collect()
    }

    /// The feed of this assignment, if it still holds.
    pub(super) fn feed_mut(&mut self, id: FeedId) -> Option<&mut Feed> {
        self.seats.get_mut(&id).map(|seat| &mut seat.feed)
    }

    /// The positions that the group does not know yet.
    pub(super) fn advanced(&self) -> Vec<(TopicPartition, Offset)> {
        let feeds = self.seats.values().map(|seat| &seat.feed);
        feeds.filter_map(|feed| feed.advanced().map(|position| (feed.at.clone(), position))).collect()
    }

    /// The group has stored these.
    pub(super) fn stored(&mut self, positions: &[(TopicPartition, Offset)]) {
        for feed in self.seats.values_mut().map(|seat| &mut seat.feed) {
            let stored = positions.iter().find(|(at, _)| *at == feed.at).map(|(_, position)| *position);
            feed.stored = stored.or(feed.stored);
        }
    }

    /// The feeds that may have something to begin: those of the work topic, then the lanes, each
    /// kind in order after `last`, so that all have their turn.
    pub(super) fn in_turn(&self, last: FeedId) -> (VecDeque<FeedId>, VecDeque<FeedId>) {
        let after = self.seats.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded));
        let all = after.chain(self.seats.range(..=last)).filter(|(_, seat)| !seat.feed.is_empty());
        let (mut work, mut lanes) = (VecDeque::new(), VecDeque::new());
        for (id, seat) in all {
            let queue = if matches!(seat.feed.kind, Kind::Work(_)) { &mut work } else { &mut lanes };
            queue.push_back(*id);
        }
        (work, lanes)
    }

    /// A record of the first feed in `turns` that has one; the feed then comes last.
    pub(super) fn take(&mut self, turns: &mut VecDeque<FeedId>) -> Option<Task> {
        while let Some(id) = turns.pop_front() {
            if let Some(task) = self.seats.get_mut(&id).and_then(|seat| seat.feed.take()) {
                turns.push_back(id);
                return Some(task);
            }
        }
        None
    }

    /// Reads on for every feed that has little left.
    pub(super) fn read_on(&mut self) {
        for (id, seat) in &mut self.seats {
            if matches!(seat.phase, Phase::Full(_)) && seat.feed.is_hungry() {
                let Phase::Full(reader) = std::mem::replace(&mut seat.phase, Phase::Busy) else { continue };
                self.inlets.read(*id, reader, Duration::ZERO);
            }
        }
    }

    /// Waits for news from the log. Cancel-safe.
    pub(super) async fn next(&mut self) -> Happened {
        self.inlets.next().await
    }

    /// News that are there already.
    pub(super) fn next_now(&mut self) -> Option<Happened> {
        self.inlets.next_now()
    }

    /// Takes in what has come from the log.
    ///
    /// # Errors
    ///
    /// What does not pass.
    pub(super) fn apply(&mut self, happened: Happened) -> Result<(), Error> {
        match happened {
            Happened::Cursor(control, cursors, next) => self.cursor(control, cursors, next),
            Happened::Opened(id, opened) => self.opened(id, opened),
            Happened::Read(id, reader, fetched) => self.read(id, reader, fetched),
        }
    }

    fn cursor(&mut self, control: Partition, cursors: Cursors, next: Result<OwnerCursor, Failed>) -> Result<(), Error> {
        match next {
            Ok(cursor) => {
                self.inlets.next_cursor(control, cursors, Duration::ZERO);
                self.cursors.insert(control, cursor);
                self.apply_cursor(control);
            }
            Err(Failed::Log(error)) if passes(&error) => {
                tracing::warn!(%control, %error, "the cursor cannot be read yet");
                self.inlets.next_cursor(control, cursors, PAUSE);
            }
            Err(Failed::Log(error)) => return Err(error.into()),
            Err(Failed::Unreadable(reason)) => {
                return Err(Error::Cursor { at: self.topics.cursors_resequence.partition(control), reason });
            }
        }
        Ok(())
    }

    /// Hands the last cursor to the lanes that hang on it.
    fn apply_cursor(&mut self, control: Partition) {
        let Some(cursor) = self.cursors.get(&control) else { return };
        let mut unopened = Vec::new();
        for (id, seat) in &mut self.seats {
            let Kind::Lane(state) = &mut seat.feed.kind else { continue };
            let Some(lane) = cursor.lanes.get(&seat.feed.at.partition.0) else { continue };
            if self.topics.control_of(seat.feed.at.partition).partition != control {
                continue;
            }
            // It never goes down; a reader that was opened anew may show an older cursor.
            state.limit = state.limit.max(Offset(lane.limit));
            state.rounds.clone_from(&lane.rounds);
            if matches!(seat.phase, Phase::NoCursor) {
                unopened.push(*id);
            }
        }
        unopened.into_iter().for_each(|id| self.open(id, Duration::ZERO));
    }

    fn lane_cursor(&self, lane: Partition) -> LaneCursor {
        let control = self.topics.control_of(lane).partition;
        self.cursors.get(&control).and_then(|cursor| cursor.lanes.get(&lane.0)).cloned().unwrap_or_default()
    }

    /// The input that the cursor of a lane is about.
    fn about(&self, lane: Partition) -> Option<TopicId> {
        let cursor = self.cursors.get(&self.topics.control_of(lane).partition)?;
        cursor.about(lane.0, self.topics.input.as_str())
    }

    /// Opens a feed where it was, or where the group and the cursor say.
    fn open(&mut self, id: FeedId, pause: Duration) {
        let Some(seat) = self.seats.get(&id) else { return };
        let (log, at, from) = (Arc::clone(&self.log), seat.feed.at.clone(), seat.feed.wanted());
        match seat.feed.kind {
            Kind::Work(_) => {
                let new = || answered::look(Arc::clone(&log), self.topics.clone());
                let look = self.look.get_or_insert_with(new).clone();
                self.inlets.open(id, opening::work(log, at, from, look), pause);
            }
            Kind::Lane(_) => {
                let (results, cursor) = (self.topics.results.partition(at.partition), self.lane_cursor(at.partition));
                let about = self.about(at.partition);
                self.inlets.open(id, opening::lane(log, at, results, cursor, about, from), pause);
            }
        }
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.phase = Phase::Busy;
        }
    }

    fn opened(&mut self, id: FeedId, opened: Result<Opened, log::Error>) -> Result<(), Error> {
        // Whoever is opened later looks anew.
        self.look = None;
        let Some(seat) = self.seats.get_mut(&id) else { return Ok(()) };
        match opened {
            Ok(Opened { reader, known }) => {
                tracing::debug!(at = %seat.feed.at, from = %reader.position(), "working");
                seat.feed.begin_at(reader.position());
                match (&mut seat.feed.kind, known) {
                    (Kind::Lane(state), Known::Lane(answered)) => state.answered = answered,
                    (Kind::Work(of), Known::Work(backlog)) => *of = backlog,
                    _ => {}
                }
                seat.phase = Phase::Full(reader);
            }
            // Lost: retention was faster. The next try begins where the log now starts.
            Err(error) if passes(&error) || matches!(error, log::Error::Lost { .. }) => {
                tracing::warn!(at = %seat.feed.at, %error, "cannot be opened yet");
                self.open(id, PAUSE);
            }
            Err(log::Error::Damaged(reason)) => self.wait_behind_damage(id, &reason),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn read(&mut self, id: FeedId, reader: Box<dyn Reader>, fetched: Result<Fetched, log::Error>) -> Result<(), Error> {
        let Some(seat) = self.seats.get_mut(&id) else { return Ok(()) };
        match fetched {
            Ok(fetched) => {
                seat.damage = None;
                seat.feed.extend(fetched);
                seat.phase = Phase::Full(reader);
            }
            Err(error) if passes(&error) => self.inlets.read(id, reader, PAUSE),
            Err(error @ log::Error::Lost { .. }) => {
                tracing::warn!(%error, "records are gone before they were worked on");
                self.open(id, PAUSE);
            }
            Err(log::Error::Damaged(reason)) => self.wait_behind_damage(id, &reason),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// A partition that cannot be read stands still by itself; the frontier passes the damage when an
    /// operator accepts the loss. That may take days, so the same reason is told once.
    fn wait_behind_damage(&mut self, id: FeedId, reason: &str) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        if seat.is_news(reason) {
            tracing::error!(at = %seat.feed.at, reason, "cannot be read on, tried again every few seconds");
        }
        self.open(id, DAMAGED_PAUSE);
    }
}

fn passes(error: &log::Error) -> bool {
    matches!(error, log::Error::Unavailable(_) | log::Error::Unknown(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_once_until_its_reason_changes() {
        let feed = Feed::new(FeedId(1), Topic::from("t.input").partition(Partition(0)), Kind::Work(None), None);
        let mut seat = Seat { feed, phase: Phase::NoCursor, damage: None };
        for (reason, expected) in [("damaged", true), ("damaged", false), ("made anew", true), ("made anew", false)] {
            assert_eq!(seat.is_news(reason), expected, "{reason}");
        }
    }
}
