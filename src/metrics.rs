//! What a running process counts: every metric in one catalogue, handles for the stages that move
//! them, and the OpenMetrics text that `/metrics` serves.
//!
//! The registry is the process's own and private to this module. A stage asks for its handles once
//! (at start, or when a lane becomes its own) and moves them once a batch, never once a record:
//! asking looks a label up, moving is one atomic operation. Nothing here blocks or fails.
//!
//! To add a metric: one line in `metrics/catalogue.rs`, one field or function here, and
//! `UPDATE=1 cargo test --lib metrics` to write it into `docs/metrics.md`.

mod catalogue;
mod openmetrics;

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
pub use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use crate::record::Partition;
use catalogue::{Catalogue, Families};

/// The media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The one registry. Touched first by whoever asks first, and complete from then on.
static METRICS: LazyLock<(Catalogue, Families)> = LazyLock::new(|| {
    let mut catalogue = Catalogue::default();
    let families = Families::register(&mut catalogue);
    (catalogue, families)
});

fn families() -> &'static Families {
    &METRICS.1
}

/// All metrics of this process in OpenMetrics text, `# EOF` included.
#[must_use]
pub fn render() -> String {
    openmetrics::render(&METRICS.0)
}

/// The reference page of all metrics in Markdown, as it is kept in `docs/metrics.md`.
#[must_use]
pub fn reference() -> String {
    openmetrics::reference(&METRICS.0)
}

/// The state of one lane, moved by its owner.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Input records that are there and not yet released.
    pub lag_records: IntGauge,
    /// How long the oldest unreleased record has been waiting.
    pub oldest_unreleased_seconds: Gauge,
    /// How many sequence groups are halted; 0 when all is well.
    pub halted: IntGauge,
    /// 1 while workers may not go on because the window or the span is full.
    pub limit_reached: IntGauge,
    /// Bytes of results held in memory until their turn.
    pub buffer_bytes: IntGauge,
    /// Records put on the work topic that have no result yet.
    pub outstanding: IntGauge,
    /// Records put on the work topic for the first time.
    pub dispatched: IntCounter,
    /// Records sent out again because no result came.
    pub resent: IntCounter,
    /// Messages whose identity belonged to an earlier one.
    pub duplicates: IntCounter,
    /// Torn transactions found at a take-over.
    pub torn: IntCounter,
    /// Records released, whatever their outcome.
    pub released: IntCounter,
}

/// The handles of a lane.
#[must_use]
pub fn lane(lane: Partition) -> Lane {
    let (f, label) = (families(), lane.to_string());
    let of = [label.as_str()];
    Lane {
        lag_records: f.lane.lag_records.with_label_values(&of),
        oldest_unreleased_seconds: f.lane.oldest_unreleased_seconds.with_label_values(&of),
        halted: f.lane.halted.with_label_values(&of),
        limit_reached: f.lane.limit_reached.with_label_values(&of),
        buffer_bytes: f.lane.buffer_bytes.with_label_values(&of),
        outstanding: f.lane.outstanding.with_label_values(&of),
        dispatched: f.lane.dispatched.with_label_values(&of),
        resent: f.lane.resent.with_label_values(&of),
        duplicates: f.lane.duplicates.with_label_values(&of),
        torn: f.lane.torn.with_label_values(&of),
        released: f.lane.released.with_label_values(&of),
    }
}

/// Takes a lane's gauges out, for an owner that lets go of it: two processes must not both report
/// its state. Counters stay.
pub fn forget_lane(lane: Partition) {
    let (f, label) = (families(), lane.to_string());
    let f = &f.lane;
    for gauge in [&f.lag_records, &f.halted, &f.limit_reached, &f.buffer_bytes, &f.outstanding] {
        // An error says that there was none, which is what is wanted.
        let _ = gauge.remove_label_values(&[&label]);
    }
    let _ = f.oldest_unreleased_seconds.remove_label_values(&[&label]);
}

/// How a batch's item ends, as the label `status` has it.
pub(crate) const ITEM_STATUSES: [&str; 5] = ["succeeded", "failed", "timedOut", "discarded", "cancelled"];

/// The batches of one lane, moved by its owner.
#[derive(Clone, Debug)]
pub struct Batches {
    /// Those that have not ended.
    pub active: IntGauge,
    /// Those that cannot go on by themselves.
    pub stalled: IntGauge,
    /// Items generated and not finished.
    pub open_items: IntGauge,
    /// Items put on the input.
    pub generated: IntCounter,
    lane: String,
}

impl Batches {
    /// Items that ended so: one of the contract's words.
    #[must_use]
    pub fn ended(&self, status: &str) -> IntCounter {
        families().batches.ended.with_label_values(&[self.lane.as_str(), status])
    }
}

