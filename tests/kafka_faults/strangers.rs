//! Transactions of strangers on the input: holes where they were aborted, and a wait while one is open.

use std::time::Duration;

use crate::checker::Checker;
use crate::feed;
use crate::rig::{Rig, wait_for};

#[test]
fn f28_transactions_aborted_and_deleted_records_leave_holes() {
    let rig = Rig::new(&[]);
    feed::write(&rig, 50);
    feed::write_in_transactions(&rig, 20);
    let checker = Checker::start(&rig);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    assert_eq!(checker.finish(), 150);
    owner.kill();
    feed::write_in_transactions(&rig, 21);
    let _owner = rig.run("owner-1", "resequence");
    assert_eq!(checker.finish(), 260);
}

#[test]
fn f28_why_names_a_transaction_that_holds_up_the_input() {
    let rig = Rig::new(&[]);
    let (_work, owner) = (rig.run("work", "work"), rig.run("owner", "resequence"));
    let checker = Checker::start(&rig);
    feed::write(&rig, 20);
    checker.until(20);
    let open = feed::Open::start(&rig);
    feed::write_one(&rig, 0, "behind it");
    let admin = owner.address("the admin port");
    let why = || rig.verb(&["why", "0"], &[("SERIATIM_ADMIN__LISTEN", &admin)]);
    // All ten messages of the lane have left; the transaction's and the one behind it wait.
    let held_up = "lane 0 waits for a producer: a transaction is open on the input from offset 10 on, which holds up ";
    let until = " offsets; the broker ends it after that producer's transaction.timeout.ms\n";
    let count = |text: &str| text.strip_prefix(held_up)?.strip_suffix(until)?.parse().ok();
    // An owner that has had to claim anew meanwhile has written a record of its own there.
    let is_said = || count(&why().1).filter(|count: &u64| *count >= 2).map(drop);
    wait_for(Duration::from_secs(60), is_said, || format!("{:?}", why()));
    assert_eq!(checker.count(), 20);
    open.commit();
    checker.until(23);
    let at_rest = || why().1.starts_with("lane 0 waits for nothing").then_some(());
    wait_for(Duration::from_secs(60), at_rest, || format!("{:?}", why()));
}

#[test]
fn f28_a_hole_of_a_million_offsets_is_passed_at_once() {
    let rig = Rig::new(&[]);
    let (_work, _owner) = (rig.run("work", "work"), rig.run("owner", "resequence"));
    let checker = Checker::start(&rig);
    feed::write(&rig, 50);
    feed::abort(&rig, 1_000_000);
    feed::write(&rig, 50);
    assert_eq!(checker.finish(), 100);
}
