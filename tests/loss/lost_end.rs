//! An input that has lost its end while it stayed the same topic, as after a power failure or an unclean election.

use std::sync::Arc;
use std::time::Duration;

use seriatim::log::Log as _;
use seriatim::log::memory::Memory;
use seriatim::observe::ledger::Found;
use seriatim::record::{BatchBuilder, Offset, Partition, ResultHeaders, Source, Status, check};
use seriatim::resequence::{self, Options, Scope};
use seriatim::topics::Topics;
use tokio_util::sync::CancellationToken;

use super::{DEADLINE, LANE, Rig};

impl Rig {
    pub(super) async fn unordered() -> Self {
        Self { by: Scope::None, window: 100, ..Self::new().await }
    }

    /// Messages, each in a batch of its own.
    pub(super) async fn send_apart(&self, bodies: &[&str]) {
        for body in bodies {
            self.send(&[body]).await;
        }
    }

    /// Answers these messages, one after the other, as they leave.
    pub(super) async fn answer_each(&self, offsets: &[u64]) {
        for offset in offsets {
            let before = self.outputs().await.len();
            self.answer(&[*offset]).await;
            self.has_outputs(before + 1).await;
        }
    }

    pub(super) fn lose_input_from(&self, offset: u64) {
        self.log.lose_end(&self.topics.input.partition(LANE), Offset(offset)).expect("it is there");
    }

    pub(super) async fn bodies(&self) -> String {
        self.outputs().await.into_iter().map(|(.., body)| body).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_released_of_an_input_that_lost_its_end_is_not_released_again() {
    let rig = Rig::new().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[0, 1, 2, 3])).await;
    rig.lose_input_from(2);
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("t.input[0] ends at 2 and had messages up to 4: it has lost its end"), "{reason}");
    rig.accept().await;
    rig.resequencing(async {
        rig.send_apart(&["e", "f", "g"]).await;
        rig.answer_each(&[2, 3, 4]).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "abcdefg");
    for (offset, sequence) in [(0, 0), (1, 1), (2, 4), (3, 5), (4, 6)] {
        assert!(rig.is_output(offset, sequence).await, "{offset}: {:?}", rig.found(offset).await);
    }
    assert_eq!(rig.audited().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_a_living_owner_has_lost_is_known_however_far_the_input_has_grown_since() {
    let rig = Rig::new().await;
    rig.resequencing(async {
        rig.send_apart(&["a", "b", "c", "d"]).await;
        rig.answer_each(&[0, 1, 2, 3]).await;
        rig.lose_input_from(2);
        let reason = rig.is_halted().await;
        assert!(reason.contains("position 4 lies beyond the log's end at 2"), "{reason}");
        rig.send_apart(&["e", "f", "g"]).await;
        rig.accept().await;
        rig.answer_each(&[2, 3, 4]).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "abcdefg");
}

/// Where the frontier is still within it, messages that come now must not be taken for those that left in their place.
#[tokio::test(start_paused = true)]
async fn an_end_that_is_lost_above_the_frontier_halts_the_lane() {
    let rig = Rig::unordered().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[1, 3])).await;
    assert_eq!(rig.cursor().await.frontier, 0);
    rig.lose_input_from(2);
    rig.send_apart(&["e"]).await;
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("it has lost its end"), "{reason}");
    rig.accept().await;
    rig.resequencing(async {
        rig.send_apart(&["f"]).await;
        rig.answer_each(&[0, 2, 3]).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "bdaef");
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!((rig.bodies().await.as_str(), rig.cursor().await.frontier), ("bdaef", 4));
    assert_eq!(rig.audited().await, [""; 0]);
}

/// A cursor may be lost with the input's end, but not the outputs.
#[tokio::test(start_paused = true)]
async fn outputs_of_messages_that_the_input_has_lost_halt_the_lane() {
    let rig = Rig::new().await;
    rig.send_apart(&["a", "b"]).await;
    rig.resequencing(rig.answer_each(&[0, 1])).await;
    for offset in 2..4 {
        rig.write_output(offset, offset, "x").await;
    }
    rig.send_apart(&["c"]).await;
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("t.input[0] ends at 3 and had messages up to 4: it has lost its end"), "{reason}");
    rig.accept().await;
    rig.resequencing(async {
        rig.send_apart(&["d"]).await;
        rig.answer(&[2]).await;
        rig.answer_each(&[3]).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "abxxd", "of c the output is there already");
}

#[tokio::test(start_paused = true)]
async fn a_message_in_the_place_of_a_lost_one_is_not_told_released_before_the_loss_is_accepted() {
    let rig = Rig::new().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[0, 1, 2, 3])).await;
    rig.lose_input_from(2);
    rig.resequencing(rig.is_halted()).await;
    rig.send_apart(&["e"]).await;
    assert_eq!(rig.cursor().await.lost_from, Some(2));
    assert_eq!(rig.found(2).await, Found::Pending(Vec::new()), "that is c, e is there now");
}

