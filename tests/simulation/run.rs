//! One run: everybody at work while things go wrong, then until all is done, then the oracle.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::future::join_all;
use seriatim::log::memory::Faults;
use seriatim::log::{Cleanup, Log, TopicPartition};
use seriatim::record::Partition;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::chance::{Chance, mix, scattered};
use crate::plan::weather;
use crate::producer::{Accepted, produce};
use crate::reader::{self, Seen};
use crate::watch::memory_is_kept;
use crate::world::{History, Phase, Shared, World};
use crate::{batching, operator, oracle, receiver, roles, stranger};

/// How often it is looked at whether everything still holds.
const TICK: Duration = Duration::from_millis(200);

/// What is left of a run: enough to compare two.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Of the history, and of every record of every topic.
    pub(crate) digest: u64,
    /// Messages in the input.
    pub(crate) messages: usize,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, history: &Arc<History>) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without IO takes no resources");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let world = World::new(Chance(seed), history.clone());
        live(&world).await.map(|messages| Report { digest: digest(&world, history), messages })
    })
}

async fn live(world: &Shared) -> Result<usize, String> {
    world.note(format_args!("{:?}", world.plan));
    prepare(world).await;
    roles::start(world);
    let seen = start_readers(world);
    world.busy.store(world.plan.producers as u64 + 1, Relaxed);
    let producers: Vec<_> = (0..world.plan.producers).map(|n| spawn_local(produce(world.clone(), n))).collect();
    spawn_local(stranger::annoy(world.clone()));
    spawn_local(operator::operate(world.clone()));
    spawn_local(batching::ask(world.clone()));
    storms(world).await?;
    heal(world).await?;
    let accepted = accepted(producers).await;
    judge(world, &accepted, &seen)
}

/// Creates the topics. Cursors are compacted by [`compact`], so that none is missed.
async fn prepare(world: &Shared) {
    let mut shapes = world.topics.shapes();
    let cursors = [&world.topics.cursors_resequence, &world.topics.cursors_deliver];
    for (_, shape) in shapes.iter_mut().filter(|(topic, _)| cursors.contains(&topic)) {
        shape.cleanup = Cleanup::Keep;
    }
    world.log.ensure(&shapes).await.expect("an empty log takes every shape");
}

/// Compacts the cursors, all of which have been looked at.
fn compact(world: &Shared) {
    let _watched = world.watch();
    for topic in [&world.topics.cursors_resequence, &world.topics.cursors_deliver] {
        for of in topic.partitions(world.plan.control_partitions) {
            world.log.compact(&of).expect("it was created");
        }
    }
}

fn start_readers(world: &Shared) -> Vec<(TopicPartition, Seen)> {
    let topics = world.topics.destinations.values();
    let partitions = topics.flat_map(|topic| topic.partitions(world.plan.lanes));
    let readers = partitions.map(|of| {
        let seen = Seen::default();
        spawn_local(reader::read(world.clone(), of.clone(), Rc::clone(&seen)));
        (of, seen)
    });
    readers.collect()
}

/// Windows of trouble, and of calm, one after the other.
async fn storms(world: &Shared) -> Result<(), String> {
    let mut rng = world.chance.stream("weather");
    let end = Instant::now() + world.plan.chaos;
    while Instant::now() < end {
        let faults = weather(&mut rng, &world.plan.faults);
        world.set_phase(if faults == Faults::default() { Phase::Calm } else { Phase::Chaos });
        world.log.set_faults(faults);
        if rng.bool() {
            compact(world);
        }
        let until = Instant::now() + scattered(&mut rng, Duration::from_secs(1), Duration::from_secs(30));
        while Instant::now() < until.min(end) {
            tick(world).await?;
        }
    }
    Ok(())
}

