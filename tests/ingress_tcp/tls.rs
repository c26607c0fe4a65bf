//! TLS, with and without clients' certificates.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use seriatim::framing::Framing;
use seriatim::ingress;
use seriatim::ingress::tcp::Options;
use seriatim::ingress::{Application, Tls, TlsFiles, WithoutCertificate};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authority::Authority;
use crate::fixture::{Server, line, serve};

fn frames(authority: &Authority, client_ca: bool) -> Arc<Tls> {
    Arc::new(authority.tls(client_ca, WithoutCertificate::Refused, Application::Frames))
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
    let server = port(Framing::Newline, frames(&authority, false)).await;
    let answer = exchange(&server, &authority.connector(false), b"a\nb\n").await.expect("it is served");
    assert_eq!(answer, format!("{}\n{}\n", line(0), line(1)));
}

#[tokio::test]
async fn a_clients_certificate_is_asked_for_and_names_the_principal() {
    let authority = Authority::new();
    let server = port(Framing::Mllp, frames(&authority, true)).await;
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
    let server = port(Framing::Newline, frames(&authority, false)).await;
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
