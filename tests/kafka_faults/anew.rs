//! Topics that are deleted and made anew under the pipeline, and cursors that count what is not there.

use std::thread::sleep;
use std::time::Duration;

use seriatim::log::kafka::{Kafka, Options};
use seriatim::log::{Append, Log as _, Topic};
use seriatim::metrics::Role;
use seriatim::record::Partition;
use seriatim::record::cursor::OwnerCursor;
use seriatim::takeover::{cursor_append, last_cursor};

use crate::LONGER_THAN_A_SESSION;
use crate::checker::Checker;
use crate::feed;
use crate::rig::{LANES, Process, Rig};

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
