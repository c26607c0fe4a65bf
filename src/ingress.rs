//! How messages come in over HTTP and TCP, and how their results are read back.
//!
//! [`Service`] is what the routes stand on: the log, the way into each lane, the idempotency keys
//! that are known. [`Driver`] is the one future that moves messages into the log; a service does
//! nothing without it. [`run`] puts both behind ports, [`http::router`] serves tests without one.
//!
//! What is promised: a message is acknowledged only after it is durable; messages of one
//! connection and lane stand in the log in the order in which they were acknowledged; memory for
//! bodies and queues is bounded, and what does not fit is refused with `Retry-After`; a write
//! whose outcome is not known is answered 504, never as failed. The cases of an idempotency key
//! stand in `ingress/keys.rs`.

mod accept;
mod appender;
mod auth;
mod batches;
mod body;
mod decode;
mod envelope;
mod event;
mod expand;
mod gate;
pub mod http;
mod keys;
mod lines;
mod live;
mod many;
mod openapi;
mod patient;
mod problem;
mod quota;
mod read;
mod release;
mod results;
mod single;
mod standstill;
mod state;
pub mod tcp;
mod tls;
mod upload;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join, join_all};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use auth::{Principal, Tokens, TokensError};
pub use problem::{Code, Problem};
pub use quota::Quota;
pub use tls::{Application, Tls, TlsError, TlsFiles, WithoutCertificate};

use crate::log::Log;
use crate::observe::batches::Board;
pub use crate::observe::live::Options as LaneOptions;
use crate::record::Partition;
use crate::topics::Topics;
use appender::Lane;
use keys::Keys;
use quota::Quotas;
use waiters::Waiters;

/// The most that a request's head takes, and so what each of its messages repeats of it.
const LARGEST_HEAD: usize = 64 * 1024;

/// The limits of the data port. The defaults suit a process of a few hundred MiB.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest body of a message, in bytes. 1 MiB.
    pub max_body: usize,
    /// Bytes of single bodies that are being received, over all connections. 64 MiB: what does
    /// not fit is refused while it is read. At least one body, whatever is set.
    pub body_memory: usize,
    /// Bytes of messages that wait for the log, shared out evenly over the lanes, so that one
    /// that cannot be written holds up no other. 64 MiB. Each lane has room for two of the longest
    /// messages and 1 MiB, whatever is set.
    pub queue_memory: usize,
    /// Requests, or pieces of uploads, that wait for the log, per lane. 8,192: at a commit a
    /// millisecond they are gone in one.
    pub queue_length: usize,
    /// Bytes of unfinished frames, over all connections of all TCP ports. 64 MiB: beyond them
    /// nothing more is read. At least one frame, whatever is set.
    pub frame_memory: usize,
    /// Connections at once, on each port; more wait to be accepted. 10,000.
    pub max_connections: usize,
    /// Connections of one peer at once, on each port; more are closed at once. As many as there
    /// may be at all, since a balancer before the port is one peer.
    pub max_connections_per_peer: usize,
    /// Until the head of a request is there, until a new connection sends one, and until a TLS
    /// handshake is through. 10 s.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this. 75 s, above the 60 s at which
    /// balancers usually give up, so that it is they who close.
    pub idle_timeout: Duration,
    /// Until a body or frame is there, beside a second for every 16 KiB of it; in an upload
    /// between two pieces. 30 s.
    pub body_timeout: Duration,
    /// A peer that reads nothing of an answer for this long is cut off. 30 s.
    pub write_timeout: Duration,
    /// How long the log may take to make a message durable before it counts as unknown. 30 s.
    pub append_timeout: Duration,
    /// The longest `wait` of a client. 60 s.
    pub max_wait: Duration,
    /// How often a silent event stream says that it lives. 15 s, half of what proxies allow.
    pub heartbeat: Duration,
    /// Idempotency keys remembered. 100,000, as many as a lane remembers downstream.
    pub known_keys: usize,
    /// Bytes that they may take. 64 MiB.
    pub known_keys_memory: usize,
    /// How the lanes are ordered, to tell why a message waits. `None`: its state says only
    /// whether workers may have it.
    pub lanes: Option<LaneOptions>,
    /// Who may send. `None`: everybody.
    pub tokens: Option<Tokens>,
    /// How much each principal may send. `None`: as much as there is room for.
    pub quota: Option<Quota>,
}

impl Default for Options {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            max_body: MIB,
            body_memory: 64 * MIB,
            queue_memory: 64 * MIB,
            queue_length: 8_192,
            frame_memory: 64 * MIB,
            max_connections: 10_000,
            max_connections_per_peer: usize::MAX,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            append_timeout: Duration::from_secs(30),
            max_wait: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            known_keys: 100_000,
            known_keys_memory: 64 * MIB,
            lanes: None,
            tokens: None,
            quota: None,
        }
    }
}

/// What the routes stand on. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    log: Arc<dyn Log>,
    topics: Arc<Topics>,
    options: Options,
    lanes: Vec<Lane>,
    waiters: Vec<Waiters>,
    boards: Vec<Board>,
    live: live::Lanes,
    keys: Keys,
    quotas: Option<Quotas>,
    bodies: body::Room,
    next_lane: AtomicU32,
    drain: CancellationToken,
    /// Cancelled once the last request is answered.
    stop: CancellationToken,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("options", &self.0.options).finish_non_exhaustive()
    }
}