#[tokio::test(start_paused = true)]
async fn an_input_that_lost_its_end_is_known_although_the_lane_halted_for_its_results() {
    let rig = Rig::new().await;
    rig.resequencing(async {
        rig.send_apart(&["a", "b", "c", "d"]).await;
        rig.answer_each(&[0, 1, 2, 3]).await;
        rig.log.lose_end(&rig.topics.results.partition(LANE), Offset(2)).expect("it is there");
        rig.lose_input_from(2);
        rig.is_halted().await;
        rig.send_apart(&["e", "f", "g"]).await;
        rig.accept().await;
        rig.answer_each(&[2, 3, 4]).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "abcdefg");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_lost_while_the_lane_stands_still_is_known_to_who_takes_over() {
    let rig = Rig::new().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[0, 1, 2, 3])).await;
    rig.log.recreate(&rig.topics.results);
    rig.resequencing(rig.is_halted()).await;
    rig.lose_input_from(2);
    // Somebody takes over, and could look.
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    assert!(rig.is_halted().await.contains("made anew: what it held before is lost; t.input[0] ends at 2"));
    rig.send_apart(&["e", "f", "g"]).await;
    rig.accept().await;
    rig.resequencing(async {
        rig.answer_each(&[2, 3, 4]).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "abcdefg");
}

#[tokio::test(start_paused = true)]
async fn a_lost_end_can_be_accepted_although_the_input_is_damaged() {
    let rig = Rig::unordered().await;
    rig.send_apart(&["a", "b", "c", "d", "e"]).await;
    rig.resequencing(rig.answer_each(&[1, 3, 4])).await;
    let input = rig.read(&rig.topics.input).await;
    rig.damage_at(&rig.topics.input, 2);
    rig.lose_input_from(4);
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("lost its end"), "{reason}");
    rig.resequencing(async {
        rig.accept().await;
        while rig.cursor().await.halted.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.answer_of(&input, &[0]).await;
        let reason = rig.is_halted().await;
        assert!(reason.contains("damaged") || !reason.contains("lost its end"), "{reason}");
        rig.accept_and_work(&input).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "bdea", "what left above the damage does not leave again");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_loses_its_end_does_not_void_what_comes_then() {
    let rig = Rig::new().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[0, 1, 2, 3])).await;
    rig.lose_input_from(2);
    rig.resequencing(rig.is_halted()).await;
    rig.accept().await;
    rig.resequencing(async {
        while rig.cursor().await.halted.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let ledger = rig.topics.ledger.partition(LANE);
    rig.log.lose_end(&ledger, Offset(2)).expect("it is there");
    let reason = rig.resequencing(async {
        rig.send_apart(&["e"]).await;
        tokio::time::timeout(Duration::from_secs(30), rig.is_halted()).await
    });
    if reason.await.is_ok() {
        rig.accept().await;
    }
    rig.resequencing(rig.answer_each(&[2])).await;
    assert_eq!(rig.bodies().await, "abcde");
    assert!(rig.is_output(2, 4).await, "{:?} {:?}", rig.found(2).await, rig.cursor().await.voided);
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_does_not_hold_the_accept_and_with_it_the_other_lanes() {
    let topics = Topics::derive("t", &["default"], 2, 1);
    let rig = Rig { log: Memory::new(11), topics, by: Scope::Lane, window: 100 };
    rig.log.ensure(&rig.topics.shapes()).await.expect("a new log takes them");
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[0])).await;
    assert_eq!((rig.cursor().await.frontier, rig.cursor().await.read_to), (1, 4));
    rig.lose_input_from(2);
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(b"t"), |_| {});
    let open = rig.log.append_uncommitted(&rig.topics.input.partition(LANE), &builder.finish()).expect("it is there");
    rig.resequencing(rig.is_halted()).await;
    let other = rig.topics.input.partition(Partition(1));
    let worked = rig
        .resequencing(async {
            rig.accept().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut builder = BatchBuilder::default();
            builder.push(None, Some(b"z"), |_| {});
            rig.log.append(&other, builder.finish()).await.expect("no faults").await.expect("no faults");
            let input = super::all(&rig.log, &other).await;
            let record = input.iter().flatten().next().expect("z");
            let source = Source { lane: Partition(1), offset: record.offset };
            let headers = ResultHeaders::new(source, check(&record), Status::Done);
            let mut builder = BatchBuilder::default();
            builder.push(None, record.value, |to| headers.encode(to));
            let results = rig.topics.results.partition(Partition(1));
            rig.log.append(&results, builder.finish()).await.expect("no faults").await.expect("no faults");
            tokio::time::sleep(Duration::from_secs(300)).await;
            let out = rig.topics.destinations["default"].partition(Partition(1));
            super::all(&rig.log, &out).await.len()
        })
        .await;
    drop(open);
    assert_eq!(worked, 1, "of lane 1");
}

