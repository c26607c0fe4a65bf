//! Dialling a receiver: only addresses that may be dialled, and exactly those that were checked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::super::guard::{Blocked, Lookup, is_public};
use super::super::http::BadOptions;
use super::super::verdict::{Failure, FailureKind};
use super::TcpOptions;

/// A connection with or without TLS.
pub(super) type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// See the module's documentation.
pub(super) struct Dialler {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    allow_private: bool,
    patience: Duration,
    lookup: Lookup,
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialler({}:{})", self.host, self.port)
    }
}

impl Dialler {
    pub(super) fn new(options: &TcpOptions, lookup: Lookup) -> Result<Self, BadOptions> {
        let bad = |reason: &str| BadOptions::Address(format!("{}: {reason}", options.address));
        let (host, port) = options.address.rsplit_once(':').ok_or_else(|| bad("write HOST:PORT"))?;
        let port = port.parse().map_err(|_| bad("write HOST:PORT"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        if !options.allow_private {
            if !options.tls {
                return Err(bad("without TLS only private receivers are called: set tls or allow_private"));
            }
            if let Some(address) = host.parse().ok().filter(|address| !is_public(*address)) {
                return Err(BadOptions::Address(Blocked(address).to_string()));
            }
        }
        let tls = if options.tls {
            let name = ServerName::try_from(host.clone()).map_err(|_| bad("no certificate can be for this host"))?;
            Some((connector().map_err(|error| BadOptions::Client(error.to_string()))?, name))
        } else {
            None
        };
        let (allow_private, patience) = (options.allow_private, options.connect_timeout);
        Ok(Self { host, port, tls, allow_private, patience, lookup })
    }

    /// Dials the receiver's addresses, one after the other.
    pub(super) async fn dial(&self) -> Result<Stream, Failure> {
        let late =
            |_| Failure { kind: FailureKind::Timeout, detail: "the receiver could not be dialled in time".into() };
        timeout(self.patience, self.connect()).await.map_err(late)?
    }

    async fn connect(&self) -> Result<Stream, Failure> {
        let mut last = None;
        for address in self.addresses().await? {
            match self.open(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        let detail = last.map_or_else(|| "its name has no address".to_owned(), |error| error.to_string());
        Err(Failure { kind: FailureKind::Connection, detail })
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let found = (self.lookup)(self.host.clone()).await;
        let found = found.map_err(|error| Failure { kind: FailureKind::Dns, detail: error.to_string() })?;
        let (may, must_not): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|address| self.allow_private || is_public(address.ip()));
        match must_not.first() {
            Some(address) if may.is_empty() => {
                Err(Failure { kind: FailureKind::Blocked, detail: Blocked(address.ip()).to_string() })
            }
            _ => Ok(may.into_iter().map(|address| SocketAddr::new(address.ip(), self.port)).collect()),
        }
    }

    async fn open(&self, address: SocketAddr) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        // One small message at a time: it must not wait for more.
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Either::Left(stream)),
            Some((connector, name)) => Ok(Either::Right(connector.connect(name.clone(), stream).await?)),
        }
    }
}

fn connector() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsConnector::from(Arc::new(builder.with_platform_verifier()?.with_no_client_auth())))
}
