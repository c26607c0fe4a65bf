//! Many connections for frames: what an idle one takes, and how many messages busy ones get acknowledged.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::program::Program;
use crate::spread::Spread;

const IDLE: usize = 10_000;
const ACTIVE: usize = 1_000;
/// Connections that are opened at once.
const AT_ONCE: usize = 100;
/// Messages that a busy connection sends before it waits for their acknowledgements.
const BURST: usize = 10;
/// How long the busy ones are measured.
const WHILE: Duration = Duration::from_secs(10);

pub(crate) async fn measure() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        free.local_addr().expect("it is bound")
    };
    let most = IDLE + ACTIVE;
    let program = Program::start(&format!(
        "work.builtin = \"echo\"\n[ingress]\nmax_connections = {most}\n\
         tcp = [ {{ listen = \"{port}\", framing = \"newline\" }} ]\n"
    ));
    let (before, _) = program.memory();
    let mut idle = open(port, IDLE).await;
    // One message and its acknowledgement each: a connection that was never used shows less than it will take.
    for part in idle.chunks_mut(AT_ONCE) {
        futures::future::join_all(part.iter_mut().map(|connection| connection.exchange(1))).await;
    }
    sleep(Duration::from_secs(1)).await;
    let (with, _) = program.memory();
    println!("{IDLE} idle connections: {} KiB each", with.saturating_sub(before) * 1024 / IDLE as u64);

    let mut active = open(port, ACTIVE).await;
    let begun = Instant::now();
    let tasks = active.iter_mut().map(|connection| async move {
        let mut delays = Vec::new();
        while begun.elapsed() < WHILE {
            delays.push(connection.exchange(BURST).await);
        }
        delays
    });
    let spread = Spread::of(futures::future::join_all(tasks).await.concat());
    let rate = (spread.len() * BURST) as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{ACTIVE} busy ones beside them: {rate:.0} acknowledgements/s, each connection's in order; \
         {BURST} messages: {spread}; memory at most {} MiB",
        program.memory().1
    );
}

async fn open(port: SocketAddr, count: usize) -> Vec<Connection> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let some = (0..AT_ONCE.min(count - all.len())).map(|_| Connection::open(port));
        all.extend(futures::future::join_all(some).await);
    }
    all
}

struct Connection {
    stream: BufReader<TcpStream>,
    /// The offset that was acknowledged last.
    last: Option<u64>,
}

impl Connection {
    async fn open(port: SocketAddr) -> Self {
        let stream = TcpStream::connect(port).await.expect("it listens");
        stream.set_nodelay(true).expect("it is open");
        // Small, since there are thousands of them.
        Self { stream: BufReader::with_capacity(1024, stream), last: None }
    }

    /// Sends so many messages and waits until all are acknowledged, in order; how long that took.
    async fn exchange(&mut self, count: usize) -> Duration {
        let begun = Instant::now();
        self.stream.get_mut().write_all("{\"some\":\"message\"}\n".repeat(count).as_bytes()).await.expect("it is open");
        let mut line = String::new();
        for _ in 0..count {
            line.clear();
            self.stream.read_line(&mut line).await.expect("it is open");
            let offset = line.split("\"offset\":").nth(1).and_then(|rest| rest.trim_end_matches("}\n").parse().ok());
            assert!(offset > self.last, "{line} after {:?}", self.last);
            self.last = offset;
        }
        begun.elapsed()
    }
}
