//! What has left of a lane out of the input's order, above a beginning or a block of the input that is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use seriatim::log::Topic;
use seriatim::record::cursor::encode;
use seriatim::record::ledger::{LedgerRecord, Outcome};
use seriatim::record::{Batch, BatchBuilder, Offset};

use super::{LANE, Rig};

impl Rig {
    /// Accepts and works on whatever is sent out again, as workers would, for a while.
    pub(super) async fn accept_and_work(&self, input: &[Batch]) {
        self.accept().await;
        let mut answered = BTreeSet::new();
        for _ in 0..6000 {
            for (offset, _) in self.sent_out().await {
                if answered.insert(offset) {
                    self.answer_of(input, &[offset]).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn damage_at(&self, topic: &Topic, offset: u64) {
        self.log.damage(&topic.partition(LANE), Offset(offset)..Offset(offset + 1)).expect("it is there");
    }
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

#[tokio::test(start_paused = true)]
async fn parts_that_left_above_a_lost_beginning_do_not_leave_again() {
    let rig = Rig::by_destination().await;
    rig.send_to("other", "x").await;
    rig.send_to("other", "y").await;
    rig.send_to("default,other", "b").await;
    // The part of b for `default` leaves, that for `other` waits for x and y.
    rig.resequencing(rig.answer_each(&[2])).await;
    assert_eq!(rig.bodies().await, "b");
    rig.log.delete_below(&rig.topics.input.partition(LANE), Offset(1)).expect("it is there");
    rig.resequencing(rig.is_halted()).await;
    rig.accept().await;
    rig.resequencing(async {
        rig.answer(&[1]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "b", "once to default");
}

#[tokio::test(start_paused = true)]
async fn what_is_released_above_damage_is_not_released_again() {
    let rig = Rig::unordered().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[1, 3])).await;
    let input = rig.read(&rig.topics.input).await;
    rig.damage_at(&rig.topics.input, 0);
    rig.resequencing(rig.is_halted()).await;
    rig.resequencing(rig.accept_and_work(&input)).await;
    assert_eq!(rig.bodies().await, "bdc");
}

#[tokio::test(start_paused = true)]
async fn a_lost_beginning_can_be_accepted_although_the_ledger_is_damaged() {
    let rig = Rig::unordered().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[1, 3])).await;
    rig.damage_at(&rig.topics.ledger, 0);
    rig.log.delete_below(&rig.topics.input.partition(LANE), Offset(1)).expect("it is there");
    rig.resequencing(rig.is_halted()).await;
    rig.resequencing(async {
        rig.accept().await;
        while rig.cursor().await.halted.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_torn_ledger_says_is_not_taken_for_released() {
    let rig = Rig::unordered().await;
    rig.send_apart(&["a", "b", "c", "d"]).await;
    rig.resequencing(rig.answer_each(&[1, 3])).await;
    let mut torn = LedgerRecord { frontier: 0, read_to: 4, ..LedgerRecord::default() };
    torn.push(2, Outcome::Sent(vec![("default".to_owned(), 2)]), None);
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(&encode(&torn)), |_| {});
    rig.append(&rig.topics.ledger, builder.finish()).await;
    rig.log.delete_below(&rig.topics.input.partition(LANE), Offset(1)).expect("it is there");
    rig.resequencing(rig.is_halted()).await;
    rig.accept().await;
    rig.resequencing(async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        rig.answer(&[2]).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    assert_eq!(rig.bodies().await, "bdc");
}