/// The handles of a lane's batches.
#[must_use]
pub fn batches(lane: Partition) -> Batches {
    let (f, lane) = (&families().batches, lane.to_string());
    let of = [lane.as_str()];
    Batches {
        active: f.active.with_label_values(&of),
        stalled: f.stalled.with_label_values(&of),
        open_items: f.open_items.with_label_values(&of),
        generated: f.generated.with_label_values(&of),
        lane,
    }
}

/// Takes the gauges of a lane's batches out, as [`forget_lane`] does.
pub fn forget_batches(lane: Partition) {
    let (f, label) = (&families().batches, lane.to_string());
    for gauge in [&f.active, &f.stalled, &f.open_items] {
        let _ = gauge.remove_label_values(&[&label]);
    }
}

/// Why a result was dropped instead of being taken as its record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Its record is released already.
    Released,
    /// Its record has a result already; the first one wins.
    Second,
    /// It answers another round.
    Round,
    /// Its check is not that of the input record.
    Check,
    /// The input has no such record, or not in this lane.
    Stranger,
}

impl Dropped {
    pub(crate) const ALL: [Self; 5] = [Self::Released, Self::Second, Self::Round, Self::Check, Self::Stranger];

    const fn label(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Second => "second",
            Self::Round => "round",
            Self::Check => "check",
            Self::Stranger => "stranger",
        }
    }
}

/// Results that were dropped for this reason.
#[must_use]
pub fn dropped_results(reason: Dropped) -> IntCounter {
    families().owner.dropped_results.with_label_values(&[reason.label()])
}

/// A role that owns control partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The resequencers.
    Resequence,
    /// The deliverers.
    Deliver,
}

impl Role {
    pub(crate) const ALL: [Self; 2] = [Self::Resequence, Self::Deliver];

    /// The role's word, as in group names, cursor keys and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resequence => "resequence",
            Self::Deliver => "deliver",
        }
    }
}

/// What the owners of one role in this process go through.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Control partitions taken over.
    pub takeovers: IntCounter,
    /// Times that a newer owner's fence was met.
    pub fenced: IntCounter,
    /// How long a commit took.
    pub commit_seconds: Histogram,
}

/// The handles of a role.
#[must_use]
pub fn owner(role: Role) -> Owner {
    let (f, of) = (families(), [role.as_str()]);
    Owner {
        takeovers: f.owner.takeovers.with_label_values(&of),
        fenced: f.owner.fenced.with_label_values(&of),
        commit_seconds: f.owner.commit_seconds.with_label_values(&of),
    }
}

/// What became of an attempt at a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It gave a result.
    Done,
    /// It failed in a way that may pass, and counted as an attempt.
    Retried,
    /// It failed for good.
    Failed,
    /// It ran into the time-out of an attempt.
    TimedOut,
    /// The worker could not be reached or was busy; no attempt was used up.
    Unreachable,
}

impl Attempt {
    pub(crate) const ALL: [Self; 5] = [Self::Done, Self::Retried, Self::Failed, Self::TimedOut, Self::Unreachable];

    const fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retried => "retried",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What the workers of this process do.
#[derive(Clone, Debug)]
pub struct Work {
    /// Records being worked on now.
    pub in_progress: IntGauge,
    /// 1 while the processor's breaker is open.
    pub breaker_open: IntGauge,
    /// 1 while this process has no lane because others have them all.
    pub standby: IntGauge,
    /// How long attempts took that had to be waited for.
    pub seconds: Histogram,
}

/// The handles of the work role.
#[must_use]
pub fn work() -> Work {
    let f = families();
    Work {
        in_progress: f.work.in_progress.clone(),
        breaker_open: f.work.breaker_open.clone(),
        standby: f.work.standby.clone(),
        seconds: f.work.seconds.clone(),
    }
}

/// Attempts that ended so.
#[must_use]
pub fn attempts(outcome: Attempt) -> IntCounter {
    families().work.attempts.with_label_values(&[outcome.label()])
}

/// The state of one destination in one lane, moved by the owner that delivers it.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Outputs in its topic that are not yet acknowledged.
    pub lag: IntGauge,
    /// How long the oldest of them has been waiting.
    pub oldest_seconds: Gauge,
    /// 1 while its breaker is open.
    pub breaker_open: IntGauge,
    /// How many sequence groups are halted.
    pub halted: IntGauge,
}

/// The handles of a destination in a lane. Names of destinations come from the config, so their
/// number is bounded.
#[must_use]
pub fn destination(name: &str, lane: Partition) -> Destination {
    let (f, lane) = (families(), lane.to_string());
    let of = [name, lane.as_str()];
    Destination {
        lag: f.destination.lag.with_label_values(&of),
        oldest_seconds: f.destination.oldest_seconds.with_label_values(&of),
        breaker_open: f.destination.breaker_open.with_label_values(&of),
        halted: f.destination.halted.with_label_values(&of),
    }
}

