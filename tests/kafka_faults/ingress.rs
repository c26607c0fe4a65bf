//! Processes that take messages in, killed and frozen while clients send.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use crate::LONGER_THAN_A_SESSION;
use crate::checker::{Checker, RECOVERY};
use crate::rig::{LANES, Process, Rig, wait_for};

const CLIENTS: usize = 4;

/// A client gives up an answer after this, and sends the message again elsewhere.
const PATIENCE: Duration = Duration::from_secs(3);

/// Clients that send one message after the other, each again under its key until it is acknowledged.
struct Clients {
    doors: Arc<Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<usize>>,
}

impl Clients {
    fn start(doors: &[&Process]) -> Self {
        let doors = doors.iter().map(|door| door.address("the data port")).collect();
        let (doors, stop): (Arc<Mutex<Vec<String>>>, _) =
            (Arc::new(Mutex::new(doors)), Arc::new(AtomicBool::new(false)));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let client = |number: usize| {
            let (doors, stop, acknowledged) = (doors.clone(), stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let tries = (0..).any(|again: usize| {
                        let doors = doors.lock().expect("nobody panics with it").clone();
                        post(&doors[(number + again) % doors.len()], number, sent)
                    });
                    assert!(tries, "there is always another");
                    sent += 1;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                sent
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { doors, acknowledged, stop, threads }
    }

    fn come_to(&self, door: usize, instead: &Process) {
        self.doors.lock().expect("nobody panics with it")[door] = instead.address("the data port");
    }

    fn more(&self, count: usize) {
        let wanted = self.acknowledged.load(Ordering::Relaxed) + count;
        let enough = || (self.acknowledged.load(Ordering::Relaxed) >= wanted).then_some(());
        wait_for(RECOVERY, enough, || format!("{wanted} were not acknowledged"));
    }

    /// How many each has sent.
    fn finish(self) -> Vec<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    }
}

/// Whether it was acknowledged.
fn post(address: &str, client: usize, number: usize) -> bool {
    let answer = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = format!("{client} {number}");
        write!(
            stream,
            "POST /v1/messages HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nSeriatim-Key: {client}\r\n\
             Idempotency-Key: {client}-{number}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    let acknowledged = answer().is_ok_and(|answer| answer.starts_with("HTTP/1.1 202"));
    if !acknowledged {
        sleep(Duration::from_millis(50));
    }
    acknowledged
}

#[test]
#[ignore = "takes minutes: make faults"]
fn f01_f02_ingress_is_killed_and_frozen_while_clients_send() {
    let rig = Rig::new(&[]);
    let (_work, _owner) = (rig.run("work", "work"), rig.run("owner", "resequence"));
    let checker = Checker::start(&rig);
    let (mut first, second) = (rig.run("ingress-0", "ingress"), rig.run("ingress-1", "ingress"));
    let clients = Clients::start(&[&first, &second]);
    for death in 2..6 {
        clients.more(200);
        first.kill();
        first = rig.run(&format!("ingress-{death}"), "ingress");
        clients.come_to(0, &first);
        clients.more(200);
    }
    for _ in 0..2 {
        second.freeze();
        sleep(LONGER_THAN_A_SESSION);
        clients.more(100);
        second.thaw();
        clients.more(200);
    }
    let sent = clients.finish();
    checker.until(sent.iter().sum());
    // What is too much would come now.
    sleep(Duration::from_secs(2));
    let mut came: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for body in (0..LANES).flat_map(|lane| checker.bodies(lane)) {
        let (client, number) = body.split_once(' ').expect("it was sent so");
        came.entry(client.to_owned()).or_default().push(number.parse().expect("it was sent so"));
    }
    for (client, sent) in sent.iter().enumerate() {
        assert_eq!(came[&client.to_string()], (0..*sent).collect::<Vec<_>>(), "of client {client}");
    }
    eprintln!("{} messages", sent.iter().sum::<usize>());
}
