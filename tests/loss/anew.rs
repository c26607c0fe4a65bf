//! Topics that are deleted and made anew under the owner of a lane.

use std::time::Duration;

use seriatim::log::{Log as _, SESSION_TIMEOUT};
use seriatim::observe::ledger::Found;
use seriatim::record::{BatchBuilder, Name};
use seriatim::topics::Topics;

use super::{LANE, Rig};

impl Rig {
    /// Runs a resequencer that dies after so many turns, or when there is nothing to do for it.
    pub(super) async fn dying_after(&self, turns: usize) {
        let mut running = std::pin::pin!(self.resequence());
        for _ in 0..turns {
            assert!(futures::poll!(&mut running).is_pending(), "it does not end by itself");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends messages and answers each in its turn, which somebody has to release.
    async fn send_and_answer(&self, bodies: &[&str]) {
        let first = self.log.bounds(&self.topics.input.partition(LANE)).await.expect("no faults").end.0;
        let before = self.outputs().await.len();
        self.send(bodies).await;
        for (offset, count) in (first..).zip(before + 1..=before + bodies.len()) {
            self.answer(&[offset]).await;
            self.has_outputs(count).await;
        }
    }
}

fn numbered(outputs: &[(u64, u64, String)]) -> Vec<(u64, &str)> {
    outputs.iter().map(|(sequence, _, body)| (*sequence, body.as_str())).collect()
}

#[tokio::test(start_paused = true)]
async fn an_input_made_anew_is_told_although_it_has_outgrown_the_frontier() {
    let rig = Rig::new().await;
    let answer_all = async |bodies: &[&str]| {
        rig.send(bodies).await;
        let before = rig.outputs().await.len() as u64;
        for offset in 0..bodies.len() as u64 {
            rig.answer(&[offset]).await;
            rig.has_outputs(usize::try_from(before + offset + 1).expect("a few")).await;
        }
    };
    rig.resequencing(answer_all(&["a", "b"])).await;
    rig.log.recreate(&rig.topics.input);
    rig.send(&["c", "d", "e", "f"]).await;
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("t.input was deleted and made anew"), "{reason}");
    // The verdict lasts: whoever takes over next knows of it, too.
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!((rig.is_halted().await, rig.outputs().await.len()), (reason, 2));
    assert_eq!(rig.found(0).await, Found::Pending(Vec::new()), "the ledger has the former message of that offset");
    assert_eq!(rig.audited().await, [""; 0]);
    rig.resequencing(async {
        tokio::time::sleep(2 * SESSION_TIMEOUT).await;
        rig.accept().await;
        // Workers are where they were in the old topic, and read none of these by themselves.
        let accepted = tokio::time::Instant::now();
        while rig.sent_out().await.len() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(accepted.elapsed() < Duration::from_secs(60), "nobody waits for a deadline");
        for offset in 0..4 {
            rig.answer(&[offset]).await;
            rig.has_outputs(usize::try_from(offset + 3).expect("a few")).await;
        }
    })
    .await;
    let outputs: Vec<_> = rig.outputs().await.into_iter().map(|(sequence, _, body)| (sequence, body)).collect();
    let all = ["a", "b", "c", "d", "e", "f"].map(str::to_owned).into_iter().enumerate();
    assert_eq!(outputs, all.map(|(sequence, body)| (sequence as u64, body)).collect::<Vec<_>>());
    for offset in 0..4 {
        assert!(rig.is_output(offset, offset + 2).await, "{:?}", rig.found(offset).await);
    }
    assert_eq!(rig.audited().await, [""; 0]);
}

/// Outputs of the former input that a torn commit left behind must not be taken for those of new messages at the same
/// offsets, nor are their rounds.
#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_lost_input_is_not_held_against_the_new_one() {
    let rig = Rig::new().await;
    rig.resequencing(rig.send_and_answer(&["a"])).await;
    rig.send(&["b"]).await;
    rig.write_output(1, 1, "b").await;
    rig.log.recreate(&rig.topics.input);
    rig.resequencing(rig.is_halted()).await;
    rig.accept().await;
    rig.resequencing(rig.send_and_answer(&["c", "d", "e"])).await;
    assert_eq!(numbered(&rig.outputs().await), [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e")]);
    rig.resequencing(rig.send_and_answer(&["f"])).await;
    assert_eq!(rig.outputs().await.len(), 6, "an owner that begins with this cursor knows it, too");
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_lost_input_are_forgotten_and_those_of_the_new_one_remembered() {
    let rig = Rig { window: 100, ..Rig::new().await };
    let send = async |keys: &[u8]| {
        let mut builder = BatchBuilder::default();
        keys.iter().for_each(|key| builder.push(None, Some(&[*key]), |to| to.put(Name::Id, &[*key])));
        rig.append(&rig.topics.input, builder.finish()).await;
    };
    let answered = async |offsets: &[u64], outputs: usize| {
        for offset in offsets {
            rig.answer(&[*offset]).await;
        }
        rig.has_outputs(outputs).await;
    };
    send(b"abcdef").await;
    rig.resequencing(answered(&[0, 1, 2, 3, 4, 5], 6)).await;
    rig.log.recreate(&rig.topics.input);
    rig.resequencing(rig.is_halted()).await;
    rig.accept().await;
    send(b"xyzf").await;
    rig.resequencing(answered(&[0, 1, 2, 3], 10)).await;
    let ledger = rig.log.bounds(&rig.topics.ledger.partition(LANE)).await.expect("no faults");
    assert!(rig.cursor().await.identities < ledger.end.0);
    // The next owner restores them from the ledger, where former messages of these offsets stand, too.
    send(b"zyxw").await;
    rig.resequencing(answered(&[7], 11)).await;
    let bodies: String = rig.outputs().await.into_iter().map(|(.., body)| body).collect();
    assert_eq!(bodies, "abcdefxyzfw");
    assert_eq!(rig.audited().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_was_made_anew_halts_its_lane_whatever_is_unanswered() {
    let rig = Rig::new().await;
    rig.send(&["a", "b", "c"]).await;
    rig.answer(&[0]).await;
    let reason = rig
        .resequencing(async {
            rig.has_outputs(1).await;
            rig.log.recreate(&rig.topics.input);
            rig.is_halted().await
        })
        .await;
    assert!(reason.contains("input[0]") && reason.contains("made anew"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn an_output_that_was_made_anew_is_noticed_by_an_owner_with_nothing_to_do() {
    let rig = Rig::new().await;
    let reason = rig
        .resequencing(async {
            rig.send_and_answer(&["a", "b"]).await;
            rig.log.recreate(&rig.topics.destinations["default"]);
            let began = tokio::time::Instant::now();
            let reason = rig.is_halted().await;
            assert!(began.elapsed() < Duration::from_secs(10), "it looks every few seconds: {:?}", began.elapsed());
            reason
        })
        .await;
    assert!(reason.contains("t.output was deleted and made anew"), "{reason}");
    // Nothing is written there, not by the next owner either, until the loss is accepted.
    rig.send(&["c"]).await;
    rig.answer(&[2]).await;
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!((rig.is_halted().await, rig.outputs().await), (reason, Vec::new()));
    rig.accept().await;
    rig.resequencing(rig.has_outputs(1)).await;
    rig.resequencing(rig.send_and_answer(&["d"])).await;
    assert_eq!(numbered(&rig.outputs().await), [(2, "c"), (3, "d")], "numbers go on");
}

#[tokio::test(start_paused = true)]
async fn a_commit_into_an_output_made_anew_does_not_hide_that_it_was() {
    let rig = Rig::new().await;
    rig.resequencing(async {
        rig.send_and_answer(&["a", "b"]).await;
        rig.log.recreate(&rig.topics.destinations["default"]);
        rig.send_and_answer(&["c"]).await;
    })
    .await;
    assert_eq!(numbered(&rig.outputs().await), [(2, "c")], "its owner died before it looked");
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("t.output was deleted and made anew"), "{reason}");
    rig.accept().await;
    rig.resequencing(rig.send_and_answer(&["d"])).await;
    assert_eq!(numbered(&rig.outputs().await), [(2, "c"), (3, "d")]);
}

/// Whoever accepts for an owner may die at any point of it, and nothing need be written into the new topic.
#[tokio::test(start_paused = true)]
async fn an_output_that_was_accepted_stays_accepted_whoever_dies_when() {
    for turns in 0..40 {
        let rig = Rig::new().await;
        rig.resequencing(rig.send_and_answer(&["a", "b"])).await;
        rig.log.recreate(&rig.topics.destinations["default"]);
        rig.resequencing(rig.is_halted()).await;
        rig.accept().await;
        tokio::time::sleep(2 * SESSION_TIMEOUT).await;
        rig.dying_after(turns).await;
        rig.resequencing(async {
            while rig.cursor().await.halted.is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        // The next owner finds it empty, and is not the one that was told.
        rig.resequencing(rig.send_and_answer(&["c", "d"])).await;
        assert_eq!(numbered(&rig.outputs().await), [(2, "c"), (3, "d")], "after {turns} turns");
        rig.log.recreate(&rig.topics.destinations["default"]);
        rig.resequencing(rig.is_halted()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_ours_no_longer_halts_nobody() {
    let mut rig = Rig::new().await;
    let alone = rig.topics.clone();
    let both = Topics::derive("t", &["default", "other"], 1, 1);
    rig.log.ensure(&both.shapes()).await.expect("one more");
    // One that is new is taken as it is.
    for (topics, body) in [(&alone, "a"), (&both, "b"), (&alone, "c"), (&both, "d")] {
        rig.topics = topics.clone();
        rig.resequencing(rig.send_and_answer(&[body])).await;
        if body != "a" {
            rig.log.recreate(&both.destinations["other"]);
        }
    }
    assert_eq!(rig.outputs().await.len(), 4);
    // What holds nothing of the lane's has nothing to lose.
    rig.resequencing(rig.send_and_answer(&["e"])).await;
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(b"f"), |to| to.put(Name::Destination, b"other"));
    rig.append(&rig.topics.input, builder.finish()).await;
    rig.answer(&[5]).await;
    rig.resequencing(async {
        while rig.read(&both.destinations["other"]).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    rig.log.recreate(&both.destinations["other"]);
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("t.output.other was deleted and made anew"), "{reason}");
}