/// Moves what the service takes into the log. Dropping it is a crash: what was being written has
/// an unknown outcome. Not polling it is a freeze.
pub struct Driver(BoxFuture<'static, ()>);

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}

impl Driver {
    /// Works until every clone of its service is gone, or [`run`] has answered its last request,
    /// and everything queued has its answer.
    pub async fn run(self) {
        self.0.await;
    }
}

impl Service {
    /// A service over a log whose topics exist, and what drives it. Once `drain` is cancelled,
    /// event streams end and nobody is waited for any more.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, topics: Arc<Topics>, options: Options, drain: CancellationToken) -> (Self, Driver) {
        let share = options.queue_memory / topics.lanes.max(1) as usize;
        let share = share.max(2 * options.max_body + upload::MAX_BATCH + LARGEST_HEAD);
        let bodies = body::Room::new(&options);
        let (mut lanes, mut waiters, mut drivers) = (Vec::new(), Vec::new(), Vec::new());
        let mut boards = Vec::new();
        let stop = CancellationToken::new();
        for number in (0..topics.lanes).map(Partition) {
            let to = topics.input.partition(number);
            let room = Arc::new(Semaphore::new(share));
            let (lane, appender) = appender::lane(Arc::clone(&log), to, options.queue_length, room, stop.clone());
            lanes.push(lane);
            let waiting = Waiters::new();
            let ledger = waiting.clone().follow(Arc::clone(&log), topics.ledger.partition(number));
            waiters.push(waiting);
            let board = Board::new();
            let states = board.clone().follow(Arc::clone(&log), topics.batch_state.partition(number));
            boards.push(board);
            drivers.push(drive(appender, join(ledger, states).map(drop)).boxed());
        }
        let live = live::Lanes::new(options.lanes.as_ref(), topics.lanes);
        let keys = Keys::new(options.known_keys, options.known_keys_memory);
        let next_lane = AtomicU32::new(0);
        let quotas = options.quota.map(Quotas::new);
        let inner =
            Inner { log, topics, options, lanes, waiters, boards, live, keys, quotas, bodies, next_lane, drain, stop };
        (Self(Arc::new(inner)), Driver(join_all(drivers).map(drop).boxed()))
    }

    fn options(&self) -> &Options {
        &self.0.options
    }

    fn topics(&self) -> &Topics {
        &self.0.topics
    }

    fn log(&self) -> &Arc<dyn Log> {
        &self.0.log
    }

    fn lane(&self, lane: Partition) -> &Lane {
        // Lanes come from a hash modulo their number, or from `next_lane`.
        &self.0.lanes[lane.0 as usize % self.0.lanes.len()]
    }

    fn waiters(&self, lane: Partition) -> &Waiters {
        &self.0.waiters[lane.0 as usize % self.0.waiters.len()]
    }

    /// The states of a lane's batches.
    fn board(&self, lane: Partition) -> &Board {
        &self.0.boards[lane.0 as usize % self.0.boards.len()]
    }

    fn drain(&self) -> &CancellationToken {
        &self.0.drain
    }

    fn live(&self) -> &live::Lanes {
        &self.0.live
    }

    fn keys(&self) -> &Keys {
        &self.0.keys
    }

    fn quotas(&self) -> Option<&Quotas> {
        self.0.quotas.as_ref()
    }

    /// Waits until a principal may send so many messages more.
    async fn keep_to_quota(&self, principal: &Principal, count: u32) {
        if let Some(quotas) = self.quotas() {
            quotas.wait(principal, count).await;
        }
    }

    fn bodies(&self) -> &body::Room {
        &self.0.bodies
    }

    /// The lane for the messages without a key of one more connection: each in turn.
    fn next_lane(&self) -> Partition {
        Partition(self.0.next_lane.fetch_add(1, Ordering::Relaxed) % self.0.topics.lanes)
    }
}

/// Runs a lane's appender to its end, and beside it what follows the lane's ledger and batches.
async fn drive(appender: BoxFuture<'static, ()>, ledger: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = appender => {}
        () = ledger => {}
    }
}

/// Where messages come in.
#[derive(Debug)]
pub struct Ports {
    /// The data port.
    pub http: TcpListener,
    /// TLS for it; plain where it is not given.
    pub tls: Option<Tls>,
    /// Ports for framed messages.
    pub tcp: Vec<(TcpListener, tcp::Options)>,
}

impl From<TcpListener> for Ports {
    /// The data port alone, without TLS.
    fn from(http: TcpListener) -> Self {
        Self { http, tls: None, tcp: Vec::new() }
    }
}

/// Serves the ports until the service's drain is cancelled; then finishes the requests in flight
/// and what was written. Dropping it ends everything at once.
pub async fn run(ports: impl Into<Ports>, service: Service, driver: Driver) {
    let Ports { http, tls, tcp } = ports.into();
    let (drain, stop) = (service.0.drain.clone(), service.0.stop.clone());
    let frames = Arc::new(Semaphore::new(service.options().frame_memory.max(tcp::most_of_one(service.options()))));
    let serve_one = |(listener, options)| tcp::serve(listener, options, service.clone(), Arc::clone(&frames));
    let over_tcp = join_all(tcp.into_iter().map(serve_one));
    let router = http::router(service.clone());
    let over_http = accept::serve(http, tls.map(Arc::new), service, router, drain);
    let serve = async {
        tokio::join!(over_tcp, over_http);
        stop.cancel();
    };
    tokio::join!(serve, driver.run());
}
