//! Stands between the program and a broker, knows which request is which, and loses, delays, repeats
//! or answers with a reset what it is told to.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::checker::RECOVERY;
use crate::markers::{Forgotten, vouch};
use crate::rig::wait_for;

/// A kind of request, by its number in Kafka's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Produce = 0,
    Fetch = 1,
    OffsetCommit = 8,
    AddPartitionsToTxn = 24,
    EndTxn = 26,
    /// Between brokers.
    WriteTxnMarkers = 27,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The broker never sees it; the connection breaks.
    LoseRequest,
    /// The broker has done it; the connection breaks before the client hears of that.
    LoseReply,
    /// As [`Fault::LoseReply`], and the client's socket says that the connection was reset.
    Reset,
    /// The broker gets it late, and what follows on the connection after it.
    DelayRequest(Duration),
    /// The client hears of it late.
    DelayReply(Duration),
    /// The broker gets it twice.
    Repeat,
    /// The broker gets it when [`Proxy::release`] says so, from a connection of its own; that of
    /// the client breaks now.
    Hold,
}

/// The next so many requests of a kind suffer this, after some that do not.
#[derive(Debug)]
struct Rule {
    api: Api,
    fault: Fault,
    spared: u32,
    left: u32,
}

/// What becomes of all connections that there are.
#[derive(Clone, Copy, Debug, Default)]
enum Fate {
    #[default]
    Serve,
    /// They break.
    Cut,
    /// They stay, and nothing passes any more.
    Stall,
}

/// A partition that earlier connections get nothing new of, although brokers answer them.
#[derive(Clone, Copy, Debug)]
struct Starved {
    topic: [u8; 16],
    partition: i32,
    /// Connections with a lower number.
    below: u64,
}

#[derive(Default)]
struct Shared {
    /// How many connections there have been.
    connections: Mutex<u64>,
    fate: watch::Sender<Fate>,
    /// How long a connection takes to come about.
    slowness: Mutex<Duration>,
    starved: Mutex<Option<Starved>>,
    rules: Mutex<Vec<Rule>>,
    held: Mutex<Vec<Vec<u8>>>,
    forgotten: Forgotten,
    /// The requests that announced partitions of transactions.
    announced: Mutex<Vec<Vec<u8>>>,
    /// How many requests suffered something.
    done: Mutex<u32>,
}

