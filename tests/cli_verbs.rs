//! `send`, `tail` and `verify` as their users meet them, against a real `seriatim run`.

#[path = "cli_verbs/program.rs"]
mod program;

use std::time::Duration;

use program::{Folder, Follower, Pipeline, run};
use tokio::time::Instant;

#[test]
fn json_lines_are_uploaded_and_each_bad_one_is_named() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[]);
    folder.write("good.ndjson", "{\"n\":1}\n\n{\"n\":2}\r\n{\"n\":3}");
    let sent = pipeline.run(&["send", "good.ndjson"]);
    assert_eq!((sent.code, sent.out.as_str()), (0, "3 accepted as 0-0 to 0-2\n"), "{}", sent.err);
    folder.write("mixed.ndjson", "{\"n\":4}\n\n{\"n\":\n{\"n\":5}\n");
    let sent = pipeline.run(&["send", "mixed.ndjson"]);
    assert_eq!((sent.code, sent.out.as_str()), (6, "2 accepted as 0-3 to 0-4, 1 refused\n"));
    assert!(sent.err.starts_with("line 3: it is not JSON") && sent.err.contains("invalid-body"), "{}", sent.err);
    let sent = pipeline.run(&["send", "mixed.ndjson", "--json"]);
    let entries: Vec<serde_json::Value> = sent.out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let lines: Vec<_> = entries.iter().map(|e| (e["line"].as_u64(), e["status"].as_u64())).collect();
    assert_eq!(lines, [(Some(1), Some(202)), (Some(3), Some(400)), (Some(4), Some(202))]);
    assert_eq!(
        pipeline.bodies(7),
        ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}", "{\"n\":4}", "{\"n\":5}", "{\"n\":4}", "{\"n\":5}"]
    );
}

#[test]
fn other_lines_go_one_by_one_and_an_id_makes_them_repeatable() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[]);
    folder.write("lines.txt", "first\nsecond\n\nfourth\n");
    let sent = pipeline.run(&["send", "lines.txt", "--id", "upload-1", "--key", "k"]);
    assert_eq!((sent.code, sent.out.as_str()), (0, "3 accepted as 0-0 to 0-2\n"), "{}", sent.err);
    let again = pipeline.run(&["send", "lines.txt", "--id", "upload-1", "--key", "k"]);
    assert_eq!(again.out, sent.out, "the same command adds nothing");
    let piped = pipeline.run_with(&["send", "-"], "piped\n");
    assert_eq!((piped.code, piped.out.as_str()), (0, "1 accepted as 0-3\n"), "{}", piped.err);
    let whole = pipeline.run_with(&["send", "-", "--whole", "--content-type", "text/plain"], "a\nb\n");
    assert_eq!((whole.code, whole.out.as_str()), (0, "1 accepted as 0-4\n"), "{}", whole.err);
    assert_eq!(pipeline.bodies(5), ["first", "second", "fourth", "piped", "a\nb\n"]);
    let reused = pipeline.run_with(&["send", "-", "--id", "upload-1", "--key", "k"], "another\n");
    assert_eq!(reused.code, 1, "{}", reused.out);
    assert!(reused.err.contains("key-reused"), "{}", reused.err);
}

#[test]
fn a_message_as_large_as_any_is_handed_on_as_it_is() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[("SERIATIM_INGRESS__MAX_BODY", "1000B")]);
    let body = "x".repeat(1000);
    let sent = pipeline.run_with(&["send", "-", "--whole", "--key", "a key of some length"], &body);
    assert_eq!(sent.code, 0, "{}", sent.err);
    assert_eq!(pipeline.bodies(1), [body]);
}

