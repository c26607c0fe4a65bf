//! Taking over control partitions, with bare owners on the log in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use seriatim::log::memory::{Faults, Memory};
use seriatim::log::{self, Append, Log, TopicPartition, Written};
use seriatim::metrics::Role;
use seriatim::record::cursor::{CURSOR_VERSION, OwnerCursor, Unreadable};
use seriatim::record::{BatchBuilder, Offset, Partition};
use seriatim::takeover::{Claim, Empty, Error, Place, TakenOver, cursor_append, hold, last_cursor, order, take_over};
use seriatim::topics::Topics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const ROLE: Role = Role::Resequence;

async fn new_log(control_partitions: u32) -> (Memory, Topics) {
    let log = Memory::new(5);
    let topics = Topics::derive("t", &["default"], control_partitions, control_partitions);
    log.ensure(&topics.shapes()).await.expect("a new log takes them");
    (log, topics)
}

/// What owners did: control partition, epoch, first.
type Owned = Arc<Mutex<Vec<(u32, u64, bool)>>>;

/// Takes over, makes the epoch known, and then does as it is told.
async fn own(
    claim: Claim,
    log: Memory,
    topics: Topics,
    owned: Owned,
    then: impl AsyncFnOnce(&CancellationToken) -> Result<(), Error>,
) -> Result<(), Error> {
    let (stop, control) = (claim.stop.clone(), claim.control.partition);
    let cursors = topics.cursors_resequence.partition(control);
    let control_log = claim.control.clone();
    let empty = |control: Offset| OwnerCursor { control: control.0, ..OwnerCursor::default() };
    let lost = async |lost: Error| {
        assert!(matches!(lost, Error::CursorLost(_)), "{lost:?}");
        order(&log, &control_log, |record| record.value == Some(b"accept")).await
    };
    let taken = take_over(claim, &log, ROLE, &cursors, &Written::default(), empty, lost).await?;
    let TakenOver { mut writer, epoch, cursor, empty, .. } = taken;
    assert!(cursor.epoch < epoch.0);
    let cursor = OwnerCursor { epoch: epoch.0, ..cursor };
    writer.commit(vec![cursor_append(ROLE, &cursors, &cursor)]).await?;
    assert_eq!(cursor.control > 0, empty == Some(Empty::Accepted), "orders from before the loss do not count");
    owned.lock().expect("not poisoned").push((control.0, epoch.0, empty == Some(Empty::First)));
    then(&stop).await
}

async fn until_stopped(stop: &CancellationToken) -> Result<(), Error> {
    stop.cancelled().await;
    Ok(())
}

/// A member whose owners wait until they are stopped.
async fn member(log: &Memory, topics: &Topics, owned: &Owned, drain: &CancellationToken) -> Result<(), Error> {
    let place = Place { log, group: "t.test", control: &topics.control, member: "m", role: ROLE, seed: 2 };
    hold(place, drain, |claim| own(claim, log.clone(), topics.clone(), owned.clone(), until_stopped)).await
}

