//! The only broker dies between acknowledging a commit and writing its markers. Kafka 4.3.0 may then
//! complete the transaction without any when it starts again: nobody can read its records, or past them.

use std::net::TcpListener;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::checker::{Checker, RECOVERY};
use crate::feed::{self, Feed};
use crate::proxy::{Api, Fault, Proxy};
use crate::rig::{Process, Rig, wait_for};

/// How often the broker is killed until its transactions hang. About every third time it comes back
/// without knowing the partitions in time.
const TRIES: usize = 25;

/// A pipeline whose broker comes to itself through a proxy, with 100 messages through it.
struct Hanging {
    checker: Checker,
    work: Process,
    owner: Option<Process>,
    proxy: Proxy,
    rig: Rig,
}

impl Hanging {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it listens").port().to_string();
        // Until the proxy serves it, whoever comes waits in the listener's queue.
        let rig = Rig::new(&["--between", &port]);
        let proxy = Proxy::start(listener, rig.cluster.inside_proxy());
        let (work, owner) = (rig.run("work", "work").ready(), Some(rig.run("owner-0", "resequence")));
        let checker = Checker::start(&rig);
        feed::write(&rig, 100);
        checker.more(100);
        Self { checker, work, owner, proxy, rig }
    }

    /// A message is released, and the markers of that commit never come.
    fn release_without_markers(&self) {
        let before = self.proxy.done();
        self.proxy.inject(Api::WriteTxnMarkers, Fault::LoseRequest, u32::MAX);
        feed::write_one(&self.rig, 0, "0");
        self.proxy.wait_until_done(before + 1);
    }

    /// Kills the broker with a commit that has no markers, again and again, until there are none when
    /// it is back, either. A `dying` owner dies with it, and has a successor.
    fn until_it_hangs(&mut self, dying: impl Fn(Process) -> Option<Process>) {
        for number in 1..=TRIES {
            self.release_without_markers();
            self.rig.cluster.command("kill", 1);
            self.owner = self.owner.take().and_then(&dying);
            self.proxy.cease();
            self.rig.cluster.command("start", 1);
            let owner = self.owner.take();
            let owner = owner.unwrap_or_else(|| self.rig.run(&format!("owner-{number}"), "resequence"));
            self.checker.finish();
            let said = owner.said();
            self.owner = Some(owner);
            if said.contains("has no end: giving it one") {
                return eprintln!("it hung at the {number}. try");
            }
        }
        panic!("{TRIES} times it did not hang");
    }

    /// Where a partition can be read up to, and where it ends.
    fn ends(&self, topic: &str) -> (i64, i64) {
        let end = |isolation: &str| {
            let mut config: ClientConfig = self.rig.client();
            let consumer: BaseConsumer = config.set("isolation.level", isolation).create().expect("it is right");
            let ask = || consumer.fetch_watermarks(&self.rig.topic(topic), 0, Duration::from_secs(5)).ok();
            wait_for(RECOVERY, ask, || "the broker does not answer".to_owned()).1
        };
        (end("read_committed"), end("read_uncommitted"))
    }

    /// Nothing hangs, and what follows comes out.
    fn goes_on(self) {
        for topic in ["output", "ledger", "cursors.resequence", "control"] {
            let settled = || {
                let (stable, end) = self.ends(topic);
                (stable == end).then_some(())
            };
            wait_for(RECOVERY, settled, || format!("{topic}: {:?}", self.ends(topic)));
        }
        feed::write(&self.rig, 100);
        self.checker.finish();
        let (code, text) = self.rig.verb(&["verify"], &[]);
        assert_eq!(code, Some(0), "{text}");
        drop((self.work, self.owner));
    }
}

/// All commits of a while hang, each in what the next one ends or does not; then their owner dies, perhaps
/// in the middle of one. The next claim aborts that, and with it what hangs there, and settles the rest.
#[test]
fn f41_an_owner_dies_whose_last_commits_all_hang() {
    let mut hanging = Hanging::start();
    let feed = Feed::start(&hanging.rig, 400);
    let topics = ["cursors.resequence", "ledger", "output"].map(|topic| hanging.rig.topic(topic));
    let mut random = fastrand::Rng::with_seed(41);
    for round in 1..=3 {
        topics.iter().for_each(|topic| hanging.proxy.forget_markers(topic));
        hanging.proxy.wait_until_forgotten(&topics[0], random.u32(1..20));
        hanging.owner.take().expect("it runs").kill();
        topics.iter().for_each(|topic| hanging.proxy.remember_markers(topic));
        let owner = hanging.rig.run(&format!("owner-{round}"), "resequence");
        hanging.checker.more(200);
        hanging.owner = Some(owner);
    }
    feed.stop();
    hanging.checker.finish();
    hanging.goes_on();
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f41_commits_without_markers_are_settled_by_the_owner_that_made_them() {
    let mut hanging = Hanging::start();
    hanging.until_it_hangs(Some);
    hanging.goes_on();
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f41_commits_without_markers_are_settled_by_the_next_owner() {
    let mut hanging = Hanging::start();
    hanging.until_it_hangs(|owner| {
        owner.kill();
        None
    });
    hanging.goes_on();
}

/// An owner that has nothing more to commit would never hear of it.
#[test]
#[ignore = "takes minutes: make faults"]
fn f41_an_idle_owner_whose_last_commit_does_not_end_claims_again() {
    let hanging = Hanging::start();
    hanging.release_without_markers();
    hanging.owner.as_ref().expect("it is the first").says("a commit does not end: claiming again");
    hanging.proxy.cease();
    hanging.goes_on();
}