#[test]
fn what_is_refused_or_not_there_has_its_exit_code() {
    let folder = Folder::new();
    folder.write("one.txt", "x\n");
    let pipeline = Pipeline::start(&folder, &[]);
    let refused = pipeline.run(&["send", "one.txt", "--destination", "nowhere"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("nowhere"), "{}", refused.err);
    assert_eq!(pipeline.run(&["tail", "nowhere"]).code, 3);
    assert_eq!(pipeline.run(&["verify", "nowhere"]).code, 3);
    assert_eq!(pipeline.run(&["send", "missing.txt"]).code, 1);
    assert_eq!(pipeline.run(&["tail", "--from", "middle"]).code, 2);
    drop(pipeline);
    let other = Folder::new();
    assert_eq!(run(&other, &["verify"], &[]).code, 3, "there is no log");
    let gone = run(&other, &["tail"], &[("SERIATIM_INGRESS__HTTP", "127.0.0.1:9")]);
    assert!(gone.code == 1 && gone.err.contains("seriatim run"), "{}", gone.err);
}

#[test]
fn send_says_at_once_that_nobody_answers_and_goes_on_when_somebody_does() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[]);
    let ports = pipeline.ports();
    folder.write("lines.txt", "one\ntwo\n");
    drop(pipeline);
    let sender = Follower::of(&folder, &ports, &["send", "lines.txt"]);
    let said = sender.lines(1).remove(0);
    assert!(said.contains("nothing answers at") && said.contains("trying again in 1s, up to 29 times"), "{said}");
    let pipeline = Pipeline::start_at(&folder, &ports);
    assert_eq!(pipeline.bodies(2), ["one", "two"]);
}

#[test]
fn tail_prints_provenance_and_follows_over_a_restart() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[]);
    let follower = pipeline.follow(&["tail", "--follow"]);
    pipeline.run_with(&["send", "-", "--key", "k"], "one\ntwo\n");
    assert_eq!(follower.lines(2), ["0\t0-0\tk\tone", "1\t0-1\tk\ttwo"]);
    let ports = pipeline.ports();
    drop(pipeline);
    let pipeline = Pipeline::start_at(&folder, &ports);
    pipeline.run_with(&["send", "-"], "three\n");
    assert_eq!(follower.lines(1), ["2\t0-2\t-\tthree"]);
    let from = pipeline.run(&["tail", "--from", "1", "--json"]);
    let sequences: Vec<serde_json::Value> = from.out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(sequences.iter().map(|o| o["sequence"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!(pipeline.run(&["tail", "--from", "end"]).out, "");
}

#[test]
fn tail_ends_when_nobody_reads_it_though_nothing_comes() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[]);
    pipeline.run_with(&["send", "-"], "one\n");
    let ended = pipeline.head(&["tail", "--follow"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "0\t0-0\t-\tone\n"));
}

#[test]
fn a_replacement_that_is_too_large_is_refused_here_or_there() {
    let folder = Folder::new();
    folder.write(
        "seriatim.toml",
        "ingress.max_body = \"1KiB\"\nwork.builtin = { sleep = \"1h\" }\nprocess.drain = \"1s\"\n",
    );
    let pipeline = Pipeline::start(&folder, &[]);
    pipeline.run_with(&["send", "-"], "stuck\n");
    folder.write("large.txt", &"x".repeat(1025));
    let replace = ["lanes", "replace", "0", "0", "--body", "large.txt", "--reason", "a test"];
    let here = pipeline.run(&replace);
    assert!(here.code == 1 && here.err.contains("1025 bytes, more than ingress.max_body, 1024"), "{}", here.err);
    let url = format!("http://{}", pipeline.ports()[1].1);
    let mut replaced = (0..100).map(|_| pipeline.run(&[&replace[..], &["--url", &url]].concat()));
    // 3 as long as the lane has no owner.
    let there = replaced.find(|there| there.code != 3).expect("somebody takes the lane");
    assert!(there.code == 1 && there.err.contains("nothing was done"), "{}", there.err);
}

#[test]
fn verify_asks_the_process_or_reads_the_folder() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[]);
    pipeline.run_with(&["send", "-"], "{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(pipeline.bodies(2).len(), 2);
    let asked = pipeline.run(&["verify"]);
    assert_eq!(asked.code, 0, "{}{}", asked.out, asked.err);
    assert!(asked.out.starts_with("clean: ") && asked.out.contains("2 released: 2 sent"), "{}", asked.out);
    assert!(asked.err.contains("asking http://127.0.0.1:"), "{}", asked.err);
    drop(pipeline);
    let read = run(&folder, &["verify", "default", "--json"], &[]);
    let report: serde_json::Value = serde_json::from_str(&read.out).expect("it is JSON");
    assert_eq!((read.code, report["outcomes"]["sent"].as_u64()), (0, Some(2)), "{}", read.err);
}

