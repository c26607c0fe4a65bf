//! Staggered batches under faults and virtual time: the real owner and workers on the log in
//! memory, killed anywhere; results duplicated and late, operators who change their minds. What is
//! on the log in the end has to be what somebody who counts by hand expects.

#[path = "support/batches.rs"]
mod batches;
#[path = "batches_stage/fair.rs"]
mod fair;
#[path = "batches_stage/oracle.rs"]
mod oracle;
#[path = "batches_stage/plan.rs"]
mod plan;
#[path = "batches_stage/rig.rs"]
mod rig;

use std::time::Duration;

use plan::Plan;
use rig::Rig;
use tokio::time::Instant;

/// How long a plain `cargo test` takes seeds for, and how many at most.
const TIME: Duration = Duration::from_secs(20);
const SEEDS: u64 = 1_000;

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without IO takes no resources");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let plan = Plan::draw(seed);
        println!("seed {seed}: {plan:#?}");
        let rig = Rig::new(seed, plan).await;
        rig.live().await;
        oracle::check(&rig);
    });
}

#[test]
fn each_item_is_generated_once_and_all_done_is_said_once_whoever_dies() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SEED") {
        return run(seed);
    }
    let (began, first) = (Instant::now(), number("FROM").unwrap_or(1));
    for seed in first..first + number("SEEDS").unwrap_or(SEEDS) {
        if number("SEEDS").is_none() && began.elapsed() > TIME {
            break;
        }
        run(seed);
    }
}
