//! Strangers, who write to the results what nobody has asked for; and workers in other languages,
//! who answer what is on the work topic.

use std::time::Duration;

use fastrand::Rng;
use seriatim::log::Log as _;
use seriatim::log::memory::Stored;
use seriatim::record::{BatchBuilder, Name, Offset, Partition, RecordRef, ResultHeaders, Round, Source, Status};
use tokio::time::sleep;

use crate::chance::{pick, scattered};
use crate::message::mark;
use crate::world::{Shared, batch_of};

/// Writes nonsense for as long as things go wrong.
pub(crate) async fn annoy(world: Shared) {
    let mut rng = world.chance.stream("strangers");
    loop {
        sleep(scattered(&mut rng, Duration::from_millis(20), Duration::from_secs(4))).await;
        if !world.is_chaos() || !world.plan.trouble.strangers {
            continue;
        }
        let lane = Partition(rng.u32(..world.plan.lanes));
        let mut builder = BatchBuilder::default();
        match rng.u32(0..5) {
            0 => garbage(&mut rng, &mut builder),
            1 => forged(&world, &mut rng, lane, &mut builder),
            2 => answered(&world, &mut rng, lane, &mut builder),
            _ => repeated(&world, &mut rng, lane, &mut builder),
        }
        if !builder.is_empty()
            && let Ok(appending) = world.log.append(&world.topics.results.partition(lane), builder.finish()).await
        {
            let _ = appending.await;
        }
    }
}

/// What cannot be judged at all.
fn garbage(rng: &mut Rng, to: &mut BatchBuilder) {
    let name = pick(rng, &[&b"seriatim-source"[..], b"seriatim-check", b"seriatim-round", b"\xff\xfe", b""]);
    let value = pick(rng, &[&b"0:0"[..], b"9999999999999999999999", b"-1", b"\xff", b"0:18446744073709551615", b""]);
    to.push(None, Some(b"garbage"), |h| h.put_named(name, value));
    to.push(Some(b"0"), None, |_| {});
}

/// Results of records that the stranger has not read: his check is wrong.
fn forged(world: &Shared, rng: &mut Rng, lane: Partition, to: &mut BatchBuilder) {
    let cursor = world.watch().lane(lane);
    for _ in 0..rng.usize(1..4) {
        let offset = cursor.frontier + rng.u64(0..cursor.limit.saturating_sub(cursor.frontier) + 5);
        let source = Source::from((Partition(pick(rng, &[lane.0, lane.0, lane.0 + 1])), Offset(offset)));
        let headers =
            ResultHeaders { round: Round(rng.u32(0..2)), ..ResultHeaders::new(source, rng.u32(..), status(rng)) };
        to.push(None, Some(b"forged"), |h| headers.encode(h));
    }
}

fn status(rng: &mut Rng) -> Status {
    pick(rng, &[Status::Done, Status::Empty, Status::Failed, Status::Retrying])
}

/// Results that are there already, once more, as they are, with another body, or in another lane.
fn repeated(world: &Shared, rng: &mut Rng, lane: Partition, to: &mut BatchBuilder) {
    let from = Partition(if rng.u32(0..5) == 0 { rng.u32(..world.plan.lanes) } else { lane.0 });
    let Some(record) = recent(world, rng, &world.topics.results.partition(from)) else { return };
    let batch = batch_of(&record);
    let Some(read) = batch.first() else { return };
    // One that resolves nothing must not be made into one that does: it would be the first.
    let resolves = ResultHeaders::decode(read.headers).is_ok_and(|headers| headers.status != Some(Status::Retrying));
    match rng.u32(0..if resolves { 3 } else { 1 }) {
        0 => to.push(read.key, Some(b"another body"), |h| h.put_all(read.headers)),
        1 => to.push(read.key, read.value, |h| {
            h.put_all(read.headers);
            h.put(Name::Status, status(rng).as_str().as_bytes());
        }),
        _ => to.push(read.key, read.value, |h| h.put_all(read.headers)),
    }
}

/// A record of the work topic, worked on by somebody else: his result counts like any other.
fn answered(world: &Shared, rng: &mut Rng, lane: Partition, to: &mut BatchBuilder) {
    let of = world.topics.work.partition(Partition(rng.u32(..world.topics.work_partitions)));
    let Some(record) = recent(world, rng, &of) else { return };
    let batch = batch_of(&record);
    let Some(read) = batch.first() else { return };
    let Ok(headers) = ResultHeaders::decode(read.headers) else { return };
    if headers.source.lane == lane {
        answer(world, rng, &read, headers, to);
    }
}

fn answer(world: &Shared, rng: &mut Rng, read: &RecordRef<'_>, headers: ResultHeaders<'_>, to: &mut BatchBuilder) {
    let call = world.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let body = format!("{}|{call}", mark(headers.source, read.value.unwrap_or_default()));
    let status = (rng.u32(0..4) > 0).then(|| status(rng));
    let headers =
        ResultHeaders { status, destinations: None, content_type: None, worker: Some(b"elsewhere"), ..headers };
    to.push(None, Some(body.as_bytes()), |h| headers.encode(h));
}

fn recent(world: &Shared, rng: &mut Rng, of: &seriatim::log::TopicPartition) -> Option<Stored> {
    let all = world.log.snapshot(of);
    let last = all.len().checked_sub(1)?;
    all.get(last - rng.usize(0..=last.min(20))).cloned()
}
