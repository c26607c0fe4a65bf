//! The program in separate processes on real Kafka, killed in mid-load; a read-committed reader that
//! reads while it happens finds nothing lost, repeated or out of order. Names begin with the row of
//! docs/faults.md.

#[path = "kafka_pipeline/batches.rs"]
mod batches;
#[path = "support/kafka.rs"]
mod kafka_cluster;
#[path = "kafka_pipeline/program.rs"]
mod program;

use std::time::Duration;

use kafka_cluster::Cluster;
use program::{Pipeline, Process, Reader};
use tokio::time::Instant;

const LANES: u32 = 2;

/// From the kill of an owner to the next output: the session's time-out, and what taking over needs on
/// a busy machine.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// Everything has to come out before.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn f20_the_owner_is_killed_and_nothing_is_lost_repeated_or_out_of_order() {
    let cluster = Cluster::shared();
    let pipeline = Pipeline::new(cluster, "killed", LANES);
    let _ingress = pipeline.run("ingress");
    let _workers = [pipeline.run("work"), pipeline.run("work")];
    let _deliver = pipeline.run("deliver");
    let mut owners = vec![pipeline.run("resequence"), pipeline.run("resequence")];
    let reader = Reader::start(cluster, &pipeline.output(), LANES);
    let (mut sent, mut takeovers) = (0, Vec::new());
    for _ in 0..2 {
        let before = reader.count();
        sent = pipeline.send(400);
        // In mid-load, whichever of them owns the lanes; the other one has to take over.
        reader.wait(before + 50, PATIENCE);
        drop(Pipeline::owner(&mut owners));
        let (killed, at) = (Instant::now(), reader.count());
        reader.wait(sent.min(at + 1), PATIENCE);
        takeovers.push(killed.elapsed());
        owners.push(pipeline.run("resequence"));
    }
    reader.wait(sent, PATIENCE);
    println!("from kill to output: {takeovers:?}");
    assert!(takeovers.iter().all(|time| *time < TAKE_OVER), "{takeovers:?}");
    let outputs = reader.finish();
    assert_eq!(outputs.len(), sent, "each message comes out once");
    outputs.assert_ordered(LANES);
    pipeline.verify();
}

#[test]
fn f70_roles_end_in_order_and_others_go_on_at_once() {
    let cluster = Cluster::shared();
    let pipeline = Pipeline::new(cluster, "drained", LANES);
    let _ingress = pipeline.run("ingress");
    let _work = pipeline.run("work");
    let mut owners = vec![pipeline.run("resequence"), pipeline.run("resequence")];
    let reader = Reader::start(cluster, &pipeline.output(), LANES);
    reader.wait(pipeline.send(100), PATIENCE);
    Pipeline::owner(&mut owners).drain();
    let handed_over = Instant::now();
    let sent = pipeline.send(20);
    reader.wait(sent, PATIENCE);
    assert!(handed_over.elapsed() < Duration::from_secs(6), "it took as long as a crash: {:?}", handed_over.elapsed());
    let outputs = reader.finish();
    assert_eq!(outputs.len(), sent);
    outputs.assert_ordered(LANES);
}

#[test]
fn f31_what_would_break_order_is_refused() {
    let cluster = Cluster::shared();
    let pipeline = Pipeline::new(cluster, "refused", LANES);
    let (code, text) = pipeline.verb(&["topics", "plan"], &[("SERIATIM_LOG__PARTITIONS", "3")]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("refused: it has 2 partitions, not 3"), "{text}");
    let (code, text) = pipeline.verb(&["run", "--role", "work"], &[("SERIATIM_LOG__RETENTION", "30days")]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("retention.ms is 604800000"), "{text}");
    let (code, text) = pipeline.verb(&["run", "--role", "work"], &[("SERIATIM_NAME", "absent")]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("topics apply"), "{text}");
}

/// How often `make faults` kills each kind of process.
fn kills(default: usize) -> usize {
    std::env::var("KILLS").map_or(default, |kills| kills.parse().expect("KILLS is a number"))
}

/// Kills one after the other in mid-load, and audits what came out.
fn killed_again_and_again(name: &'static str, times: usize, mut kill: impl FnMut(&Pipeline, &mut Roles<'_>)) {
    let cluster = Cluster::start(&[]);
    let pipeline = Pipeline::new(&cluster, name, LANES);
    let mut roles = Roles {
        ingress: pipeline.run("ingress"),
        workers: vec![pipeline.run("work"), pipeline.run("work")],
        owners: vec![pipeline.run("resequence"), pipeline.run("resequence")],
        cluster: &cluster,
    };
    let reader = Reader::start(&cluster, &pipeline.output(), LANES);
    let (mut sent, mut gaps) = (0, Vec::new());
    for _ in 0..times {
        let before = reader.count();
        sent = pipeline.send(100);
        reader.wait(before + 20, PATIENCE);
        let killed = Instant::now();
        kill(&pipeline, &mut roles);
        let at = reader.count();
        reader.wait(sent.min(at + 1), PATIENCE);
        gaps.push(killed.elapsed());
        // The next one is for whoever is in charge by then, with a spare behind it.
        reader.wait(sent, PATIENCE);
    }
    let outputs = reader.finish();
    assert_eq!(outputs.len(), sent, "each message comes out once");
    outputs.assert_ordered(LANES);
    pipeline.verify();
    gaps.sort();
    println!(
        "{name}: {times} kills, {sent} messages; to the next output p50 {:?}, max {:?}",
        gaps[times / 2],
        gaps[times - 1]
    );
}

struct Roles<'a> {
    #[allow(dead_code, reason = "it runs as long as it is held")]
    ingress: Process,
    workers: Vec<Process>,
    owners: Vec<Process>,
    cluster: &'a Cluster,
}

#[test]
#[ignore = "minutes: make faults"]
fn f20_owners_killed_again_and_again() {
    killed_again_and_again("owners", kills(50), |pipeline, roles| {
        drop(Pipeline::owner(&mut roles.owners));
        roles.owners.push(pipeline.run("resequence"));
    });
}

/// Longer than a session, so that the others have taken over before it goes on.
const FROZEN: Duration = Duration::from_secs(9);

#[test]
#[ignore = "minutes: make faults"]
fn f21_owners_frozen_in_mid_load_wake_as_zombies() {
    killed_again_and_again("zombies", kills(10), |_, roles| {
        let owner = Pipeline::owner(&mut roles.owners);
        owner.signal("STOP");
        std::thread::park_timeout(FROZEN);
        owner.signal("CONT");
        roles.owners.push(owner);
    });
}

#[test]
#[ignore = "minutes: make faults"]
fn f43_brokers_frozen_again_and_again() {
    killed_again_and_again("frozen-brokers", kills(10), |_, roles| {
        roles.cluster.command("stop", 1);
        std::thread::park_timeout(FROZEN);
        roles.cluster.command("cont", 1);
    });
}

#[test]
#[ignore = "minutes: make faults"]
fn f10_workers_killed_again_and_again() {
    killed_again_and_again("workers", kills(20), |pipeline, roles| {
        drop(roles.workers.remove(0));
        roles.workers.push(pipeline.run("work"));
    });
}

#[test]
#[ignore = "minutes: make faults"]
fn f41_brokers_killed_again_and_again() {
    killed_again_and_again("brokers", kills(10), |_, roles| {
        roles.cluster.command("kill", 1);
        roles.cluster.command("start", 1);
    });
}
