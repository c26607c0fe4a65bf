//! TLS for a port: its certificate, and who a client's certificate says it is.

mod files;
mod subject;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::auth::Principal;
use crate::metrics;

/// How old what was read from the files may be: a rotated certificate is used within this time.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// Where a port's certificate is, and whose clients it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The port's certificate and those between it and the root, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// The roots of clients' certificates, in PEM. Without it clients are asked for none.
    pub client_ca: Option<PathBuf>,
    /// What becomes of a client without a certificate, where there are roots.
    pub without_certificate: WithoutCertificate,
}

/// What becomes of a client that shows no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutCertificate {
    /// The handshake fails.
    Refused,
    /// It has to say in another way who it is.
    Taken,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct TlsError {
    /// The file that is at fault.
    pub file: PathBuf,
    /// What is wrong with it. Holds nothing of a key.
    pub reason: String,
}

/// Counts a handshake that failed. What it failed with is for whoever looks for it: anybody who
/// can reach the port can make it happen.
pub(super) fn failed(error: &io::Error) {
    metrics::ingress_refused("tls-handshake").inc();
    tracing::debug!(%error, "a TLS handshake failed");
}

/// What is spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// HTTP/2 or HTTP/1.1, as the client likes.
    Http,
    /// Whatever the port's framing is; nothing is negotiated.
    Frames,
}

/// TLS for one port. The files are read again while it runs, so that certificates can be rotated;
/// where that fails, the last ones go on.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    application: Application,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    read: Instant,
    digest: files::Digest,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// [`TlsError`] names the file and says what is wrong with it.
    pub fn read(files: TlsFiles, application: Application) -> Result<Self, TlsError> {
        let contents = files::read(&files)?;
        let config = Arc::new(files::config(&files, &contents, application)?);
        let current = Current { read: Instant::now(), digest: contents.digest(), config };
        Ok(Self { files, application, current: Mutex::new(current) })
    }

    fn config(&self) -> Arc<ServerConfig> {
        // Every change below is complete before anything can panic.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.read.elapsed() >= READ_AGAIN {
            current.read = Instant::now();
            match self.renewed(current.digest) {
                Ok(None) => {}
                Ok(Some((digest, config))) => (current.digest, current.config) = (digest, config),
                Err(error) => tracing::warn!(%error, "cannot read TLS files again; going on with the last ones"),
            }
        }
        Arc::clone(&current.config)
    }

    fn renewed(&self, last: files::Digest) -> Result<Option<(files::Digest, Arc<ServerConfig>)>, TlsError> {
        let contents = files::read(&self.files)?;
        let digest = contents.digest();
        if digest == last {
            return Ok(None);
        }
        let config = files::config(&self.files, &contents, self.application)?;
        tracing::info!(file = %self.files.certificate.display(), "TLS files have changed and were read again");
        Ok(Some((digest, Arc::new(config))))
    }

    /// Shakes hands, and tells whom the client's certificate names; `None` where it showed none.
    ///
    /// # Errors
    ///
    /// What the handshake failed with; [`io::ErrorKind::TimedOut`] where it took longer than
    /// `within`; [`io::ErrorKind::InvalidData`] where the certificate names nobody.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        within: Duration,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Principal>)> {
        let acceptor = TlsAcceptor::from(self.config());
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
        let stream = timeout(within, acceptor.accept(stream)).await.map_err(late)??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let nobody = || io::Error::new(io::ErrorKind::InvalidData, "the client's certificate names nobody");
        let principal = certificate.map(|der| subject::principal(der).ok_or_else(nobody)).transpose()?;
        Ok((stream, principal))
    }
}
