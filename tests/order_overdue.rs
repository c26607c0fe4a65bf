//! Overdue clocks against what they are defined to do, by scanning.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use seriatim::order::Overdue;
use seriatim::record::{Offset, Partition, Timestamp};

/// A record that was sent out.
#[derive(Default)]
struct Record {
    resolved: bool,
    due: Option<i64>,
    resends: u32,
    /// What was sent before it, and what was before it where it went again.
    before: BTreeSet<u64>,
    before_again: BTreeSet<u64>,
}

#[derive(Default)]
struct Model {
    deadline: u64,
    records: BTreeMap<u64, Record>,
    /// By offset, for records that are forgotten, too.
    before: BTreeMap<u64, BTreeSet<u64>>,
    /// By partition; `None`: the input itself.
    last: BTreeMap<Option<u64>, u64>,
}

impl Model {
    fn wait(&self, resends: u32) -> i64 {
        i64::try_from(self.deadline << resends.min(4)).expect("small")
    }

    /// What is before whatever comes to this partition next: all that is before its last one, or
    /// where there is none before the last one in the input.
    fn behind(&self, to: Option<u64>) -> BTreeSet<u64> {
        let last = self.last.get(&to).or_else(|| self.last.get(&None));
        last.map(|last| self.before[last].iter().copied().chain([*last]).collect()).unwrap_or_default()
    }

    fn send(&mut self, offset: u64, to: Option<u64>) {
        let before = self.behind(to);
        self.records.insert(offset, Record { before: before.clone(), ..Record::default() });
        self.before.insert(offset, before);
        self.last.insert(to, offset);
    }

    fn send_again(&mut self, offset: u64, to: u64) {
        let behind = self.behind(Some(to));
        if let Some(record) = self.records.get_mut(&offset).filter(|record| !record.resolved) {
            record.before_again.extend(behind);
        }
    }

    fn start(&mut self, offset: u64, now: i64) {
        let wait = self.records.get(&offset).map_or(0, |record| self.wait(record.resends));
        if let Some(record) = self.records.get_mut(&offset).filter(|record| !record.resolved) {
            record.due = record.due.or(Some(now + wait));
        }
    }

    fn stop(&mut self, offset: u64) {
        if let Some(record) = self.records.get_mut(&offset) {
            (record.resolved, record.due) = (true, None);
        }
    }

    fn resolve(&mut self, offset: u64, now: i64) {
        self.stop(offset);
        let Some(record) = self.records.get_mut(&offset) else { return };
        let before: Vec<u64> = std::mem::take(&mut record.before_again).union(&record.before).copied().collect();
        before.into_iter().for_each(|before| self.start(before, now));
    }

    /// Sets a clock anew, to a wait after so many resends.
    fn set(&mut self, offset: u64, resends: u32, now: i64) {
        let due = Some(now + self.wait(resends));
        if let Some(record) = self.records.get_mut(&offset) {
            (record.resolved, record.due, record.resends) = (false, due, resends);
        }
    }

    fn due(&self, now: i64) -> Vec<Offset> {
        let due = self.records.iter().filter(|(_, record)| record.due.is_some_and(|due| due <= now));
        due.map(|(offset, _)| Offset(*offset)).collect()
    }

    fn retrying(&mut self, offset: u64, now: i64) {
        let wait = self.records.get(&offset).map_or(0, |record| self.wait(record.resends));
        if let Some(record) = self.records.get_mut(&offset) {
            record.due = record.due.map(|due| due.max(now + wait));
        }
    }
}

fn partition(number: u64) -> Partition {
    Partition(u32::try_from(number).expect("small"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/order_overdue.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn clocks_start_restart_and_stop_as_defined(
        steps in prop::collection::vec((0_u8..11, 0_u64..30, 0_i64..40), 0..150),
        deadline in 1_u64..100,
    ) {
        let mut overdue = Overdue::new(Duration::from_millis(deadline));
        let mut model = Model { deadline, ..Model::default() };
        let (mut now, mut next) = (1_000, 0);
        for (step, pick, later) in steps {
            now += later;
            let (offset, at, to) = (Offset(pick), Timestamp(now), pick % 4);
            match step {
                0 | 1 => {
                    next += 1 + pick % 3;
                    overdue.admitted(Offset(next - 1));
                    model.send(next - 1, None);
                }
                2 => {
                    next += 1 + pick % 3;
                    overdue.sent(Offset(next - 1), partition(to));
                    model.send(next - 1, Some(to));
                }
                3 => {
                    overdue.sent_again(offset, partition(to));
                    model.send_again(pick, to);
                }
                4 => {
                    overdue.settled(offset);
                    model.stop(pick);
                }
                5 => {
                    overdue.resolved(offset, at);
                    model.resolve(pick, now);
                }
                6 => {
                    overdue.head(offset, at);
                    model.start(pick, now);
                }
                7 => {
                    overdue.retrying(offset, at);
                    model.retrying(pick, now);
                }
                8 => for again in overdue.due(at).into_iter().take(2) {
                    overdue.resent(again, at);
                    model.set(again.0, model.records[&again.0].resends + 1, now);
                },
                9 => {
                    overdue.reopened(offset, at);
                    model.set(pick, 0, now);
                }
                _ => {
                    overdue.forget_below(Offset(pick.min(next) / 3));
                    model.records = model.records.split_off(&(pick.min(next) / 3));
                }
            }
            prop_assert_eq!(overdue.due(Timestamp(now)), model.due(now));
            let first = model.records.values().filter_map(|record| record.due).min();
            prop_assert_eq!(overdue.next_due(), first.map(Timestamp));
        }
    }
}