pub(crate) struct Proxy {
    runtime: Runtime,
    broker: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Takes connections at `listener` and makes as many to `broker`.
    pub(crate) fn start(listener: std::net::TcpListener, broker: SocketAddr) -> Self {
        let runtime = Runtime::new().expect("there are threads");
        let shared = Arc::new(Shared::default());
        listener.set_nonblocking(true).expect("it is a socket");
        let connections = shared.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it listens");
            while let Ok((client, _)) = listener.accept().await {
                let shared = connections.clone();
                tokio::spawn(async move {
                    // A broken connection is what this is for.
                    let _: io::Result<()> = serve(client, broker, shared).await;
                });
            }
        });
        Self { runtime, broker, shared }
    }

    /// From now on the next `times` requests of this kind suffer this.
    pub(crate) fn inject(&self, api: Api, fault: Fault, times: u32) {
        self.inject_after(0, api, fault, times);
    }

    /// As [`Proxy::inject`], after so many requests of this kind that pass.
    pub(crate) fn inject_after(&self, spared: u32, api: Api, fault: Fault, times: u32) {
        self.shared.rules.lock().expect("nobody panics with it").push(Rule { api, fault, spared, left: times });
    }

    /// All connections break.
    pub(crate) fn cut(&self) {
        self.shared.fate.send_replace(Fate::Cut);
    }

    /// All connections stay, and nothing passes through them any more.
    pub(crate) fn stall(&self) {
        self.shared.fate.send_replace(Fate::Stall);
    }

    /// From now on a connection takes so long to come about.
    pub(crate) fn slow_down(&self, by: Duration) {
        *self.shared.slowness.lock().expect("nobody panics with it") = by;
    }

    /// The connections that there are get nothing new of a partition of the topic with this id.
    pub(crate) fn starve(&self, topic: u128, partition: i32) {
        let below = *self.shared.connections.lock().expect("nobody panics with it");
        let starved = Starved { topic: topic.to_be_bytes(), partition, below };
        *self.shared.starved.lock().expect("nobody panics with it") = Some(starved);
    }

    /// The requests so far that announced to which partitions a transaction will write.
    pub(crate) fn announced(&self) -> Vec<Vec<u8>> {
        self.shared.announced.lock().expect("nobody panics with it").clone()
    }

    /// From now on what is committed to a topic hangs. For a proxy between brokers.
    pub(crate) fn forget_markers(&self, topic: &str) {
        self.shared.forgotten.add(topic);
    }

    /// Waits until the markers of so many transactions were forgotten.
    pub(crate) fn wait_until_forgotten(&self, topic: &str, count: u32) {
        let forgotten = || (self.shared.forgotten.times(topic) >= count).then_some(());
        wait_for(RECOVERY, forgotten, || format!("no {count} markers for {topic} come"));
    }

    /// Waits until some were forgotten. What hangs stays so; what is committed from now on does not.
    pub(crate) fn remember_markers(&self, topic: &str) {
        self.wait_until_forgotten(topic, 1);
        self.shared.forgotten.remove(topic);
    }

    /// Nothing suffers anything any more.
    pub(crate) fn cease(&self) {
        self.shared.rules.lock().expect("nobody panics with it").clear();
    }

    /// How many requests have suffered something.
    pub(crate) fn done(&self) -> u32 {
        *self.shared.done.lock().expect("nobody panics with it")
    }

    /// Waits until so many have.
    pub(crate) fn wait_until_done(&self, count: u32) {
        wait_for(RECOVERY, || (self.done() >= count).then_some(()), || format!("{} of {count} came", self.done()));
    }

    /// Hands the broker what was held, each from a new connection; waits for its answers.
    pub(crate) fn release(&self) -> usize {
        let held = std::mem::take(&mut *self.shared.held.lock().expect("nobody panics with it"));
        let count = held.len();
        self.runtime.block_on(async {
            for frame in held {
                let mut broker = TcpStream::connect(self.broker).await.expect("the broker is there");
                broker.write_all(&frame).await.expect("it takes requests");
                let mut length = [0; 4];
                broker.read_exact(&mut length).await.expect("it answers");
            }
        });
        count
    }
}

/// What becomes of the replies of a connection, in their order.
enum Reply {
    Pass,
    Late(Duration),
    Swallow,
    Break,
    Reset,
    /// Markers of these topics went astray.
    Vouch(Vec<String>),
}

async fn serve(client: TcpStream, broker: SocketAddr, shared: Arc<Shared>) -> io::Result<()> {
    let number = {
        let mut connections = shared.connections.lock().expect("nobody panics with it");
        *connections += 1;
        *connections - 1
    };
    let mut fate = shared.fate.subscribe();
    let slowness = *shared.slowness.lock().expect("nobody panics with it");
    tokio::time::sleep(slowness).await;
    let broker = TcpStream::connect(broker).await?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let (expect, expected) = mpsc::unbounded_channel();
    tokio::select! {
        done = requests(&mut from_client, &mut to_broker, expect, &shared, number) => done,
        done = replies(&mut from_broker, &mut to_client, expected) => done,
        () = stalled(&mut fate) => {
            // Its sockets stay open until all are cut, whatever the client thinks of it.
            while !matches!(*fate.borrow_and_update(), Fate::Cut) && fate.changed().await.is_ok() {}
            Ok(())
        }
    }
}

