//! A lane's dispatch through arrivals, answers, failing appends, commits and take-overs, against
//! sets and counts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::Options;
use super::super::destinations::Destinations;
use super::super::dispatch::Sending;
use super::super::lane::LaneState;
use super::super::loads::Loads;
use crate::log::Error;
use crate::record::cursor::LaneCursor;
use crate::record::{Batch, BatchBuilder, Epoch, Offset, Partition, ResultHeaders, Source, Status, Timestamp, check};
use crate::topics::Topics;

const PARTITIONS: u32 = 3;
const LANE: Partition = Partition(0);

/// A lane with its logs and workers, and what is known of each record in the simplest form.
struct Rig {
    topics: Topics,
    options: Options,
    state: LaneState,
    loads: Loads,
    cursor: LaneCursor,
    now: Timestamp,
    input: Vec<Batch>,
    input_end: u64,
    results: Vec<Batch>,
    under_way: Vec<Sending>,
    /// On the work topic, for good.
    appended: BTreeSet<u64>,
    answered: BTreeSet<u64>,
    /// Of this owner: where each record without an answer was sent to, and whether all went well.
    sent: BTreeMap<u64, Partition>,
    is_smooth: bool,
}

impl Rig {
    fn new(window: u64) -> Self {
        let topics = Topics { work_partitions: PARTITIONS, ..Topics::derive("t", &["default"], 1, 1) };
        let options = Options { window, fan_out: true, ..Options::default() };
        let cursor = LaneCursor::default();
        Self {
            state: resume(&topics, &options, &cursor),
            loads: Loads::new(PARTITIONS),
            now: Timestamp(1_000),
            input: Vec::new(),
            input_end: 0,
            results: Vec::new(),
            under_way: Vec::new(),
            appended: BTreeSet::new(),
            answered: BTreeSet::new(),
            sent: BTreeMap::new(),
            is_smooth: true,
            topics,
            options,
            cursor,
        }
    }

    fn arrive(&mut self, count: u64) {
        let base = Offset(self.input_end);
        let mut builder = BatchBuilder::default();
        (0..count).for_each(|n| builder.push(None, Some(n.to_string().as_bytes()), |_| {}));
        let batch = builder.finish_at(base, self.now);
        // A hole behind it.
        self.input_end += count + 1;
        self.input.push(batch.clone());
        self.state.add_input(vec![batch], Offset(self.input_end));
        self.settle();
    }

    fn settle(&mut self) {
        self.state.advance_and_release(Epoch(1), self.now).expect("invariants hold");
        let low = self.state.dispatch.position().0;
        let all = self.input.iter().flatten().map(|record| record.offset.0);
        let lost: Vec<u64> =
            all.filter(|o| *o < low && !self.appended.contains(o) && !self.answered.contains(o)).collect();
        assert!(lost.is_empty(), "the position is {low}, and {lost:?} are not on the work topic");
    }

    fn send_out(&mut self) {
        let busy: BTreeSet<Partition> = self.under_way.iter().map(|sending| sending.to).collect();
        let sendings = self.state.send_out(&mut self.loads, self.now).expect("invariants hold");
        let records = |sending: &Sending| sending.records.iter().map(|(o, _)| (o.0, sending.to)).collect::<Vec<_>>();
        let mut all: Vec<(u64, Partition)> = sendings.iter().flat_map(records).collect();
        all.sort_unstable();
        for (offset, to) in all {
            assert!(offset < self.cursor.limit, "{offset} went out, the committed limit is {}", self.cursor.limit);
            assert!(!busy.contains(&to), "{to} has yet to acknowledge");
            let load =
                |p: &Partition| self.sent.iter().filter(|(o, at)| *at == p && !self.answered.contains(o)).count();
            let free = (0..PARTITIONS).map(Partition).filter(|p| !busy.contains(p));
            let least = free.min_by_key(load).map(|p| load(&p));
            assert!(!self.is_smooth || Some(load(&to)) == least, "{offset} went to {to}, which has more than others");
            self.sent.insert(offset, to);
        }
        self.under_way.extend(sendings);
    }

    fn append_ends(&mut self, which: usize, outcome: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let sending = self.under_way.remove(which % self.under_way.len());
        let at = self.topics.work.partition(sending.to);
        let result = match outcome {
            0 => Err(Error::Unavailable("no leader".to_owned())),
            1 if sending.records.len() > 1 => Err(Error::Rejected { at, reason: "too large".to_owned() }),
            _ => Ok(()),
        };
        self.is_smooth &= result.is_ok();
        if result.is_ok() {
            self.appended.extend(sending.records.iter().map(|(offset, _)| offset.0));
        }
        self.state.sent(sending, result, self.now).expect("invariants hold");
        self.settle();
    }

