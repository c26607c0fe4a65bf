//! The catalogue: name, kind, unit, help, labels and label values of every metric, in one place.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::{Attempt, Dropped, ITEM_STATUSES, Port, Push, Role};

/// From a commit on a local disk (0.15 ms) to one that runs into the transaction time-out of 10 s.
/// Each bound costs one series per role.
const COMMIT_SECONDS: [f64; 13] = [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// From work that is no more than a look-up to the time-out of an attempt, 30 s by default.
const WORK_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// A label with what may stand in it.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) name: &'static str,
    pub(super) values: String,
}

/// A metric as the reference page shows it.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: Vec<Label>,
}

impl Definition {
    /// The base unit, which ends the name as OpenMetrics wants it.
    pub(super) fn unit(&self) -> Option<&'static str> {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        ["seconds", "bytes", "ratio"].into_iter().find(|unit| name.ends_with(unit))
    }
}

/// What is registered, and how it is described.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) registry: Registry,
    pub(super) definitions: Vec<Definition>,
}

impl Catalogue {
    fn counter(&mut self, name: &'static str, help: &'static str) -> IntCounter {
        let metric = IntCounter::new(name, help).expect("names in this file are valid");
        self.add(metric, name, "counter", help, &[])
    }

    fn counters(&mut self, name: &'static str, help: &'static str, labels: &[Label]) -> IntCounterVec {
        let metric = IntCounterVec::new(Opts::new(name, help), &names(labels)).expect("names in this file are valid");
        self.add(metric, name, "counter", help, labels)
    }

    fn gauge(&mut self, name: &'static str, help: &'static str) -> IntGauge {
        let metric = IntGauge::new(name, help).expect("names in this file are valid");
        self.add(metric, name, "gauge", help, &[])
    }

    fn gauges(&mut self, name: &'static str, help: &'static str, labels: &[Label]) -> IntGaugeVec {
        let metric = IntGaugeVec::new(Opts::new(name, help), &names(labels)).expect("names in this file are valid");
        self.add(metric, name, "gauge", help, labels)
    }

    fn real_gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        let metric = Gauge::new(name, help).expect("names in this file are valid");
        self.add(metric, name, "gauge", help, &[])
    }

    fn real_gauges(&mut self, name: &'static str, help: &'static str, labels: &[Label]) -> GaugeVec {
        let metric = GaugeVec::new(Opts::new(name, help), &names(labels)).expect("names in this file are valid");
        self.add(metric, name, "gauge", help, labels)
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, bounds: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let metric = Histogram::with_opts(options).expect("names in this file are valid");
        self.add(metric, name, "histogram", help, &[])
    }

    fn histograms(&mut self, name: &'static str, help: &'static str, labels: &[Label], bounds: &[f64]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let metric = HistogramVec::new(options, &names(labels)).expect("names in this file are valid");
        self.add(metric, name, "histogram", help, labels)
    }

    fn add<M: Collector + Clone + 'static>(
        &mut self,
        metric: M,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
        labels: &[Label],
    ) -> M {
        self.registry.register(Box::new(metric.clone())).expect("each name occurs once in this file");
        self.definitions.push(Definition { name, kind, help, labels: labels.to_vec() });
        metric
    }
}

fn names(labels: &[Label]) -> Vec<&'static str> {
    labels.iter().map(|label| label.name).collect()
}

/// Every metric there is, by the part of the pipeline that moves it.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) ingress: Ingress,
    pub(super) work: Work,
    pub(super) lane: Lane,
    pub(super) batches: Batches,
    pub(super) owner: Owner,
    pub(super) destination: Destination,
    pub(super) retention_headroom_ratio: Gauge,
    pub(super) topics_otherwise: IntGauge,
    pub(super) invariant_violations: IntCounterVec,
}

impl Families {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        register_process(c);
        let id = [label("id", "the invariant's id")];
        Self {
            ingress: Ingress::register(c),
            work: Work::register(c),
            lane: Lane::register(c),
            batches: Batches::register(c),
            owner: Owner::register(c),
            destination: Destination::register(c),
            retention_headroom_ratio: c.real_gauge(
                "seriatim_retention_headroom_ratio",
                "Share of `log.retention` left to the oldest record that this process still has to release or deliver, or of \
                 `log.max_disk`, whichever is less: 1 all, 0 none.",
            ),
            topics_otherwise: c.gauge(
                "seriatim_topics_otherwise",
                "Topics that have another number of partitions than the configuration says.",
            ),
            invariant_violations: c.counters(
                "seriatim_invariant_violations_total",
                "Violations of an invariant; each halts its lane.",
                &id,
            ),
        }
    }
}

