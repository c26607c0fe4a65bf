//! Staggered batches whose items were in an input that is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use seriatim::log::{Log as _, SESSION_TIMEOUT};
use seriatim::observe::live;
use seriatim::record::{BatchBuilder, BatchItem, Name, Offset, Round, check};
use seriatim::resequence::Options;

use super::{LANE, Rig};

/// The batch.
const ID: &str = "b";

impl Rig {
    async fn command(&self, kind: &str, mut command: Value) {
        (command["type"], command["id"]) = (json!(kind), json!(ID));
        let mut builder = BatchBuilder::default();
        builder.push(Some(ID.as_bytes()), Some(command.to_string().as_bytes()), |_| {});
        self.append(&self.topics.batches, builder.finish()).await;
    }

    /// Uploads items that are two to a read; gives what a start says of it.
    async fn upload(&self, count: u64) -> Value {
        for index in 0..count {
            let item = json!({"n": index, "fill": "x".repeat(100 << 10)}).to_string();
            let mut builder = BatchBuilder::default();
            builder.push(Some(b"token"), Some(item.as_bytes()), |to| {
                let of = BatchItem { id: "token", index, round: Round(0) };
                to.put_display(Name::Batch, format_args!("{of}"));
            });
            self.append(&self.topics.batch_items, builder.finish()).await;
        }
        json!({"upload": {"token": "token", "first": 0, "count": count}})
    }

    /// The items in the input: index and round.
    async fn items(&self) -> Vec<(u64, u32)> {
        let input = self.read(&self.topics.input).await;
        let item = |header: &str| BatchItem::decode(header).map(|item| (item.index, item.round.0));
        input.iter().flatten().filter_map(|record| item(record.headers.text(Name::Batch)?)).collect()
    }

