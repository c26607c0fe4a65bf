//! Delivery by processes of their own on real Kafka, killed and frozen in mid-load, before a receiver over HTTP that
//! writes down every arrival and judges it as the contract has it. The names of tests begin with the rows of
//! `docs/faults.md`.

#![allow(clippy::disallowed_methods, reason = "real processes take real time, outside of any runtime")]

#[path = "support/kafka/feed.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod feed;
#[path = "support/kafka.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod kafka;
#[path = "../examples/receiver.rs"]
#[allow(dead_code, reason = "it is a program of its own")]
mod receiver;
#[path = "support/kafka/rig.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod rig;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use receiver::{Marks, Place, Verdict};
use rig::{Process, Rig, wait_for};
use tokio::runtime::{Builder, Runtime};

/// Longer than a session of the group: whoever is silent for so long has lost its partitions.
const LONGER_THAN_A_SESSION: Duration = Duration::from_secs(9);

/// Everything has to come before.
const PATIENCE: Duration = Duration::from_secs(90);

/// Two, of which most tests use the one.
const DESTINATIONS: &str = "destinations.default.topic = \"t.output\"\ndestinations.other.topic = \"t.output.other\"\n";

/// One lane of a destination, as the receiver has seen it.
#[derive(Default)]
struct Lane {
    marks: Marks,
    applied: Vec<u64>,
    /// Sequence and epoch of everything that came.
    arrived: Vec<(u64, u64)>,
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, Lane>>>);

impl Seen {
    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(|lane| lane.applied.len()).sum()
    }

    fn wait(&self, count: usize) {
        let enough = || (self.count() >= count).then_some(());
        wait_for(PATIENCE, enough, || format!("{} of {count} were applied", self.count()));
    }

    /// Each item once and in order for a receiver that checks; for one that does not, repeats of the item in
    /// doubt only, one a fault in each lane at most.
    fn check(&self, count: usize, faults: usize) {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(lanes.values().map(|lane| lane.applied.len()).sum::<usize>(), count);
        for (name, lane) in lanes.iter() {
            assert!(lane.applied.iter().zip(0..).all(|(sequence, n)| *sequence == n), "{name}: {:?}", lane.applied);
            let pairs = lane.arrived.iter().zip(&lane.arrived[1..]);
            let mut repeats = 0;
            for ((last, last_epoch), (next, epoch)) in pairs {
                assert!(last_epoch <= epoch, "{name}: {next} of epoch {epoch} came after {last} of {last_epoch}");
                assert!(*next == last + 1 || next == last, "{name}: {next} came after {last}");
                repeats += usize::from(next == last);
            }
            eprintln!("{name}: {} came, {repeats} of them again", lane.arrived.len());
            assert!(repeats <= faults, "{name}: {repeats} repeats");
        }
    }
}

async fn receive(State(seen): State<Seen>, headers: HeaderMap) -> StatusCode {
    let text = |name: &str| headers[name].to_str().expect("it is ASCII");
    let number = |name: &str| text(name).parse().expect("it is a number");
    let (lane, _) = text("seriatim-source").split_once(':').expect("LANE:OFFSET");
    let place = Place {
        stream: format!("{} {lane}", text("seriatim-destination")),
        epoch: number("seriatim-epoch"),
        sequence: number("seriatim-sequence"),
        done_below: number("seriatim-done-below"),
    };
    let mut lanes = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
    let lane = lanes.entry(place.stream.clone()).or_default();
    lane.arrived.push((place.sequence, place.epoch));
    match lane.marks.judge(&place) {
        Verdict::Stale => return StatusCode::CONFLICT,
        Verdict::Repeat => {}
        Verdict::Apply => {
            lane.marks.note(&place);
            lane.applied.push(place.sequence);
        }
    }
    StatusCode::NO_CONTENT
}

/// Everything but delivery, and a receiver.
struct World {
    /// First of all to go: each says at its end what it has said, in the rig's folder.
    _rest: Vec<Process>,
    rig: Rig,
    seen: Seen,
    push: String,
    _receiver: Runtime,
}

