//! A port for frames over a log in memory, and a sender.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use seriatim::framing::{Decoder, Framing};
use seriatim::ingress::tcp::Options;
use seriatim::ingress::{self, Ports, Service, run};
use seriatim::log::Log as _;
use seriatim::log::memory::{Delay, Memory, Stored};
use seriatim::record::Partition;
use seriatim::topics::Topics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What no test should have to wait for.
const HANGS: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) log: Memory,
    pub(crate) topics: Arc<Topics>,
    pub(crate) address: SocketAddr,
    pub(crate) drain: CancellationToken,
    running: JoinHandle<()>,
}

pub(crate) async fn serve(port: Options, limits: ingress::Options, lanes: u32) -> Server {
    let log = Memory::new(1);
    let topics = Arc::new(Topics::derive("t", &["default"], lanes, 1));
    log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
    let drain = CancellationToken::new();
    let (service, driver) = Service::new(Arc::new(log.clone()), Arc::clone(&topics), limits, drain.clone());
    let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let (http, tcp) = (listen().await, listen().await);
    let address = tcp.local_addr().expect("it is bound");
    let ports = Ports { http, tls: None, tcp: vec![(tcp, port)] };
    Server { log, topics, address, drain, running: tokio::spawn(run(ports, service, driver)) }
}

pub(crate) async fn lines() -> Server {
    serve(Options::new(Framing::Newline), ingress::Options::default(), 1).await
}

impl Server {
    pub(crate) async fn connect(&self) -> Sender {
        Sender(TcpStream::connect(self.address).await.expect("it listens"))
    }

    pub(crate) fn input(&self, lane: u32) -> Vec<Stored> {
        self.log.snapshot(&self.topics.input.partition(Partition(lane)))
    }

    pub(crate) fn values(&self) -> Vec<String> {
        let text = |record: Stored| String::from_utf8(record.value.unwrap_or_default()).expect("it is text");
        self.input(0).into_iter().map(text).collect()
    }

    /// Waits for the end of a server that drains.
    pub(crate) async fn end(self) {
        timeout(HANGS, self.running).await.expect("it ends").expect("it does not panic");
    }
}

pub(crate) struct Sender(pub(crate) TcpStream);

impl Sender {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("it reads");
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        self.0.shutdown().await.expect("it is open");
    }

    /// All that comes until the peer closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = timeout(HANGS, self.0.read_to_end(&mut bytes)).await.expect("it closes");
        read.expect("it closes without a reset, so that nothing is lost");
        String::from_utf8(bytes).expect("answers are text")
    }

    /// So many answers in this framing.
    pub(crate) async fn answers(&mut self, framing: Framing, count: usize) -> Vec<String> {
        let mut decoder = Decoder::new(framing, 1 << 20);
        let mut found = Vec::new();
        let mut space = [0; 4096];
        while found.len() < count {
            match decoder.next_frame().expect("answers are well formed") {
                Some(frame) => found.push(String::from_utf8(frame.to_vec()).expect("answers are text")),
                None => {
                    let read = timeout(HANGS, self.0.read(&mut space)).await.expect("it answers");
                    let read = read.expect("it does not break off");
                    assert_ne!(read, 0, "it closed after {found:?}");
                    decoder.feed(&space[..read]);
                }
            }
        }
        found
    }

    pub(crate) async fn lines(&mut self, count: usize) -> Vec<String> {
        self.answers(Framing::Newline, count).await
    }
}

/// The line that acknowledges a message of lane 0.
pub(crate) fn line(offset: usize) -> String {
    format!(r#"{{"id":"0-{offset}","lane":0,"offset":{offset}}}"#)
}

pub(crate) fn always(delay: Duration) -> Delay {
    Delay::always(delay..delay + Duration::from_nanos(1))
}

/// Waits until a condition holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(HANGS, wait).await.expect("it comes to hold");
}