#[test]
fn messages_can_be_left_in_the_log_while_nothing_runs() {
    let folder = Folder::new();
    folder.write("many.ndjson", &(0..5_000).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
    let sent = run(&folder, &["send", "--log", "many.ndjson"], &[]);
    assert_eq!((sent.code, sent.out.as_str()), (0, "5000 accepted as 0-0 to 0-4999\n"), "{}", sent.err);
    let pipeline = Pipeline::start(&folder, &[]);
    assert_eq!(pipeline.run(&["send", "--log", "many.ndjson"]).code, 1, "the folder is in use");
    assert_eq!(pipeline.bodies(5_000).last().map(String::as_str), Some("{\"n\":4999}"));
    assert_eq!(pipeline.run(&["verify"]).code, 0);
}

#[test]
fn a_killed_pipeline_has_lost_and_repeated_nothing() {
    let folder = Folder::new();
    folder.write("many.ndjson", &(0..2_000).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
    assert_eq!(run(&folder, &["send", "--log", "many.ndjson"], &[]).code, 0);
    for released in [1, 400, 401, 1_300] {
        let work = [("SERIATIM_WORK__BUILTIN", "{ sleep = '20ms' }"), ("SERIATIM_WORK__CONCURRENCY", "20")];
        let pipeline = Pipeline::start(&folder, &work);
        pipeline.bodies(released);
        // Dropped, which kills it.
        drop(pipeline);
        let verified = run(&folder, &["verify"], &[]);
        assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    }
    let pipeline = Pipeline::start(&folder, &[]);
    let expected: Vec<String> = (0..2_000).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(pipeline.bodies(2_000), expected);
}

fn benched(pipeline: &Pipeline<'_>, arguments: &[&str]) -> (i32, serde_json::Value) {
    let url = format!("http://{}", pipeline.ports()[0].1);
    let ended = pipeline.run(&[&["bench", "--json", "--url", &url], arguments].concat());
    let figures: serde_json::Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{}", ended.err));
    (ended.code, figures["running"].clone())
}

#[test]
fn bench_measures_a_pipeline_that_runs_from_acceptance_to_ordered_output() {
    let folder = Folder::new();
    folder.write("seriatim.toml", "log.partitions = 2\nwork.builtin = { sleep = \"20ms\" }\norder.by = \"key\"\n");
    let pipeline = Pipeline::start(&folder, &[]);
    pipeline.run_with(&["send", "-"], "of somebody else\n");
    let (code, figures) = benched(&pipeline, &["--messages", "200", "--keys", "7", "--connections", "20"]);
    assert_eq!((code, figures["messages"].as_u64(), figures["inOrder"].as_bool()), (0, Some(200), Some(true)));
    let p50 = |what: &str| figures[what]["p50"].as_f64().unwrap_or_else(|| panic!("no {what}: {figures}"));
    assert!(p50("delay") >= 20.0 && p50("acknowledgement") > 0.0, "{figures}");
    assert!(p50("afterAcknowledgement") < p50("delay") && p50("acknowledgement") < p50("delay"), "{figures}");
    let (code, figures) = benched(&pipeline, &["--rate", "50/s", "--seconds", "2", "--keys", "1", "--series"]);
    assert_eq!((code, figures["messages"].as_u64(), figures["missing"].as_u64()), (0, Some(100), Some(0)));
    let series = figures["series"].as_array().expect("it was asked for");
    assert!(series.len() >= 2 && series[1]["delay"]["p50"].as_f64() >= Some(20.0), "{figures}");
}

#[test]
fn bench_counts_what_is_refused_and_misses_what_does_not_come() {
    let folder = Folder::new();
    folder
        .write("seriatim.toml", "ingress.quota = { messages = 10, per = \"1h\" }\nwork.builtin = { sleep = \"3s\" }\n");
    let pipeline = Pipeline::start(&folder, &[]);
    let load = ["--rate", "100/s", "--seconds", "1"];
    let (code, figures) = benched(&pipeline, &[&load[..], &["--patience", "100ms"]].concat());
    assert_eq!((code, figures["missing"].as_u64(), figures["messages"].as_u64()), (5, Some(10), Some(0)), "{figures}");
    assert_eq!(figures["refused"], serde_json::json!({ "429 quota-exceeded": 90 }));
    drop(pipeline);
    let gone = run(&folder, &["bench", "--url", "http://127.0.0.1:9"], &[]);
    assert!(gone.code == 1 && gone.err.contains("nothing answers"), "{}", gone.err);
}

#[test]
fn what_failed_for_good_is_in_the_dead_letters() {
    let folder = Folder::new();
    let work = [
        ("SERIATIM_WORK__JQ", "if .n == 2 then error(\"two\") else . end"),
        ("SERIATIM_ORDER__ON_FAILURE", "dead-letter"),
    ];
    let pipeline = Pipeline::start(&folder, &work);
    assert_eq!(pipeline.run_with(&["send", "-"], "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n").code, 0);
    assert_eq!(pipeline.bodies(2), ["{\"n\":1}", "{\"n\":3}"]);
    let letters = pipeline.run(&["tail", "--dead-letters"]);
    assert!(
        letters.out.starts_with("0\t0-1\t-\t") && letters.out.ends_with("filter-error: \"two\"\t{\"n\":2}\n"),
        "{}",
        letters.out
    );
    let json: serde_json::Value =
        serde_json::from_str(&pipeline.run(&["tail", "--dead-letters", "--json"]).out).expect("one line of JSON");
    assert_eq!((&json["offset"], &json["source"]["offset"], &json["body"]["n"]), (&0.into(), &1.into(), &2.into()));
    assert!(json["error"]["code"].is_string(), "{json}");
    assert_eq!(pipeline.run(&["tail", "--dead-letters", "--from", "1"]).out, "");
    assert_eq!(pipeline.run(&["tail", "default", "--dead-letters"]).code, 2);
}

#[test]
fn a_worker_that_is_not_there_is_what_everybody_waits_for() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[("SERIATIM_WORK__HTTP", "{ url = 'http://127.0.0.1:9/' }")]);
    assert_eq!(pipeline.run_with(&["send", "-"], "one\n").code, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let why = pipeline.run(&["why"]);
        if why.out.contains("waits for the worker, which cannot be reached") {
            break;
        }
        assert!(Instant::now() < deadline, "{} {}", why.out, why.err);
    }
}

