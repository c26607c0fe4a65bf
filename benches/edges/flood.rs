//! Messages over HTTP: as many as it takes, and more than there is room for.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::program::Program;
use crate::spread::Spread;

/// How long the intake is measured, and how long the flood lasts.
const INTAKE: Duration = Duration::from_secs(10);
const FLOOD: Duration = Duration::from_secs(60);

/// Clients of the flood, each of which comes again at once, whatever it was told.
const CLIENTS: usize = 128;

/// Within which everything has to have come out after the flood.
const PATIENCE: Duration = Duration::from_secs(120);

/// Durable messages a second over kept connections, and how long each waited for its answer.
pub(crate) async fn intake() {
    for clients in [1, 64] {
        let program = Program::start("work.builtin = \"echo\"\n");
        let begun = Instant::now();
        let tasks = (0..clients).map(|_| async {
            let (mut client, mut delays) = (Client::new(program.data), Vec::new());
            let body = format!("{{\"n\":\"{}\"}}", "x".repeat(92));
            while begun.elapsed() < INTAKE {
                let sent = Instant::now();
                let answer = client.post("content-type: application/json\r\n", &body).await.expect("it is answered");
                assert_eq!(answer.status, 202, "{}", answer.head);
                delays.push(sent.elapsed());
            }
            delays
        });
        let spread = Spread::of(futures::future::join_all(tasks).await.concat());
        let rate = spread.len() as f64 / begun.elapsed().as_secs_f64();
        println!("{clients} clients: {rate:.0} durable messages/s, {spread}; memory {} MiB", program.memory().1);
    }
}

#[derive(Default)]
struct Told {
    accepted: AtomicU64,
    refused: AtomicU64,
    without_hint: AtomicU64,
    broken: AtomicU64,
}

/// A flood that fills the disk that there is, before work that cannot keep up.
pub(crate) async fn measure() {
    let program = Program::start(
        "[log]\nmax_disk = \"192MiB\"\nretention = \"5s\"\n[work]\nbuiltin = { sleep = \"1ms\" }\nconcurrency = 4\n",
    );
    let (told, over) = (Told::default(), AtomicBool::new(false));
    let accepted = std::sync::Mutex::new(BTreeSet::new());
    let clients = (0..CLIENTS).map(|number| flood(&program, &told, &over, &accepted, number));
    let clock = async {
        let begun = Instant::now();
        while begun.elapsed() < FLOOD {
            sleep(Duration::from_secs(10)).await;
            let (now, peak) = program.memory();
            let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
            println!(
                "  after {:.0} s: {} accepted, {} refused; memory {now} MiB, at most {peak}",
                begun.elapsed().as_secs_f64(),
                count(&told.accepted),
                count(&told.refused)
            );
        }
        over.store(true, Ordering::Relaxed);
    };
    let follow = outputs(&program, &over, &accepted);
    let (_, (), seen) = futures::join!(futures::future::join_all(clients), clock, follow);
    let accepted = accepted.into_inner().expect("no holder panics");
    let lost = accepted.difference(&seen).count();
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "{} accepted, {lost} of them lost; {} refused, {} of these without Retry-After; {} unknown",
        accepted.len(),
        count(&told.refused),
        count(&told.without_hint),
        count(&told.broken)
    );
}

async fn flood(
    program: &Program,
    told: &Told,
    over: &AtomicBool,
    accepted: &std::sync::Mutex<BTreeSet<u64>>,
    number: usize,
) {
    let (mut client, mut message) = (Client::new(program.data), number as u64);
    while !over.load(Ordering::Relaxed) {
        let body = format!("{{\"n\":{message},\"pad\":\"{}\"}}", "x".repeat(1000));
        let count = match client.post("content-type: application/json\r\n", &body).await {
            Some(answer) if answer.status == 202 => {
                accepted.lock().expect("no holder panics").insert(message);
                &told.accepted
            }
            Some(answer) => {
                told.without_hint.fetch_add(u64::from(!answer.has("retry-after")), Ordering::Relaxed);
                &told.refused
            }
            None => &told.broken,
        };
        count.fetch_add(1, Ordering::Relaxed);
        message += CLIENTS as u64;
    }
}

/// Follows the outputs, retention on its heels, until all that was accepted is there; then sends once more.
async fn outputs(program: &Program, over: &AtomicBool, accepted: &std::sync::Mutex<BTreeSet<u64>>) -> BTreeSet<u64> {
    let (http, mut from, mut seen) = (reqwest::Client::new(), 0, BTreeSet::new());
    let mut ended = None;
    loop {
        let url = format!("http://{}/v1/outputs/default?lane=0&from={from}", program.data);
        let text = http.get(url).send().await.expect("it answers").text().await.expect("it answers");
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            assert_eq!(line["sequence"], from, "each in order");
            from += 1;
            seen.insert(line["body"]["n"].as_u64().expect("it is what was sent"));
        }
        if over.load(Ordering::Relaxed) {
            let ended = *ended.get_or_insert_with(Instant::now);
            let all = accepted.lock().expect("no holder panics").is_subset(&seen);
            if all || ended.elapsed() > PATIENCE {
                println!("  everything accepted was out {:.1} s after the flood", ended.elapsed().as_secs_f64());
                recover(program, ended).await;
                return seen;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn recover(program: &Program, ended: Instant) {
    let mut client = Client::new(program.data);
    loop {
        let answer = client.post("content-type: application/json\r\n", "{\"n\":0}").await;
        if answer.is_some_and(|answer| answer.status == 202) {
            println!("  the next message was accepted {:.1} s after the flood", ended.elapsed().as_secs_f64());
            return;
        }
        assert!(ended.elapsed() < PATIENCE, "nothing is accepted any more");
        sleep(Duration::from_millis(50)).await;
    }
}
