//! Receivers of pushes: down, slow, refusing, answering after they have applied, or not at all; and
//! the network before them, which may hold a push back until long after its sender is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use seriatim::deliver::{Answer, Failure, FailureKind, Progress, Push, Sender};
use seriatim::record::Partition;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::chance::{happens, mix, scattered};
use crate::world::{Phase, Shared, World};

/// Of one destination and lane, as the contract has a receiver that is exact.
#[derive(Default)]
struct State {
    epoch: u64,
    done_below: u64,
    known: BTreeSet<u64>,
    /// What was applied, in order: group, sequence and body.
    applied: Vec<(u64, u64, Vec<u8>)>,
    /// The last sequence that arrived of each group, applied or not.
    arrived: BTreeMap<u64, u64>,
}

/// All receivers of a run.
#[derive(Default)]
pub(crate) struct Receivers(Mutex<BTreeMap<(String, Partition), State>>);

impl Receivers {
    /// What was applied, in order: group, sequence and body.
    pub(crate) fn applied(&self, destination: &str, lane: Partition) -> Vec<(u64, u64, Vec<u8>)> {
        let states = self.0.lock().expect("no holder of this lock panics");
        states.get(&(destination.to_owned(), lane)).map(|state| state.applied.clone()).unwrap_or_default()
    }

    /// A push arrives: it is applied once, and refused where its sender is outdated.
    fn arrive(&self, world: &World, push: &Push) -> u16 {
        let Some(from) = push.provenance else {
            world.found(format_args!("I4: a push without provenance, {}", push.id()));
            return 400;
        };
        let mut states = self.0.lock().expect("no holder of this lock panics");
        let state = states.entry((push.destination.to_string(), push.lane)).or_default();
        let (sequence, epoch) = (from.sequence.0, push.epoch.0);
        if world.plan.push.at_once && world.plan.push.options.progress == Progress::Item {
            let last = state.arrived.insert(from.group, sequence).unwrap_or(0);
            if sequence < last {
                world.found(format_args!("I9: {} came after {last} of its group: not the item in doubt", push.id()));
            }
        }
        if is_poison(world, &push.body()) {
            return 422;
        }
        if epoch < state.epoch {
            return 409;
        }
        state.epoch = epoch;
        let is_new = sequence >= state.done_below && state.known.insert(sequence);
        state.done_below = state.done_below.max(push.done_below.map_or(0, |below| below.0));
        if is_new {
            state.applied.push((from.group, sequence, push.body().to_vec()));
        }
        200
    }
}

/// What the receivers will never take.
pub(crate) fn is_poison(world: &World, body: &[u8]) -> bool {
    world.plan.push.poison && mix(7, body).is_multiple_of(23)
}

/// The way to the receivers of one process.
pub(crate) struct Network {
    world: Shared,
    rng: Mutex<Rng>,
}

impl Network {
    pub(crate) fn new(world: Shared, seed: u64) -> Arc<Self> {
        Arc::new(Self { world, rng: Mutex::new(Rng::with_seed(seed)) })
    }
}

/// What happens on the way.
struct Way {
    lost: bool,
    there: Duration,
    unwilling: Option<u16>,
    answer_lost: bool,
    back: Duration,
}

impl Way {
    fn draw(world: &World, rng: &mut Rng, destination: &str) -> Self {
        let bad = world.is_chaos();
        let minute = world.minute() + mix(world.chance.0, destination.as_bytes()) % 7;
        let down = world.phase() != Phase::Healed && world.plan.push.outages && minute.is_multiple_of(3);
        let slow = Duration::from_secs(if bad && happens(rng, 0.05) { 40 } else { 1 });
        let unwilling = [429, 500, 503, 408][rng.usize(..4)];
        Self {
            lost: down || (bad && happens(rng, 0.05)),
            there: scattered(rng, Duration::from_millis(1), slow),
            unwilling: (bad && happens(rng, 0.1)).then_some(unwilling),
            answer_lost: bad && happens(rng, 0.1),
            back: scattered(rng, Duration::from_millis(1), Duration::from_millis(300)),
        }
    }
}

impl Sender for Network {
    fn send(&self, push: Push) -> BoxFuture<'static, Result<Answer, Failure>> {
        let world = self.world.clone();
        let way = Way::draw(&world, &mut self.rng.lock().expect("no holder of this lock panics"), &push.destination);
        async move {
            if way.lost {
                sleep(way.back).await;
                return Err(Failure { kind: FailureKind::Connection, detail: "simulated".to_owned() });
            }
            if way.unwilling.is_some_and(|status| status != 500) {
                sleep(way.back).await;
                return Ok(answer(way.unwilling.unwrap_or(503)));
            }
            let status = if world.plan.push.at_once {
                world.receivers.arrive(&world, &push)
            } else {
                travel(world, push, way.there).await
            };
            sleep(way.back).await;
            if way.answer_lost {
                std::future::pending::<()>().await;
            }
            Ok(answer(way.unwilling.unwrap_or(status)))
        }
        .boxed()
    }
}

/// Arrives even where the sender does not wait for it any more.
async fn travel(world: Shared, push: Push, there: Duration) -> u16 {
    let (arrived, answer) = oneshot::channel();
    spawn_local(async move {
        sleep(there).await;
        // Nobody may be there to hear it.
        let _ = arrived.send(world.receivers.arrive(&world, &push));
    });
    answer.await.unwrap_or(500)
}

fn answer(status: u16) -> Answer {
    let retry_after = (status == 429).then(|| "1".to_owned());
    Answer { retry_after, ..Answer::new(status, String::new()) }
}

/// Sequences and bodies of one group.
type Items<'a> = Vec<(u64, &'a [u8])>;

/// I9: a receiver that follows the contract has applied everything once, in the order of each group.
pub(crate) fn check(
    world: &World,
    destination: &str,
    lane: Partition,
    there: &[(u64, u64, Vec<u8>)],
) -> Result<(), String> {
    let applied = world.receivers.applied(destination, lane);
    let mut groups: BTreeMap<u64, [Items<'_>; 2]> = BTreeMap::new();
    for (group, sequence, body) in &applied {
        groups.entry(*group).or_default()[0].push((*sequence, body));
    }
    for (group, sequence, body) in there.iter().filter(|(_, _, body)| !is_poison(world, body)) {
        groups.entry(*group).or_default()[1].push((*sequence, body));
    }
    for (group, [applied, there]) in groups {
        if applied != there {
            let first = applied.iter().zip(&there).position(|(a, b)| a != b).unwrap_or(applied.len().min(there.len()));
            let (at, of) = (applied.get(first), there.get(first));
            return Err(format!("I9: {destination}, lane {lane}, group {group:x}: {at:?} was applied, not {of:?}"));
        }
    }
    Ok(())
}