    fn answer(&mut self, which: usize) {
        let open: Vec<u64> = self.appended.difference(&self.answered).copied().collect();
        let Some(offset) = open.get(which % open.len().max(1)).copied() else { return };
        let record = self.input.iter().flatten().find(|record| record.offset.0 == offset).expect("it was appended");
        let source = Source { lane: LANE, offset: record.offset };
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(b"result"), |to| ResultHeaders::new(source, check(&record), Status::Done).encode(to));
        let batch = builder.finish_at(Offset(self.results.len() as u64), self.now);
        self.results.push(batch.clone());
        self.answered.insert(offset);
        self.state.add_results(vec![batch], Offset(self.results.len() as u64));
        self.settle();
    }

    fn commit(&mut self) {
        let _ = self.state.appends(&self.topics);
        self.state.commit_begins();
        self.cursor = self.state.snapshot(Offset::ZERO);
        self.state.committed(&self.cursor, None).expect("invariants hold");
    }

    /// A new owner reads everything again from the last committed cursor; what was on its way may be there.
    fn take_over(&mut self, arrives: bool) {
        for sending in std::mem::take(&mut self.under_way).iter().filter(|_| arrives) {
            self.appended.extend(sending.records.iter().map(|(offset, _)| offset.0));
        }
        (self.sent, self.is_smooth) = (BTreeMap::new(), true);
        self.state = resume(&self.topics, &self.options, &self.cursor);
        self.loads = Loads::new(PARTITIONS);
        let results_end = Offset(self.results.len() as u64);
        self.state.dispatch.after_results(results_end);
        let from = |at: Offset| move |batch: &Batch| Some(batch.skip_to(at)).filter(|batch| !batch.is_empty());
        let input = self.input.iter().filter_map(from(self.state.input_position())).collect();
        self.state.add_input(input, Offset(self.input_end));
        self.settle();
        let results = self.results.iter().filter_map(from(self.state.results_position())).collect();
        self.state.add_results(results, results_end);
        self.settle();
    }
}

fn resume(topics: &Topics, options: &Options, cursor: &LaneCursor) -> LaneState {
    let destinations = Destinations::new(&topics.destinations);
    LaneState::resume(LANE, cursor, options, &destinations).expect("an owner wrote it")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_admitted_goes_out_below_the_limit_to_the_least_loaded_and_the_position_is_certain(
        window in 1u64..12,
        steps in proptest::collection::vec((0u8..12, 0usize..20, 0u8..6), 0..60),
    ) {
        let mut rig = Rig::new(window);
        for (step, pick, outcome) in steps {
            rig.now = rig.now.after(std::time::Duration::from_millis(pick as u64 * 100));
            match step {
                0 | 1 => rig.arrive(pick as u64 % 4 + 1),
                2..5 => rig.send_out(),
                5..7 => rig.append_ends(pick, outcome),
                7..9 => rig.answer(pick),
                9 | 10 => rig.commit(),
                _ => rig.take_over(outcome < 3),
            }
        }
        // With a log that takes everything, and workers that answer, all of it leaves.
        for round in 0..250 {
            rig.commit();
            rig.send_out();
            rig.append_ends(0, 9);
            rig.answer(round);
            rig.now = rig.now.after(std::time::Duration::from_secs(2));
        }
        let all: BTreeSet<u64> = rig.input.iter().flatten().map(|record| record.offset.0).collect();
        prop_assert_eq!(&rig.answered, &all);
        prop_assert_eq!(rig.state.dispatch.outstanding(), 0);
        prop_assert!(all.last().is_none_or(|last| rig.state.dispatch.position().0 > *last));
    }
}

#[test]
fn a_record_goes_again_to_another_partition_than_before() {
    let mut rig = Rig::new(4);
    rig.commit();
    rig.arrive(1);
    rig.send_out();
    let mut last = rig.under_way[0].to;
    for _ in 0..10 {
        let again = rig.state.resend_to(Offset::ZERO, &mut rig.loads).expect("it has no result");
        assert_ne!(again, last);
        last = again;
    }
    rig.append_ends(0, 9);
    rig.answer(0);
    assert_eq!(rig.state.resend_to(Offset::ZERO, &mut rig.loads), None);
}
