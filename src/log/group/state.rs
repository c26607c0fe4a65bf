//! The pure state of one group.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Patience;
use super::share::share;
use crate::log::{Topic, TopicPartition};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId(pub(super) u64);

/// One request to let go; what it covers moves on when it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revocation(u64);

/// What a member is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>, Revocation),
    Lost(Vec<TopicPartition>),
    /// It has been expelled for good.
    Fenced,
}

/// Who holds what, and who is to have it.
#[derive(Debug)]
pub(super) struct Group {
    patience: Patience,
    members: BTreeMap<MemberId, Member>,
    slots: BTreeMap<TopicPartition, Slot>,
    next_member: u64,
    next_revocation: u64,
    version: u64,
}

#[derive(Debug)]
struct Member {
    partitions: Vec<TopicPartition>,
    seen: Instant,
    standing: Standing,
    /// Taken from it without its consent, and it does not know yet.
    lost: Vec<TopicPartition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Member,
    /// Was silent for too long; joins again when it next listens.
    Expelled,
    /// Must not come back.
    Fenced,
    /// Dropped without a word; what it holds is kept back for a while.
    Crashed,
}

#[derive(Debug, Default)]
struct Slot {
    target: Option<MemberId>,
    holder: Option<Holder>,
}

#[derive(Debug)]
struct Holder {
    member: MemberId,
    announced: bool,
    letting_go: Option<LettingGo>,
}

#[derive(Debug)]
struct LettingGo {
    until: Instant,
    told: Option<Revocation>,
}

