//! The program in separate processes on real Kafka, killed in mid-load; a read-committed reader that
//! reads while it happens finds nothing lost, repeated or out of order. Names begin with the row of
//! docs/faults.md.

#![allow(clippy::disallowed_methods, reason = "real processes take real time, outside of any runtime")]

#[path = "kafka_pipeline/batches.rs"]
mod batches;
#[path = "support/kafka.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod kafka;
#[path = "kafka_pipeline/program.rs"]
mod program;
#[path = "support/kafka/rig.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod rig;

use std::thread::sleep;
use std::time::{Duration, Instant};

use program::{Pipeline, Reader};
use rig::{Process, Rig, owner};

/// From the kill of an owner to the next output: the session's time-out, and what taking over needs on
/// a busy machine.
const TAKE_OVER: Duration = Duration::from_secs(20);

#[test]
fn f20_the_owner_is_killed_and_nothing_is_lost_repeated_or_out_of_order() {
    let pipeline = Pipeline::new(Rig::shared("killed"));
    let _ingress = pipeline.run("ingress");
    let _workers = [pipeline.run("work"), pipeline.run("work")];
    let _deliver = pipeline.run("deliver");
    let mut owners = vec![pipeline.run("resequence"), pipeline.run("resequence")];
    let reader = Reader::start(&pipeline);
    let (mut sent, mut takeovers) = (0, Vec::new());
    for _ in 0..2 {
        let before = reader.count();
        sent = pipeline.send(400);
        // In mid-load, whichever of them owns the lanes; the other one has to take over.
        reader.wait(before + 50);
        owner(&mut owners).kill();
        takeovers.push(reader.wait(sent.min(reader.count() + 1)));
        owners.push(pipeline.run("resequence"));
    }
    reader.wait(sent);
    println!("from kill to output: {takeovers:?}");
    assert!(takeovers.iter().all(|time| *time < TAKE_OVER), "{takeovers:?}");
    let outputs = reader.finish();
    assert_eq!(outputs.len(), sent, "each message comes out once");
    outputs.assert_ordered();
    pipeline.verify();
}

#[test]
fn f70_roles_end_in_order_and_others_go_on_at_once() {
    let pipeline = Pipeline::new(Rig::shared("drained"));
    let _ingress = pipeline.run("ingress");
    let _work = pipeline.run("work");
    let mut owners = vec![pipeline.run("resequence"), pipeline.run("resequence")];
    let reader = Reader::start(&pipeline);
    reader.wait(pipeline.send(100));
    owner(&mut owners).terminate();
    let handed_over = Instant::now();
    let sent = pipeline.send(20);
    reader.wait(sent);
    eprintln!("{:?} from the end of the owner to the outputs of 20 messages sent then", handed_over.elapsed());
    assert!(handed_over.elapsed() < Duration::from_secs(6), "it took as long as a crash: {:?}", handed_over.elapsed());
    let outputs = reader.finish();
    assert_eq!(outputs.len(), sent);
    outputs.assert_ordered();
}

#[test]
fn f31_what_would_break_order_is_refused() {
    let rig = Rig::shared("refused");
    let (code, text) = rig.verb(&["topics", "plan"], &[("SERIATIM_LOG__PARTITIONS", "3")]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("refused: it has 2 partitions, not 3"), "{text}");
    let (code, text) = rig.verb(&["run", "--role", "work"], &[("SERIATIM_LOG__RETENTION", "30days")]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("retention.ms is 604800000"), "{text}");
    let (code, text) = rig.verb(&["run", "--role", "work"], &[("SERIATIM_NAME", "absent")]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("topics apply"), "{text}");
}

/// How often `make faults` kills each kind of process.
fn kills(default: usize) -> usize {
    std::env::var("KILLS").map_or(default, |kills| kills.parse().expect("KILLS is a number"))
}

/// Kills one after the other in mid-load, and audits what came out.
fn killed_again_and_again(name: &str, times: usize, mut kill: impl FnMut(&Pipeline, &mut Roles)) {
    let pipeline = Pipeline::new(Rig::new(&[]));
    let mut roles = Roles {
        ingress: pipeline.run("ingress"),
        workers: vec![pipeline.run("work"), pipeline.run("work")],
        owners: vec![pipeline.run("resequence"), pipeline.run("resequence")],
    };
    let reader = Reader::start(&pipeline);
    let (mut sent, mut gaps) = (0, Vec::new());
    for _ in 0..times {
        let before = reader.count();
        sent = pipeline.send(100);
        reader.wait(before + 20);
        let killed = Instant::now();
        kill(&pipeline, &mut roles);
        let at = reader.count();
        reader.wait(sent.min(at + 1));
        gaps.push(killed.elapsed());
        // The next one is for whoever is in charge by then, with a spare behind it.
        reader.wait(sent);
    }
    let outputs = reader.finish();
    assert_eq!(outputs.len(), sent, "each message comes out once");
    outputs.assert_ordered();
    pipeline.verify();
    gaps.sort();
    println!(
        "{name}: {times} kills, {sent} messages; to the next output p50 {:?}, max {:?}",
        gaps[times / 2],
        gaps[times - 1]
    );
}

struct Roles {
    #[allow(dead_code, reason = "it runs as long as it is held")]
    ingress: Process,
    workers: Vec<Process>,
    owners: Vec<Process>,
}

#[test]
#[ignore = "minutes: make faults"]
fn f20_owners_killed_again_and_again() {
    killed_again_and_again("owners", kills(50), |pipeline, roles| {
        owner(&mut roles.owners).kill();
        roles.owners.push(pipeline.run("resequence"));
    });
}

/// Longer than a session, so that the others have taken over before it goes on.
const FROZEN: Duration = Duration::from_secs(9);

#[test]
#[ignore = "minutes: make faults"]
fn f21_owners_frozen_in_mid_load_wake_as_zombies() {
    killed_again_and_again("zombies", kills(10), |_, roles| {
        let frozen = owner(&mut roles.owners);
        frozen.freeze();
        sleep(FROZEN);
        frozen.thaw();
        roles.owners.push(frozen);
    });
}

#[test]
#[ignore = "minutes: make faults"]
fn f43_brokers_frozen_again_and_again() {
    killed_again_and_again("frozen-brokers", kills(10), |pipeline, _| {
        pipeline.rig.cluster.command("stop", 1);
        sleep(FROZEN);
        pipeline.rig.cluster.command("cont", 1);
    });
}

#[test]
#[ignore = "minutes: make faults"]
fn f10_workers_killed_again_and_again() {
    killed_again_and_again("workers", kills(20), |pipeline, roles| {
        roles.workers.remove(0).kill();
        roles.workers.push(pipeline.run("work"));
    });
}

#[test]
#[ignore = "minutes: make faults"]
fn f41_brokers_killed_again_and_again() {
    killed_again_and_again("brokers", kills(10), |pipeline, _| {
        pipeline.rig.cluster.command("kill", 1);
        pipeline.rig.cluster.command("start", 1);
    });
}