#[tokio::test(start_paused = true)]
async fn losses_one_after_the_other() {
    let rig = Rig::unordered().await;
    let goes_on = async || {
        rig.accept().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        if rig.cursor().await.halted.is_some() {
            rig.accept().await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    };
    rig.send_apart(&["a", "b", "c", "d", "e", "f"]).await;
    rig.resequencing(rig.answer_each(&[1, 3, 5])).await;
    rig.lose_input_from(4);
    rig.resequencing(rig.is_halted()).await;
    rig.lose_input_from(2);
    rig.resequencing(async {
        goes_on().await;
        rig.send_apart(&["g", "h"]).await;
        rig.answer_each(&[2, 0, 3]).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "bdfgah");
    rig.lose_input_from(3);
    rig.resequencing(rig.is_halted()).await;
    rig.log.recreate(&rig.topics.input);
    rig.resequencing(async {
        goes_on().await;
        rig.send_apart(&["i", "j"]).await;
        rig.answer_each(&[1, 0]).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "bdfgahji");
    assert_eq!(rig.audited().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn parts_and_a_lost_end() {
    let rig = Rig::by_destination().await;
    rig.send_to("other", "x").await;
    rig.send_to("default,other", "a").await;
    rig.send_to("default,other", "b").await;
    rig.send_to("default", "c").await;
    rig.resequencing(rig.answer_each(&[1, 2, 3])).await;
    assert_eq!(rig.bodies().await, "abc");
    rig.lose_input_from(2);
    rig.resequencing(rig.is_halted()).await;
    rig.accept().await;
    rig.resequencing(async {
        rig.send_to("default,other", "d").await;
        rig.send_to("default", "e").await;
        rig.answer_each(&[2, 3]).await;
        rig.answer(&[0]).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    assert_eq!((rig.bodies().await.as_str(), rig.cursor().await.frontier), ("abcde", 4));
    let of = rig.topics.destinations["other"].partition(LANE);
    let other = super::all(&rig.log, &of).await;
    let other: Vec<_> = other.iter().flatten().map(|record| record.value.unwrap_or_default().to_vec()).collect();
    assert_eq!(other, [b"x", b"a", b"d"]);
    assert_eq!(rig.audited().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_end_and_a_lost_beginning() {
    both_ends_are_lost(&[1, 3, 5], "bdfcg").await;
    both_ends_are_lost(&[3, 5], "dfbcg").await;
}

async fn both_ends_are_lost(left: &[u64], released: &str) {
    let rig = Rig::unordered().await;
    rig.send_apart(&["a", "b", "c", "d", "e", "f"]).await;
    rig.resequencing(rig.answer_each(left)).await;
    rig.lose_input_from(4);
    rig.log.delete_below(&rig.topics.input.partition(LANE), Offset(1)).expect("it is there");
    rig.resequencing(async {
        for _ in 0..3 {
            rig.is_halted().await;
            rig.accept().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            if rig.cursor().await.halted.is_none() {
                break;
            }
        }
        rig.send_apart(&["g"]).await;
        let open = (1..5).filter(|offset| *offset == 4 || !left.contains(offset));
        rig.answer_each(&open.collect::<Vec<_>>()).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    assert_eq!((rig.bodies().await.as_str(), rig.cursor().await.frontier), (released, 5));
    assert_eq!(rig.audited().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn fan_out_and_a_lost_end() {
    let rig = Rig::new().await;
    let run = || {
        let options = Options { fan_out: true, deadline: DEADLINE, window: 100, ..Options::default() };
        let (log, topics) = (Arc::new(rig.log.clone()), rig.topics.clone());
        resequence::run(log, topics, options, "t.resequence", "m", 1, CancellationToken::new())
    };
    rig.send_apart(&["a", "b", "c", "d"]).await;
    tokio::select! {
        ended = run() => panic!("{ended:?}"),
        () = async {
            while rig.sent_out().await.len() < 4 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            rig.answer_each(&[0]).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        } => {}
    }
    let before = rig.read(&rig.topics.input).await;
    rig.lose_input_from(2);
    tokio::select! {
        ended = run() => panic!("{ended:?}"),
        () = async {
            rig.is_halted().await;
            rig.answer_of(&before, &[2]).await;
            rig.accept().await;
            rig.send_apart(&["e", "f"]).await;
            rig.answer_of(&before, &[3]).await;
            while rig.sent_out().await.iter().filter(|(_, body)| "ef".contains(body.as_str())).count() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            rig.answer(&[1]).await;
            rig.answer(&[3]).await;
            rig.answer_each(&[2]).await;
            rig.has_outputs(4).await;
        } => {}
    }
    assert_eq!(rig.bodies().await, "abef");
    assert_eq!(rig.audited().await, [""; 0]);
}

/// Somebody who has led the input, and does not know yet that another does, answers for it.
#[tokio::test(start_paused = true)]
async fn one_answer_of_a_deposed_leader_halts_nobody() {
    let rig = Rig::new().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[0, 1, 2, 3])).await;
    rig.log.answer_late(&rig.topics.input.partition(LANE), Offset(2)).expect("it is there");
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!((rig.cursor().await.halted, rig.bodies().await.as_str()), (None, "abcd"));
}