/// Resolves when the connections that there are serve nobody any more.
async fn stalled(fate: &mut watch::Receiver<Fate>) {
    if fate.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn requests(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    expect: mpsc::UnboundedSender<Reply>,
    shared: &Shared,
    number: u64,
) -> io::Result<()> {
    let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
    loop {
        let mut frame = read_frame(from).await?;
        let api = frame.get(4..6).map_or(-1, |api| i16::from_be_bytes([api[0], api[1]]));
        shared.starve(&mut frame, api, number);
        if api == Api::AddPartitionsToTxn as i16 {
            shared.announced.lock().expect("nobody panics with it").push(frame.clone());
        }
        let mut replies = VecDeque::from([Reply::Pass]);
        match shared.fault(api) {
            None if api == Api::WriteTxnMarkers as i16 => {
                replies = VecDeque::from([Reply::Vouch(shared.forgotten.lead_astray(&mut frame))]);
            }
            None => {}
            Some(Fault::LoseRequest) => return Err(broken()),
            Some(Fault::Hold) => {
                shared.held.lock().expect("nobody panics with it").push(frame);
                return Err(broken());
            }
            Some(Fault::DelayRequest(by)) => tokio::time::sleep(by).await,
            Some(Fault::LoseReply) => replies = VecDeque::from([Reply::Break]),
            Some(Fault::Reset) => replies = VecDeque::from([Reply::Reset]),
            Some(Fault::DelayReply(by)) => replies = VecDeque::from([Reply::Late(by)]),
            Some(Fault::Repeat) => {
                replies.push_back(Reply::Swallow);
                to.write_all(&frame).await?;
            }
        }
        for reply in replies {
            expect.send(reply).map_err(|_| broken())?;
        }
        to.write_all(&frame).await?;
    }
}

async fn replies(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut expected: mpsc::UnboundedReceiver<Reply>,
) -> io::Result<()> {
    loop {
        let mut frame = read_frame(from).await?;
        match expected.recv().await {
            Some(Reply::Pass) => to.write_all(&frame).await?,
            Some(Reply::Late(by)) => {
                tokio::time::sleep(by).await;
                to.write_all(&frame).await?;
            }
            Some(Reply::Swallow) => {}
            Some(Reply::Vouch(topics)) => {
                vouch(&mut frame, &topics);
                to.write_all(&frame).await?;
            }
            Some(Reply::Reset) => {
                // Closed like this, a socket sends no end but a reset.
                to.as_ref().set_zero_linger()?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some(Reply::Break) | None => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

/// A frame with its length.
async fn read_frame(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let bytes = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

/// How long the part of a Fetch request is that is about a partition, its number first.
const PARTITION: usize = 33;

/// A partition that no topic of these tests has; the client passes over what it is told about it.
const NO_PARTITION: i32 = 1_000;

impl Shared {
    /// Asks for a partition that does not exist instead.
    fn starve(&self, frame: &mut [u8], api: i16, number: u64) {
        let starved = *self.starved.lock().expect("nobody panics with it");
        let Some(starved) = starved.filter(|starved| api == Api::Fetch as i16 && number < starved.below) else {
            return;
        };
        // A request names a topic more than once where partitions of others come in between.
        let named = |(at, id): (usize, &[u8])| (id == starved.topic).then_some(at);
        let places: Vec<usize> = frame.windows(16).enumerate().filter_map(named).collect();
        for at in places {
            let count = usize::from(frame[at + 16]).saturating_sub(1);
            for index in 0..count {
                let part = at + 17 + index * PARTITION;
                let Some(partition) = frame.get_mut(part..part + PARTITION) else { break };
                if partition[..4] == starved.partition.to_be_bytes() {
                    partition[..4].copy_from_slice(&NO_PARTITION.to_be_bytes());
                }
            }
        }
    }

    fn fault(&self, api: i16) -> Option<Fault> {
        let mut rules = self.rules.lock().expect("nobody panics with it");
        let at = rules.iter().position(|rule| rule.api as i16 == api)?;
        if rules[at].spared > 0 {
            rules[at].spared -= 1;
            return None;
        }
        let fault = rules[at].fault;
        rules[at].left -= 1;
        if rules[at].left == 0 {
            rules.remove(at);
        }
        *self.done.lock().expect("nobody panics with it") += 1;
        Some(fault)
    }
}
