//! The auditor against logs that a real pipeline wrote, whole and with every kind of damage: what
//! is as promised passes, what is not is found.

#[path = "audit/history.rs"]
mod history;

use std::collections::BTreeSet;

use history::{History, Logs};
use seriatim::audit::{Kind, Report, Scope, audit};
use seriatim::log::TopicPartition;
use seriatim::log::memory::{Memory, Stored};
use seriatim::record::cursor::{OwnerCursor, decode, encode};
use seriatim::record::ledger::{LedgerRecord, Outcome};
use seriatim::record::{Offset, Partition};

async fn report_of(log: &Memory, history: &History, destination: Option<&str>) -> Report {
    let scope = Scope { topics: &history.topics, destination };
    audit(log, scope, &mut |read, total| assert!(read <= total)).await.expect("it can be read")
}

fn kinds(report: &Report) -> BTreeSet<Kind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

/// The kinds found after `damage` was done to the partition.
async fn found(history: &History, of: &TopicPartition, damage: impl FnOnce(&mut Vec<Stored>)) -> BTreeSet<Kind> {
    let mut logs = history.logs.clone();
    damage(logs.get_mut(of).expect("the pipeline has it"));
    let report = report_of(&history.restored(&logs).await, history, None).await;
    assert_eq!(report.is_clean(), report.findings.is_empty());
    kinds(&report)
}

fn set_header(record: &mut Stored, name: &str, value: &str) {
    let header = record.headers.iter_mut().find(|(n, _)| n == name.as_bytes()).expect("it has such a header");
    header.1 = value.as_bytes().to_vec();
}

fn header(record: &Stored, name: &str) -> String {
    let header = record.headers.iter().find(|(n, _)| n == name.as_bytes()).expect("it has such a header");
    String::from_utf8(header.1.clone()).expect("ours are ASCII")
}

/// Changes a record of the program's own.
fn change<T: serde::Serialize + serde::de::DeserializeOwned>(record: &mut Stored, how: impl FnOnce(&mut T)) {
    let mut value = decode(record.value.as_deref().unwrap_or_default()).expect("the owner wrote it");
    how(&mut value);
    record.value = Some(encode(&value));
}

macro_rules! assert_found {
    ($history:expr, $of:expr, $damage:expr, $($kind:ident),+) => {
        let found = found($history, $of, $damage).await;
        $(assert!(found.contains(&Kind::$kind), "{:?} is not among {found:?}", Kind::$kind);)+
    };
}

#[tokio::test(start_paused = true)]
async fn what_a_pipeline_writes_is_clean_crashes_included() {
    for history in [history::by_lane().await, history::by_key().await, history::by_destination().await] {
        let report = report_of(&history.restored(&history.logs).await, &history, None).await;
        assert!(report.is_clean(), "{report}\n{:#?}", report.findings);
        assert!(report.outputs > 0 && report.cursors > 1 && report.outcomes.total() > 0);
        assert_eq!((report.unjudged, report.torn, report.strangers), (0, 0, 0));
    }
    let history = history::by_lane().await;
    let report = report_of(&history.restored(&history.logs).await, &history, None).await;
    let outcomes = report.outcomes;
    assert_eq!((outcomes.sent, outcomes.empty, outcomes.dead_lettered, outcomes.duplicates), (240, 20, 20, 20));
    assert_eq!(report.outputs, 240);
}

