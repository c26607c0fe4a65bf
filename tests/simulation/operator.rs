//! Operators: while things go wrong they act on whatever they see, rightly or not, twice, or too
//! late; afterwards they end every halt.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use seriatim::log::Log as _;
use seriatim::record::control::{Action, VERB, Verb};
use seriatim::record::cursor::LaneCursor;
use seriatim::record::push::{HaltedItems, PUSH_VERB, PushAction, PushVerb};
use seriatim::record::{BatchBuilder, Name, Offset, Partition};
use seriatim::resequence::OnFailure;
use tokio::time::{Instant, sleep};

use crate::chance::{happens, pick, scattered};
use crate::world::{Phase, Shared};

/// What an operator's own outputs begin with, before the offset.
pub(crate) const REPLACED: &str = "replaced";

/// How long a lane stands before an operator looks after it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Acts until the end of time.
pub(crate) async fn operate(world: Shared) {
    let mut rng = world.chance.stream("operators");
    let mut standing = BTreeMap::new();
    loop {
        let healed = world.phase() == Phase::Healed;
        let most = if healed { 3 } else { 10 };
        sleep(scattered(&mut rng, Duration::from_millis(100), Duration::from_secs(most))).await;
        if healed {
            // Where nothing halts nothing may need an operator.
            let halts = world.plan.order.on_failure == OnFailure::Halt;
            for lane in (0..world.plan.lanes).map(Partition).filter(|_| halts) {
                end_halt(&world, &mut rng, lane, &mut standing).await;
            }
            pass_over_refused(&world).await;
        } else if world.plan.trouble.operators {
            meddle(&world, &mut rng).await;
        }
    }
}

/// Acts on a record that holds its lane for long.
async fn end_halt(world: &Shared, rng: &mut Rng, lane: Partition, standing: &mut BTreeMap<Partition, (u64, Instant)>) {
    let cursor = world.watch().lane(lane);
    let (frontier, since) = standing.entry(lane).or_insert((cursor.frontier, Instant::now()));
    if *frontier != cursor.frontier {
        (*frontier, *since) = (cursor.frontier, Instant::now());
    }
    if since.elapsed() < PATIENCE {
        return;
    }
    let input = world.topics.input.partition(lane);
    let head = world.log.snapshot_from(&input, Offset(cursor.frontier)).first().map(|record| record.offset.0);
    if let Some(head) = head {
        *since = Instant::now();
        let target = (head, round(&cursor, head));
        let how = pick(rng, &["retry", "skip", "replace"]);
        let action = action(rng, how, vec![target]);
        order(world, rng, lane, action).await;
    }
}

/// Lets go on what a receiver refuses for good.
async fn pass_over_refused(world: &Shared) {
    let refused = world.watch().refused();
    for (topic, lane) in refused {
        let of = world.topics.destinations.iter().find(|(_, name)| name.as_str() == topic);
        let Some((destination, _)) = of else { continue };
        let action = PushAction::Skip(HaltedItems { lane, offsets: Vec::new() });
        let (reason, by) = ("simulated".to_owned(), "an operator".to_owned());
        let verb = PushVerb { destination: destination.clone(), action, reason, by };
        let value = serde_json::to_vec(&verb).expect("verbs are plain data");
        write(world, Partition(lane), PUSH_VERB, &value).await;
    }
}

/// Acts on something near the frontier, with the round that the cursor shows or with another.
async fn meddle(world: &Shared, rng: &mut Rng) {
    let lane = Partition(rng.u32(..world.plan.lanes));
    let cursor = world.watch().lane(lane);
    let targets: Vec<_> = (0..rng.usize(1..4))
        .map(|_| {
            let offset = cursor.frontier + rng.u64(0..4) * rng.u64(0..4);
            let seen = round(&cursor, offset);
            let stale = happens(rng, 0.2);
            (offset, if stale { rng.u32(0..seen + 2) } else { seen })
        })
        .collect();
    let how = pick(rng, &["retry", "retry", "skip", "replace"]);
    let action = action(rng, how, targets);
    order(world, rng, lane, action).await;
}

fn round(cursor: &LaneCursor, offset: u64) -> u32 {
    cursor.rounds.get(&offset).copied().unwrap_or(0)
}

fn action(rng: &mut Rng, how: &str, targets: Vec<(u64, u32)>) -> Action {
    match how {
        "retry" => Action::Retry { targets },
        "skip" => Action::Skip { targets },
        _ => {
            let target = targets[0];
            let body = STANDARD.encode(format!("{REPLACED}|{}|{}", target.0, rng.u32(..)));
            Action::Replace { target, body, content_type: None }
        }
    }
}

/// Writes the verb, now and then twice, and again where it is not known to be there.
async fn order(world: &Shared, rng: &mut Rng, lane: Partition, action: Action) {
    world.note(format_args!("an operator asks lane {lane} for {action:?}"));
    let verb = Verb { lane: lane.0, action, reason: "simulated".to_owned(), by: "an operator".to_owned() };
    let value = serde_json::to_vec(&verb).expect("verbs are plain data");
    for _ in 0..rng.u32(1..3) {
        write(world, lane, VERB, &value).await;
    }
}

async fn write(world: &Shared, lane: Partition, kind: &[u8], value: &[u8]) {
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(value), |h| h.put(Name::Kind, kind));
    if let Ok(appending) = world.log.append(&world.topics.control_of(lane), builder.finish()).await {
        let _ = appending.await;
    }
}
