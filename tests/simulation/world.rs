//! What everybody in one run shares: the log, the plan, the history and what was found wrong.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use seriatim::log::memory::{Memory, Stored};
use seriatim::record::{Batch, BatchBuilder, Offset, Partition, Source};
use seriatim::topics::Topics;
use tokio::time::Instant;

use crate::chance::{Chance, mix};
use crate::plan::Plan;
use crate::receiver::Receivers;
use crate::watch::Watch;

/// Shared by all tasks of a run, all of which are on one thread.
pub(crate) type Shared = Arc<World>;

/// How things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Anything may go wrong.
    Chaos,
    /// Nothing goes wrong for now.
    Calm,
    /// Nothing goes wrong any more: all has to come to its end.
    Healed,
}

pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) plan: Plan,
    pub(crate) log: Memory,
    pub(crate) topics: Topics,
    pub(crate) receivers: Receivers,
    watch: Mutex<Watch>,
    /// Up to where the events of batches were looked at, by lane.
    pub(crate) told: Mutex<BTreeMap<Partition, Offset>>,
    origin: Instant,
    phase: AtomicU8,
    /// Calls of the processor, producers that are not through, transactions that are open.
    pub(crate) calls: AtomicU64,
    pub(crate) busy: AtomicU64,
    findings: Mutex<Vec<String>>,
    history: Arc<History>,
}

impl World {
    pub(crate) fn new(chance: Chance, history: Arc<History>) -> Shared {
        let plan = Plan::draw(chance);
        let topics = Topics::derive("t", &plan.destinations, plan.lanes, plan.control_partitions);
        let topics = Topics { work_partitions: plan.work_partitions, ..topics };
        Arc::new(Self {
            log: Memory::new(mix(chance.0, b"the log")),
            receivers: Receivers::default(),
            watch: Mutex::new(Watch::new(plan.control_partitions)),
            told: Mutex::default(),
            origin: Instant::now(),
            phase: AtomicU8::new(Phase::Calm as u8),
            calls: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            findings: Mutex::default(),
            chance,
            plan,
            topics,
            history,
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        [Phase::Chaos, Phase::Calm, Phase::Healed][usize::from(self.phase.load(Relaxed))]
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        self.note(format_args!("now it is {phase:?}"));
    }

    pub(crate) fn is_chaos(&self) -> bool {
        self.phase() == Phase::Chaos
    }

    /// Minutes since the run began.
    pub(crate) fn minute(&self) -> u64 {
        self.origin.elapsed().as_secs() / 60
    }

    /// The cursors that are committed by now.
    pub(crate) fn watch(&self) -> MutexGuard<'_, Watch> {
        let mut watch = self.watch.lock().expect("no holder of this lock panics");
        watch.look(self);
        watch
    }

    /// Writes a line of history.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        self.history.add(self.origin.elapsed().as_millis(), what);
    }

    /// Something is wrong. The first of these ends the run; nothing here panics, because the
    /// stages catch the panics of those whom they call.
    pub(crate) fn found(&self, what: fmt::Arguments<'_>) {
        self.note(format_args!("FOUND {what}"));
        self.findings.lock().expect("no holder of this lock panics").push(what.to_string());
    }

    /// Nothing is begun that the owner has not let be begun.
    pub(crate) fn may_be_worked_on(&self, source: Source) {
        let limit = self.watch().limit(source.lane);
        if source.offset.0 >= limit {
            self.found(format_args!("limit: {source} was worked on, the committed limit is {limit}"));
        }
    }

    /// The first thing that was found wrong.
    pub(crate) fn finding(&self) -> Option<String> {
        self.findings.lock().expect("no holder of this lock panics").first().cloned()
    }
}

/// What happened, line by line, and its digest.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Whether lines are printed as they come.
    pub(crate) aloud: bool,
    state: Mutex<(Vec<String>, u64)>,
}

impl History {
    pub(crate) fn aloud(aloud: bool) -> Arc<Self> {
        Arc::new(Self { aloud, ..Self::default() })
    }

    fn add(&self, at: u128, what: fmt::Arguments<'_>) {
        let mut line = String::new();
        write!(line, "{:>8}.{:03} {what}", at / 1000, at % 1000).expect("a string takes everything");
        if self.aloud {
            println!("{line}");
        }
        let mut state = self.state.lock().expect("no holder of this lock panics");
        state.1 = mix(state.1, line.as_bytes());
        state.0.push(line);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.state.lock().expect("no holder of this lock panics").1
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.state.lock().expect("no holder of this lock panics").0.clone()
    }
}

/// A record of the log as one that can be decoded, or appended again.
pub(crate) fn batch_of(record: &Stored) -> Batch {
    let mut builder = BatchBuilder::default();
    builder.push(record.key.as_deref(), record.value.as_deref(), |to| {
        record.headers.iter().for_each(|(name, value)| to.put_named(name, value));
    });
    builder.finish().placed(record.offset, record.timestamp)
}
