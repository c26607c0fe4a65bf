//! The program in separate processes on real Kafka, killed in mid-load; a read-committed reader that
//! reads while it happens finds nothing lost, repeated or out of order.

#[path = "support/kafka.rs"]
mod kafka_cluster;
#[path = "kafka_pipeline/program.rs"]
mod program;

use std::time::Duration;

use kafka_cluster::Cluster;
use program::{Pipeline, Reader};
use tokio::time::Instant;

const LANES: u32 = 2;

/// From the kill of an owner to the next output: the session's time-out, and what taking over needs on
/// a busy machine.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// Everything has to come out before.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn the_owner_is_killed_and_nothing_is_lost_repeated_or_out_of_order() {
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
fn roles_end_in_order_and_others_go_on_at_once() {
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
fn what_would_break_order_is_refused() {
    let cluster = Cluster::shared();
    let pipeline = Pipeline::new(cluster, "refused", LANES);
    let (code, text) = pipeline.verb(&["topics", "plan"], &[("SERIATIM_LOG__PARTITIONS", "3")]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("refused: it has 2 partitions, not 3"), "{text}");
    let (code, text) = pipeline.verb(&["run", "--role", "work"], &[("SERIATIM_LOG__RETENTION", "30days")]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("retention.ms is 604800000"), "{text}");
    let (code, text) = pipeline.verb(&["run", "--role", "work"], &[("SERIATIM_NAME", "absent")]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("topics apply"), "{text}");
}
