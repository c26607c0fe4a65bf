//! How many connections a port takes, in all and from one peer.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, sleep};

use crate::metrics::{self, IntGauge, Port};

/// How long to leave the listener alone after it failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    peers: Arc<Peers>,
    open: IntGauge,
}

/// Connections by who has them: an IPv4 address, or the /64 of an IPv6 one, within which one peer
/// may take whatever address it likes. Holds only those who have some.
#[derive(Debug)]
struct Peers {
    most: usize,
    open: Mutex<BTreeMap<IpAddr, usize>>,
}

/// The place of one connection; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    peers: Arc<Peers>,
    peer: IpAddr,
    open: IntGauge,
}

impl Gate {
    /// A gate for at most `all` connections, and `each` of one peer.
    pub(super) fn new(port: Port, all: usize, each: usize) -> Self {
        let peers = Arc::new(Peers { most: each, open: Mutex::default() });
        Self { places: Arc::new(Semaphore::new(all)), peers, open: metrics::ingress_connections(port) }
    }

    /// The next connection, once there is a place for it. One that is more than its peer may have
    /// is closed at once. Cancel-safe.
    pub(super) async fn accept(&self, listener: &TcpListener) -> (TcpStream, Place) {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await.expect("nobody closes it");
            match listener.accept().await {
                Ok((stream, from)) => match self.admit(place, from.ip()) {
                    Ok(place) => return (stream, place),
                    Err(peer) => {
                        metrics::ingress_refused("too-many-connections").inc();
                        tracing::debug!(%peer, "closed a connection of a peer that has too many");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Of a connection that is gone already nothing is left to wait for.
                    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    fn admit(&self, place: OwnedSemaphorePermit, from: IpAddr) -> Result<Place, IpAddr> {
        let peer = who(from);
        if !self.peers.enter(peer) {
            return Err(peer);
        }
        self.open.inc();
        Ok(Place { _place: place, peers: Arc::clone(&self.peers), peer, open: self.open.clone() })
    }
}

impl Peers {
    fn enter(&self, peer: IpAddr) -> bool {
        // No holder of this lock panics between its changes.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(peer).or_default();
        let room = *count < self.most;
        if room {
            *count += 1;
        }
        room
    }

    fn leave(&self, peer: IpAddr) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&peer)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peers.leave(self.peer);
        self.open.dec();
    }
}

fn who(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_address_or_a_network_of_them() {
        let who = |text: &str| who(text.parse().expect("an address")).to_string();
        assert_eq!(who("192.0.2.7"), "192.0.2.7");
        assert_eq!(who("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(who("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(who("::1"), "::");
    }

    #[tokio::test]
    async fn places_are_counted_by_peer_and_come_back() {
        let gate = Gate::new(Port::Tcp, 10, 2);
        let enter = |peer: &str| {
            let place = Arc::clone(&gate.places).try_acquire_owned().expect("there is room");
            gate.admit(place, peer.parse().expect("an address"))
        };
        let first = enter("192.0.2.1").expect("the first");
        let _second = enter("::ffff:192.0.2.1").expect("the second");
        enter("192.0.2.1").expect_err("two are the most");
        let _other = enter("192.0.2.2").expect("another peer");
        drop(first);
        let _again = enter("192.0.2.1").expect("one has left");
        assert_eq!(gate.peers.open.lock().expect("nobody panics").len(), 2);
        assert_eq!(gate.places.available_permits(), 7);
    }
}