#[test]
fn one_port_taken_for_the_other_is_told() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[]);
    let ports = pipeline.ports();
    let url = |key: &str| {
        let (_, address) = ports.iter().find(|(name, _)| name == key).expect("it is one of them");
        format!("http://{address}")
    };
    let tail = pipeline.run(&["tail", "--url", &url("SERIATIM_ADMIN__LISTEN")]);
    assert!(tail.code == 3 && tail.err.contains("this is the admin port"), "{}", tail.err);
    let lanes = pipeline.run(&["lanes", "--url", &url("SERIATIM_INGRESS__HTTP")]);
    assert!(lanes.code == 3 && lanes.err.contains("this is the data port"), "{}", lanes.err);
}

#[test]
fn a_folder_in_use_or_a_file_in_its_place_is_told_first() {
    let folder = Folder::new();
    let pipeline = Pipeline::start(&folder, &[]);
    let second = pipeline.run(&["run"]);
    assert_eq!(second.code, 1);
    assert!(second.err.contains("seriatim-data is in use by process"), "{}", second.err);
    folder.write("file", "");
    let free = [("SERIATIM_INGRESS__HTTP", "127.0.0.1:0"), ("SERIATIM_ADMIN__LISTEN", "127.0.0.1:0")];
    let in_file = run(&folder, &["run"], &[&free[..], &[("SERIATIM_LOG__EMBEDDED", "file")]].concat());
    assert_eq!(in_file.code, 64, "{}", in_file.err);
    assert!(in_file.err.contains("is a file: name another folder"), "{}", in_file.err);
}

#[test]
fn an_upload_that_is_refused_for_now_is_told_once() {
    let folder = Folder::new();
    let lines: String = (0..5).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let full = Pipeline::start(&folder, &[("SERIATIM_LOG__RESERVE", "9000PB")]);
    let refused = full.run_with(&["send", "-"], &lines);
    assert_eq!((refused.code, refused.out.as_str()), (1, "0 accepted, 5 refused\n"), "{}", refused.err);
    assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
    assert!(refused.err.contains("nothing from there on was accepted; later:"), "{}", refused.err);
    let each = full.run_with(&["send", "-", "--json"], &lines);
    assert_eq!((each.code, each.out.lines().count()), (1, 5), "{}", each.out);
}
