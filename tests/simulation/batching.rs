//! Staggered batches among everything else: who asks for them, steers them and ends their holds, and
//! what has to hold of them in the end.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use seriatim::log::Log as _;
use seriatim::record::batches::{Change, Command, Selection};
use seriatim::record::{BatchBuilder, Partition, partition_of_key};
use seriatim::resequence::BatchEvents;
use tokio::time::sleep;

use crate::batches::Batches;
use crate::chance::{happens, pick, scattered};
use crate::world::{Phase, Shared, World};

/// How many seeds have batches: enough of them, without making all of them slower.
const SHARE: f64 = 0.2;

/// A batch that is asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) total: u64,
    start: Value,
}

/// Which batches a seed has, and whether a destination gets their events.
pub(crate) fn draw(rng: &mut Rng, destinations: &[&str]) -> (Vec<Asked>, Option<BatchEvents>) {
    if !happens(rng, SHARE) {
        return (Vec::new(), None);
    }
    let asked = (0..rng.usize(1..=3)).map(|number| Asked::draw(rng, number)).collect();
    let events = rng.bool().then(|| BatchEvents { destination: pick(rng, destinations).to_owned(), items: rng.bool() });
    (asked, events)
}

impl Asked {
    fn draw(rng: &mut Rng, number: usize) -> Self {
        let (id, total) = (format!("batch-{number}"), rng.u64(1..=20));
        let kinds = ["ok", "ok", "ok", "held", "poison", "flaky", "any", "empty", "several", "slow"];
        let mut item = || json!({"kind": pick(rng, &kinds)});
        let mut start = json!({"type": "StartProcessing", "id": id});
        if number.is_multiple_of(2) {
            start["items"] = (0..total).map(|_| item()).collect();
        } else {
            (start["count"], start["template"]) = (json!(total), item());
        }
        let completion = item();
        start["mode"] = json!(pick(rng, &["window", "barrier", "paced"]));
        if start["mode"] == "paced" {
            start["interval"] = json!("700ms");
        }
        start["window"] = json!(rng.u32(1..8));
        start["ordered"] = json!(rng.bool());
        start["onItemFailure"] = json!(pick(rng, &["continue", "stop", "hold", "hold"]));
        if happens(rng, 0.3) {
            start["toleratedFailureCount"] = json!(rng.u32(0..3));
        }
        if happens(rng, 0.3) {
            start["completion"] = completion;
        }
        Self { id, total, start }
    }
}

/// What the item of a work order asks for, nothing where it is none.
pub(crate) fn kind(order: &[u8]) -> &[u8] {
    const MEMBER: &[u8] = b"\"kind\":\"";
    let at = order.windows(MEMBER.len()).position(|window| window == MEMBER);
    at.and_then(|at| order[at + MEMBER.len()..].split(|byte| *byte == b'"').next()).unwrap_or_default()
}

/// Whether a work order is out for the first time.
pub(crate) fn is_first_round(order: &[u8]) -> bool {
    const MEMBER: &[u8] = b"\"round\":0,";
    order.windows(MEMBER.len()).any(|window| window == MEMBER)
}

/// Asks for all of them, changes its mind while things go wrong, and then sees them to their ends.
pub(crate) async fn ask(world: Shared) {
    let mut rng = world.chance.stream("batches");
    for asked in &world.plan.batches {
        sleep(scattered(&mut rng, Duration::from_millis(10), world.plan.chaos / 3)).await;
        // As who does not know whether it was taken asks again.
        while !write(&world, &asked.id, asked.start.to_string().as_bytes()).await {
            sleep(scattered(&mut rng, Duration::from_millis(10), Duration::from_secs(5))).await;
        }
    }
    while !all_have_ended(&world) {
        sleep(scattered(&mut rng, Duration::from_millis(100), Duration::from_secs(10))).await;
        let asked = &world.plan.batches[rng.usize(..world.plan.batches.len())];
        let healed = world.phase() == Phase::Healed;
        let command = if healed { end(&mut rng, &asked.id) } else { meddle(&mut rng, &asked.id) };
        if healed {
            write(&world, &asked.id, &Command::Resume { id: asked.id.clone() }.encode()).await;
        }
        write(&world, &asked.id, &command.encode()).await;
    }
    world.busy.fetch_sub(1, Relaxed);
}

fn meddle(rng: &mut Rng, id: &str) -> Command {
    let (id, some) = (id.to_owned(), Selection::Items(vec![0, 1, 5]));
    match rng.u32(0..20) {
        0 => Command::Cancel { id, reason: None },
        1..4 => Command::Pause { id },
        4 => Command::Discard { id, which: some },
        5 => Command::Retry { id, which: some },
        6..9 => Command::Retry { id, which: Selection::All },
        9..11 => Command::Change { id, change: Change { window: Some(rng.u64(1..8)), ..Change::default() } },
        _ => Command::Resume { id },
    }
}

fn end(rng: &mut Rng, id: &str) -> Command {
    let (id, which) = (id.to_owned(), Selection::All);
    if rng.bool() { Command::Retry { id, which } } else { Command::Discard { id, which } }
}

/// Whether it is known to be there.
async fn write(world: &World, id: &str, command: &[u8]) -> bool {
    let mut builder = BatchBuilder::default();
    builder.push(Some(id.as_bytes()), Some(command), |_| {});
    let to = world.topics.batches.partition(partition_of_key(id.as_bytes(), world.plan.lanes));
    match world.log.append(&to, builder.finish()).await {
        Ok(appending) => appending.await.is_ok(),
        Err(_) => false,
    }
}

fn of(world: &World) -> Batches<'_> {
    Batches { log: &world.log, topics: &world.topics }
}

fn all_have_ended(world: &World) -> bool {
    let ended = |id: &str| of(world).record(id).is_some_and(|record| record.state.has_ended());
    world.plan.batches.iter().all(|asked| ended(&asked.id))
}

/// What is new among the events: all is done only once all of it is.
pub(crate) fn look(world: &World) {
    if world.plan.batches.is_empty() {
        return;
    }
    let mut told = world.told.lock().expect("no holder of this lock panics");
    for lane in (0..world.plan.lanes).map(Partition) {
        let next = told.entry(lane).or_default();
        let new = world.log.snapshot_from(&world.topics.events.partition(lane), *next);
        *next = new.last().map_or(*next, |last| last.offset.next());
        of(world).check_said_after_outputs(new);
    }
}

/// Each item once in each round, all done once, the counts right, each event sent on once.
pub(crate) fn check(world: &World) {
    for asked in &world.plan.batches {
        of(world).check(&asked.id, asked.total);
    }
    let ids: Vec<&str> = world.plan.batches.iter().map(|asked| asked.id.as_str()).collect();
    of(world).check_events(&ids, world.plan.order.batch_events.as_ref());
}