/// Messages coming in.
#[derive(Debug)]
pub(super) struct Ingress {
    pub(super) accepted: IntCounter,
    pub(super) refused: IntCounterVec,
    pub(super) connections: IntGaugeVec,
    pub(super) in_flight: IntGauge,
    pub(super) append_seconds: Histogram,
}

impl Ingress {
    fn register(c: &mut Catalogue) -> Self {
        let code = [label("code", "the `code` of the problem answered; `too-many-connections`, `tls-handshake`")];
        let port = [values("port", &Port::ALL.map(Port::label))];
        Self {
            accepted: c.counter("seriatim_ingress_accepted_total", "Messages accepted: durable in the input."),
            refused: c.counters(
                "seriatim_ingress_refused_total",
                "Messages refused, or of unknown outcome; and connections.",
                &code,
            ),
            connections: c.gauges("seriatim_ingress_connections", "Connections that are open.", &port),
            in_flight: c
                .gauge("seriatim_ingress_appends_in_flight", "Appends to the input that the log has not answered yet."),
            append_seconds: c.histogram(
                "seriatim_ingress_append_seconds",
                "How long the log took to answer an append to the input.",
                &COMMIT_SECONDS,
            ),
        }
    }
}

/// Records being worked on.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) in_progress: IntGauge,
    pub(super) breaker_open: IntGauge,
    pub(super) standby: IntGauge,
    pub(super) seconds: Histogram,
    pub(super) attempts: IntCounterVec,
}

impl Work {
    fn register(c: &mut Catalogue) -> Self {
        let outcome = [values("outcome", &Attempt::ALL.map(Attempt::label))];
        Self {
            in_progress: c.gauge("seriatim_work_in_progress", "Records being worked on by this process."),
            breaker_open: c
                .gauge("seriatim_worker_breaker_open", "1 while the worker is taken for unreachable and only probed."),
            standby: c.gauge(
                "seriatim_work_standby",
                "1 while this process has no lane to work on because others have them all.",
            ),
            seconds: c.histogram(
                "seriatim_work_seconds",
                "How long an attempt took, where it had to be waited for.",
                &WORK_SECONDS,
            ),
            attempts: c.counters("seriatim_attempts_total", "Attempts at working on a record.", &outcome),
        }
    }
}

/// Lanes, by their owner.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) lag_records: IntGaugeVec,
    pub(super) oldest_unreleased_seconds: GaugeVec,
    pub(super) halted: IntGaugeVec,
    pub(super) limit_reached: IntGaugeVec,
    pub(super) buffer_bytes: IntGaugeVec,
    pub(super) released: IntCounterVec,
    pub(super) outstanding: IntGaugeVec,
    pub(super) dispatched: IntCounterVec,
    pub(super) resent: IntCounterVec,
    pub(super) duplicates: IntCounterVec,
    pub(super) torn: IntCounterVec,
}

impl Lane {
    fn register(c: &mut Catalogue) -> Self {
        let lane = [lane()];
        Self {
            lag_records: c.gauges("seriatim_lane_lag_records", "Input records not yet released.", &lane),
            oldest_unreleased_seconds: c.real_gauges(
                "seriatim_lane_oldest_unreleased_seconds",
                "Age of the oldest unreleased record.",
                &lane,
            ),
            halted: c.gauges("seriatim_lane_halted", "Sequence groups that wait for an operator.", &lane),
            limit_reached: c.gauges(
                "seriatim_lane_limit_reached",
                "1 while the window or the span is full, so that workers wait.",
                &lane,
            ),
            buffer_bytes: c.gauges(
                "seriatim_lane_buffer_bytes",
                "Bytes of finished results held in memory until their turn.",
                &lane,
            ),
            released: c.counters("seriatim_released_total", "Records released, whatever their outcome.", &lane),
            outstanding: c.gauges(
                "seriatim_lane_outstanding_records",
                "With fan-out: records put on the work topic that have no result yet.",
                &lane,
            ),
            dispatched: c.counters(
                "seriatim_dispatched_total",
                "With fan-out: records put on the work topic for the first time.",
                &lane,
            ),
            resent: c.counters(
                "seriatim_resent_total",
                "Records sent out again because no result came in time.",
                &lane,
            ),
            duplicates: c.counters(
                "seriatim_duplicates_total",
                "Messages whose identity belonged to an earlier one.",
                &lane,
            ),
            torn: c.counters(
                "seriatim_torn_total",
                "Torn transactions found at a take-over; each halts its lane.",
                &lane,
            ),
        }
    }
}

