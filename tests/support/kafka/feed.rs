//! Messages, written to the input topic by a client that is none of the program's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::rig::{LANES, Rig};

/// How long the brokers may take for a step of a transaction.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes a steady flow until it is stopped.
pub(crate) struct Feed {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// About so many messages a second, over all lanes.
    pub(crate) fn start(into: &Rig, rate: u32) -> Self {
        let (producer, input) = (producer(&into.client()), into.topic("input"));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                send(&producer, &input, sent..sent + 10);
                sent += 10;
                std::thread::sleep(Duration::from_secs(10) / rate);
            }
            settle(&producer);
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it, once everything is written.
    pub(crate) fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("everything could be written");
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Writes so many messages at once and waits for the brokers.
pub(crate) fn write(into: &Rig, count: u64) {
    let producer = producer(&into.client());
    send(&producer, &into.topic("input"), 0..count);
    settle(&producer);
}

/// Writes messages in transactions, of which every other one is aborted.
pub(crate) fn write_in_transactions(into: &Rig, transactions: u64) {
    let producer: BaseProducer =
        into.client().set("transactional.id", "somebody-else").create().expect("the brokers are there");
    producer.init_transactions(PATIENCE).expect("nobody else has this id");
    for number in 0..transactions {
        producer.begin_transaction().expect("none is open");
        send(&producer, &into.topic("input"), number * 10..number * 10 + 10);
        settle(&producer);
        if number % 2 == 0 {
            producer.commit_transaction(PATIENCE).expect("it is open");
        } else {
            producer.abort_transaction(PATIENCE).expect("it is open");
        }
    }
}

/// Writes messages in a transaction that is aborted.
pub(crate) fn abort(into: &Rig, count: u64) {
    let producer: BaseProducer = into
        .client()
        .set("transactional.id", "somebody-else")
        .set("transaction.timeout.ms", "120000")
        .set("queue.buffering.max.messages", "0")
        .create()
        .expect("the brokers are there");
    producer.init_transactions(PATIENCE).expect("nobody else has this id");
    producer.begin_transaction().expect("none is open");
    send(&producer, &into.topic("input"), 0..count);
    settle(&producer);
    producer.abort_transaction(PATIENCE).expect("it is open");
}

/// A transaction with a message for each lane, which ends when it is told to.
pub(crate) struct Open(BaseProducer);

impl Open {
    pub(crate) fn start(into: &Rig) -> Self {
        let producer: BaseProducer = into
            .client()
            .set("transactional.id", "somebody-slow")
            // Longer than anything in a test takes.
            .set("transaction.timeout.ms", "300000")
            .create()
            .expect("the brokers are there");
        producer.init_transactions(PATIENCE).expect("nobody else has this id");
        producer.begin_transaction().expect("none is open");
        send(&producer, &into.topic("input"), 0..u64::try_from(LANES).expect("a few"));
        settle(&producer);
        Self(producer)
    }

    pub(crate) fn commit(self) {
        self.0.commit_transaction(PATIENCE).expect("it is open");
    }
}

/// Writes one message to a lane.
pub(crate) fn write_one(into: &Rig, lane: i32, body: &str) {
    write_one_to(into, lane, body, "default");
}

/// Writes one message to a lane that is for a destination.
pub(crate) fn write_one_to(into: &Rig, lane: i32, body: &str, destination: &str) {
    let (producer, topic) = (producer(&into.client()), into.topic("input"));
    let headers = OwnedHeaders::new().insert(Header { key: "seriatim-destination", value: Some(destination) });
    let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).partition(lane).payload(body).headers(headers);
    producer.send(record).map_err(|(error, _)| error).expect("the queue is long");
    settle(&producer);
}

/// Writes outputs to a lane as an owner would for the messages at these offsets of what [`write`] wrote
/// again and again, with sequence numbers that are the same as the offsets.
pub(crate) fn write_outputs(into: &Rig, lane: i32, offsets: std::ops::Range<u64>) {
    let (producer, topic) = (producer(&into.client()), into.topic("output"));
    for offset in offsets {
        let number = offset % 50 * u64::try_from(LANES).expect("a few") + u64::try_from(lane).expect("it is one");
        let (body, offset) = (number.to_string(), offset.to_string());
        let named = |key, value| Header { key, value: Some(value) };
        let source = format!("{lane}:{offset}");
        let headers = OwnedHeaders::new()
            .insert(named("seriatim-source", source.as_str()))
            .insert(named("seriatim-output", "0"))
            .insert(named("seriatim-group", "0000000000000000"))
            .insert(named("seriatim-sequence", offset.as_str()))
            .insert(named("seriatim-epoch", "0"));
        let record: BaseRecord<'_, str, str> =
            BaseRecord::to(&topic).partition(lane).payload(body.as_str()).headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("the queue is long");
    }
    settle(&producer);
}

fn producer(config: &ClientConfig) -> BaseProducer {
    config.clone().set("enable.idempotence", "true").set("linger.ms", "1").create().expect("the brokers are there")
}

fn send(producer: &BaseProducer, topic: &str, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let body = number.to_string();
        let lane = i32::try_from(number % u64::try_from(LANES).expect("a few")).expect("a few");
        let record: BaseRecord<'_, str, str> = BaseRecord::to(topic).partition(lane).payload(&body);
        producer.send(record).map_err(|(error, _)| error).expect("the queue is long");
    }
    producer.poll(Duration::ZERO);
}

fn settle(producer: &BaseProducer) {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(10));
    }
}
