//! The pipeline on real Kafka, a process for each role, under faults. The names of tests begin with
//! the rows of `docs/faults.md`. A reader that is none of the program's looks at what comes out while
//! the faults happen. The slow ones run with `make faults`.

#![allow(clippy::disallowed_methods, reason = "real processes take real time, outside of any runtime")]

#[path = "kafka_faults/anew.rs"]
mod anew;
#[path = "kafka_faults/checker.rs"]
mod checker;
#[path = "kafka_faults/connections.rs"]
mod connections;
#[path = "support/kafka/feed.rs"]
mod feed;
#[path = "kafka_faults/gone.rs"]
mod gone;
#[path = "kafka_faults/hanging.rs"]
mod hanging;
#[path = "kafka_faults/ingress.rs"]
mod ingress;
#[path = "support/kafka.rs"]
mod kafka;
#[path = "kafka_faults/markers.rs"]
mod markers;
#[path = "kafka_faults/proxy.rs"]
mod proxy;
#[path = "support/kafka/rig.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod rig;
#[path = "kafka_faults/settling.rs"]
mod settling;
#[path = "kafka_faults/strangers.rs"]
mod strangers;
#[path = "kafka_engine/words.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod words;

use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use checker::Checker;
use feed::Feed;
use kafka as kafka_cluster;
use proxy::{Api, Fault, Proxy};
use rig::{LANES, Process, Rig};

/// Longer than a session of the group: whoever is silent for so long has lost its partitions.
const LONGER_THAN_A_SESSION: Duration = Duration::from_secs(9);

/// A pipeline with a proxy before its broker, and a flow of messages through it.
struct Proxied {
    proxy: Proxy,
    checker: Checker,
    feed: Feed,
    pipeline: Process,
    config: PathBuf,
    rig: Rig,
}

impl Proxied {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With settings that all processes have.
    fn start_with(common: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        let rig = Rig::with(&["--proxy", &port.to_string()], common);
        let proxy = Proxy::start(listener, rig.cluster.behind_proxy());
        let mut properties = rig.cluster.properties();
        properties.insert("bootstrap.servers".to_owned(), format!("127.0.0.1:{port}"));
        let more = "work.builtin = { sleep = \"5ms\" }\nwork.concurrency = 100\n";
        let config = rig.config_by("proxied", &properties, more);
        let pipeline = rig.run_by("pipeline", "work,resequence", &config);
        let checker = Checker::start(&rig);
        let feed = Feed::start(&rig, 200);
        checker.more(100);
        Self { proxy, checker, feed, pipeline, config, rig }
    }

    /// Another process behind the proxy.
    fn run(&self, process: &str, roles: &str) -> Process {
        self.rig.run_by(process, roles, &self.config)
    }

    fn finish(self) {
        self.feed.stop();
        self.checker.finish();
    }
}

#[test]
fn f10_a_worker_dies_holding_messages() {
    let rig = Rig::new(&[]);
    let slow = "work.builtin = { sleep = \"200ms\" }\nwork.concurrency = 100\n";
    let _owner = rig.run("owner", "resequence");
    let mut work = rig.run_with("work-0", "work", slow);
    let checker = Checker::start(&rig);
    let feed = Feed::start(&rig, 300);
    checker.more(100);
    for death in 1..4 {
        work.kill();
        work = rig.run_with(&format!("work-{death}"), "work", slow);
        checker.more(100);
    }
    feed.stop();
    checker.finish();
}

#[test]
fn f21_a_frozen_owner_wakes_up_after_another_has_taken_over() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let first = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    let feed = Feed::start(&rig, 400);
    checker.more(200);
    let second = rig.run("owner-1", "resequence");
    first.freeze();
    let pause = checker.more(200);
    eprintln!("{pause:?} from the freeze to 200 outputs of another owner");
    sleep(LONGER_THAN_A_SESSION);
    first.thaw();
    checker.more(200);
    // Now the other way round: the one that woke up is to be good for something again.
    second.freeze();
    checker.more(200);
    second.thaw();
    feed.stop();
    checker.finish();
}

#[test]
fn f11_a_frozen_worker_wakes_up_late() {
    let rig = Rig::new(&[]);
    let _owner = rig.run("owner", "resequence");
    let (first, _second) = (rig.run("work-0", "work"), rig.run("work-1", "work"));
    let checker = Checker::start(&rig);
    let feed = Feed::start(&rig, 300);
    checker.more(200);
    first.freeze();
    sleep(LONGER_THAN_A_SESSION);
    checker.more(200);
    first.thaw();
    checker.more(200);
    feed.stop();
    checker.finish();
}

