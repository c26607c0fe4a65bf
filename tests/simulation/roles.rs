//! The real stages, several instances of each.

use std::sync::Arc;

use futures::FutureExt as _;
use seriatim::deliver::Destination;
use seriatim::log::Log;
use seriatim::{deliver, resequence, work};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;

use crate::foreigner;
use crate::process::{Life, supervise};
use crate::receiver::Network;
use crate::worker::Worker;
use crate::world::Shared;

/// Starts all of them.
pub(crate) fn start(world: &Shared) {
    start_some(world, "owner", world.plan.owners, owner);
    start_some(world, "worker", world.plan.workers, worker);
    start_some(world, "foreign worker", world.plan.foreigners, foreigner);
    start_some(world, "deliverer", world.plan.deliverers, deliverer);
}

type Role = fn(Shared, String, u64, CancellationToken) -> Life;

fn start_some(world: &Shared, role: &str, count: usize, run: Role) {
    for number in 0..count {
        let (of, name) = (world.clone(), format!("{role} {number}"));
        let member = name.clone();
        spawn_local(supervise(world.clone(), name, move |seed, drain| run(of.clone(), member.clone(), seed, drain)));
    }
}

fn owner(world: Shared, member: String, seed: u64, drain: CancellationToken) -> Life {
    async move {
        let log: Arc<dyn Log> = Arc::new(world.log.clone());
        let (topics, options) = (world.topics.clone(), world.plan.order.clone());
        let ended = resequence::run(log, topics, options, "t.resequence", &member, seed, drain).await;
        ended.map_err(|error| error.to_string())
    }
    .boxed()
}

fn worker(world: Shared, member: String, seed: u64, drain: CancellationToken) -> Life {
    let (log, topics): (Arc<dyn Log>, _) = (Arc::new(world.log.clone()), world.topics.clone());
    let (options, processor) = (world.plan.work.clone(), Arc::new(Worker::new(world, seed)));
    let running = work::run(log, topics, options, processor, member, seed, drain);
    running.map(|ended| ended.map_err(|error| error.to_string())).boxed()
}

fn foreigner(world: Shared, member: String, seed: u64, drain: CancellationToken) -> Life {
    foreigner::work(world, member, seed, drain).boxed()
}

fn deliverer(world: Shared, member: String, seed: u64, drain: CancellationToken) -> Life {
    async move {
        let log: Arc<dyn Log> = Arc::new(world.log.clone());
        let network = Network::new(world.clone(), seed);
        let destination = |name: &String| {
            let options = world.plan.push.options.clone();
            (name.clone(), Destination { options, sender: network.clone() })
        };
        let destinations = world.topics.destinations.keys().map(destination).collect();
        let topics = world.topics.clone();
        let ended = deliver::run_with(log, topics, destinations, "t.deliver", &member, seed, drain).await;
        ended.map_err(|error| error.to_string())
    }
    .boxed()
}
