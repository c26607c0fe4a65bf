//! A hundred destinations, of which ten are now and then dead and ten slow: what the others notice of it.
//!
//! One program all the time, and turns with and without the sick in pairs, the other way round each time: what
//! else the machine does falls on both.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::program::Program;
use crate::receiver::{Listening, Receivers};
use crate::spread::Spread;

const DESTINATIONS: u32 = 100;
const DEAD: Range<u32> = 0..10;
const SLOW: Range<u32> = 10..20;
const HEALTHY: Range<u32> = 20..DESTINATIONS;
/// What a slow one takes to answer.
const SLOWNESS: Duration = Duration::from_secs(2);
/// Connections that send.
const CLIENTS: usize = 8;
/// Messages to each destination in one turn.
const ROUNDS: u32 = 30;
/// From one message to the next, over all destinations.
const EVERY: Duration = Duration::from_millis(2);
/// Turns with the sick, each beside one without; an odd number, so that there is a median.
const PAIRS: usize = 9;
/// After a turn, so that what is on its way comes; and before the next, so that all are awake.
const REST: Duration = Duration::from_millis(700);
/// Within which all of it has to come, once everybody is well.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn measure() {
    let mut bench = Bench::start().await;
    bench.turn(false).await;
    let (mut well, mut sick, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let sick_first = pair % 2 == 1;
        let (first, second) = (bench.turn(sick_first).await, bench.turn(!sick_first).await);
        let (with, without) = if sick_first { (first, second) } else { (second, first) };
        ratios.push([50, 99].map(|percent| with.at(percent).as_secs_f64() / without.at(percent).as_secs_f64()));
        well.push(without);
        sick.push(with);
    }
    bench.check();
    let middle = |turns: &[Spread]| {
        let mut all: Vec<_> = turns.iter().map(|turn| turn.at(99).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        all[PAIRS / 2]
    };
    println!(
        "all 100 well:        p99 in the median turn {:.1} ms; all turns: the 80 {}",
        middle(&well),
        Spread::all(well)
    );
    println!(
        "10 dead and 10 slow: p99 in the median turn {:.1} ms; all turns: the 80 {}",
        middle(&sick),
        Spread::all(sick)
    );
    let median = |which: usize| {
        let mut ratios: Vec<f64> = ratios.iter().map(|both| both[which]).collect();
        ratios.sort_by(f64::total_cmp);
        (ratios[0], ratios[PAIRS / 2], ratios[PAIRS - 1])
    };
    for (name, which) in [("p50", 0), ("p99", 1)] {
        let (least, median, most) = median(which);
        println!("sick over well, of {PAIRS} pairs: {name} {median:.2} ({least:.2} to {most:.2})");
    }
    let (now, peak) = bench.program.memory();
    println!("memory: {now} MiB, at most {peak}");
}

fn name(number: u32) -> String {
    format!("d{number:02}")
}

struct Bench {
    receivers: Receivers,
    /// Where those listen that die now and then.
    mortal: SocketAddr,
    alive: Option<Listening>,
    _listening: Listening,
    program: Program,
    clients: Vec<Client>,
    /// When the messages of each round were due, those of all destinations together.
    due: Vec<Instant>,
}

impl Bench {
    async fn start() -> Self {
        let receivers = Receivers::default();
        let listening = receivers.listen(([127, 0, 0, 1], 0).into()).await;
        let alive = receivers.listen(([127, 0, 0, 1], 0).into()).await;
        let (at, mortal) = (listening.at, alive.at);
        let mut config = "order.by = \"destination\"\nwork.builtin = \"echo\"\n".to_owned();
        for number in 0..DESTINATIONS {
            let (to, name) = (if DEAD.contains(&number) { mortal } else { at }, name(number));
            let _ = writeln!(
                config,
                "[destinations.{name}]\npush.http = {{ url = \"http://{to}/{name}\", allow_private = true }}\n\
                 push.retry = {{ cap = \"1s\" }}"
            );
        }
        let program = Program::start(&config);
        let clients = (0..CLIENTS).map(|_| Client::new(program.data)).collect();
        let alive = Some(alive);
        Self { receivers, mortal, alive, _listening: listening, program, clients, due: Vec::new() }
    }

    /// Sends some messages to everybody; the delays of those who are always well, from when a message was due
    /// to its arrival. All is well again, and everything there, when it returns.
    async fn turn(&mut self, sick: bool) -> Spread {
        if sick {
            self.alive = None;
            self.receivers.slow().extend(SLOW.map(|number| (format!("/{}", name(number)), SLOWNESS)));
        }
        let (begun, busy) = (Instant::now(), self.program.busy());
        let first = self.due.len();
        self.send().await;
        sleep(REST).await;
        let busy = (self.program.busy() - busy).as_secs_f64() / begun.elapsed().as_secs_f64();
        let spread = self.delays(first);
        let revived = self.revive().await;
        println!(
            "  {}: {spread}; {:.0} % of a core; the rest was there after {:.1} s",
            if sick { "sick" } else { "well" },
            busy * 100.0,
            revived.as_secs_f64()
        );
        sleep(REST).await;
        spread
    }

    async fn send(&mut self) {
        let begun = Instant::now() + Duration::from_millis(100);
        let tasks = self.clients.iter_mut().zip(0..).map(|(client, first)| async move {
            for message in (first..ROUNDS * DESTINATIONS).step_by(CLIENTS) {
                sleep_until(begun + EVERY * message).await;
                let header = format!("seriatim-destination: {}\r\n", name(message % DESTINATIONS));
                let answer = client.post(&header, "{\"some\":\"message\"}").await.expect("it is answered");
                assert_eq!(answer.status, 202, "{}", answer.head);
            }
        });
        futures::future::join_all(tasks).await;
        self.due.extend((0..ROUNDS).map(|round| begun + EVERY * round * DESTINATIONS));
    }

    fn delays(&self, first: usize) -> Spread {
        let got = self.receivers.got();
        let mut delays = Vec::new();
        for number in HEALTHY {
            let arrivals = got.get(&format!("/{}", name(number))).map_or(&[][..], |got| &got.arrivals);
            assert_eq!(arrivals.len(), self.due.len(), "{}: all of them came", name(number));
            let both = arrivals.iter().zip(&self.due).skip(first);
            delays.extend(both.map(|((at, _), round)| at.duration_since(*round + EVERY * number)));
        }
        Spread::of(delays)
    }

    /// Everybody is well again; how long it takes until everything has come.
    async fn revive(&mut self) -> Duration {
        let begun = Instant::now();
        self.receivers.slow().clear();
        if self.alive.is_none() {
            self.alive = Some(self.receivers.listen(self.mortal).await);
        }
        while self.receivers.count() < self.due.len() * DESTINATIONS as usize {
            assert!(begun.elapsed() < PATIENCE, "not everything came");
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }

    /// Everything came once and in order.
    fn check(&self) {
        for (path, got) in self.receivers.got().iter() {
            let mut sequences = got.arrivals.iter().map(|(_, sequence)| *sequence);
            assert!(
                sequences.clone().zip(sequences.by_ref().skip(1)).all(|(one, next)| one < next),
                "{path}: in order"
            );
            assert_eq!(got.arrivals.len(), self.due.len(), "{path}: each once");
        }
    }
}
