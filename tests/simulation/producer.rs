//! Producers: they send messages, again where they do not know what became of them, and some of
//! them in transactions, which they abort now and then.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fastrand::Rng;
use seriatim::log::Log as _;
use seriatim::record::{Batch, BatchBuilder, Offset, Partition};
use tokio::time::sleep;

use crate::chance::{happens, scattered};
use crate::message::Message;
use crate::world::{Phase, Shared};

/// What the log acknowledged: where, and the body.
pub(crate) type Accepted = (Partition, Offset, String);

/// Sends all messages of one producer, in batches, spread over the time in which things go wrong.
pub(crate) async fn produce(world: Shared, number: usize) -> Vec<Accepted> {
    let mut rng = world.chance.stream(&format!("producer {number}"));
    let mut left = world.plan.messages;
    let pause = world.plan.chaos / u32::try_from(left).unwrap_or(1);
    let mut sent: Vec<Message> = Vec::new();
    let mut accepted = Vec::new();
    while left > 0 {
        let size = rng.usize(1..=left.min(12));
        left -= size;
        let batch: Vec<_> =
            (0..size).map(|i| message(&world, &mut rng, &sent, &format!("{number}.{left}.{i}"))).collect();
        sent.extend(batch.iter().cloned());
        let lane = Partition(rng.u32(..world.plan.lanes));
        if world.plan.trouble.transactions && happens(&mut rng, 0.3) {
            in_transaction(&world, &mut rng, lane, &batch).await;
        } else {
            accepted.extend(send(&world, &mut rng, lane, &batch).await);
        }
        sleep(pause.mul_f64(rng.f64() * 1.6 * size as f64)).await;
    }
    world.busy.fetch_sub(1, Relaxed);
    accepted
}

/// A new message, or one that was sent before, or one that reuses its identity.
fn message(world: &Shared, rng: &mut Rng, sent: &[Message], name: &str) -> Message {
    let new = Message::draw(world, rng, name);
    if sent.is_empty() || !happens(rng, 0.15) {
        return new;
    }
    let before = sent[rng.usize(..sent.len())].clone();
    if happens(rng, 0.7) { before } else { Message { identity: before.identity, ..new } }
}

fn batch(messages: &[Message]) -> Batch {
    let mut builder = BatchBuilder::default();
    for message in messages {
        let key = message.key.as_deref().map(str::as_bytes);
        builder.push(key, Some(message.body.as_bytes()), |to| message.headers(to));
    }
    builder.finish()
}

/// Sends until it is acknowledged. What was unknown may then be there twice, as with any client.
async fn send(world: &Shared, rng: &mut Rng, lane: Partition, messages: &[Message]) -> Vec<Accepted> {
    let to = world.topics.input.partition(lane);
    loop {
        let acknowledged = match world.log.append(&to, batch(messages)).await {
            Ok(appending) => appending.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(offsets) => {
                let accepted = offsets.iter().zip(messages).map(|(offset, m)| (lane, offset, m.body.clone()));
                return accepted.collect();
            }
            Err(error) => world.note(format_args!("a producer is told: {error}")),
        }
        sleep(scattered(rng, Duration::from_millis(1), Duration::from_secs(2))).await;
    }
}

async fn in_transaction(world: &Shared, rng: &mut Rng, lane: Partition, messages: &[Message]) {
    let to = world.topics.input.partition(lane);
    let Ok(open) = world.log.append_uncommitted(&to, &batch(messages)) else { return };
    let most = if world.phase() == Phase::Healed { 0.1 } else { 8.0 };
    sleep(scattered(rng, Duration::from_millis(1), Duration::from_secs_f64(most))).await;
    if rng.bool() { open.commit() } else { open.abort() }
}
