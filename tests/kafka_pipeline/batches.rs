//! Staggered batches while their owner is killed: each item comes out once, and after the last one, once,
//! that all is done.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kills;
use crate::program::{Outputs, Pipeline, Reader};
use crate::rig::{Rig, owner};

/// Of each batch: some seconds of work for the two workers.
const ITEMS: usize = 400;

/// Live messages beside each batch, under each of two keys.
const MESSAGES: usize = 10;

#[test]
fn f20_the_owner_is_killed_in_the_midst_of_a_batch() {
    let times = kills(2);
    let pipeline = Pipeline::new(Rig::shared("batches"));
    let _ingress = pipeline.run("ingress");
    let _workers = [pipeline.run("work"), pipeline.run("work")];
    let mut owners = vec![pipeline.run("resequence"), pipeline.run("resequence")];
    let reader = Reader::start(&pipeline);
    let mut gaps = Vec::new();
    for batch in 0..times {
        submit(&pipeline, batch);
        let sent = pipeline.send(MESSAGES);
        let before = sent - 2 * MESSAGES + batch * (ITEMS + 1);
        reader.wait(before + ITEMS / 4);
        owner(&mut owners).kill();
        let all = sent + (batch + 1) * (ITEMS + 1);
        gaps.push(reader.wait(all.min(reader.count() + 1)));
        owners.push(pipeline.run("resequence"));
        reader.wait(all);
    }
    let outputs = reader.finish();
    assert_eq!(outputs.len(), times * (2 * MESSAGES + ITEMS + 1));
    (0..times).for_each(|batch| assert_whole(&outputs, batch));
    pipeline.verify();
    gaps.sort();
    println!("{times} kills amid batches: to the next output p50 {:?}, max {:?}", gaps[times / 2], gaps[times - 1]);
}

fn submit(pipeline: &Pipeline, batch: usize) {
    let (id, count) = (format!("b{batch}"), ITEMS.to_string());
    // Every other one in index order, which the outputs then have to show.
    let ordered: &[&str] = if batch.is_multiple_of(2) { &["--ordered"] } else { &[] };
    let start = ["batch", "submit", "--id", &id, "--count", &count, "--template", "{}", "--window", "50"];
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (code, text) = pipeline.verb(&[&start[..], ordered].concat());
        if code == Some(0) {
            return;
        }
        assert!(Instant::now() < deadline, "{text}");
    }
}

/// The outputs of a batch: each index once, in order if asked for, and then that all is done.
fn assert_whole(outputs: &Outputs, batch: usize) {
    let id = format!("b{batch}");
    let bodies: Vec<Value> = outputs.bodies().filter_map(|body| serde_json::from_str(body).ok()).collect();
    let mut own = bodies.iter().filter(|body| body["id"] == id.as_str());
    let done = own.next_back().expect("it has outputs");
    assert_eq!(done["type"], "WorkAllDone", "{id}: it is said last");
    assert_eq!((&done["status"], &done["counts"]["succeeded"]), (&"completed".into(), &ITEMS.into()), "{id}");
    let mut indices: Vec<u64> = own.map(|item| item["index"].as_u64().expect("the rest are items")).collect();
    if !batch.is_multiple_of(2) {
        indices.sort_unstable();
    }
    assert_eq!(indices, (0..ITEMS as u64).collect::<Vec<_>>(), "{id}: each item comes out once");
}
