//! A hundred destinations, of which ten are dead and ten slow: what the others notice of it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::program::Program;
use crate::receiver::Receivers;
use crate::spread::Spread;

const DESTINATIONS: u32 = 100;
const DEAD: u32 = 10;
const SLOW: u32 = 10;
/// What a slow one takes to answer.
const SLOWNESS: Duration = Duration::from_secs(2);
/// Connections that send.
const CLIENTS: usize = 8;
/// Messages to each destination, one after the other in turns.
const ROUNDS: u32 = 100;
/// From one message to the next, over all destinations.
const EVERY: Duration = Duration::from_millis(2);
/// Within which all of it has to come, once everybody is well.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn measure() {
    let well = run(false).await;
    println!("all 100 well:        the 80 {well}");
    let sick = run(true).await;
    println!("10 dead and 10 slow: the 80 {sick}");
    let ratio = |percent| sick.at(percent).as_secs_f64() / well.at(percent).as_secs_f64();
    println!("sick over well: p50 {:.2}, p99 {:.2}", ratio(50), ratio(99));
}

fn name(number: u32) -> String {
    format!("d{number:02}")
}

async fn run(sick: bool) -> Spread {
    let receivers = Receivers::default();
    let at = receivers.listen(([127, 0, 0, 1], 0).into()).await;
    // A port that was free a moment ago, and where somebody listens later.
    let dead = {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        taken.local_addr().expect("it is bound")
    };
    let is_dead = |number: u32| sick && number < DEAD;
    if sick {
        receivers.slow().extend((DEAD..DEAD + SLOW).map(|number| (format!("/{}", name(number)), SLOWNESS)));
    }
    let mut config = "order.by = \"destination\"\nwork.builtin = \"echo\"\n".to_owned();
    for number in 0..DESTINATIONS {
        let (to, name) = (if is_dead(number) { dead } else { at }, name(number));
        let _ = writeln!(
            config,
            "[destinations.{name}]\npush.http = {{ url = \"http://{to}/{name}\", allow_private = true }}\n\
             push.retry = {{ cap = \"1s\" }}"
        );
    }
    let program = Program::start(&config);
    let sent = send(&program, &receivers).await;
    let all = (ROUNDS * DESTINATIONS + 1) as usize;
    sleep(Duration::from_secs(1)).await;
    let spread = delays(&receivers, &sent);
    let (now, peak) = program.memory();
    println!("  memory: {now} MiB, at most {peak}; {} of {all} pushed", receivers.count());
    revive(&receivers, sick.then_some(dead), sent.len()).await;
    spread
}

/// A message to each destination in turns; when each round began for each of them.
async fn send(program: &Program, receivers: &Receivers) -> Vec<Vec<Instant>> {
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::new(program.data)).collect();
    // Until the first push has come, the owners are still taking over.
    clients[0].post(&format!("seriatim-destination: {}\r\n", name(DESTINATIONS - 1)), "{}").await;
    while receivers.count() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let begun = Instant::now() + Duration::from_millis(100);
    let due = |message: u32| begun + EVERY * message;
    let all = ROUNDS * DESTINATIONS;
    let tasks = clients.into_iter().zip(0..).map(|(mut client, first)| async move {
        for message in (first..all).step_by(CLIENTS) {
            sleep_until(due(message)).await;
            let header = format!("seriatim-destination: {}\r\n", name(message % DESTINATIONS));
            let answer = client.post(&header, "{\"some\":\"message\"}").await.expect("it is answered");
            assert_eq!(answer.status, 202, "{}", answer.head);
        }
    });
    futures::future::join_all(tasks).await;
    let round = |round: u32| (0..DESTINATIONS).map(|d| due(round * DESTINATIONS + d)).collect();
    (0..ROUNDS).map(round).collect()
}

/// From when a message was due to its arrival, for those who are well in both runs.
fn delays(receivers: &Receivers, sent: &[Vec<Instant>]) -> Spread {
    let got = receivers.got();
    let mut delays = Vec::new();
    for number in DEAD + SLOW..DESTINATIONS {
        let arrivals = &got[&format!("/{}", name(number))].arrivals;
        // The first of the last one was to warm up.
        let arrivals = &arrivals[usize::from(number + 1 == DESTINATIONS)..];
        assert_eq!(arrivals.len(), sent.len(), "{}: all of them came", name(number));
        delays.extend(arrivals.iter().zip(sent).map(|((at, _), round)| at.duration_since(round[number as usize])));
    }
    Spread::of(delays)
}

/// Everybody is well again: all of it comes, in order.
async fn revive(receivers: &Receivers, dead: Option<SocketAddr>, each: usize) {
    let begun = Instant::now();
    receivers.slow().clear();
    if let Some(dead) = dead {
        receivers.listen(dead).await;
    }
    let waits = || {
        let got = receivers.got();
        (0..DESTINATIONS).any(|n| got.get(&format!("/{}", name(n))).is_none_or(|got| got.arrivals.len() < each))
    };
    while waits() {
        assert!(begun.elapsed() < PATIENCE, "not everything came");
        sleep(Duration::from_millis(10)).await;
    }
    println!("  revived: everything was there after {:.1} s", begun.elapsed().as_secs_f64());
    for (path, got) in receivers.got().iter() {
        let sequences = got.arrivals.iter().map(|(_, sequence)| *sequence);
        assert!(sequences.clone().is_sorted(), "{path}: in order");
        let last = path == &format!("/{}", name(DESTINATIONS - 1));
        assert_eq!(got.arrivals.len(), each + usize::from(last), "{path}: each once");
    }
}
