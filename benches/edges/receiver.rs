//! Receivers of pushes on one port: a destination for each path.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// What one destination got: when, and which sequence number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Got {
    pub(crate) arrivals: Vec<(Instant, u64)>,
}

#[derive(Clone, Default)]
pub(crate) struct Receivers {
    got: Arc<Mutex<BTreeMap<String, Got>>>,
    /// How long a path takes to answer; those without an entry answer at once.
    slow: Arc<Mutex<BTreeMap<String, Duration>>>,
    /// While this is so nobody answers.
    held: Arc<AtomicBool>,
}

/// A port on which somebody listens.
pub(crate) struct Listening {
    pub(crate) at: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receivers {
    pub(crate) fn got(&self) -> MutexGuard<'_, BTreeMap<String, Got>> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slow(&self) -> MutexGuard<'_, BTreeMap<String, Duration>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nobody answers, or all do again.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> usize {
        self.got().values().map(|got| got.arrivals.len()).sum()
    }

    /// Listens at this address until that is dropped, and with it every connection.
    pub(crate) async fn listen(&self, at: SocketAddr) -> Listening {
        let listener = TcpListener::bind(at).await.expect("the port is free");
        let at = listener.local_addr().expect("it is bound");
        let receivers = self.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(receivers.clone().serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Listening { at, task }
    }

    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut space = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = space.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                stream.read_buf(&mut space).await.ok().filter(|read| *read > 0)?;
            };
            let head = String::from_utf8_lossy(&space[..end]).to_ascii_lowercase();
            let number = |name: &str| head.split(name).nth(1)?.split("\r\n").next()?.trim().parse::<usize>().ok();
            let path = head.split(' ').nth(1)?.to_owned();
            let (length, sequence) = (number("\r\ncontent-length:")?, number("\r\nseriatim-sequence:"));
            while space.len() < end + length {
                stream.read_buf(&mut space).await.ok().filter(|read| *read > 0)?;
            }
            space.drain(..end + length);
            let arrived = Instant::now();
            while self.held.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(1)).await;
            }
            let pause = self.slow().get(&path).copied();
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            self.got().entry(path).or_default().arrivals.push((arrived, sequence.unwrap_or(0) as u64));
            stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").await.ok()?;
        }
    }
}