    async fn has_items(&self, count: usize) {
        while self.items().await.len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Works on everything in the input that workers may work on.
    async fn keep_working(&self) -> ! {
        let mut answered = BTreeSet::new();
        loop {
            let live = live::lane(&self.log, &self.topics, &Options::default(), LANE).await.expect("it can be read");
            let limit = live.map_or(0, |live| live.cursor.limit);
            for record in self.read(&self.topics.input).await.iter().flatten().filter(|r| r.offset < Offset(limit)) {
                if answered.insert((record.offset, check(&record))) {
                    self.answer(&[record.offset.0]).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all is done, and some time longer; gives the events that say so.
    async fn all_done(&self) -> Vec<Value> {
        let said = async || -> Vec<Value> {
            let events = self.read(&self.topics.events).await;
            let events = events.iter().flatten().filter_map(|event| serde_json::from_slice::<Value>(event.value?).ok());
            events.filter(|event| event["type"] == "WorkAllDone").collect()
        };
        while said().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        said().await
    }

    /// Runs an owner and workers until all is done.
    async fn ends(&self) -> Vec<Value> {
        self.resequencing(async {
            tokio::select! {
                done = self.all_done() => done,
                _ = self.keep_working() => unreachable!("it works for ever"),
            }
        })
        .await
    }

    /// The work orders that came out, in their order.
    async fn done(&self) -> Vec<Value> {
        let outputs = self.outputs().await.into_iter();
        outputs.map(|(_, _, body)| serde_json::from_str(&body).expect("workers repeat what they get")).collect()
    }

    async fn indices_done(&self) -> Vec<u64> {
        self.done().await.iter().map(|order| order["index"].as_u64().expect("it has one")).collect()
    }

    /// The input is made anew, which an operator accepts.
    async fn loses_input(&self) {
        self.log.recreate(&self.topics.input);
        self.resequencing(self.is_halted()).await;
        self.accept().await;
        tokio::time::sleep(2 * SESSION_TIMEOUT).await;
    }
}

#[tokio::test(start_paused = true)]
async fn items_in_an_input_made_anew_go_out_again_whoever_dies_when() {
    let mut halted_at_death = BTreeSet::new();
    for turns in 0..40 {
        let rig = Rig::new().await;
        rig.command("StartProcessing", json!({"count": 5, "window": 3, "template": {}})).await;
        rig.resequencing(async {
            rig.has_items(3).await;
            rig.answer(&[0]).await;
            rig.has_outputs(1).await;
        })
        .await;
        rig.loses_input().await;
        rig.dying_after(turns).await;
        halted_at_death.insert(rig.cursor().await.halted.is_some());

        let done = rig.ends().await;
        assert_eq!((done.len(), &done[0]["counts"]["succeeded"]), (1, &json!(5)), "after {turns} turns");
        assert_eq!(rig.items().await, [(1, 1), (2, 1), (3, 0), (4, 0)], "after {turns} turns");
        assert_eq!(rig.indices_done().await, [0, 1, 2, 3, 4], "after {turns} turns");
    }
    assert_eq!(halted_at_death.len(), 2, "before and after it was executed");
}

/// What survived would leave before what was lost.
#[tokio::test(start_paused = true)]
async fn an_ordered_batch_keeps_its_order_where_the_input_lost_its_beginning() {
    let rig = Rig::new().await;
    rig.command("StartProcessing", json!({"count": 7, "window": 4, "ordered": true, "template": {}})).await;
    rig.resequencing(async {
        rig.has_items(4).await;
        rig.answer(&[0, 1]).await;
        rig.has_items(6).await;
        rig.has_outputs(2).await;
    })
    .await;
    rig.log.delete_below(&rig.topics.input.partition(LANE), Offset(4)).expect("it exists");
    // It stands still until that is accepted.
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!(rig.items().await, [(4, 0), (5, 0)]);
    rig.accept().await;
    rig.resequencing(rig.has_items(6)).await;
    assert_eq!(rig.items().await[2..], [(2, 1), (3, 1), (4, 1), (5, 1)]);
    let done = rig.ends().await;
    assert_eq!((done.len(), &done[0]["counts"]["succeeded"]), (1, &json!(7)));
    assert_eq!(rig.indices_done().await, [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn items_at_the_end_that_an_input_lost_go_out_again_and_a_lane_that_halts_for_more_forgets_none() {
    let rig = Rig::new().await;
    rig.send(&["a"]).await;
    rig.command("StartProcessing", json!({"count": 5, "window": 3, "template": {}})).await;
    rig.resequencing(async {
        rig.has_items(3).await;
        rig.answer(&[0, 1]).await;
        rig.has_outputs(2).await;
    })
    .await;
    rig.log.lose_end(&rig.topics.input.partition(LANE), Offset(1)).expect("it exists");
    rig.resequencing(rig.is_halted()).await;
    // What was accepted for the input is not forgotten where the lane does not go on for the ledger.
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(b"no ledger's"), |_| {});
    rig.append(&rig.topics.ledger, builder.finish()).await;
    rig.accept().await;
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    let reason = rig.is_halted().await;
    assert!(reason.contains("ledger"), "{reason}");
    rig.log.recreate(&rig.topics.ledger);
    rig.accept().await;
    let done = rig.ends().await;
    assert_eq!((done.len(), &done[0]["counts"]["succeeded"]), (1, &json!(5)));
    assert_eq!(rig.items().await, [(1, 1), (2, 1), (3, 0), (4, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_cannot_say_what_is_cancelled_stands_still_and_does_so_later() {
    let rig = Rig::new().await;
    rig.command("StartProcessing", json!({"count": 5, "window": 3, "template": {}})).await;
    rig.resequencing(rig.has_items(3)).await;
    rig.command("CancelProcessing", json!({})).await;
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    rig.log.delete(&rig.topics.events);
    rig.loses_input().await;
    let told = async |reason: &str| {
        while !rig.is_halted().await.contains(reason) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    rig.resequencing(told("t.events was deleted and is not there")).await;
    rig.log.ensure(&rig.topics.shapes()).await.expect("it is there again");
    rig.accept().await;
    let done = rig.ends().await;
    assert_eq!((done.len(), &done[0]["counts"]["cancelled"]), (1, &json!(5)));
    assert_eq!(rig.items().await, []);
}

#[tokio::test(start_paused = true)]
async fn without_their_cursor_batches_send_again_what_was_out() {
    let rig = Rig::new().await;
    rig.command("StartProcessing", json!({"count": 5, "window": 3, "template": {}})).await;
    rig.resequencing(rig.has_items(3)).await;
    rig.log.recreate(&rig.topics.cursors_resequence);
    rig.log.recreate(&rig.topics.input);
    rig.resequencing(async {
        tokio::time::sleep(2 * SESSION_TIMEOUT).await;
        rig.accept().await;
        rig.has_items(3).await;
    })
    .await;
    let done = rig.ends().await;
    assert_eq!((done.len(), &done[0]["counts"]["succeeded"]), (1, &json!(5)));
    assert_eq!(rig.items().await, [(0, 1), (1, 1), (2, 1), (3, 0), (4, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_batch_sends_nothing_again_but_its_final_item() {
    let rig = Rig::new().await;
    let start = json!({"count": 10, "window": 3, "template": {}, "completion": {"sum": true}});
    rig.command("StartProcessing", start).await;
    rig.resequencing(rig.has_items(3)).await;
    rig.command("CancelProcessing", json!({})).await;
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    for _ in 0..2 {
        rig.loses_input().await;
        rig.resequencing(rig.has_items(1)).await;
        assert_eq!(rig.items().await, [(10, 0)], "the final one");
    }
    let done = rig.ends().await;
    assert_eq!((done.len(), &done[0]["status"], &done[0]["completion"]), (1, &json!("cancelled"), &json!("succeeded")));
    assert_eq!(done[0]["counts"]["cancelled"], 10);
    assert_eq!(rig.done().await.len(), 1, "of the final item");
}

#[tokio::test(start_paused = true)]
async fn uploaded_items_are_read_again_when_a_paused_batch_goes_on() {
    let rig = Rig::new().await;
    let mut start = rig.upload(12).await;
    (start["window"], start["ordered"]) = (json!(4), json!(true));
    rig.command("StartProcessing", start).await;
    rig.resequencing(rig.has_items(4)).await;
    rig.command("PauseProcessing", json!({})).await;
    // There is room for new ones beside those that wait.
    rig.command("ChangeProcessing", json!({"change": {"window": 20}})).await;
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    rig.loses_input().await;
    rig.resequencing(async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(rig.items().await, [], "it is paused");
        rig.command("ResumeProcessing", json!({})).await;
        rig.has_items(4).await;
    })
    .await;
    assert_eq!(rig.ends().await[0]["counts"]["succeeded"], 12);
    let done = rig.done().await;
    let numbers: Vec<_> = done.iter().map(|order| (order["index"].as_u64(), order["item"]["n"].as_u64())).collect();
    assert_eq!(numbers, (0..12).map(|n| (Some(n), Some(n))).collect::<Vec<_>>());
}
