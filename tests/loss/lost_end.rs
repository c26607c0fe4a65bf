//! An input that has lost its end or its beginning, while it stayed the same topic.

use std::time::Duration;

use seriatim::record::{BatchBuilder, Epoch, Offset, OutputHeaders, Sequence, Source};
use seriatim::resequence::Scope;

use super::{LANE, Rig};

impl Rig {
    async fn unordered() -> Self {
        Self { by: Scope::None, window: 100, ..Self::new().await }
    }

    /// Messages, each in a batch of its own.
    async fn send_apart(&self, bodies: &[&str]) {
        for body in bodies {
            self.send(&[body]).await;
        }
    }

    /// Answers these messages, one after the other, as they leave.
    async fn answer_each(&self, offsets: &[u64]) {
        for offset in offsets {
            let before = self.outputs().await.len();
            self.answer(&[*offset]).await;
            self.has_outputs(before + 1).await;
        }
    }

    fn lose_input_from(&self, offset: u64) {
        self.log.lose_end(&self.topics.input.partition(LANE), Offset(offset)).expect("it is there");
    }

    async fn bodies(&self) -> String {
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
        let output = OutputHeaders {
            source: Source { lane: LANE, offset: Offset(offset) },
            output: 0,
            group: 0,
            sequence: Sequence(offset),
            epoch: Epoch(1),
        };
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(b"x"), |to| output.encode(to));
        rig.append(&rig.topics.destinations["default"], builder.finish()).await;
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
async fn what_is_released_above_a_beginning_that_is_lost_is_not_released_again() {
    let rig = Rig::unordered().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[1, 3])).await;
    rig.log.delete_below(&rig.topics.input.partition(LANE), Offset(1)).expect("it is there");
    rig.resequencing(rig.is_halted()).await;
    rig.accept().await;
    rig.resequencing(async {
        rig.send_apart(&["e"]).await;
        rig.answer_each(&[2, 4]).await;
    })
    .await;
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!((rig.bodies().await.as_str(), rig.cursor().await.frontier), ("bdce", 5));
    assert_eq!(rig.audited().await, [""; 0]);
}