/// Takes a destination's gauges out, for an owner that lets go of its lane.
pub fn forget_destination(name: &str, lane: Partition) {
    let (f, lane) = (families(), lane.to_string());
    for gauge in [&f.destination.lag, &f.destination.breaker_open, &f.destination.halted] {
        // As in `forget_lane`.
        let _ = gauge.remove_label_values(&[name, &lane]);
    }
    let _ = f.destination.oldest_seconds.remove_label_values(&[name, &lane]);
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// The receiver acknowledged it.
    Acknowledged,
    /// It will be tried again.
    Retried,
    /// The receiver refused it for good.
    Refused,
}

impl Push {
    pub(crate) const ALL: [Self; 3] = [Self::Acknowledged, Self::Retried, Self::Refused];

    const fn label(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Retried => "retried",
            Self::Refused => "refused",
        }
    }
}

/// Pushes to a destination that ended so.
#[must_use]
pub fn pushes(destination: &str, outcome: Push) -> IntCounter {
    families().destination.pushes.with_label_values(&[destination, outcome.label()])
}

/// What the way into the lanes goes through in this process.
#[derive(Clone, Debug)]
pub struct Ingress {
    /// Messages accepted: durable in the input.
    pub accepted: IntCounter,
    /// Appends that the log has not answered yet.
    pub in_flight: IntGauge,
    /// How long the log took to answer an append.
    pub append_seconds: Histogram,
}

/// The handles of the ingress role.
#[must_use]
pub fn ingress() -> Ingress {
    let f = &families().ingress;
    Ingress { accepted: f.accepted.clone(), in_flight: f.in_flight.clone(), append_seconds: f.append_seconds.clone() }
}

/// What a port of the ingress role speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// HTTP.
    Http,
    /// Frames over TCP.
    Tcp,
}

impl Port {
    pub(crate) const ALL: [Self; 2] = [Self::Http, Self::Tcp];

    const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

/// Connections that are open on the ports of this kind.
#[must_use]
pub fn ingress_connections(port: Port) -> IntGauge {
    families().ingress.connections.with_label_values(&[port.label()])
}

/// Messages refused by this process, by the `code` of the problem that was answered.
#[must_use]
pub fn ingress_refused(code: &'static str) -> IntCounter {
    families().ingress.refused.with_label_values(&[code])
}

/// The age of the oldest record that a lane or a destination of this process still waits for, in seconds; 0 where none
/// does.
#[must_use]
pub fn oldest_needed_seconds() -> f64 {
    let ages = [&families().lane.oldest_unreleased_seconds, &families().destination.oldest_seconds];
    let families = ages.map(Collector::collect).into_iter().flatten();
    let oldest = |family: MetricFamily| {
        family.get_metric().iter().map(|metric| metric.get_gauge().get_value()).fold(0.0, f64::max)
    };
    families.map(oldest).fold(0.0, f64::max)
}

/// How much of the retention is left before it would meet a cursor of this process: 1 all, 0 none.
#[must_use]
pub fn retention_headroom_ratio() -> Gauge {
    families().retention_headroom_ratio.clone()
}

/// How many topics have another number of partitions than the configuration says.
#[must_use]
pub fn topics_otherwise() -> IntGauge {
    families().topics_otherwise.clone()
}

/// Violations of an invariant, by its id.
#[must_use]
pub fn invariant_violations(id: &'static str) -> IntCounter {
    families().invariant_violations.with_label_values(&[id])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, reference()).expect("docs/ can be written");
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == reference(), "docs/metrics.md is out of date: run UPDATE=1 cargo test --lib metrics");
    }

    #[test]
    fn handles_of_the_same_labels_are_the_same_metric() {
        let reason = Dropped::Round;
        let before = dropped_results(reason).get();
        dropped_results(reason).inc_by(2);
        assert_eq!(dropped_results(reason).get(), before + 2);
    }

    #[test]
    fn a_lane_that_was_let_go_is_not_reported_any_more() {
        let number = Partition(4_000_000_001);
        lane(number).lag_records.set(7);
        assert!(render().contains("seriatim_lane_lag_records{lane=\"4000000001\"} 7\n"));
        forget_lane(number);
        assert!(!render().contains("seriatim_lane_lag_records{lane=\"4000000001\"}"));
        assert!(!render().contains("seriatim_lane_oldest_unreleased_seconds{lane=\"4000000001\"}"));
    }

    #[test]
    fn the_oldest_that_is_needed_is_that_of_lanes_and_destinations() {
        let number = Partition(4_000_000_002);
        // Larger than what other tests may set meanwhile.
        lane(number).oldest_unreleased_seconds.set(2e9);
        assert!(oldest_needed_seconds() >= 2e9);
        destination("pushed", number).oldest_seconds.set(3e9);
        assert!(oldest_needed_seconds() >= 3e9);
        forget_destination("pushed", number);
        assert!(oldest_needed_seconds() < 3e9);
        forget_lane(number);
        assert!(oldest_needed_seconds() < 2e9);
    }
}
