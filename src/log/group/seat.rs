//! A caller's place in a group.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::state::{Change, MemberId};
use super::{Groups, release};
use crate::log::{Barrier, Error, Event, Membership, SESSION_TIMEOUT, TopicPartition, Writer};
use crate::record::Offset;

/// How often a waiting member says that it is alive: three chances within the session time-out.
const HEARTBEAT: Duration = Duration::from_secs(SESSION_TIMEOUT.as_secs() / 3);

/// The engine's part of a membership.
pub(in crate::log) trait Backend: Send + Sync + 'static {
    /// Fences former writers of the place's partition, having checked [`Place::confirm`] in the
    /// same step, and makes a new one.
    fn claim(self: Arc<Self>, place: Place) -> BoxFuture<'static, Result<Box<dyn Writer>, Error>>;

    /// The position last stored.
    fn stored<'a>(
        &'a self,
        group: &'a str,
        partition: &'a TopicPartition,
    ) -> BoxFuture<'a, Result<Option<Offset>, Error>>;

    /// Stores positions.
    fn store<'a>(
        &'a self,
        group: &'a str,
        positions: &'a [(TopicPartition, Offset)],
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Asked at every heartbeat, for engines that simulate trouble.
    fn disturb(&self) -> Option<Disturbance> {
        None
    }
}

/// Trouble that befalls a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Disturbance {
    /// All its partitions are revoked, and shared out again.
    Rebalance,
    /// It loses everything, and may come back.
    Expulsion,
    /// It loses everything for good.
    Fence,
}

/// One partition as held by one member.
#[derive(Clone, Debug)]
pub(in crate::log) struct Place {
    groups: Arc<Groups>,
    member: MemberId,
    /// The group's name.
    pub(in crate::log) group: Arc<str>,
    /// What is held.
    pub(in crate::log) partition: TopicPartition,
}

impl Place {
    /// Whether the member still holds the partition; [`Error::Fenced`] where it does not.
    pub(in crate::log) fn confirm(&self) -> Result<(), Error> {
        self.groups.holds(&self.group, self.member, &self.partition)
    }
}

/// See [`Membership`].
pub(in crate::log) struct Seat<B> {
    groups: Arc<Groups>,
    backend: Arc<B>,
    group: Arc<str>,
    member: MemberId,
    left: bool,
}

impl<B: Backend> Seat<B> {
    /// Joins `group` for a share of `partitions`.
    pub(in crate::log) fn join(
        groups: &Arc<Groups>,
        backend: Arc<B>,
        group: &str,
        partitions: Vec<TopicPartition>,
    ) -> Self {
        let group: Arc<str> = group.into();
        let member = groups.join(&group, partitions);
        Self { groups: Arc::clone(groups), backend, group, member, left: false }
    }

    async fn event(&self) -> Result<Event, Error> {
        loop {
            let changed = self.groups.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let deadline = match self.groups.poll(&self.group, self.member) {
                Ok(change) => return self.tell(change),
                Err(deadline) => deadline,
            };
            let beat = Instant::now() + HEARTBEAT;
            let until = deadline.map_or(beat, |deadline| deadline.min(beat));
            if tokio::time::timeout_at(until, changed).await.is_err() && until == beat {
                self.disturb();
            }
        }
    }

    fn tell(&self, change: Change) -> Result<Event, Error> {
        Ok(match change {
            Change::Assigned(partitions) => Event::Assigned(partitions),
            Change::Lost(partitions) => Event::Lost(partitions),
            Change::Revoked(partitions, revocation) => {
                let (groups, group) = (Arc::clone(&self.groups), Arc::clone(&self.group));
                Event::Revoked(partitions, Barrier::new(move || release(&groups, &group, revocation)))
            }
            Change::Fenced => return Err(Error::Fenced(format!("expelled from group {}", self.group))),
        })
    }

    fn disturb(&self) {
        let Some(disturbance) = self.backend.disturb() else { return };
        self.groups.change(&self.group, |group, now| match disturbance {
            Disturbance::Rebalance => group.unsettle(self.member, now),
            Disturbance::Expulsion => group.expel(self.member, false),
            Disturbance::Fence => group.expel(self.member, true),
        });
    }

    fn place(&self, partition: &TopicPartition) -> Place {
        Place {
            groups: Arc::clone(&self.groups),
            member: self.member,
            group: Arc::clone(&self.group),
            partition: partition.clone(),
        }
    }
}

impl<B: Backend> Membership for Seat<B> {
    fn next(&mut self) -> BoxFuture<'_, Result<Event, Error>> {
        self.event().boxed()
    }

    fn claim<'a>(&'a mut self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Box<dyn Writer>, Error>> {
        Arc::clone(&self.backend).claim(self.place(partition))
    }

    fn committed<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Option<Offset>, Error>> {
        self.backend.stored(&self.group, partition)
    }

    fn commit<'a>(&'a self, positions: &'a [(TopicPartition, Offset)]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            for (partition, _) in positions {
                self.groups.holds(&self.group, self.member, partition)?;
            }
            self.backend.store(&self.group, positions).await
        }
        .boxed()
    }

    fn leave(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        self.left = true;
        self.groups.change(&self.group, |group, _| group.leave(self.member));
        futures::future::ready(()).boxed()
    }
}

impl<B> Drop for Seat<B> {
    fn drop(&mut self) {
        if !self.left {
            self.groups.change(&self.group, |group, now| group.crash(self.member, now));
        }
    }
}