async fn wait_owned(owned: &Owned, count: usize) {
    while owned.lock().expect("not poisoned").len() < count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn epochs_go_up_and_only_one_claim_is_the_first() {
    let (log, topics) = new_log(2).await;
    let owned = Owned::default();
    let faults =
        Faults { commit_unknown_written: 0.3, commit_unknown_lost: 0.3, claim_unavailable: 0.3, ..Faults::default() };
    log.set_faults(faults);
    for life in 1..20 {
        let drain = CancellationToken::new();
        tokio::select! {
            ended = member(&log, &topics, &owned, &drain) => panic!("it ended: {ended:?}"),
            () = wait_owned(&owned, 2 * life) => {}
        }
    }
    for control in [0, 1] {
        let owned: Vec<_> = owned.lock().expect("not poisoned").iter().filter(|o| o.0 == control).copied().collect();
        assert!(owned.is_sorted_by(|a, b| a.1 < b.1), "{owned:?}");
        // An unknown outcome may have hidden the first one from its owner.
        assert!(owned.iter().filter(|o| o.2).count() <= 1);
        let of = topics.cursors_resequence.partition(Partition(control));
        let last = last_cursor::<OwnerCursor>(&log, ROLE, &of).await.expect("readable").expect("there is one");
        assert!(owned.last().is_some_and(|(_, epoch, _)| last.epoch >= *epoch));
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_log_made_anew_loses_no_epoch() {
    let (log, topics) = new_log(1).await;
    let owned = Owned::default();
    for life in 1..4 {
        let drain = CancellationToken::new();
        tokio::select! {
            ended = member(&log, &topics, &owned, &drain) => panic!("it ended: {ended:?}"),
            () = wait_owned(&owned, life) => {}
        }
    }
    log.recreate(&topics.control);
    let drain = CancellationToken::new();
    tokio::select! {
        ended = member(&log, &topics, &owned, &drain) => panic!("it ended: {ended:?}"),
        () = wait_owned(&owned, 4) => {}
    }
    assert!(owned.lock().expect("not poisoned").is_sorted_by(|a, b| a.1 < b.1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_cursor_waits_for_an_order_of_its_own() {
    let (log, topics) = new_log(1).await;
    let owned = Owned::default();
    let drain = CancellationToken::new();
    tokio::select! {
        ended = member(&log, &topics, &owned, &drain) => panic!("it ended: {ended:?}"),
        () = wait_owned(&owned, 1) => {}
    }
    log.recreate(&topics.cursors_resequence);
    let control = topics.control.partition(Partition(0));
    append(&log, &control, b"accept").await;
    let drain = CancellationToken::new();
    tokio::select! {
        ended = member(&log, &topics, &owned, &drain) => panic!("it ended: {ended:?}"),
        () = wait_owned(&owned, 2) => panic!("an order from before the loss ended it"),
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    tokio::select! {
        ended = member(&log, &topics, &owned, &drain) => panic!("it ended: {ended:?}"),
        () = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            append(&log, &control, b"accept").await;
            wait_owned(&owned, 2).await;
        } => {}
    }
    assert!(owned.lock().expect("not poisoned").is_sorted_by(|a, b| a.1 < b.1));
}

async fn append(log: &Memory, to: &TopicPartition, value: &[u8]) {
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(value), |_| {});
    log.append(to, builder.finish()).await.expect("no faults").await.expect("no faults");
}

#[tokio::test(start_paused = true)]
async fn a_newer_cursor_ends_the_role() {
    let (log, topics) = new_log(1).await;
    let of = topics.cursors_resequence.partition(Partition(0));
    let mut builder = BatchBuilder::default();
    builder.push(Some(ROLE.as_str().as_bytes()), Some(&[CURSOR_VERSION + 1, 7]), |_| {});
    log.append(&of, builder.finish()).await.expect("no faults").await.expect("no faults");
    let ended = member(&log, &topics, &Owned::default(), &CancellationToken::new()).await;
    let newer = Unreadable::Newer(CURSOR_VERSION + 1);
    assert!(matches!(&ended, Err(Error::Unreadable { reason, .. }) if *reason == newer), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_cursor_is_found_behind_any_number_of_other_records() {
    let (log, topics) = new_log(1).await;
    let of = topics.cursors_resequence.partition(Partition(0));
    assert!(last_cursor::<OwnerCursor>(&log, ROLE, &of).await.expect("readable").is_none());
    let cursor = |epoch| OwnerCursor { epoch, ..OwnerCursor::default() };
    let write = async |append: Append| log.append(&append.to, append.batch).await.expect("queued").await.expect("done");
    for epoch in [3, 4] {
        write(cursor_append(ROLE, &of, &cursor(epoch))).await;
    }
    for strangers in [1, 20, 5000] {
        let mut builder = BatchBuilder::default();
        (0..strangers).for_each(|_| builder.push(Some(b"other"), Some(b"x"), |_| {}));
        write(Append { to: of.clone(), batch: builder.finish() }).await;
        let found = last_cursor(&log, ROLE, &of).await.expect("readable");
        assert_eq!(found, Some(cursor(4)), "behind {strangers}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_does_not_let_go_is_dropped_in_time_for_the_next() {
    let (log, topics) = new_log(2).await;
    let (stubborn, other) = (Owned::default(), Owned::default());
    let drain = CancellationToken::new();
    let place = Place { log: &log, group: "t.test", control: &topics.control, member: "a", role: ROLE, seed: 2 };
    let dropped = Arc::new(Mutex::new(None));
    let first = hold(place, &drain, |claim| {
        let dropped = dropped.clone();
        own(claim, log.clone(), topics.clone(), stubborn.clone(), async move |stop: &CancellationToken| {
            stop.cancelled().await;
            let asked = Instant::now();
            let _guard = scopeguard(move || *dropped.lock().expect("not poisoned") = Some(asked.elapsed()));
            std::future::pending().await
        })
    });
    let second = async {
        wait_owned(&stubborn, 2).await;
        member(&log, &topics, &other, &drain).await
    };
    tokio::select! {
        ended = first => panic!("it ended: {ended:?}"),
        ended = second => panic!("it ended: {ended:?}"),
        () = wait_owned(&other, 1) => {}
    }
    assert_eq!(*dropped.lock().expect("not poisoned"), Some(log::SESSION_TIMEOUT / 2));
}

/// Runs something when it is dropped.
fn scopeguard(run: impl FnOnce() + Send) -> impl Drop + Send {
    struct Guard<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for Guard<F> {
        fn drop(&mut self) {
            if let Some(run) = self.0.take() {
                run();
            }
        }
    }
    Guard(Some(run))
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_error_passes_is_made_again_and_another_ends_the_role() {
    let (log, topics) = new_log(1).await;
    let owned = Owned::default();
    let place = Place { log: &log, group: "t.test", control: &topics.control, member: "a", role: ROLE, seed: 2 };
    let lives = Arc::new(Mutex::new(0));
    let ended = hold(place, &CancellationToken::new(), |claim| {
        let lives = lives.clone();
        own(claim, log.clone(), topics.clone(), owned.clone(), async move |_: &CancellationToken| {
            let mut lives = lives.lock().expect("not poisoned");
            *lives += 1;
            Err(Error::Log(match *lives {
                1 => log::Error::Unavailable("away".to_owned()),
                2 => log::Error::Fenced("by a test".to_owned()),
                3 => log::Error::Unknown("perhaps".to_owned()),
                _ => log::Error::Damaged("for good".to_owned()),
            }))
        })
    })
    .await;
    assert!(matches!(ended, Err(Error::Log(log::Error::Damaged(_)))), "{ended:?}");
    assert_eq!(owned.lock().expect("not poisoned").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_drain_stops_the_owners_and_leaves() {
    let (log, topics) = new_log(2).await;
    let owned = Owned::default();
    let drain = CancellationToken::new();
    let stop = async {
        wait_owned(&owned, 2).await;
        drain.cancel();
    };
    let (ended, ()) = tokio::join!(member(&log, &topics, &owned, &drain), stop);
    ended.expect("a drain is no failure");
    let begun = Instant::now();
    let drain = CancellationToken::new();
    tokio::select! {
        ended = member(&log, &topics, &owned, &drain) => panic!("it ended: {ended:?}"),
        () = wait_owned(&owned, 4) => {}
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody's time-out was waited for");
}
