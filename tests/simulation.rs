//! The whole pipeline under faults and virtual time: the real stages on the log in memory, on one
//! thread, everything drawn from one seed. See docs/simulation.md.

#[path = "support/batches.rs"]
mod batches;
#[path = "simulation/batching.rs"]
mod batching;
#[path = "simulation/chance.rs"]
mod chance;
#[path = "simulation/dispatched.rs"]
mod dispatched;
#[path = "simulation/expect.rs"]
mod expect;
#[path = "simulation/foreigner.rs"]
mod foreigner;
#[path = "simulation/message.rs"]
mod message;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/process.rs"]
mod process;
#[path = "simulation/producer.rs"]
mod producer;
#[path = "simulation/reader.rs"]
mod reader;
#[path = "simulation/receiver.rs"]
mod receiver;
#[path = "simulation/roles.rs"]
mod roles;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/stranger.rs"]
mod stranger;
#[path = "simulation/watch.rs"]
mod watch;
#[path = "simulation/worker.rs"]
mod worker;
#[path = "simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, Once};
use std::time::Duration;

use run::Report;
use tokio::time::Instant;
use world::History;

/// Seeds that have once found a defect, with what it was.
const REGRESSIONS: &[(u64, &str)] = &[
    (1, "two lanes of a deliverer shed each other's item for ever"),
    (47, "a retry of a message that reuses a key made it leave"),
    (57, "a retry of a duplicate made it leave"),
    (3331, "a result for a hole before a record without room waited for room, and all others for it"),
    (1903, "a record was sent again in a round that no committed cursor held"),
    (81, "a record was sent again above the committed limit"),
];

/// How long a plain `cargo test` takes seeds for, and how many at most.
const TIME: Duration = Duration::from_secs(40);
const SEEDS: u64 = 200;

/// How much of the history is shown of a seed that fails.
const LINES: usize = 60;

#[test]
fn seeds() {
    let _alone = alone();
    if let Some(seed) = number("SEED") {
        let report = must_hold(seed, true);
        println!("seed {seed}: {report:?}");
        return;
    }
    let (first, seeds) = (number("FROM").unwrap_or(1), number("SEEDS"));
    let (began, mut messages, mut done) = (Instant::now(), 0, 0);
    for seed in first..first + seeds.unwrap_or(SEEDS) {
        if seeds.is_none() && began.elapsed() > TIME {
            break;
        }
        messages += must_hold(seed, false).messages;
        done += 1;
        if done % 1000 == 0 {
            println!("{done} seeds, {messages} messages, {:?}", began.elapsed());
        }
    }
    println!("{done} seeds from {first} on, {messages} messages, {:?}", began.elapsed());
}

#[test]
fn regressions() {
    let _alone = alone();
    for (seed, _) in REGRESSIONS {
        must_hold(*seed, false);
    }
}

#[test]
fn the_same_seed_twice_gives_the_same_bytes() {
    let _alone = alone();
    for seed in 1..6 {
        let (first, second) = (History::aloud(false), History::aloud(false));
        let reports = [&first, &second].map(|history| run::run(seed, history));
        if reports[0] != reports[1] {
            let (first, second) = (first.lines(), second.lines());
            let differs = first.iter().zip(&second).find(|(a, b)| a != b);
            panic!("SEED={seed}: {reports:?}; the histories differ here: {differs:#?}");
        }
    }
}

/// Runs a seed; panics with the seed and the end of its history where something does not hold.
fn must_hold(seed: u64, aloud: bool) -> Report {
    let history = History::aloud(aloud);
    let ended = catch_unwind(AssertUnwindSafe(|| run::run(seed, &history)));
    let what = match ended {
        Ok(Ok(report)) => return report,
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
        }
    };
    if !aloud {
        let lines = history.lines();
        println!(
            "{}",
            lines[..1]
                .iter()
                .chain(&lines[lines.len().saturating_sub(LINES)..])
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
    panic!("SEED={seed} cargo test --test simulation\n{what}");
}

/// The metrics are those of the process, so that one run at a time is what can be looked at.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        seriatim::order::set_strict(true);
        if number("SEED").is_some() {
            tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
        }
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload_as_str().is_some_and(|text| text.starts_with("simulated")) {
                hook(info);
            }
        }));
    });
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} has to be a number, not `{text}`")))
}