/// I12: once nothing goes wrong any more, everything is released within bounded time.
async fn heal(world: &Shared) -> Result<(), String> {
    world.log.set_faults(Faults::default());
    world.set_phase(Phase::Healed);
    // Zombies wake, the lost is sent again, and again after doubled times, halts are ended one by one.
    let patience = Duration::from_secs(1_200) + world.plan.order.deadline * 40;
    let items: u64 = world.plan.batches.iter().map(|asked| asked.total).sum();
    let all = world.plan.messages as u64 + items;
    let patience = patience + Duration::from_secs(90) * u32::try_from(all).unwrap_or(u32::MAX);
    let since = Instant::now();
    while !is_settled(world) {
        tick(world).await?;
        if since.elapsed() > patience {
            return Err(format!("I12: not everything is released after {patience:?}: {}", standing(world)));
        }
    }
    // Whatever should not come any more gets the time to come.
    for _ in 0..100 {
        tick(world).await?;
    }
    Ok(())
}

async fn tick(world: &Shared) -> Result<(), String> {
    sleep(TICK).await;
    drop(world.watch());
    memory_is_kept(world);
    batching::look(world);
    world.finding().map_or(Ok(()), Err)
}

fn is_settled(world: &Shared) -> bool {
    let lanes = (0..world.plan.lanes).map(Partition);
    world.busy.load(Relaxed) == 0
        && lanes.map(|lane| unreleased(world, lane)).all(|left| left == 0)
        && (world.plan.deliverers == 0 || undelivered(world) == 0)
}

/// How many records of a lane are not below the committed frontier.
fn unreleased(world: &Shared, lane: Partition) -> usize {
    let frontier = world.watch().lane(lane).frontier;
    world.log.snapshot_from(&world.topics.input.partition(lane), seriatim::record::Offset(frontier)).len()
}

/// How many outputs are not below the committed positions of the pushes.
fn undelivered(world: &Shared) -> usize {
    let positions = world.watch().positions();
    let topics = world.topics.destinations.values();
    let partitions = topics.flat_map(|topic| topic.partitions(world.plan.lanes));
    partitions.map(|of| world.log.snapshot_from(&of, positions.get(&of).copied().unwrap_or_default()).len()).sum()
}

fn standing(world: &Shared) -> String {
    let lanes = (0..world.plan.lanes).map(Partition);
    let lanes =
        lanes.map(|lane| format!("lane {lane}: {} left, {:?}", unreleased(world, lane), world.watch().lane(lane)));
    let undelivered = undelivered(world);
    format!("{}; {undelivered} not delivered", lanes.collect::<Vec<_>>().join("; "))
}

async fn accepted(producers: Vec<JoinHandle<Vec<Accepted>>>) -> Vec<Accepted> {
    let all = join_all(producers).await;
    all.into_iter().flat_map(|accepted| accepted.expect("a producer does not panic")).collect()
}

fn judge(world: &Shared, accepted: &[Accepted], seen: &[(TopicPartition, Seen)]) -> Result<usize, String> {
    let mut messages = 0;
    for lane in (0..world.plan.lanes).map(Partition) {
        oracle::check(world, lane, accepted).map_err(|what| format!("{what} (lane {lane})"))?;
        messages += world.log.snapshot(&world.topics.input.partition(lane)).len();
    }
    batching::check(world);
    if world.plan.deliverers > 0 {
        for (destination, lane, outputs) in oracle::outputs(world)? {
            receiver::check(world, &destination, lane, &outputs)?;
        }
    }
    for (of, seen) in seen {
        reader::check(of, seen, &world.log.snapshot(of))?;
    }
    Ok(messages)
}

/// Of the history, and of every record that there is.
fn digest(world: &World, history: &History) -> u64 {
    let mut digest = history.digest();
    for (topic, shape) in world.topics.shapes() {
        for of in topic.partitions(shape.partitions) {
            digest = mix(digest, format!("{of}{:?}", world.log.snapshot(&of)).as_bytes());
        }
    }
    digest
}
