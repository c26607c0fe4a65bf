//! The work stage on the log in memory, under virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::support::{Rig, lane, script};
use futures::FutureExt as _;
use seriatim::record::cursor::LaneCursor;
use seriatim::record::{Offset, Partition, ResultHeaders, Round, Status};
use seriatim::work::{Answer, Failure, Output};

const SECOND: Duration = Duration::from_secs(1);

fn ok(body: &str) -> Result<Answer, Failure> {
    Ok(Answer::One(Output::new(body.to_owned().into())))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_before_there_is_a_cursor_nor_at_or_above_its_limit() {
    let rig = Rig::new(1, script(|job| async move { ok(&job.id()) }.boxed())).await;
    rig.input(0, 10).await;
    let stage = rig.start("a");
    rig.idle().await;
    assert_eq!(rig.calls(), [], "there is no cursor");
    rig.cursor([(0, lane(0, 4))]).await;
    rig.until("four are answered", || rig.results(0).len() == 4).await;
    rig.idle().await;
    assert_eq!(rig.called(), ["0-0", "0-1", "0-2", "0-3"]);
    // A later cursor with a lower limit takes nothing back, one with a higher limit lets more through.
    rig.cursor([(0, lane(0, 2))]).await;
    rig.cursor([(0, lane(2, 7))]).await;
    rig.until("seven are answered", || rig.results(0).len() == 7).await;
    rig.idle().await;
    assert_eq!(rig.calls().len(), 7);
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn results_follow_the_contract() {
    let rig = Rig::new(3, script(|_| async { ok("out") }.boxed())).await;
    rig.input(2, 1).await;
    rig.cursor([(2, lane(0, 100))]).await;
    let stage = rig.start("worker-7");
    rig.until("it is answered", || rig.results(2).len() == 1).await;
    let result = &rig.results(2)[0];
    assert_eq!(result.key.as_deref(), Some(&b"0"[..]));
    assert_eq!(result.value.as_deref(), Some(&b"out"[..]));
    let expected = [
        ("seriatim-source", "2:0".to_owned()),
        ("seriatim-check", rig.check(2, 0).to_string()),
        ("seriatim-status", "done".to_owned()),
        ("seriatim-attempt", "1".to_owned()),
        ("seriatim-worker", "worker-7".to_owned()),
    ];
    let found: Vec<_> = result.headers.iter().map(|(n, v)| (text(n), text(v))).collect();
    assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v)));
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_input_made_anew_is_worked_on_from_where_its_owner_begins_with_it() {
    let rig = Rig::new(1, script(|_| async { ok("out") }.boxed())).await;
    rig.input(0, 5).await;
    rig.cursor([(0, lane(0, 100))]).await;
    let stage = rig.start("a");
    rig.until("all are answered", || rig.answered(0) == 5).await;
    rig.idle().await;
    // It outgrows the frontier and the position that the group has stored.
    rig.log.recreate(&rig.topics.input);
    rig.input(0, 8).await;
    rig.cursor_about_before([(0, lane(5, 100))]).await;
    rig.idle().await;
    rig.idle().await;
    assert_eq!(rig.calls().len(), 5, "its owner has not begun with it");
    rig.cursor([(0, lane(0, 100))]).await;
    let begun = tokio::time::Instant::now();
    rig.until("all of the new one are answered", || rig.results(0).len() == 13).await;
    assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
    let numbers = (0..5).chain(0..8).map(|offset| format!("0-{offset}"));
    assert_eq!(rig.called(), numbers.collect::<Vec<_>>());
    rig.idle().await;
    stage.drain().await;
    // The next one goes on from what was stored for the new one.
    rig.input(0, 2).await;
    let stage = rig.start("b");
    rig.until("those that came last are answered", || rig.results(0).len() == 15).await;
    rig.idle().await;
    assert_eq!(rig.calls().len(), 15);
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_input_that_lost_its_end_is_worked_on_from_where_it_ends() {
    let rig = Rig::new(1, script(|_| async { ok("out") }.boxed())).await;
    for _ in 0..5 {
        rig.input(0, 1).await;
    }
    rig.cursor([(0, lane(0, 100))]).await;
    let stage = rig.start("a");
    rig.until("all are answered", || rig.answered(0) == 5).await;
    rig.idle().await;
    rig.log.lose_end(&rig.topics.input.partition(Partition(0)), Offset(3)).expect("it is there");
    rig.idle().await;
    rig.bodies(&["\"another\""]).await;
    rig.until("what came instead is answered", || rig.results(0).len() == 6).await;
    assert_eq!(rig.called().last().map(String::as_str), Some("0-3"));
    stage.drain().await;
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("headers are ASCII")
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_in_its_current_round_is_passed_over() {
    let rig = Rig::new(1, script(|_| async { ok("new") }.boxed())).await;
    rig.input(0, 6).await;
    let result = |offset: u64, check: u32, status, round| {
        let source = (Partition(0), Offset(offset)).into();
        rig.append_result(0, ResultHeaders { round: Round(round), ..ResultHeaders::new(source, check, status) })
    };
    result(1, rig.check(0, 1), Status::Done, 0).await;
    result(2, rig.check(0, 2) ^ 1, Status::Done, 0).await; // a stranger's
    result(3, rig.check(0, 3), Status::Retrying, 0).await; // resolves nothing
    result(4, rig.check(0, 4), Status::Failed, 0).await; // of the round before
    result(5, rig.check(0, 5), Status::Empty, 3).await;
    let rounds = [(4, 1), (5, 3)].into();
    rig.cursor([(0, LaneCursor { rounds, ..lane(1, 100) })]).await;
    let stage = rig.start("a");
    rig.until("three more are answered", || rig.results(0).len() == 5 + 3).await;
    rig.idle().await;
    assert_eq!(rig.called(), ["0-2", "0-3", "0-4"]);
    let rounds: Vec<_> = rig.seen(0)[5..].iter().map(|seen| (seen.offset, seen.round)).collect();
    assert_eq!(rounds, [(2, 0), (3, 0), (4, 1)]);
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn as_many_at_once_as_allowed_over_all_lanes_and_no_more() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (r, m) = (Arc::clone(&running), Arc::clone(&most));
    let rig = Rig::new(
        3,
        script(move |job| {
            let (running, most) = (Arc::clone(&r), Arc::clone(&m));
            async move {
                most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                // The first of each lane takes long: the others overtake it.
                tokio::time::sleep(if job.source.offset.0 == 0 { 20 * SECOND } else { SECOND }).await;
                running.fetch_sub(1, Relaxed);
                ok("")
            }
            .boxed()
        }),
    )
    .await;
    for lane in 0..3 {
        rig.input(lane, 20).await;
    }
    rig.cursor([0, 1, 2].map(|number| (number, lane(0, 100)))).await;
    let mut options = Rig::options();
    options.concurrency = 12;
    let stage = rig.start_with("a", options);
    rig.until("all but the first are answered", || (0..3).all(|lane| rig.results(lane).len() >= 19)).await;
    assert_eq!(running.load(Relaxed), 3, "the slow ones are still at it");
    assert_eq!(most.load(Relaxed), 12);
    // Each lane had its share from the beginning.
    let first = rig.calls().into_iter().take(12).map(|call| call.lane);
    let mut shares = [0; 3];
    first.for_each(|lane| shares[lane as usize] += 1);
    assert_eq!(shares, [4, 4, 4]);
    rig.until("all are answered", || (0..3).all(|lane| rig.results(lane).len() == 20)).await;
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn draining_ends_what_is_under_way_and_the_next_one_goes_on_from_there() {
    let rig = Rig::new(
        1,
        script(|job| {
            async move {
                tokio::time::sleep(SECOND).await;
                ok(&job.id())
            }
            .boxed()
        }),
    )
    .await;
    rig.input(0, 10).await;
    rig.cursor([(0, lane(0, 100))]).await;
    let mut options = Rig::options();
    options.concurrency = 4;
    let stage = rig.start_with("a", options);
    rig.until("four are begun", || rig.calls().len() == 4).await;
    stage.drain().await;
    assert_eq!((rig.calls().len(), rig.results(0).len()), (4, 4));
    // Retention may have taken the results; the group knows where to go on.
    rig.log.delete_below(&rig.topics.results.partition(Partition(0)), Offset(4)).expect("there is such a partition");
    let stage = rig.start("b");
    rig.until("the others are answered", || rig.results(0).len() == 6).await;
    assert_eq!(rig.calls().len(), 10);
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_repeats_only_what_has_no_result() {
    let rig = Rig::new(
        1,
        script(|job| {
            async move {
                tokio::time::sleep(if job.source.offset.0 % 3 == 0 { 100 * SECOND } else { SECOND }).await;
                ok("")
            }
            .boxed()
        }),
    )
    .await;
    rig.input(0, 30).await;
    rig.cursor([(0, lane(0, 100))]).await;
    let mut options = Rig::options();
    options.timeout = 200 * SECOND;
    let stage = rig.start_with("a", options.clone());
    rig.until("two of three are answered", || rig.results(0).len() == 20).await;
    stage.crash();
    let stage = rig.start_with("b", options);
    rig.until("all are answered", || rig.results(0).len() == 30).await;
    let mut again = rig.called().split_off(30);
    again.sort_by_key(|id| id[2..].parse::<u64>().expect("an offset"));
    let expected: Vec<_> = (0..30).step_by(3).map(|offset| format!("0-{offset}")).collect();
    assert_eq!(again, expected);
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_moves_to_another_member_without_waiting_for_slow_work() {
    let rig = Rig::new(
        2,
        script(|job| {
            async move {
                if job.source.offset.0 == 0 {
                    tokio::time::sleep(25 * SECOND).await;
                }
                ok("")
            }
            .boxed()
        }),
    )
    .await;
    for number in 0..2 {
        rig.input(number, 3).await;
    }
    rig.cursor([0, 1].map(|number| (number, lane(0, 100)))).await;
    let first = rig.start("a");
    rig.until("the quick ones are answered", || (0..2).all(|lane| rig.results(lane).len() == 2)).await;
    let since = tokio::time::Instant::now();
    let second = rig.start("b");
    rig.until("the slow one of the lane that moved is begun again", || rig.calls().len() == 7).await;
    assert!(since.elapsed() < 10 * SECOND, "it took {:?}", since.elapsed());
    // Both finish; the late result of the first is a harmless duplicate.
    rig.until("both ends are there", || (0..2).map(|lane| rig.results(lane).len()).sum::<usize>() == 7).await;
    first.drain().await;
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn records_of_the_work_topic_go_first_and_their_round_is_answered() {
    let rig = Rig::new(
        1,
        script(|job| {
            async move {
                tokio::time::sleep(SECOND).await;
                ok(std::str::from_utf8(job.body()).expect("text"))
            }
            .boxed()
        }),
    )
    .await;
    rig.input(0, 8).await;
    let source = (Partition(0), Offset(3)).into();
    let headers =
        ResultHeaders { status: None, round: Round(2), ..ResultHeaders::new(source, rig.check(0, 3), Status::Done) };
    rig.append_work(5, b"from the work topic", headers).await;
    rig.append_work(6, b"garbage", headers).await;
    let mut options = Rig::options();
    options.concurrency = 1;
    let stage = rig.start_with("a", options.clone());
    rig.until("both are answered", || rig.results(0).len() == 2).await;
    rig.cursor([(0, lane(0, 100))]).await;
    let seen = rig.seen(0);
    assert_eq!((seen[0].offset, seen[0].round, seen[0].check), (3, 2, rig.check(0, 3)));
    assert_eq!(rig.results(0)[0].value.as_deref(), Some(&b"from the work topic"[..]));
    rig.until("some more are answered", || rig.results(0).len() == 5).await;
    rig.append_work(5, b"urgent", headers).await;
    rig.until("the urgent one, too", || rig.results(0).iter().any(|r| r.value.as_deref() == Some(b"urgent"))).await;
    assert!(rig.results(0).len() <= 8, "it did not wait for the lane: {}", rig.results(0).len());
    stage.drain().await;
    // The group has stored that they are answered.
    let calls = rig.calls().len();
    let stage = rig.start_with("b", options);
    rig.until("the rest is answered", || rig.results(0).len() == 3 + 8).await;
    assert_eq!(rig.calls().len() - calls, 11 - calls);
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn damaged_input_is_waited_behind_until_the_frontier_has_passed_it() {
    let rig = Rig::new(2, script(|_| async { Ok(Answer::Empty) }.boxed())).await;
    for count in [1, 1, 2] {
        rig.input(0, count).await;
    }
    rig.input(1, 1).await;
    rig.log.damage(&rig.topics.input.partition(Partition(0)), Offset(1)..Offset(2)).expect("it exists");
    rig.cursor([(0, lane(0, 10)), (1, lane(0, 10))]).await;
    let stage = rig.start("a");
    rig.until("what can be read is answered", || rig.answered(0) == 1 && rig.answered(1) == 1).await;
    rig.cursor([(0, lane(2, 10)), (1, lane(1, 10))]).await;
    rig.until("the rest is", || rig.answered(0) == 3).await;
    stage.drain().await;
}
