//! Topics that are deleted and made anew under the pipeline, and cursors that count what is not there.

use std::thread::sleep;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use seriatim::log::kafka::{Kafka, Options};
use seriatim::log::{Append, Log as _, Topic};
use seriatim::metrics::Role;
use seriatim::record::Partition;
use seriatim::record::cursor::OwnerCursor;
use seriatim::takeover::{cursor_append, last_cursor};

use crate::LONGER_THAN_A_SESSION;
use crate::checker::{Checker, RECOVERY};
use crate::feed;
use crate::rig::{LANES, Process, Rig, call, wait_for};

#[test]
fn f31_lanes_whose_output_was_made_anew_stand_still() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 100);
    checker.more(100);
    drop(checker);
    owner.kill();
    rig.make_anew("output");
    // As many as there were: that the ends are the same says nothing.
    (0..LANES).for_each(|lane| feed::write_outputs(&rig, lane, 0..50));
    let owner = rig.run("owner-1", "resequence");
    feed::write(&rig, 100);
    owner.says("t.output was deleted and made anew");
    sleep(LONGER_THAN_A_SESSION);
    assert_eq!(Checker::start(&rig).count_after(Duration::from_secs(2)), 100);
}

#[test]
fn f31_an_idle_owner_notices_that_an_output_was_made_anew_and_goes_on_when_told() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 100);
    checker.more(100);
    drop(checker);
    rig.make_anew("output");
    owner.says("t.output was deleted and made anew");
    feed::write(&rig, 100);
    let checker = Checker::going_on_from(&rig, 50);
    assert_eq!(checker.count_after(Duration::from_secs(2)), 0);
    (0..LANES).for_each(|lane| accept(&rig, &owner, lane));
    checker.until(100);
    // Whoever takes over next takes the new topic for the right one.
    owner.kill();
    let _owner = rig.run("owner-1", "resequence");
    feed::write(&rig, 100);
    checker.until(200);
    (0..LANES).for_each(|lane| assert_eq!(checker.sources(lane), (50..150).collect::<Vec<_>>()));
}

#[test]
fn f31_partitions_that_are_added_to_the_input_are_told_while_the_lanes_go_on() {
    let rig = Rig::new(&[]);
    let (work, owner) = (rig.run("work-0", "work"), rig.run("owner-0", "resequence"));
    let checker = Checker::start(&rig);
    feed::write(&rig, 50);
    checker.more(50);
    rig.grow("input", 3);
    owner.says("it has 3 partitions, not 2");
    work.says("it has 3 partitions, not 2");
    feed::write_one(&rig, 2, "in no lane");
    feed::write(&rig, 50);
    checker.more(50);
    let url = format!("http://{}", owner.address("the admin port"));
    for question in [&["why"][..], &["lanes"], &["why", "2"], &["lanes", "show", "2"]] {
        let (_, text) = rig.verb(&[question, &["--url", &url]].concat(), &[]);
        assert!(text.contains("topic t.input: it has 3 partitions, not 2"), "{question:?}: {text}");
        assert!(text.contains("cannot be taken away"), "{question:?}: {text}");
    }
    let (code, text) = rig.verb(&["verify"], &[]);
    assert!(code == Some(64) && text.contains("`seriatim topics plan` says what to do"), "{text}");
    work.terminate();
    owner.terminate();
    go_on_with_three_lanes(&rig);
    assert_eq!(checker.count_after(Duration::from_secs(1)), 100, "nothing comes out again");
}

/// What is advised where the order of keys that change lanes does not matter.
fn go_on_with_three_lanes(rig: &Rig) {
    let others = ["results", "dead-letter", "ledger", "batches", "batch-items", "batch-state", "events", "output"];
    others.iter().for_each(|topic| rig.grow(topic, 3));
    let two = std::fs::read_to_string(rig.config("three", "work.builtin = \"echo\"\n")).expect("it was written");
    let three = rig.write("three.toml", &two.replace("log.partitions = 2", "log.partitions = 3"));
    let all = rig.run_by("three", "work,resequence", &three);
    let url = format!("http://{}", all.address("the admin port"));
    let has_left = || {
        let (_, text) = call(&three, &["why", "2-0", "--url", &url], &[]);
        text.contains("has left: to default as number 0").then_some(())
    };
    wait_for(RECOVERY, has_left, || all.said());
    all.terminate();
    let (code, text) = call(&three, &["verify"], &[]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn f31_plan_and_apply_tell_that_an_input_which_cursors_count_on_was_deleted() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 50);
    checker.more(50);
    let told = |verb: &str, is: Option<i32>, words: &[&str]| {
        let (code, text) = rig.verb(&["topics", verb], &[]);
        assert_eq!(code, is, "{text}");
        let lost = text.lines().filter(|line| line.contains("lost: ")).collect::<Vec<_>>();
        assert!(lost.len() == words.len() && lost.iter().zip(words).all(|(line, word)| line.contains(word)), "{text}");
    };
    told("plan", Some(0), &[]);
    rig.delete("input");
    told("plan", Some(4), &["deleted, though cursors count on it"]);
    told("apply", Some(0), &["deleted and made anew under the pipeline"]);
    told("plan", Some(4), &["deleted and made anew under the pipeline"]);
    let (_, text) = rig.verb(&["check"], &[]);
    assert!(text.contains("warning: log.kafka: topic t.input: deleted and made anew"), "{text}");
    owner.says("the lane stands still");
    (0..LANES).for_each(|lane| accept(&rig, &owner, lane));
    told("plan", Some(0), &[]);
}

