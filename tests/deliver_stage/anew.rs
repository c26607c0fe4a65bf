//! An output topic that is deleted and made anew under its deliverer.

use std::time::Duration;

use seriatim::log::{Log as _, SESSION_TIMEOUT};
use seriatim::record::push::PushAction;
use tokio::time::{Instant, sleep};

use super::rig::{NAME, Rig, assert_exact, assert_in_order};

impl Rig {
    fn make_anew(&self) {
        self.log.recreate(&self.topics.destinations[NAME]);
    }

    async fn wait_lost(&self, what: &str) {
        while !self.position(0).lost.is_some_and(|reason| reason.contains(what)) {
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn accept_within(&self, lane: u32) {
        // Past the time after which the group gives a vanished owner's partitions to another.
        sleep(2 * SESSION_TIMEOUT).await;
        self.order(0, PushAction::Accept { lane }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_deliverer_notices_and_goes_on_with_the_new_one_when_told() {
    let rig = Rig::new(2, 1).await;
    rig.write(0, &[1; 6], 10).await;
    rig.write(1, &[1; 6], 10).await;
    let done = async {
        rig.wait_position(0, 6).await;
        rig.wait_position(1, 6).await;
        rig.make_anew();
        let began = Instant::now();
        rig.wait_lost("t.output was deleted and made anew").await;
        assert!(began.elapsed() < Duration::from_secs(20), "it looks every few seconds: {:?}", began.elapsed());
        rig.write(0, &[1; 9], 10).await;
        rig.write(1, &[1; 9], 10).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(rig.receiver.applied().len(), 12, "nothing is pushed before it is accepted");
        rig.order(0, PushAction::Accept { lane: 0 }).await;
        rig.wait_position(0, 9).await;
        assert!(rig.position(1).lost.is_some(), "each lane for itself");
        rig.order(0, PushAction::Accept { lane: 1 }).await;
        rig.wait_position(1, 9).await;
    };
    rig.run_until(Rig::options(), done).await;
    assert_exact(&rig.receiver.applied(), 2, 15);
}

/// The new topic is longer than the position before anybody looks: what stands there is not what is next.
#[tokio::test(start_paused = true)]
async fn what_stands_beyond_the_position_in_the_new_topic_is_not_pushed_unseen() {
    let rig = Rig::new(1, 1).await;
    rig.write(0, &[1; 6], 10).await;
    let done = async {
        rig.wait_position(0, 6).await;
        rig.make_anew();
        rig.write(0, &[1; 10], 10).await;
        rig.wait_lost("t.output was deleted and made anew").await;
        assert_eq!(rig.receiver.seen().len(), 6);
        rig.order(0, PushAction::Accept { lane: 0 }).await;
        rig.wait_position(0, 10).await;
    };
    rig.run_until(Rig::options(), done).await;
    assert_in_order(&rig.receiver.seen());
    assert_exact(&rig.receiver.applied(), 1, 16);
}

#[tokio::test(start_paused = true)]
async fn the_next_deliverer_notices_and_whoever_accepts_may_die() {
    for after in 0..10 {
        let rig = Rig::new(1, 1).await;
        rig.write(0, &[1; 6], 10).await;
        rig.run_until(Rig::options(), rig.wait_position(0, 6)).await;
        rig.make_anew();
        rig.write(0, &[1; 10], 10).await;
        rig.run_until(Rig::options(), rig.wait_lost("t.output was deleted and made anew")).await;
        let cut = async {
            rig.accept_within(0).await;
            rig.receiver.wait_seen(6 + after).await;
        };
        rig.run_until(Rig::options(), cut).await;
        rig.run_until(Rig::options(), rig.wait_position(0, 10)).await;
        assert_in_order(&rig.receiver.seen());
        assert_exact(&rig.receiver.applied(), 1, 16);
        let bounds = rig.log.bounds(&rig.output(0)).await.expect("no faults");
        assert_eq!(bounds.end.0, 10);
        // What is accepted is known by the next one, too.
        rig.make_anew();
        rig.run_until(Rig::options(), rig.wait_lost("t.output was deleted and made anew")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_deleted_before_anything_was_pushed_holds_its_destination_until_it_is_accepted() {
    let rig = Rig::new(1, 1).await;
    rig.log.delete(&rig.topics.destinations[NAME]);
    let done = async {
        rig.wait_lost("t.output was deleted before anything of it was pushed").await;
        // An order that cannot be executed now does not hold up those behind it.
        rig.order(0, PushAction::Accept { lane: 0 }).await;
        sleep(Duration::from_secs(60)).await;
        assert!(rig.position(0).lost.is_some());
        rig.log.ensure(&rig.topics.shapes()).await.expect("one is missing");
        rig.write(0, &[1; 3], 10).await;
        rig.order(0, PushAction::Accept { lane: 0 }).await;
        rig.wait_position(0, 3).await;
    };
    rig.run_until(Rig::options(), done).await;
    assert_exact(&rig.receiver.applied(), 1, 3);
}
