//! From PEM files to a configuration of rustls.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use super::{Application, TlsError, TlsFiles, WithoutCertificate};

/// SHA-256 of what the files hold.
pub(super) type Digest = [u8; 32];

/// What the files hold.
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    pub(super) fn digest(&self) -> Digest {
        let parts = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        let mut hash = Sha256::new();
        for part in parts.into_iter().flatten() {
            hash.update(Sha256::digest(part));
        }
        hash.finalize().into()
    }
}

pub(super) fn read(files: &TlsFiles) -> Result<Contents, TlsError> {
    let read = |file: &Path| std::fs::read(file).map_err(|error| bad(file, error));
    Ok(Contents {
        certificate: read(&files.certificate)?,
        key: read(&files.key)?,
        client_ca: files.client_ca.as_deref().map(read).transpose()?,
    })
}

pub(super) fn config(
    files: &TlsFiles,
    contents: &Contents,
    application: Application,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.certificate, &contents.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| bad(&files.key, error))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has what TLS 1.2 and 1.3 need");
    let builder = match (&files.client_ca, &contents.client_ca) {
        (Some(file), Some(roots)) => {
            builder.with_client_cert_verifier(verifier(file, roots, files.without_certificate, provider)?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| bad(&files.key, error))?;
    if application == Application::Http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(config)
}

fn verifier(
    file: &Path,
    roots: &[u8],
    without: WithoutCertificate,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut store = RootCertStore::empty();
    for root in certificates(file, roots)? {
        store.add(root).map_err(|error| bad(file, error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
    let builder = match without {
        WithoutCertificate::Refused => builder,
        WithoutCertificate::Taken => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| bad(file, error))
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| bad(file, e))?;
    if found.is_empty() { Err(bad(file, "it holds no certificate in PEM")) } else { Ok(found) }
}

fn bad(file: &Path, reason: impl std::fmt::Display) -> TlsError {
    TlsError { file: file.to_owned(), reason: format!("{reason}") }
}