impl World {
    fn start() -> Self {
        let (seen, runtime) = (Seen::default(), Builder::new_multi_thread().worker_threads(1).enable_all().build());
        let runtime = runtime.expect("there are threads");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let app = axum::Router::new().fallback(receive).with_state(seen.clone());
        runtime.spawn(async move { axum::serve(listener, app).await });
        let rig = Rig::with(&[], DESTINATIONS);
        let push = ["default", "other"].map(|name| {
            format!("destinations.{name}.push.http = {{ url = \"http://{at}/\", allow_private = true }}\n")
        });
        let push = push.concat();
        let rest = vec![rig.run("work", "work"), rig.run_with("owner", "resequence", &push)];
        Self { _rest: rest, rig, seen, push, _receiver: runtime }
    }

    fn deliver(&self, process: &str) -> Process {
        self.rig.run_with(process, "deliver", &self.push)
    }

    /// Has a process execute an order, once there is something to execute it on.
    fn order(&self, process: &Process, verb: &[&str]) {
        let admin = format!("http://{}", process.address("the admin port"));
        let arguments = [verb, &["--reason", "a test", "--url", &admin]].concat();
        let done = || Some(()).filter(|()| self.rig.verb(&arguments, &[]).0 == Some(0));
        wait_for(PATIENCE, done, || format!("{arguments:?}: {:?}", self.rig.verb(&arguments, &[])));
    }
}

#[test]
fn f61_delivery_dies_between_an_answer_and_its_commit() {
    let world = World::start();
    feed::write(&world.rig, 600);
    let mut deliver = world.deliver("deliver-0");
    for death in 1..=4 {
        // A push takes its answer and a commit, so that most deaths are between these.
        world.seen.wait(death * 100);
        deliver.kill();
        deliver = world.deliver(&format!("deliver-{death}"));
    }
    world.seen.wait(600);
    world.seen.check(600, 4);
}

#[test]
fn f62_a_frozen_deliverer_is_replaced_and_wakes_up() {
    let world = World::start();
    feed::write(&world.rig, 2_000);
    let first = world.deliver("deliver-0");
    world.seen.wait(50);
    let second = world.deliver("deliver-1");
    first.freeze();
    let (frozen, before) = (Instant::now(), world.seen.count());
    world.seen.wait(before + 1);
    eprintln!("{:?} from the freeze to the next push", frozen.elapsed());
    sleep(LONGER_THAN_A_SESSION.saturating_sub(frozen.elapsed()));
    first.thaw();
    world.seen.wait(before + 100);
    second.freeze();
    world.seen.wait(before + 300);
    second.thaw();
    world.seen.wait(2_000);
    world.seen.check(2_000, 2);
}

#[test]
fn f31_an_output_made_anew_is_pushed_only_when_that_is_accepted() {
    let world = World::start();
    feed::write(&world.rig, 100);
    let deliver = world.deliver("deliver");
    world.seen.wait(100);
    world.rig.make_anew("output");
    deliver.says("t.output was deleted and made anew");
    for lane in ["0", "1"] {
        // Its owner may look a little later than the deliverer.
        world.order(&deliver, &["lanes", "accept", lane, "--yes"]);
    }
    // Longer than what was pushed of the former one, which is where a deliverer would go on.
    feed::write(&world.rig, 200);
    sleep(LONGER_THAN_A_SESSION);
    assert_eq!(world.seen.count(), 100);
    for lane in ["0", "1"] {
        world.order(&deliver, &["dest", "accept", "default", lane]);
    }
    world.seen.wait(300);
    world.seen.check(300, 0);
}

#[test]
fn f32_an_output_topic_that_is_deleted_holds_up_no_other_destination() {
    let world = World::start();
    let deliver = world.deliver("deliver-0");
    feed::write_one_to(&world.rig, 0, "0", "other");
    feed::write(&world.rig, 100);
    world.seen.wait(101);
    let next = world.deliver("deliver-1").ready();
    world.rig.delete("output.other");
    feed::write(&world.rig, 100);
    world.seen.wait(201);
    deliver.kill();
    feed::write(&world.rig, 100);
    world.seen.wait(301);
    world.rig.create_topics();
    next.says("t.output.other was deleted and made anew");
    world.order(&next, &["lanes", "accept", "0", "--yes"]);
    feed::write_one_to(&world.rig, 0, "1", "other");
    world.order(&next, &["dest", "accept", "other", "0"]);
    world.seen.wait(302);
    // Whoever died may have pushed an item without having committed that.
    world.seen.check(302, 1);
}