#[tokio::test(start_paused = true)]
async fn a_running_pipeline_is_clean_at_any_moment() {
    history::audited_while_running(async |log, topics| {
        let report = audit(log, Scope { topics, destination: None }, &mut |_, _| {}).await.expect("it can be read");
        assert!(report.is_clean(), "{report}\n{:#?}", report.findings);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_damage_to_an_output_topic_is_found() {
    let history = history::by_lane().await;
    let output = &history.output("default");
    let len = history.logs[output].len();
    for at in [0, 1, len / 2, len - 2] {
        assert_found!(&history, output, |r| drop(r.remove(at)), Gap, Missing);
        assert_found!(&history, output, |r| r.insert(at + 1, r[at].clone()), Repeated);
        assert_found!(&history, output, |r| r.swap(at, at + 1), Gap, Repeated, OutOfOrder);
        let swap_sources = |r: &mut Vec<Stored>| {
            let (a, b) = (header(&r[at], "seriatim-source"), header(&r[at + 1], "seriatim-source"));
            set_header(&mut r[at], "seriatim-source", &b);
            set_header(&mut r[at + 1], "seriatim-source", &a);
        };
        assert_found!(&history, output, swap_sources, OutOfOrder, Disagrees);
        assert_found!(&history, output, |r| set_header(&mut r[at + 1], "seriatim-epoch", "0"), EpochBack);
        assert_found!(&history, output, |r| set_header(&mut r[at], "seriatim-source", "7:1"), Foreign, Disagrees);
    }
    assert_found!(&history, output, |r| drop(r.pop()), Missing);
    assert_found!(&history, output, Vec::clear, Missing);
    let add = |r: &mut Vec<Stored>| {
        let mut more = r.last().expect("there are some").clone();
        set_header(&mut more, "seriatim-sequence", &r.len().to_string());
        set_header(&mut more, "seriatim-source", "0:999");
        r.push(more);
    };
    assert_found!(&history, output, add, Unaccounted, Cursor);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_lies_is_found() {
    let history = history::by_lane().await;
    let ledger = &history.topics.ledger.partition(Partition(0));
    let last = history.logs[ledger].len() - 1;
    for at in [0, last / 2, last] {
        assert_found!(&history, ledger, |r| drop(r.remove(at)), Lost, Unaccounted);
        assert_found!(&history, ledger, |r| r.insert(at + 1, r[at].clone()), Twice);
        assert_found!(&history, ledger, |r| r[at].value = Some(b"?".to_vec()), Unreadable, Lost);
    }
    let change_sent = |by: i64| {
        move |r: &mut Vec<Stored>| {
            change(&mut r[last], |record: &mut LedgerRecord| {
                let sent = record.entries.iter_mut().find_map(|entry| match &mut entry.outcome {
                    Outcome::Sent(sent) => sent.first_mut(),
                    _ => None,
                });
                let sequence = &mut sent.expect("the last release sent something").1;
                *sequence = sequence.checked_add_signed(by).expect("the test stays above 0");
            });
        }
    };
    assert_found!(&history, ledger, change_sent(100_000), Missing, Unaccounted);
    assert_found!(&history, ledger, change_sent(-1), Missing);
    let back = |r: &mut Vec<Stored>| change(&mut r[last], |record: &mut LedgerRecord| record.frontier = 1);
    assert_found!(&history, ledger, back, WentBack);
    let invent = |r: &mut Vec<Stored>| {
        change(&mut r[last], |record: &mut LedgerRecord| {
            record.read_to += 5;
            record.push(record.read_to - 1, Outcome::Empty, None);
        });
    };
    assert_found!(&history, ledger, invent, Invented);
    let beyond = |r: &mut Vec<Stored>| {
        change(&mut r[last], |record: &mut LedgerRecord| record.push(record.read_to, Outcome::Empty, None));
    };
    assert_found!(&history, ledger, beyond, Invented);
    let worked_on = |r: &mut Vec<Stored>| {
        for record in r {
            change(record, |record: &mut LedgerRecord| {
                for entry in &mut record.entries {
                    if matches!(entry.outcome, Outcome::DeadLettered(_)) {
                        entry.outcome = Outcome::Empty;
                    }
                }
            });
        }
    };
    assert_found!(&history, ledger, worked_on, NoResult);
}

#[tokio::test(start_paused = true)]
async fn cursors_that_went_back_or_disagree_are_found() {
    let history = history::by_key().await;
    let cursors = &history.topics.cursors_resequence.partition(Partition(0));
    let last = history.logs[cursors].len() - 1;
    let lane = |at: usize, how: fn(&mut seriatim::record::cursor::LaneCursor)| {
        move |r: &mut Vec<Stored>| {
            change(&mut r[at], |cursor: &mut OwnerCursor| how(cursor.lanes.get_mut(&0).expect("lane 0 is served")));
        }
    };
    let topic = history.output("default").topic.to_string();
    let end: OwnerCursor = decode(history.logs[cursors][last].value.as_deref().expect("it has one")).expect("ours");
    assert!(!end.lanes[&0].released.is_empty() && end.lanes[&0].frontier > 0, "{end:?}");
    for at in [last / 2, last] {
        assert_found!(&history, cursors, lane(at, |lane| lane.frontier = 0), WentBack);
        assert_found!(&history, cursors, lane(at, |lane| lane.results = 0), WentBack);
        assert_found!(&history, cursors, lane(at, |lane| lane.limit = 0), WentBack);
        assert_found!(&history, cursors, lane(at, |lane| lane.sequences.clear()), WentBack);
        let old = |r: &mut Vec<Stored>| change(&mut r[at], |cursor: &mut OwnerCursor| cursor.epoch = 0);
        assert_found!(&history, cursors, old, WentBack);
        let gone = |r: &mut Vec<Stored>| change(&mut r[at], |cursor: &mut OwnerCursor| cursor.lanes.clear());
        assert_found!(&history, cursors, gone, WentBack);
    }
    assert_found!(&history, cursors, lane(last, |lane| lane.frontier += 3), Lost);
    assert_found!(&history, cursors, lane(last, |lane| lane.released.clear()), Cursor);
    assert_found!(&history, cursors, lane(last, |lane| lane.released = vec![(0, 1)]), Cursor);
    assert_found!(&history, cursors, lane(last, |lane| lane.released.push((10_000, 1))), Cursor);
    let counts = |r: &mut Vec<Stored>| {
        change(&mut r[last], |cursor: &mut OwnerCursor| {
            *cursor.lanes.get_mut(&0).expect("lane 0").sequences.get_mut(&topic).expect("it counts") += 1;
        });
    };
    assert_found!(&history, cursors, counts, Missing);
    assert_found!(&history, cursors, |r| drop(r.pop()), Cursor);
    assert_found!(&history, cursors, Vec::clear, Cursor);
}

#[tokio::test(start_paused = true)]
async fn results_and_dead_letters_have_to_be_there() {
    let history = history::by_lane().await;
    let results = &history.topics.results.partition(Partition(0));
    let done = history.logs[results].iter().position(|r| header(r, "seriatim-status") == "done").expect("there is one");
    assert_found!(&history, results, |r| drop(r.remove(done)), NoResult);
    assert_found!(&history, results, |r| set_header(&mut r[done], "seriatim-check", "1"), NoResult);
    let dead = &history.topics.dead_letter.partition(Partition(0));
    assert_found!(&history, dead, |r| drop(r.remove(3)), Missing);
}

#[tokio::test(start_paused = true)]
async fn in_groups_of_their_own_sources_may_pass_each_other_and_within_them_not() {
    let history = history::by_key().await;
    let output = &history.output("default");
    let sources: Vec<u64> = history.logs[output]
        .iter()
        .map(|r| header(r, "seriatim-source")["0:".len()..].parse().expect("an offset"))
        .collect();
    assert!(!sources.is_sorted(), "the scenario has keys that pass each other");
    let one_group = |r: &mut Vec<Stored>| r.iter_mut().for_each(|r| set_header(r, "seriatim-group", "1"));
    assert_found!(&history, output, one_group, OutOfOrder);
}

#[tokio::test(start_paused = true)]
async fn what_retention_removed_is_not_judged() {
    let history = history::by_lane().await;
    let lane = Partition(0);
    let topics = &history.topics;
    let output = history.output("default");
    let all = [&topics.ledger, &output.topic, &topics.results, &topics.dead_letter, &topics.cursors_resequence];
    for topic in all {
        let of = topic.partition(lane);
        for part in [3, 1] {
            let log = history.restored(&history.logs).await;
            let half = Offset(history.logs[&of].len() as u64 / part);
            log.delete_below(&of, half).expect("the partition exists");
            let report = report_of(&log, &history, None).await;
            let gone = kinds(&report);
            // Without any cursor nobody can say what the lane's state is.
            let expected = if *topic == topics.cursors_resequence && part == 1 { vec![Kind::Cursor] } else { vec![] };
            assert_eq!(gone.into_iter().collect::<Vec<_>>(), expected, "{of} up to {half}: {:#?}", report.findings);
            assert!(report.unjudged > 0 || *topic == topics.cursors_resequence, "{of}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_told_and_what_it_may_hide_is_not_judged() {
    let history = history::by_lane().await;
    let topics = &history.topics;
    let output = history.output("default");
    let all = [
        &topics.input,
        &topics.ledger,
        &output.topic,
        &topics.results,
        &topics.dead_letter,
        &topics.cursors_resequence,
    ];
    for topic in all {
        let of = topic.partition(Partition(0));
        let log = history.restored(&history.logs).await;
        log.damage(&of, Offset(0)..Offset(1)).expect("it exists");
        let report = report_of(&log, &history, None).await;
        assert_eq!(kinds(&report).into_iter().collect::<Vec<_>>(), [Kind::Unreadable], "{:#?}", report.findings);
        assert_eq!((report.count(), &report.findings[0].partition), (1, &of.to_string()));
    }
    // Nothing that is wrong within one log is hidden by what another has lost.
    let mut logs = history.logs.clone();
    logs.get_mut(&output).expect("it exists").swap(2, 3);
    let log = history.restored(&logs).await;
    log.damage(&topics.input.partition(Partition(0)), Offset(0)..Offset(1)).expect("it exists");
    assert!(kinds(&report_of(&log, &history, None).await).contains(&Kind::Repeated));
}

#[tokio::test(start_paused = true)]
async fn one_destination_can_be_asked_about() {
    let history = history::by_destination().await;
    let mut logs = history.logs.clone();
    logs.get_mut(&history.output("a")).expect("it exists").remove(2);
    let log = history.restored(&logs).await;
    assert!(report_of(&log, &history, Some("b")).await.is_clean());
    assert!(!report_of(&log, &history, Some("a")).await.is_clean());
    assert!(!report_of(&log, &history, None).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn many_findings_are_counted_and_not_kept() {
    let history = history::by_lane().await;
    let output = history.output("default");
    let mut logs: Logs = history.logs.clone();
    let records = logs.get_mut(&output).expect("it exists");
    let again: Vec<Stored> = (0..10).flat_map(|_| records.clone()).collect();
    records.extend(again);
    let report = report_of(&history.restored(&logs).await, &history, None).await;
    assert_eq!(report.findings.len(), seriatim::audit::MOST_FINDINGS);
    assert!(report.more > 1_000 && report.to_string().contains(&format!("{} findings", report.count())));
}
