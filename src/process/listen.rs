//! Listening, early and with errors that help.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, lookup_host};

use super::config::{Address, Config};
use super::{Error, Role, Roles};

/// Connections that the system takes before the process does, as tokio has it.
const BACKLOG: u32 = 1024;

/// The ports of a process, bound before anything else is done.
pub(super) struct Listeners {
    /// Listens from the start: whoever asks is told what is waited for.
    pub(super) admin: TcpListener,
    /// The data port, where the process takes messages in.
    pub(super) ingress: Option<Bound>,
    /// The ports for framed messages, in the order of the configuration.
    pub(super) tcp: Vec<Bound>,
}

/// A port that is bound, and refuses connections until it listens: while there is no log, senders are better off with
/// another process than in a queue. Of two processes that wait with the same port the second to listen is told.
pub(super) struct Bound {
    key: &'static str,
    address: Address,
    socket: TcpSocket,
}

impl Bound {
    /// Begins to listen.
    pub(super) fn listen(self) -> Result<TcpListener, Error> {
        let Self { key, address, socket } = self;
        socket.listen(BACKLOG).map_err(|error| refused(key, &address, error))
    }
}

impl Listeners {
    pub(super) async fn bind(config: &Config, roles: &Roles) -> Result<Self, Error> {
        let admin = bind("admin.listen", &config.admin.listen).await?.listen()?;
        if !roles.contains(&Role::Ingress) {
            return Ok(Self { admin, ingress: None, tcp: Vec::new() });
        }
        let ingress = Some(bind("ingress.http", &config.ingress.http).await?);
        let mut tcp = Vec::new();
        for port in &config.ingress.tcp {
            tcp.push(bind("ingress.tcp", &port.listen).await?);
        }
        Ok(Self { admin, ingress, tcp })
    }
}

/// Takes an address. `key` is the config's, for the error.
async fn bind(key: &'static str, address: &Address) -> Result<Bound, Error> {
    let bound = async {
        // Tokio resolves names without blocking the runtime. The first that can be had is taken, as its listeners do.
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for one in lookup_host(address.as_str()).await? {
            match socket(one) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    match bound.await {
        Ok(socket) => Ok(Bound { key, address: address.clone(), socket }),
        Err(error) => Err(refused(key, address, error)),
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port whose last connections are being forgotten is free.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn refused(key: &'static str, address: &Address, error: io::Error) -> Error {
    Error::Listen { key, address: address.clone(), hint: hint(error.kind()), error }
}

const fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrInUse => {
            "another program listens there, perhaps another seriatim; end it or choose another port"
        }
        ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
        ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
        _ => "check the address",
    }
}
