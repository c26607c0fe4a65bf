//! Groups that share out partitions among members, for the engines that live in one process.
//!
//! [`Group`] is the pure state: who holds what, who is to have it, who has been silent. [`Groups`]
//! puts a lock and a wake-up around all groups of one log, and [`Seat`] is the
//! [`Membership`](super::Membership) that a caller gets, with the engine's own part (claims, stored
//! positions, disturbances) behind [`Backend`].

mod seat;
mod share;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) use seat::{Backend, Disturbance, Place, Seat};
use state::{Change, Group, MemberId, Revocation};

use super::{Error, SESSION_TIMEOUT, Topic, TopicPartition};

/// How long the dead and the slow are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A member that has not listened for so long is expelled; `None`: never.
    pub(super) silence: Option<Duration>,
    /// What a member that was dropped without leaving held is kept back for so long.
    pub(super) crash: Duration,
    /// A member that was asked to let go is waited for so long.
    pub(super) letting_go: Duration,
}

impl Patience {
    /// As a broker has it, which cannot tell a crash from silence.
    pub(super) const OF_A_BROKER: Self =
        Self { silence: Some(SESSION_TIMEOUT), crash: SESSION_TIMEOUT, letting_go: SESSION_TIMEOUT };
}

/// All groups of one log.
#[derive(Debug)]
pub(super) struct Groups {
    patience: Patience,
    groups: Mutex<BTreeMap<Arc<str>, Group>>,
    changed: Notify,
}

impl Groups {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, groups: Mutex::default(), changed: Notify::new() }
    }

    fn join(&self, group: &Arc<str>, partitions: Vec<TopicPartition>) -> MemberId {
        self.change(group, |group, now| group.join(partitions, now))
    }

    /// What `member` has to be told next, else when to look again.
    fn poll(&self, group: &Arc<str>, member: MemberId) -> Result<Change, Option<Instant>> {
        self.change(group, |group, now| group.poll(member, now).ok_or_else(|| group.deadline()))
    }

    fn holds(&self, group: &Arc<str>, member: MemberId, partition: &TopicPartition) -> Result<(), Error> {
        if self.change(group, |group, now| group.holds(member, partition, now)) {
            return Ok(());
        }
        Err(Error::Fenced(format!("{partition} is no longer this member's in group {group}")))
    }

    /// Takes the partitions of a topic from whoever has them, in all groups: it is another one now.
    pub(super) fn lose(&self, topic: &Topic) {
        let names: Vec<_> = self.lock().keys().cloned().collect();
        names.iter().for_each(|name| self.change(name, |group, _| group.lose(topic)));
    }

    fn change<T>(&self, name: &Arc<str>, change: impl FnOnce(&mut Group, Instant) -> T) -> T {
        let now = Instant::now();
        let mut groups = self.lock();
        let group = groups.entry(Arc::clone(name)).or_insert_with(|| Group::new(self.patience));
        let before = group.version();
        group.tick(now);
        let result = change(group, now);
        group.tick(now);
        let changed = group.version() != before;
        drop(groups);
        if changed {
            self.changed.notify_waiters();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Group>> {
        self.groups.lock().expect("no holder of this lock panics")
    }
}

fn release(groups: &Groups, group: &Arc<str>, revocation: Revocation) {
    groups.change(group, |group, _| group.release(revocation));
}
