//! What goes wrong around the work stage: workers, answers, the log. Under virtual time.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Rig, Seen, lane, script};
use futures::FutureExt as _;
use seriatim::log::memory::{Delay, Faults};
use seriatim::record::Status;
use seriatim::work::{Answer, Failure, Output};

const SECOND: Duration = Duration::from_secs(1);

fn ok(body: &str) -> Result<Answer, Failure> {
    Ok(Answer::One(Output::new(body.to_owned().into())))
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_may_pass_is_tried_again_and_told_of() {
    let rig = Rig::new(
        1,
        script(|job| {
            async move {
                match (job.source.offset.0, job.attempt) {
                    (0, 1..=2) => Err(Failure::retry("flaky", "not yet")),
                    (1, _) => Err(Failure::retry("hopeless", "never")),
                    (2, _) => Err(Failure::fail("bad", "no")),
                    (3, 1) => panic!("oh"),
                    (4, 1) => std::future::pending().await,
                    _ => ok("fine"),
                }
            }
            .boxed()
        }),
    )
    .await;
    rig.input(0, 5).await;
    rig.cursor([(0, lane(0, 100))]).await;
    let stage = rig.start("a");
    let resolved = |seen: &Seen| seen.status != Status::Retrying;
    rig.until("all are answered", || rig.seen(0).into_iter().filter(resolved).count() == 5).await;
    let of = |offset| {
        let seen = rig.seen(0).into_iter().filter(|seen| seen.offset == offset);
        seen.map(|seen| (seen.status, seen.attempt, seen.code)).collect::<Vec<_>>()
    };
    use Status::{Done, Failed, Retrying};
    let retrying = |code: &str, attempts: std::ops::RangeInclusive<u32>| {
        attempts.map(|attempt| (Retrying, attempt, code.to_owned())).collect::<Vec<_>>()
    };
    let done = |attempt| [(Done, attempt, String::new())];
    assert_eq!(of(0), [retrying("flaky", 1..=2), done(3).to_vec()].concat());
    assert_eq!(of(1), [retrying("hopeless", 1..=4), vec![(Failed, 5, "hopeless".to_owned())]].concat());
    assert_eq!(of(2), [(Failed, 1, "bad".to_owned())]);
    assert_eq!(of(3), [retrying("panic", 1..=1), done(2).to_vec()].concat());
    assert_eq!(of(4), [retrying("timeout", 1..=1), done(2).to_vec()].concat());
    // 200 ms, then twice as long each time, and up to half of it more.
    let times: Vec<_> = rig.calls().into_iter().filter(|call| call.id == "0-1").map(|call| call.at).collect();
    for (index, pair) in times.windows(2).enumerate() {
        let least = Duration::from_millis(200 << index);
        let pause = pair[1] - pair[0];
        assert!((least..=least * 3 / 2 + Duration::from_millis(2)).contains(&pause), "{index}: {pause:?}");
    }
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_not_there_is_probed_and_uses_up_no_attempts() {
    let down = Arc::new(AtomicUsize::new(1));
    let is_down = Arc::clone(&down);
    let rig = Rig::new(
        1,
        script(move |job| {
            let result = match is_down.load(Relaxed) {
                1 => Err(Failure::unreachable("refused", None)),
                _ => ok(&job.attempt.to_string()),
            };
            async move { result }.boxed()
        }),
    )
    .await;
    rig.input(0, 50).await;
    rig.cursor([(0, lane(0, 100))]).await;
    let mut options = Rig::options();
    options.concurrency = 10;
    let stage = rig.start_with("a", options);
    tokio::time::sleep(60 * SECOND).await;
    let tried = rig.calls().len();
    // Ten at first, then one after 200 ms, 400 ms, 800 ms... up to 30 s.
    assert_eq!(tried, 10 + 8);
    assert!(rig.calls().iter().all(|call| call.attempt == 1 && call.offset < 11));
    assert_eq!(rig.results(0).len(), 0);
    down.store(0, Relaxed);
    rig.until("all are answered", || rig.results(0).len() == 50).await;
    assert!(rig.seen(0).iter().all(|seen| (seen.status, seen.attempt) == (Status::Done, 1)));
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_asks_for_time_gets_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let rig = Rig::new(
        1,
        script(move |_| {
            let first = asked.fetch_add(1, Relaxed) == 0;
            let wish = Failure::unreachable("busy", Some(20 * SECOND));
            async move { if first { Err(wish) } else { ok("") } }.boxed()
        }),
    )
    .await;
    rig.input(0, 1).await;
    rig.cursor([(0, lane(0, 100))]).await;
    let stage = rig.start("a");
    rig.until("it is answered", || rig.results(0).len() == 1).await;
    let calls = rig.calls();
    let pause = calls[1].at - calls[0].at;
    assert!((20 * SECOND..21 * SECOND).contains(&pause), "{pause:?}");
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_cannot_be_written_fail_and_stall_nothing() {
    let rig = Rig::new(
        1,
        script(|job| {
            async move {
                Ok(match job.source.offset.0 {
                    0 => Answer::One(Output::new(vec![b'x'; 2001].into())),
                    1 => Answer::One(Output {
                        headers: vec![("Seriatim-Epoch".into(), "1".into())],
                        ..Output::default()
                    }),
                    2 => Answer::One(Output {
                        headers: vec![("x".into(), vec![b'x'; 100_000].into())],
                        ..Output::default()
                    }),
                    3 => Answer::One(Output::new(vec![b'x'; 1900].into())), // fits the options, not the log
                    4 => Answer::Empty,
                    5 => Answer::Several("[{\"body\":1}]".into()),
                    _ => Answer::One(Output::new("fine".into())),
                })
            }
            .boxed()
        }),
    )
    .await;
    rig.input(0, 7).await;
    rig.cursor([(0, lane(0, 100))]).await;
    rig.refuse_over(1500);
    let mut options = Rig::options();
    options.max_output = 2000;
    let stage = rig.start_with("a", options);
    rig.until("all are answered", || rig.results(0).len() == 7).await;
    let mut found: Vec<_> = rig.seen(0).into_iter().map(|seen| (seen.offset, seen.status, seen.code)).collect();
    found.sort_by_key(|(offset, ..)| *offset);
    let expected = [
        (0, Status::Failed, "output-too-large"),
        (1, Status::Failed, "output-invalid"),
        (2, Status::Failed, "output-too-large"),
        (3, Status::Failed, "output-refused"),
        (4, Status::Empty, ""),
        (5, Status::Done, ""),
        (6, Status::Done, ""),
    ];
    assert_eq!(found, expected.map(|(offset, status, code)| (offset, status, code.to_owned())));
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_log_takes_no_results_nothing_new_is_begun_and_none_is_lost() {
    let rig = Rig::new(1, script(|_| async { ok("") }.boxed())).await;
    rig.input(0, 3000).await;
    rig.cursor([(0, lane(0, 10_000))]).await;
    rig.log.set_faults(Faults { append_unavailable: 1.0, ..Faults::default() });
    let mut options = Rig::options();
    options.concurrency = 20;
    let stage = rig.start_with("a", options);
    tokio::time::sleep(60 * SECOND).await;
    let begun = rig.calls().len();
    assert!((20..=100).contains(&begun), "{begun} were begun");
    rig.log.set_faults(Faults {
        append_unknown_lost: 0.2,
        append_unknown_written: 0.2,
        append_unavailable: 0.2,
        acknowledge_delay: Delay::always(Duration::ZERO..Duration::from_millis(50)),
        ..Faults::default()
    });
    rig.until("all are answered", || rig.answered(0) == 3000).await;
    assert_eq!(rig.calls().len(), 3000, "none is worked on twice for the log's sake");
    stage.drain().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_every_record_is_answered_and_none_above_the_limit() {
    for seed in 0..12 {
        let chance = Mutex::new(fastrand::Rng::with_seed(!seed));
        let moody = script(move |_| {
            let mut rng = chance.lock().expect("no holder panics").fork();
            async move {
                tokio::time::sleep(Duration::from_millis(rng.u64(0..300))).await;
                match rng.u32(0..10) {
                    0 => Err(Failure::retry("flaky", "")),
                    1 => Err(Failure::unreachable("gone", None)),
                    _ => ok(""),
                }
            }
            .boxed()
        });
        let rig = Rig::seeded(seed, 2, moody).await;
        let mut rng = fastrand::Rng::with_seed(seed);
        for number in 0..2 {
            rig.input(number, 60).await;
        }
        rig.cursor([0, 1].map(|number| (number, lane(0, 40)))).await;
        rig.log.set_faults(Faults::mixed(&mut rng));
        let mut stages = vec![rig.start("a"), rig.start("b")];
        for turn in 0..6 {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..5000))).await;
            let victim = rng.usize(0..stages.len());
            stages.swap_remove(victim).crash();
            stages.push(rig.start(&format!("m{turn}")));
        }
        assert!(rig.calls().iter().all(|call| call.offset < 40), "seed {seed}");
        rig.log.set_faults(Faults::default());
        rig.cursor([0, 1].map(|number| (number, lane(0, 1000)))).await;
        rig.until(&format!("seed {seed}: all are answered"), || (0..2).all(|lane| rig.answered(lane) == 60)).await;
        for stage in stages {
            stage.drain().await;
        }
    }
}
