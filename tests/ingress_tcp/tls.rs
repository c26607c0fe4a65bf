//! TLS, with and without clients' certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use seriatim::framing::Framing;
use seriatim::ingress;
use seriatim::ingress::tcp::Options;
use seriatim::ingress::{Application, Tls, TlsFiles, WithoutCertificate};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fixture::{Server, line, serve};

/// A root, a server's certificate for localhost and a client's for `lab`, in files.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
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

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls(&self, client_ca: bool) -> Arc<Tls> {
        let files = TlsFiles {
            certificate: self.file("server-certificate"),
            key: self.file("server-key"),
            client_ca: client_ca.then(|| self.file("root")),
            without_certificate: WithoutCertificate::Refused,
        };
        Arc::new(Tls::read(files, Application::Frames).expect("the files are right"))
    }

    fn connector(&self, certified: bool) -> TlsConnector {
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

async fn port(framing: Framing, tls: Arc<Tls>) -> Server {
    let limits = ingress::Options { header_timeout: Duration::from_millis(300), ..ingress::Options::default() };
    serve(Options { tls: Some(tls), ..Options::new(framing) }, limits, 1).await
}

async fn exchange(server: &Server, connector: &TlsConnector, bytes: &[u8]) -> std::io::Result<String> {
    let name = ServerName::try_from("localhost").expect("it is a name");
    let mut stream = connector.connect(name, TcpStream::connect(server.address).await?).await?;
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn frames_come_over_tls() {
    let authority = Authority::new();
    let server = port(Framing::Newline, authority.tls(false)).await;
    let answer = exchange(&server, &authority.connector(false), b"a\nb\n").await.expect("it is served");
    assert_eq!(answer, format!("{}\n{}\n", line(0), line(1)));
}

#[tokio::test]
async fn a_clients_certificate_is_asked_for_and_names_the_principal() {
    let authority = Authority::new();
    let server = port(Framing::Mllp, authority.tls(true)).await;
    let mut stream = BytesMut::new();
    Framing::Mllp.put(b"MSH|^~\\&|A|B|C|D|E||ORU|7|P|2.5", &mut stream).expect("it can be framed");
    let answer = exchange(&server, &authority.connector(true), &stream).await.expect("it is served");
    assert!(answer.contains("MSA|AA|7"), "{answer}");
    assert_eq!(server.input(0)[0].headers, [(b"seriatim-id".to_vec(), b"lab/B%7CA%7C7".to_vec())]);
    exchange(&server, &authority.connector(false), &stream).await.expect_err("it shows no certificate");
    assert_eq!(server.input(0).len(), 1);
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_cut_off() {
    let authority = Authority::new();
    let server = port(Framing::Newline, authority.tls(false)).await;
    for beginning in [&b""[..], b"\x16\x03\x01", b"a\n"] {
        let mut sender = server.connect().await;
        sender.send(beginning).await;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), sender.0.read_to_end(&mut rest));
        // It may be told why, or reset.
        let _ = read.await.expect("it is cut off");
    }
    assert!(server.input(0).is_empty());
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let authority = Authority::new();
    let files = |certificate: &str, key: &str| TlsFiles {
        certificate: authority.file(certificate),
        key: authority.file(key),
        client_ca: None,
        without_certificate: WithoutCertificate::Refused,
    };
    let fault = |files| Tls::read(files, Application::Http).expect_err("they are wrong").file;
    assert_eq!(fault(files("none", "server-key")), authority.file("none"));
    assert_eq!(fault(files("server-key", "server-key")), authority.file("server-key"));
    assert_eq!(fault(files("server-certificate", "root")), authority.file("root"));
    assert_eq!(fault(files("server-certificate", "client-key")), Path::new(&authority.file("client-key")));
}
