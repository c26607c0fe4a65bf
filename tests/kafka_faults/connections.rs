//! Connections that break, stall and take their time, while members of groups come, go and freeze.

use std::thread::sleep;
use std::time::{Duration, Instant};

use seriatim::log::kafka::{Kafka, Options};
use seriatim::log::{Log as _, Topic};

use crate::proxy::{Api, Fault};
use crate::{LONGER_THAN_A_SESSION, Proxied};

#[test]
fn f45_all_connections_break_again_and_again() {
    let proxied = Proxied::start();
    for _ in 0..8 {
        proxied.proxy.cut();
        proxied.checker.more(10);
    }
    proxied.finish();
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f45_all_connections_stall_without_breaking() {
    let proxied = Proxied::start();
    for _ in 0..3 {
        proxied.proxy.stall();
        let pause = proxied.checker.more(100);
        eprintln!("{pause:?} to 100 outputs after all connections stalled");
    }
    proxied.finish();
}

/// Every end takes so long that it may have been sent twice, so that each commit is followed by a new
/// producer, which takes a while to connect. Meanwhile another member gets one of the partitions.
#[test]
#[ignore = "takes minutes: make faults"]
fn f21_producers_are_made_anew_while_their_partitions_are_handed_over() {
    let proxied = Proxied::start_with("log.control_partitions = 2\n");
    let (proxy, checker) = (&proxied.proxy, &proxied.checker);
    for round in 0..6 {
        proxy.inject(Api::EndTxn, Fault::DelayReply(Duration::from_millis(400)), u32::MAX);
        proxy.slow_down(Duration::from_millis(800));
        checker.more(10);
        let guest = proxied.run(&format!("guest-{round}"), "resequence");
        checker.more(50);
        if round % 2 == 0 {
            guest.terminate();
        } else {
            guest.kill();
        }
        checker.more(50);
        proxy.cease();
        proxy.slow_down(Duration::ZERO);
        checker.more(200);
    }
    proxied.finish();
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f12_members_come_and_go_while_transactions_are_slow() {
    let proxied = Proxied::start_with("log.control_partitions = 2\n");
    let mut random = fastrand::Rng::with_seed(21);
    let mut guests = Vec::new();
    proxied.proxy.inject(Api::EndTxn, Fault::DelayReply(Duration::from_millis(300)), u32::MAX);
    let until = Instant::now() + Duration::from_secs(60);
    for number in 0.. {
        if Instant::now() > until {
            break;
        }
        guests.push(proxied.run(&format!("guest-{number}"), "resequence"));
        sleep(Duration::from_millis(random.u64(0..1000)));
        if guests.len() > 3 {
            let guest = guests.swap_remove(random.usize(..guests.len()));
            if random.bool() { guest.kill() } else { guest.terminate() }
        }
    }
    drop(guests);
    proxied.checker.more(50);
    proxied.proxy.cease();
    proxied.finish();
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f21_a_zombie_wakes_up_with_all_its_connections_broken() {
    let proxied = Proxied::start();
    let (proxy, checker) = (&proxied.proxy, &proxied.checker);
    let (_work, other) = (proxied.rig.run("work", "work"), proxied.rig.run("owner", "resequence"));
    for _ in 0..3 {
        checker.more(100);
        proxied.pipeline.freeze();
        sleep(LONGER_THAN_A_SESSION);
        checker.more(200);
        proxy.cut();
        proxy.slow_down(Duration::from_secs(2));
        proxied.pipeline.thaw();
        checker.more(200);
        proxy.slow_down(Duration::ZERO);
        // It is good for something again.
        other.freeze();
        checker.more(200);
        other.thaw();
    }
    proxied.finish();
}

/// The brokers answer, but the client gets nothing new: fetching has stopped in silence.
#[test]
#[ignore = "takes minutes: make faults"]
fn f74_a_partition_that_gives_nothing_new_is_read_by_another_client() {
    let proxied = Proxied::start();
    let input = Topic::from(proxied.rig.topic("input"));
    let log = Kafka::new(Options { properties: proxied.rig.cluster.properties(), ..Options::default() });
    let id = async { log.expect("the properties are right").identities(std::slice::from_ref(&input)).await };
    let id = tokio::runtime::Runtime::new().expect("there are threads").block_on(id);
    let id = id.expect("the broker is there")[input.as_str()];
    // For its first second a reader has another client than from then on.
    proxied.checker.more(600);
    proxied.checker.longest_pause();
    proxied.proxy.starve(id.0, 0);
    proxied.pipeline.says("another client takes over");
    proxied.finish();
}