/// Staggered batches, by the owner of their lane.
#[derive(Debug)]
pub(super) struct Batches {
    pub(super) active: IntGaugeVec,
    pub(super) stalled: IntGaugeVec,
    pub(super) open_items: IntGaugeVec,
    pub(super) generated: IntCounterVec,
    pub(super) ended: IntCounterVec,
}

impl Batches {
    fn register(c: &mut Catalogue) -> Self {
        let of = [lane()];
        let by_status = [lane(), values("status", &ITEM_STATUSES)];
        Self {
            active: c.gauges("seriatim_batches_active", "Batches that have not ended.", &of),
            stalled: c.gauges("seriatim_batches_stalled", "Batches that cannot go on by themselves.", &of),
            open_items: c.gauges("seriatim_batch_items_open", "Items of batches generated and not finished.", &of),
            generated: c.counters("seriatim_batch_items_generated_total", "Items of batches put on the input.", &of),
            ended: c.counters(
                "seriatim_batch_items_ended_total",
                "Items of batches by how they ended; one that is retried counts again.",
                &by_status,
            ),
        }
    }
}

/// Owners of control partitions.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) dropped_results: IntCounterVec,
    pub(super) takeovers: IntCounterVec,
    pub(super) fenced: IntCounterVec,
    pub(super) commit_seconds: HistogramVec,
}

impl Owner {
    fn register(c: &mut Catalogue) -> Self {
        let role = [values("role", &Role::ALL.map(Role::as_str))];
        let reason = [values("reason", &Dropped::ALL.map(Dropped::label))];
        Self {
            dropped_results: c.counters("seriatim_dropped_results_total", "Results that did not count.", &reason),
            takeovers: c.counters("seriatim_takeovers_total", "Control partitions taken over by this process.", &role),
            fenced: c.counters("seriatim_fenced_total", "Times that a newer owner's fence was met.", &role),
            commit_seconds: c.histograms(
                "seriatim_commit_seconds",
                "How long a commit took, from asking to durable.",
                &role,
                &COMMIT_SECONDS,
            ),
        }
    }
}

/// Destinations, by who delivers to them.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) lag: IntGaugeVec,
    pub(super) oldest_seconds: GaugeVec,
    pub(super) breaker_open: IntGaugeVec,
    pub(super) halted: IntGaugeVec,
    pub(super) pushes: IntCounterVec,
}

impl Destination {
    fn register(c: &mut Catalogue) -> Self {
        let destination = [label("destination", "the destination's name"), lane()];
        let push = [destination[0].clone(), values("outcome", &Push::ALL.map(Push::label))];
        Self {
            lag: c.gauges("seriatim_destination_lag", "Outputs not yet acknowledged by the destination.", &destination),
            oldest_seconds: c.real_gauges(
                "seriatim_destination_oldest_seconds",
                "Age of the oldest output not yet acknowledged.",
                &destination,
            ),
            breaker_open: c.gauges(
                "seriatim_destination_breaker_open",
                "1 while the destination is taken for down and only probed.",
                &destination,
            ),
            halted: c.gauges(
                "seriatim_destination_halted",
                "Sequence groups of the destination that wait for an operator.",
                &destination,
            ),
            pushes: c.counters("seriatim_pushes_total", "Pushes to the destination.", &push),
        }
    }
}

fn lane() -> Label {
    label("lane", "the lane's number")
}

/// What identifies the program and its process rather than what it does.
fn register_process(c: &mut Catalogue) {
    let version = [label("version", "the program's version")];
    let build = c.gauges("seriatim_build_info", "Always 1; the label says which build this is.", &version);
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    // Only Linux has it; elsewhere the process metrics are simply not there.
    #[cfg(target_os = "linux")]
    c.registry
        .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
        .expect("its names are not ours");
}

fn label(name: &'static str, values: &str) -> Label {
    Label { name, values: values.to_owned() }
}

fn values(name: &'static str, values: &[&str]) -> Label {
    Label { name, values: values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ") }
}