#[test]
fn f23_outputs_that_are_ahead_of_the_cursor_are_not_written_again() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 100);
    checker.more(100);
    owner.kill();
    feed::write(&rig, 100);
    // What a transaction would leave that lost its cursor: of the next two messages of a lane.
    feed::write_outputs(&rig, 0, 50..52);
    let owner = rig.run("owner-1", "resequence");
    owner.says("outputs were committed beyond the cursor");
    assert_eq!(checker.finish(), 200);
}

#[test]
fn f23_a_lane_whose_output_is_behind_the_cursor_stands_still_and_the_other_goes_on() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 100);
    checker.more(100);
    owner.kill();
    anew::count_an_output_more(&rig, 0);
    let owner = rig.run("owner-1", "resequence");
    owner.says("lacks its last 1 outputs");
    feed::write(&rig, 100);
    checker.until(50 + 100);
    assert_eq!(checker.sources(0), (0..50).collect::<Vec<_>>());
    assert_eq!(checker.sources(1), (0..100).collect::<Vec<_>>());
}

#[test]
fn f30_an_output_that_retention_has_emptied_is_gone_on_from() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 100);
    checker.more(100);
    owner.kill();
    (0..LANES).for_each(|lane| rig.delete_all("output", lane));
    let _owner = rig.run("owner-1", "resequence");
    feed::write(&rig, 100);
    // The checker knows which sequence numbers are next.
    assert_eq!(checker.finish(), 200);
}

#[test]
fn f32_an_output_that_the_brokers_refuse_halts_its_lane_alone() {
    let rig = Rig::new(&[]);
    let (_work, owner) = (rig.run("work", "work"), rig.run("owner", "resequence"));
    let checker = Checker::start(&rig);
    feed::write(&rig, 100);
    checker.more(100);
    // A start would have refused it. It takes its time to come to the partitions' leader.
    rig.limit("output", 40_000);
    let mut large = 0;
    let halted = || {
        large += 1;
        feed::write_one(&rig, 0, &"x".repeat(60_000));
        owner.said().contains("stands still").then_some(())
    };
    rig::wait_for(Duration::from_secs(30), halted, || owner.said());
    feed::write(&rig, 100);
    checker.more(50);
    assert_eq!(checker.sources(1), (0..100).collect::<Vec<_>>());
    assert!(checker.sources(0).iter().all(|source| *source < 50 + large), "{:?}", checker.sources(0));
}

#[test]
fn f32_a_lane_whose_output_may_not_be_written_stands_still_and_the_others_go_on() {
    let rig = Rig::with(&["--authorize"], "destinations = { default = {}, other = {} }\n");
    let (_work, owner) = (rig.run("work", "work"), rig.run("owner", "resequence"));
    let checker = Checker::start(&rig);
    feed::write(&rig, 100);
    checker.more(100);
    rig.cluster.order("deny", &rig.topic("output.other"));
    // That takes its time to come to the broker which decides.
    let mut denied = 0;
    let halted = || {
        denied += 1;
        feed::write_one_to(&rig, 0, "denied", "other");
        owner.said().contains("a commit was refused: its lane stands still").then_some(())
    };
    rig::wait_for(Duration::from_secs(60), halted, || owner.said());
    feed::write(&rig, 100);
    checker.until(150);
    assert_eq!(checker.sources(1), (0..100).collect::<Vec<_>>());
    let url = format!("http://{}", owner.address("the admin port"));
    let (_, why) = rig.verb(&["why", "0", "--url", &url], &[]);
    assert!(why.contains("t.output.other[0]") && why.contains("authorization failed"), "{why}");
    rig.cluster.order("allow", &rig.topic("output.other"));
    anew::accept(&rig, &owner, 0);
    checker.until(200);
    assert_eq!(checker.sources(0), (0..50).chain(50 + denied..100 + denied).collect::<Vec<_>>());
}

#[test]
fn f41_the_broker_dies_and_comes_back() {
    let rig = Rig::new(&[]);
    let (_work, _owner) = (rig.run("work", "work"), rig.run("owner", "resequence"));
    let checker = Checker::start(&rig);
    let feed = Feed::start(&rig, 200);
    for _ in 0..2 {
        checker.more(100);
        rig.cluster.command("kill", 1);
        rig.cluster.command("start", 1);
    }
    checker.more(100);
    feed.stop();
    checker.finish();
}

#[test]
fn f16_f23_f45_requests_and_replies_are_lost_late_and_twice_and_connections_reset() {
    let proxied = Proxied::start();
    let (proxy, checker) = (&proxied.proxy, &proxied.checker);
    let apis = [Api::EndTxn, Api::Produce, Api::AddPartitionsToTxn, Api::OffsetCommit, Api::Fetch];
    let late = Fault::DelayReply(Duration::from_secs(2));
    let faults = [Fault::LoseReply, Fault::Reset, Fault::LoseRequest, late, Fault::Repeat, Fault::Hold];
    for api in apis {
        for fault in faults {
            let before = proxy.done();
            proxy.inject(api, fault, 2);
            proxy.wait_until_done(before + 1);
            checker.more(20);
            // What was held arrives in the middle of what came after it.
            proxy.release();
            checker.more(20);
        }
    }
    proxied.finish();
}

