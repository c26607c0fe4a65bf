//! Certificates for tests.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use seriatim::ingress::{Application, Tls, TlsFiles, WithoutCertificate};
use tokio_rustls::TlsConnector;

/// A root, a server's certificate for localhost and a client's for `lab`, in files.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = || KeyPair::generate().expect("there is randomness");
        let root = CertifiedIssuer::self_signed(root, key()).expect("it is well formed");
        let write = |name: &str, pem: String| std::fs::write(folder.path().join(name), pem).expect("it can be written");
        write("root", root.pem());
        for (name, host) in [("server", Some("localhost")), ("client", None)] {
            let names: Vec<String> = host.into_iter().map(str::to_owned).collect();
            let mut parameters = CertificateParams::new(names).expect("it is a name");
            parameters.distinguished_name.push(DnType::CommonName, "lab");
            let key = key();
            let certificate = parameters.signed_by(&key, &root).expect("it is well formed");
            write(&format!("{name}-certificate"), certificate.pem());
            write(&format!("{name}-key"), key.serialize_pem());
        }
        Self { folder }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// TLS with the server's certificate; clients' are asked for or not.
    pub(crate) fn tls(&self, client_ca: bool, without_certificate: WithoutCertificate, of: Application) -> Tls {
        let files = TlsFiles {
            certificate: self.file("server-certificate"),
            key: self.file("server-key"),
            client_ca: client_ca.then(|| self.file("root")),
            without_certificate,
        };
        Tls::read(files, of).expect("the files are right")
    }

    /// A client that trusts the root, and shows its certificate or not.
    pub(crate) fn connector(&self, certified: bool) -> TlsConnector {
        let pem = |name: &str| std::fs::read(self.file(name)).expect("it was written");
        let certificate = |name: &str| CertificateDer::from_pem_slice(&pem(name)).expect("it is a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate("root")).expect("it is a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("ring has them").with_root_certificates(roots);
        let config = if certified {
            let key = PrivateKeyDer::from_pem_slice(&pem("client-key")).expect("it is a key");
            builder.with_client_auth_cert(vec![certificate("client-certificate")], key).expect("they belong together")
        } else {
            builder.with_no_client_auth()
        };
        TlsConnector::from(Arc::new(config))
    }
}
