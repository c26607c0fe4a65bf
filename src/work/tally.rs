//! What the stage counts, moved to the metrics once a turn.

use std::time::Duration;

use crate::metrics::{self, Attempt, IntCounter};

/// Attempts of one outcome since the last turn.
#[derive(Debug)]
struct Count {
    metric: IntCounter,
    since: u64,
}

impl Count {
    fn of(outcome: Attempt) -> Self {
        Self { metric: metrics::attempts(outcome), since: 0 }
    }

    fn settle(&mut self) {
        if self.since > 0 {
            self.metric.inc_by(std::mem::take(&mut self.since));
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    work: metrics::Work,
    done: Count,
    retried: Count,
    failed: Count,
    timed_out: Count,
    unreachable: Count,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            work: metrics::work(),
            done: Count::of(Attempt::Done),
            retried: Count::of(Attempt::Retried),
            failed: Count::of(Attempt::Failed),
            timed_out: Count::of(Attempt::TimedOut),
            unreachable: Count::of(Attempt::Unreachable),
        }
    }

    /// An attempt ended so.
    pub(super) const fn count(&mut self, outcome: Attempt) {
        let count = match outcome {
            Attempt::Done => &mut self.done,
            Attempt::Retried => &mut self.retried,
            Attempt::Failed => &mut self.failed,
            Attempt::TimedOut => &mut self.timed_out,
            Attempt::Unreachable => &mut self.unreachable,
        };
        count.since += 1;
    }

    /// An attempt that waited for something took so long.
    pub(super) fn took(&self, time: Duration) {
        self.work.seconds.observe(time.as_secs_f64());
    }

    /// Whether this process has no lane.
    pub(super) fn stands_by(&self, stands_by: bool) {
        self.work.standby.set(i64::from(stands_by));
    }

    /// The turn is over.
    pub(super) fn settle(&mut self, running: usize, shut: bool) {
        for count in [&mut self.done, &mut self.retried, &mut self.failed, &mut self.timed_out, &mut self.unreachable] {
            count.settle();
        }
        self.work.in_progress.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.work.breaker_open.set(i64::from(shut));
    }
}
