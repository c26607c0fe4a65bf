//! Listening, early and with errors that help.

use std::io::ErrorKind;
use std::net::TcpListener;

use super::config::{Address, Config};
use super::{Error, Role, Roles};

/// The ports of a process, bound before anything else is done.
pub(super) struct Listeners {
    pub(super) admin: TcpListener,
    /// The data port, where the process takes messages in.
    pub(super) ingress: Option<TcpListener>,
    /// The ports for framed messages, in the order of the configuration.
    pub(super) tcp: Vec<TcpListener>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config, roles: &Roles) -> Result<Self, Error> {
        let admin = bind("admin.listen", &config.admin.listen).await?;
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

/// Listens at an address, for use in any runtime. `key` is the config's, for the error.
async fn bind(key: &'static str, address: &Address) -> Result<TcpListener, Error> {
    // Tokio's resolves names without blocking the runtime, and sets what a server needs.
    let listener = tokio::net::TcpListener::bind(address.as_str()).await.and_then(tokio::net::TcpListener::into_std);
    listener.map_err(|error| Error::Listen { key, address: address.clone(), hint: hint(error.kind()), error })
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
