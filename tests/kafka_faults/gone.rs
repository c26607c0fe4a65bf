//! An output topic that is deleted and not made again.

use crate::anew::accept;
use crate::checker::Checker;
use crate::feed;
use crate::rig::{self, Rig};

#[test]
fn f32_an_output_topic_that_is_deleted_halts_the_lanes_that_write_there_and_the_others_go_on() {
    let rig = Rig::with(&[], "destinations = { default = {}, other = {} }\n");
    let _work = rig.run("work", "work");
    let mut owners = vec![rig.run("owner-0", "resequence").ready(), rig.run("owner-1", "resequence").ready()];
    let (checker, other) = (Checker::start(&rig), Checker::of(&rig, "output.other", 0));
    feed::write_one_to(&rig, 0, "0", "other");
    other.until(1);
    drop(other);
    feed::write(&rig, 100);
    checker.until(100);
    let owner = rig::owner(&mut owners);
    rig.delete("output.other");
    feed::write_one_to(&rig, 0, "1", "other");
    owner.says("t.output.other was deleted and is not there");
    feed::write(&rig, 100);
    checker.until(150);
    owner.kill();
    // Nobody knows what was there, and the other lane does not wait for it.
    feed::write(&rig, 100);
    let pause = checker.until(200);
    eprintln!("{pause:?} from the death of the owner to the other lane's outputs of the next one");
    let owner = &owners[0];
    let url = format!("http://{}", owner.address("the admin port"));
    for verb in [&["why", "0"][..], &["lanes", "show", "0"]] {
        let (_, text) = rig.verb(&[verb, &["--url", &url]].concat(), &[]);
        assert!(text.contains("t.output.other was deleted") && text.contains("topics apply"), "{text}");
    }
    rig.create_topics();
    owner.says("t.output.other was deleted and made anew");
    // It never had anything there to lose.
    feed::write(&rig, 100);
    checker.until(250);
    assert_eq!(checker.sources(1), (0..200).collect::<Vec<_>>());
    let other = Checker::of(&rig, "output.other", 1);
    accept(&rig, owner, 0);
    other.until(1);
    checker.until(400);
    assert_eq!((other.sources(0), checker.sources(0)), (vec![51], (1..51).chain(52..202).collect::<Vec<_>>()));
}
