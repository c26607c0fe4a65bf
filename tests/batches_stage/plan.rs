//! What one seed stands for.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use seriatim::log::memory::Faults;
use seriatim::resequence::{BatchEvents, OnFailure, Options};

/// One run, as its seed has drawn it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) lanes: u32,
    pub(crate) options: Options,
    pub(crate) faults: Faults,
    pub(crate) batches: Vec<Asked>,
    /// How many polls an owner or a worker has before it dies, at most.
    pub(crate) polls: u64,
    /// Live messages beside the batches.
    pub(crate) messages: usize,
}

/// A batch that is asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) id: String,
    /// Without its items.
    pub(crate) start: Value,
    /// How many rounds of each item fail.
    pub(crate) failing: Vec<u32>,
    pub(crate) from: From,
}

/// Where its items come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum From {
    Template,
    List,
    Upload,
}

fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())].clone()
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let by = pick(&mut rng, &["lane", "destination", "key", "none"]);
        let options = Options {
            by: by.parse().expect("these are orders"),
            on_failure: pick(&mut rng, &[OnFailure::Halt, OnFailure::DeadLetter, OnFailure::Skip]),
            window: pick(&mut rng, &[1, 3, 20, 10_000]),
            deadline: Duration::from_millis(rng.u64(200..20_000)),
            batch_window: 5,
            fan_out: rng.bool(),
            batch_events: rng.bool().then(|| BatchEvents { destination: "b".to_owned(), items: rng.bool() }),
            ..Options::default()
        };
        let faults = if rng.bool() { Faults::mixed(&mut rng) } else { Faults::default() };
        let batches = (0..rng.usize(1..=4)).map(|number| Asked::draw(&mut rng, number)).collect();
        Self {
            lanes: rng.u32(1..=2),
            options,
            faults,
            batches,
            polls: 1 << rng.u32(3..12),
            messages: pick(&mut rng, &[0, 5, 30]),
        }
    }
}

impl Asked {
    fn draw(rng: &mut Rng, number: usize) -> Self {
        let from = pick(rng, &[From::Template, From::List, From::Upload]);
        let total = rng.usize(1..40);
        let fails = from != From::Template && rng.bool();
        let failing = (0..total).map(|_| if fails && rng.u32(..5) == 0 { rng.u32(1..4) } else { 0 }).collect();
        let mode = pick(rng, &["window", "barrier", "paced"]);
        let mut start = json!({
            "type": "StartProcessing",
            "id": format!("batch-{number}"),
            "mode": mode,
            "window": rng.u32(1..12),
            "ordered": rng.bool(),
            "onItemFailure": pick(rng, &["continue", "stop", "hold"]),
        });
        if mode == "paced" {
            start["interval"] = json!("300ms");
        }
        if rng.u32(..4) == 0 {
            start["itemTimeout"] = json!("5s");
        }
        if rng.u32(..8) == 0 {
            start["deadline"] = json!("20s");
        }
        if rng.u32(..3) == 0 {
            start["toleratedFailureCount"] = json!(rng.u32(..3));
        }
        if rng.u32(..3) == 0 {
            start["completion"] = json!({"fail": rng.u32(..2)});
        }
        Self { id: format!("batch-{number}"), start, failing, from }
    }

    /// The items, as JSON.
    pub(crate) fn items(&self) -> Vec<Value> {
        self.failing.iter().map(|rounds| json!({ "fail": rounds })).collect()
    }
}