/// Without a new epoch after an end that may have been sent twice, the transaction into which the
/// first one falls would be committed in halves.
#[test]
fn f23_the_end_of_a_transaction_arrives_within_a_later_one() {
    let proxied = Proxied::start();
    let (proxy, checker) = (&proxied.proxy, &proxied.checker);
    for round in 0..12 {
        let before = proxy.done();
        proxy.inject(Api::EndTxn, Fault::Hold, 1);
        proxy.wait_until_done(before + 1);
        checker.more(1);
        proxy.inject_after(round % 6, Api::Produce, Fault::DelayRequest(Duration::from_millis(300)), 1);
        proxy.wait_until_done(before + 2);
        assert_eq!(proxy.release(), 1);
        checker.more(20);
    }
    proxied.finish();
}

#[test]
fn f29_without_its_cursor_an_owner_does_nothing() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 50);
    checker.more(50);
    owner.kill();
    rig.make_anew("cursors.resequence");
    let owner = rig.run("owner-1", "resequence");
    feed::write(&rig, 50);
    owner.says("its lanes stand still");
    sleep(LONGER_THAN_A_SESSION);
    assert_eq!(checker.count(), 50);
}

#[test]
fn f30_a_lane_whose_input_was_deleted_stands_still_and_the_other_goes_on() {
    let rig = Rig::new(&[]);
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 100);
    let work = rig.run("work-0", "work");
    checker.more(100);
    work.kill();
    owner.kill();
    feed::write(&rig, 100);
    rig.delete_input_below(0, 75);
    let (owner, _work) = (rig.run("owner-1", "resequence"), rig.run("work-1", "work"));
    owner.says("stands still");
    checker.more(50);
    sleep(LONGER_THAN_A_SESSION);
    assert_eq!(checker.sources(0), (0..50).collect::<Vec<_>>());
    assert_eq!(checker.sources(1), (0..100).collect::<Vec<_>>());
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f12_members_come_and_go_for_a_minute() {
    let rig = Rig::new(&[]);
    let _anchors = [rig.run("work", "work"), rig.run("owner", "resequence")];
    let checker = Checker::start(&rig);
    let feed = Feed::start(&rig, 200);
    checker.more(100);
    let mut random = fastrand::Rng::with_seed(12);
    let mut guests = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    for number in 0.. {
        if Instant::now() > until {
            break;
        }
        let role = if random.bool() { "work" } else { "resequence" };
        guests.push(rig.run(&format!("guest-{number}"), role));
        sleep(Duration::from_millis(random.u64(0..500)));
        if guests.len() > 3 {
            let guest = guests.swap_remove(random.usize(..guests.len()));
            if random.bool() { guest.kill() } else { guest.terminate() }
        }
    }
    drop(guests);
    checker.more(200);
    feed.stop();
    eprintln!("{} messages", checker.finish());
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f43_processes_start_while_one_of_three_brokers_is_frozen() {
    let rig = Rig::new(&["--brokers", "3"]);
    let checker = Checker::start(&rig);
    for broker in 1..=3 {
        rig.cluster.command("stop", broker);
        let begun = Instant::now();
        // Which broker a process asks first is up to chance.
        let names = (0..4).map(|number| format!("start-{broker}-{number}"));
        let started: Vec<_> = names.map(|name| rig.run(&name, "ingress,work,resequence,deliver")).collect();
        let started: Vec<_> = started.into_iter().map(Process::ready).collect();
        eprintln!("broker {broker} frozen: all are ready after {:?}", begun.elapsed());
        rig.cluster.command("cont", broker);
        feed::write(&rig, 100);
        checker.more(100);
        drop(started);
    }
    checker.finish();
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f24_f41_f43_three_brokers_die_and_freeze_in_turn() {
    let rig = Rig::new(&["--brokers", "3"]);
    let (_work, owner) = (rig.run("work", "work"), rig.run("owner", "resequence"));
    let checker = Checker::start(&rig);
    let feed = Feed::start(&rig, 100);
    checker.more(100);
    for broker in 1..=3 {
        checker.longest_pause();
        rig.cluster.command("kill", broker);
        checker.more(100);
        eprintln!("broker {broker} killed: {:?} without output", checker.longest_pause());
        rig.cluster.command("start", broker);
        checker.more(100);
        rig.cluster.command("stop", broker);
        checker.more(100);
        eprintln!("broker {broker} frozen: {:?} without output", checker.longest_pause());
        sleep(Duration::from_secs(15));
        rig.cluster.command("cont", broker);
        checker.more(100);
    }
    feed.stop();
    eprintln!("{} messages, {} commits hung", checker.finish(), owner.said().matches("has no end").count());
}
