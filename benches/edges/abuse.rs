//! What healthy clients notice of those who mean no good, or know no better.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::client::Client;
use crate::program::Program;
use crate::spread::Spread;

/// How long each half is measured.
const WHILE: Duration = Duration::from_secs(15);

/// Clients that behave, and from one message of each to the next.
const CLIENTS: u32 = 16;
const EVERY: Duration = Duration::from_millis(40);

/// Connections of each kind of abuse, and the pause before one that was cut off comes again: faster, and it is
/// measured how many connections a second the machine takes, of which the abusers need as much as the program.
const EACH: usize = 100;
const PAUSE: Duration = Duration::from_secs(2);

pub(crate) async fn measure() {
    let program = Program::start("work.builtin = \"echo\"\n");
    let alone = healthy(program.data).await;
    println!("alone:        {alone}; memory at most {} MiB", program.memory().1);
    let over = AtomicBool::new(false);
    let bomb = bomb();
    let kinds = [Kind::Slow, Kind::HalfOpen, Kind::Oversized, Kind::Malformed, Kind::Headers, Kind::Bomb(&bomb)];
    let abusers = kinds.iter().flat_map(|kind| (0..EACH).map(|_| abuse(program.data, *kind, &over)));
    let measured = async {
        sleep(PAUSE).await;
        let spread = healthy(program.data).await;
        over.store(true, Ordering::Relaxed);
        spread
    };
    let (beside, counts) = futures::join!(measured, futures::future::join_all(abusers));
    println!("beside abuse: {beside}; memory at most {} MiB", program.memory().1);
    for (kind, counts) in kinds.iter().zip(counts.chunks(EACH)) {
        println!(
            "  {kind:?}: {} connections, all of them ended by the program or refused",
            counts.iter().sum::<usize>()
        );
    }
}

async fn healthy(to: SocketAddr) -> Spread {
    let begun = Instant::now();
    let tasks = (0..CLIENTS).map(|number| async move {
        let (mut client, mut delays) = (Client::new(to), Vec::new());
        let mut due = begun + EVERY * number / CLIENTS;
        while begun.elapsed() < WHILE {
            sleep_until(due).await;
            let answer = client.post("content-type: application/json\r\n", "{\"some\":\"message\"}").await;
            assert_eq!(answer.expect("it is answered").status, 202);
            delays.push(due.elapsed());
            due += EVERY;
        }
        delays
    });
    Spread::of(futures::future::join_all(tasks).await.concat())
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    /// A byte of a header a second.
    Slow,
    /// Nothing at all.
    HalfOpen,
    /// A body of 100 MB.
    Oversized,
    /// No HTTP.
    Malformed,
    /// Headers without end.
    Headers,
    /// 64 MiB of nothing, compressed.
    Bomb(&'a [u8]),
}

impl std::fmt::Debug for Kind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Slow => "a byte a second",
            Self::HalfOpen => "silence",
            Self::Oversized => "100 MB in a body",
            Self::Malformed => "no HTTP",
            Self::Headers => "headers without end",
            Self::Bomb(_) => "64 MiB in 64 KiB",
        })
    }
}

/// Comes again whenever it is cut off; how often it was.
async fn abuse(to: SocketAddr, kind: Kind<'_>, over: &AtomicBool) -> usize {
    let mut ended = 0;
    // Not all in the same moment, which would measure how many the machine takes at once.
    sleep(PAUSE.mul_f64(fastrand::f64())).await;
    while !over.load(Ordering::Relaxed) {
        if let Ok(stream) = TcpStream::connect(to).await {
            ended += usize::from(one(stream, kind, over).await);
        }
        sleep(PAUSE).await;
    }
    ended
}

/// Whether the program ended it.
async fn one(mut stream: TcpStream, kind: Kind<'_>, over: &AtomicBool) -> bool {
    let head = "POST /v1/messages HTTP/1.1\r\nhost: x\r\n";
    match kind {
        Kind::Slow => {
            while !over.load(Ordering::Relaxed) {
                let ended = stream.write_all(b"G").await.is_err();
                if ended || is_over(&mut stream, Duration::from_secs(1)).await {
                    return true;
                }
            }
            false
        }
        Kind::HalfOpen => {
            while !over.load(Ordering::Relaxed) {
                if is_over(&mut stream, Duration::from_secs(1)).await {
                    return true;
                }
            }
            false
        }
        Kind::Oversized => {
            let sent = stream.write_all(format!("{head}content-length: 100000000\r\n\r\n").as_bytes()).await;
            pour(&mut stream, sent.is_ok(), &[b'x'; 16 << 10]).await
        }
        Kind::Malformed => {
            let sent = stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00 and so on\r\n\r\n").await;
            sent.is_err() || is_over(&mut stream, WHILE).await
        }
        Kind::Headers => {
            let sent = stream.write_all(head.as_bytes()).await;
            pour(&mut stream, sent.is_ok(), "x-some-header: and a value\r\n".repeat(100).as_bytes()).await
        }
        Kind::Bomb(bomb) => {
            let length = bomb.len();
            let head = format!("{head}content-encoding: gzip\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let sent = async {
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(bomb).await
            };
            sent.await.is_err() || is_over(&mut stream, WHILE).await
        }
    }
}

/// Sends on until it is cut off or answered.
async fn pour(stream: &mut TcpStream, open: bool, piece: &[u8]) -> bool {
    let begun = Instant::now();
    while open && begun.elapsed() < WHILE {
        if stream.write_all(piece).await.is_err() || is_over(stream, Duration::from_millis(1)).await {
            return true;
        }
    }
    !open
}

/// Whether an answer or the end comes within this time.
async fn is_over(stream: &mut TcpStream, within: Duration) -> bool {
    timeout(within, stream.read(&mut [0; 1024])).await.is_ok()
}

fn bomb() -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        gzip.write_all(&zeros).expect("memory takes everything");
    }
    gzip.finish().expect("memory takes everything")
}
