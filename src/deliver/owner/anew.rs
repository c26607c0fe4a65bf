//! Output topics that were deleted and made anew: what is known of how far they are pushed is about those before.

use super::Owner;
use crate::log::{self, Topic};
use crate::record::push::{PushCursor, PushPosition, REASON_KEPT};
use crate::record::{TopicId, TopicIds};

/// Takes in which topics there are now, those that are not there just now left out. Gives those that are others
/// than were known, as they were.
fn learn(known: &mut TopicIds, now: TopicIds) -> TopicIds {
    let learn = |(name, id): (String, TopicId)| {
        let before = known.insert(name.clone(), id).filter(|before| *before != id)?;
        Some((name, before))
    };
    now.into_iter().filter_map(learn).collect()
}

/// Nothing is pushed from a position that is about another topic, until an operator accepts.
fn hold(position: &mut PushPosition, topic: &str, was: TopicId) {
    if position.about.is_none() {
        position.about = Some(was);
        let mut reason = format!("{topic} was deleted and made anew: what was not pushed before is lost");
        tracing::error!(reason, "halted: nothing is pushed from here");
        reason.truncate(reason.floor_char_boundary(REASON_KEPT));
        position.lost = Some(reason);
    }
}

/// At a take-over, before anything is pushed.
pub(super) fn compare(state: &mut PushCursor, now: TopicIds) {
    for (name, was) in learn(&mut state.ids, now) {
        let positions = state.topics.get_mut(&name).into_iter().flat_map(|lanes| lanes.values_mut());
        positions.for_each(|position| hold(position, &name, was));
    }
}

impl Owner {
    /// The topics that are pushed.
    pub(super) fn pushed(&self) -> Vec<Topic> {
        self.shared.destinations.iter().map(|(_, topic, _)| topic.clone()).collect()
    }

    /// As [`compare`], while pushing. What is under way from the former topic counts no more.
    pub(super) fn looked(&mut self, now: Result<TopicIds, log::Error>) {
        let now = now.unwrap_or_else(|error| {
            tracing::debug!(%error, "looking again whether topics are what they were");
            TopicIds::new()
        });
        for (name, was) in learn(&mut self.state.ids, now) {
            for index in 0..self.feeds.len() {
                if self.feeds[index].at.topic.as_str() == name {
                    let mut position = self.known(index);
                    hold(&mut position, &name, was);
                    let target = &mut self.targets[self.feeds[index].target];
                    target.settled();
                    self.feeds[index].restart(position, &target.options);
                }
            }
            self.dirty = true;
        }
    }
}