impl Group {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            members: BTreeMap::new(),
            slots: BTreeMap::new(),
            next_member: 0,
            next_revocation: 0,
            version: 0,
        }
    }

    /// Grows with everything that somebody may be waiting for.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn join(&mut self, partitions: Vec<TopicPartition>, now: Instant) -> MemberId {
        let id = MemberId(self.next_member);
        self.next_member += 1;
        for partition in &partitions {
            self.slots.entry(partition.clone()).or_default();
        }
        self.members.insert(id, Member { partitions, seen: now, standing: Standing::Member, lost: Vec::new() });
        self.rebalance();
        id
    }

    /// Lets go of everything at once.
    pub(super) fn leave(&mut self, id: MemberId) {
        if self.members.remove(&id).is_some() {
            self.vacate(id);
            self.rebalance();
        }
    }

    pub(super) fn crash(&mut self, id: MemberId, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.standing != Standing::Member {
            self.leave(id);
            return;
        }
        member.standing = Standing::Crashed;
        member.seen = now;
        self.version += 1;
    }

    /// Takes everything from a member, which may come back unless `for_good`.
    pub(super) fn expel(&mut self, id: MemberId, for_good: bool) {
        let lost = self.vacate(id);
        if let Some(member) = self.members.get_mut(&id) {
            member.standing = if for_good { Standing::Fenced } else { Standing::Expelled };
            member.lost.extend(lost);
        }
        self.rebalance();
    }

    /// Asks the holder of every partition of this member to let go, needed or not.
    pub(super) fn unsettle(&mut self, id: MemberId, now: Instant) {
        let until = now + self.patience.letting_go;
        for holder in self.slots.values_mut().filter_map(|slot| slot.holder.as_mut()) {
            if holder.member == id && holder.announced && holder.letting_go.is_none() {
                holder.letting_go = Some(LettingGo { until, told: None });
                self.version += 1;
            }
        }
    }

    /// Takes the partitions of a topic from whoever has them, who may have them again.
    pub(super) fn lose(&mut self, topic: &Topic) {
        for (partition, slot) in self.slots.iter_mut().filter(|(partition, _)| partition.topic == *topic) {
            let Some(holder) = slot.holder.take() else { continue };
            if let Some(member) = self.members.get_mut(&holder.member).filter(|_| holder.announced) {
                member.lost.push(partition.clone());
            }
            self.version += 1;
        }
    }

    pub(super) fn poll(&mut self, id: MemberId, now: Instant) -> Option<Change> {
        let member = self.members.get_mut(&id)?;
        member.seen = now;
        if !member.lost.is_empty() {
            return Some(Change::Lost(std::mem::take(&mut member.lost)));
        }
        match member.standing {
            Standing::Member | Standing::Crashed => {}
            Standing::Fenced => return Some(Change::Fenced),
            Standing::Expelled => {
                member.standing = Standing::Member;
                self.rebalance();
                self.tick(now);
            }
        }
        self.revoked(id).or_else(|| self.assigned(id))
    }

    fn revoked(&mut self, id: MemberId) -> Option<Change> {
        let revocation = Revocation(self.next_revocation);
        let mut partitions = Vec::new();
        for (partition, slot) in &mut self.slots {
            let Some(holder) = slot.holder.as_mut().filter(|holder| holder.member == id) else { continue };
            if let Some(letting_go) = holder.letting_go.as_mut().filter(|l| l.told.is_none()) {
                letting_go.told = Some(revocation);
                partitions.push(partition.clone());
            }
        }
        self.next_revocation += u64::from(!partitions.is_empty());
        (!partitions.is_empty()).then_some(Change::Revoked(partitions, revocation))
    }

    fn assigned(&mut self, id: MemberId) -> Option<Change> {
        let mut partitions = Vec::new();
        for (partition, slot) in &mut self.slots {
            if let Some(holder) = slot.holder.as_mut().filter(|holder| holder.member == id && !holder.announced) {
                holder.announced = true;
                partitions.push(partition.clone());
            }
        }
        (!partitions.is_empty()).then_some(Change::Assigned(partitions))
    }

    pub(super) fn release(&mut self, revocation: Revocation) {
        for slot in self.slots.values_mut() {
            if slot.holder.as_ref().and_then(|h| h.letting_go.as_ref()).is_some_and(|l| l.told == Some(revocation)) {
                slot.holder = None;
                self.version += 1;
            }
        }
    }

    pub(super) fn holds(&mut self, id: MemberId, partition: &TopicPartition, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(&id).filter(|m| m.standing == Standing::Member) else { return false };
        member.seen = now;
        let holder = self.slots.get(partition).and_then(|slot| slot.holder.as_ref());
        holder.is_some_and(|holder| holder.member == id && holder.announced)
    }

    /// When the passing of time will next change something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let silent = self.members.values().filter_map(|member| self.expires(member));
        let slow = self.slots.values().filter_map(|slot| Some(slot.holder.as_ref()?.letting_go.as_ref()?.until));
        silent.chain(slow).min()
    }

    fn expires(&self, member: &Member) -> Option<Instant> {
        match member.standing {
            Standing::Member => self.patience.silence.map(|silence| member.seen + silence),
            Standing::Crashed => Some(member.seen + self.patience.crash),
            Standing::Expelled | Standing::Fenced => None,
        }
    }

    /// Does what is due, and hands out what is free.
    pub(super) fn tick(&mut self, now: Instant) {
        let due: Vec<_> = self
            .members
            .iter()
            .filter(|(_, m)| self.expires(m).is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            match self.members[&id].standing {
                Standing::Crashed => self.leave(id),
                _ => self.expel(id, false),
            }
        }
        let until = now + self.patience.letting_go;
        for (partition, slot) in &mut self.slots {
            let overdue = |l: &LettingGo| l.until <= now;
            if let Some(late) = slot.holder.take_if(|h| h.letting_go.as_ref().is_some_and(overdue)) {
                let member = self.members.get_mut(&late.member);
                member.into_iter().for_each(|member| member.lost.push(partition.clone()));
                self.version += 1;
            }
            if let Some(holder) = slot.holder.as_mut().filter(|h| Some(h.member) != slot.target) {
                if !holder.announced {
                    slot.holder = None;
                } else if holder.letting_go.is_none() {
                    holder.letting_go = Some(LettingGo { until, told: None });
                    self.version += 1;
                }
            }
            if let (None, Some(member)) = (&slot.holder, slot.target) {
                slot.holder = Some(Holder { member, announced: false, letting_go: None });
                self.version += 1;
            }
        }
    }

    /// Frees what a member holds, and tells what of it the member knew of.
    fn vacate(&mut self, id: MemberId) -> Vec<TopicPartition> {
        let mut known = Vec::new();
        for (partition, slot) in &mut self.slots {
            if let Some(holder) = slot.holder.take_if(|holder| holder.member == id) {
                known.extend(holder.announced.then(|| partition.clone()));
            }
        }
        known
    }

    fn rebalance(&mut self) {
        let mut by_topic: BTreeMap<Topic, Vec<TopicPartition>> = BTreeMap::new();
        for partition in self.slots.keys() {
            by_topic.entry(partition.topic.clone()).or_default().push(partition.clone());
        }
        let mut loads = BTreeMap::new();
        for partitions in by_topic.values() {
            // A crashed member keeps its place until it expires: nobody knows yet.
            let wants = |m: &Member| {
                matches!(m.standing, Standing::Member | Standing::Crashed) && m.partitions.contains(&partitions[0])
            };
            let members: Vec<_> = self.members.iter().filter(|(_, m)| wants(m)).map(|(id, _)| *id).collect();
            let now: Vec<_> = partitions.iter().map(|p| self.slots[p].target).collect();
            let target = share(&now, &members, &mut loads);
            for (partition, target) in partitions.iter().zip(target) {
                self.slots.entry(partition.clone()).or_default().target = target;
            }
        }
        self.version += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::Partition;

    fn group() -> (Group, Instant) {
        (Group::new(Patience::OF_A_BROKER), Instant::now())
    }

    fn partitions(count: u32) -> Vec<TopicPartition> {
        (0..count).map(|p| Topic::from("t").partition(Partition(p))).collect()
    }

    fn joined(group: &mut Group, count: u32, now: Instant) -> MemberId {
        let id = group.join(partitions(count), now);
        group.tick(now);
        id
    }

    #[test]
    fn a_newcomer_waits_for_the_barrier() {
        let (mut group, now) = group();
        let a = joined(&mut group, 2, now);
        assert_eq!(group.poll(a, now), Some(Change::Assigned(partitions(2))));
        let b = joined(&mut group, 2, now);
        assert_eq!(group.poll(b, now), None);
        let Some(Change::Revoked(moved, revocation)) = group.poll(a, now) else { panic!("one has to move") };
        assert_eq!(moved, partitions(2)[1..]);
        assert!(group.holds(a, &moved[0], now), "until it lets go");
        assert_eq!(group.poll(b, now), None);
        group.release(revocation);
        group.tick(now);
        assert!(!group.holds(a, &moved[0], now));
        assert_eq!(group.poll(b, now), Some(Change::Assigned(moved)));
        assert_eq!(group.poll(a, now), None);
    }

    #[test]
    fn patience_ends_and_the_late_one_learns_of_it() {
        let (mut group, now) = group();
        let a = joined(&mut group, 1, now);
        assert_eq!(group.poll(a, now), Some(Change::Assigned(partitions(1))));
        group.unsettle(a, now);
        assert!(matches!(group.poll(a, now), Some(Change::Revoked(..))));
        let later = now + Duration::from_secs(4);
        assert_eq!(group.poll(a, later), None);
        let later = group.deadline().expect("it was asked to let go");
        group.tick(later);
        assert_eq!(group.poll(a, later), Some(Change::Lost(partitions(1))));
        assert_eq!(group.poll(a, later), Some(Change::Assigned(partitions(1))));
    }

    #[test]
    fn the_silent_are_expelled_and_come_back_empty_handed() {
        let (mut group, now) = group();
        let a = joined(&mut group, 1, now);
        assert!(group.poll(a, now).is_some());
        let b = joined(&mut group, 1, now);
        let later = now + Duration::from_secs(5);
        assert_eq!(group.poll(b, later), None);
        let later = later + Duration::from_secs(1);
        group.tick(later);
        assert_eq!(group.poll(b, later), Some(Change::Assigned(partitions(1))));
        assert!(!group.holds(a, &partitions(1)[0], later));
        assert_eq!(group.poll(a, later), Some(Change::Lost(partitions(1))));
        assert_eq!(group.poll(a, later), None);
    }

    #[test]
    fn what_the_crashed_held_is_kept_back() {
        let (mut group, now) = group();
        let a = joined(&mut group, 1, now);
        assert!(group.poll(a, now).is_some());
        let b = joined(&mut group, 1, now);
        group.crash(a, now);
        group.tick(now + Duration::from_millis(5_999));
        assert_eq!(group.poll(b, now + Duration::from_millis(5_999)), None);
        group.tick(now + Duration::from_secs(6));
        assert_eq!(group.poll(b, now + Duration::from_secs(6)), Some(Change::Assigned(partitions(1))));
    }

    #[test]
    fn the_fenced_stay_out() {
        let (mut group, now) = group();
        let a = joined(&mut group, 1, now);
        assert!(group.poll(a, now).is_some());
        group.expel(a, true);
        assert_eq!(group.poll(a, now), Some(Change::Lost(partitions(1))));
        assert_eq!(group.poll(a, now), Some(Change::Fenced));
        assert_eq!(group.poll(a, now), Some(Change::Fenced));
        let b = joined(&mut group, 1, now);
        assert_eq!(group.poll(b, now), Some(Change::Assigned(partitions(1))));
    }
}