#[test]
fn f31_lanes_whose_input_was_made_anew_stand_still_although_it_has_outgrown_them() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 50);
    checker.more(50);
    owner.kill();
    rig.make_anew("input");
    feed::write(&rig, 100);
    let owner = rig.run("owner-1", "resequence");
    owner.says("t.input was deleted and made anew");
    assert_eq!(checker.count_after(Duration::from_secs(2)), 50);
}

#[test]
fn f31_workers_begin_anew_with_an_input_that_was_made_anew() {
    let rig = Rig::new(&[]);
    let work = rig.run("work-0", "work");
    let owner = rig.run("owner", "resequence");
    let checker = Checker::start(&rig);
    feed::write(&rig, 400);
    checker.more(400);
    drop(checker);
    let former = stored(&rig, 200);
    rig.make_anew("input");
    owner.says("the lane stands still");
    work.says("was deleted and made anew, the group is nowhere in it");
    let checker = Checker::from_here(&rig, 200);
    (0..LANES).for_each(|lane| accept(&rig, &owner, lane));
    // All of them below where the worker was, and later than what the owner sends out by itself: after
    // `work.deadline`, which is ten minutes, a worker that went on from there would get them.
    feed::write(&rig, 100);
    checker.until(100);
    work.terminate();
    // What somebody who was slow to die might have stored last.
    let group = group(&rig);
    let is_taken = || group.commit(&former, CommitMode::Sync).ok();
    wait_for(RECOVERY, is_taken, || "the group still has members".to_owned());
    let work = rig.run("work-1", "work");
    feed::write(&rig, 100);
    checker.until(200);
    work.says("the group's position is not used");
    (0..LANES).for_each(|lane| assert_eq!(checker.sources(lane), (0..100).collect::<Vec<_>>()));
    stored(&rig, 100);
}

/// As after a loss of power: what a broker had not written through is gone, and others have those offsets then.
#[test]
fn f51_an_input_that_lost_its_end_halts_its_lane_and_goes_on_from_there() {
    let rig = Rig::new(&[]);
    let _work = rig.run("work", "work");
    let owner = rig.run("owner-0", "resequence");
    let checker = Checker::start(&rig);
    for count in [100, 20] {
        feed::write(&rig, count);
        checker.more(usize::try_from(count).expect("a few"));
    }
    stored(&rig, 60);
    rig.cluster.command("kill", 1);
    rig.cluster.order("cut", &format!("{}-0", rig.topic("input")));
    rig.cluster.command("start", 1);
    owner.says("lost its end");
    // It grows beyond where it was before anybody looks at it again.
    (0..15).for_each(|number| feed::write_one_to(&rig, 0, &number.to_string(), "default"));
    assert_eq!(checker.count_after(Duration::from_secs(2)), 120);
    drop(checker);
    owner.kill();
    let owner = rig.run("owner-1", "resequence");
    owner.says("stands still");
    let checker = Checker::from_here(&rig, 60);
    accept(&rig, &owner, 0);
    checker.until(15);
    feed::write(&rig, 100);
    checker.until(115);
    assert_eq!(checker.sources(0), (50..115).collect::<Vec<_>>());
    let (code, text) = rig.verb(&["verify"], &[]);
    assert_eq!(code, Some(0), "{text}");
}

/// Waits until workers have stored this position for all lanes; it, and what stands beside it.
fn stored(rig: &Rig, position: i64) -> TopicPartitionList {
    let (group, mut lanes) = (group(rig), TopicPartitionList::new());
    lanes.add_partition_range(&rig.topic("input"), 0, LANES - 1);
    let is_there = |stored: &TopicPartitionList| {
        stored.elements().iter().all(|lane| lane.offset() == Offset::Offset(position) && !lane.metadata().is_empty())
    };
    let stored = || group.committed_offsets(lanes.clone(), RECOVERY).ok().filter(is_there);
    wait_for(RECOVERY, stored, || format!("{position} is not stored"))
}

/// A client that may ask for the workers' positions and, while there are none, set them.
fn group(rig: &Rig) -> BaseConsumer {
    let mut config = rig.client();
    config.set("group.id", rig.topic("work")).create().expect("the brokers are there")
}

/// An operator accepts what a lane has lost.
pub(crate) fn accept(rig: &Rig, owner: &Process, lane: i32) {
    let url = format!("http://{}", owner.address("the admin port"));
    let (code, text) =
        rig.verb(&["lanes", "accept", &lane.to_string(), "--yes", "--reason", "a test", "--url", &url], &[]);
    assert_eq!(code, Some(0), "{text}");
}

/// Has the cursor that a dead owner left behind count an output which is not there, as a transaction does of
/// which the output was lost.
pub(crate) fn count_an_output_more(of: &Rig, lane: u32) {
    let count = async {
        let log = Kafka::new(Options { properties: of.cluster.properties(), ..Options::default() });
        let log = log.expect("the properties are right");
        let cursors = Topic::from(of.topic("cursors.resequence")).partition(Partition(0));
        let last = last_cursor::<OwnerCursor>(&log, Role::Resequence, &cursors).await.expect("it can be read");
        let mut cursor = last.expect("there was an owner");
        let lane = cursor.lanes.get_mut(&lane).expect("it was its owner");
        *lane.sequences.get_mut(&of.topic("output")).expect("it has outputs") += 1;
        let Append { to, batch } = cursor_append(Role::Resequence, &cursors, &cursor);
        log.append(&to, batch).await.expect("there is room").await.expect("it is written");
    };
    tokio::runtime::Runtime::new().expect("there are threads").block_on(count);
}
