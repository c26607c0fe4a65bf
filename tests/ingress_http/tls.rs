//! The data port over TLS.

use std::time::Duration;

use rustls::pki_types::ServerName;
use seriatim::ingress::{Application, Options, Tokens, WithoutCertificate};
use seriatim::log::Topic;
use seriatim::record::Partition;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::authority::Authority;
use crate::sockets::{NEVER, POST, Server, quick, read_until, serve_over};

/// What the server answers to a request with these headers, empty where the handshake fails.
async fn exchange(server: &Server, authority: &Authority, certified: bool, headers: &str) -> String {
    let stream = TcpStream::connect(server.address).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("it is a name");
    let Ok(mut stream) = authority.connector(certified).connect(name, stream).await else { return String::new() };
    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\n{headers}content-length: 1\r\n\r\nx");
    // The server may have refused the certificate that did not come.
    let _ = stream.write_all(head.as_bytes()).await;
    read_until(&mut stream, "}").await
}

fn identities(server: &Server) -> Vec<String> {
    let input = server.log.snapshot(&Topic::from("t.input").partition(Partition(0)));
    let ids = input.into_iter().flat_map(|record| record.headers).filter(|(name, _)| name == b"seriatim-id");
    ids.map(|(_, id)| String::from_utf8(id).expect("it is ASCII")).collect()
}

#[tokio::test]
async fn a_certificate_or_a_token_says_who_sends() {
    let authority = Authority::new();
    let tokens = Tokens::parse("one alice").expect("it is well formed");
    let tls = authority.tls(true, WithoutCertificate::Taken, Application::Http);
    let server = serve_over(Some(tls), Options { tokens: Some(tokens), ..Options::default() }).await;
    let key = "idempotency-key: k\r\n";
    let token = format!("{key}authorization: Bearer one\r\n");
    assert!(exchange(&server, &authority, true, key).await.starts_with("HTTP/1.1 202"));
    assert!(exchange(&server, &authority, false, &token).await.starts_with("HTTP/1.1 202"));
    assert!(exchange(&server, &authority, false, key).await.starts_with("HTTP/1.1 401"));
    assert_eq!(identities(&server), ["lab/k", "alice/k"]);
}

#[tokio::test]
async fn without_tokens_there_is_no_way_but_a_certificate() {
    let authority = Authority::new();
    let tls = authority.tls(true, WithoutCertificate::Refused, Application::Http);
    let server = serve_over(Some(tls), Options::default()).await;
    assert!(exchange(&server, &authority, true, "").await.starts_with("HTTP/1.1 202"));
    assert_eq!(exchange(&server, &authority, false, "").await, "");
}

#[tokio::test]
async fn a_handshake_that_drips_is_cut_off_and_others_are_served() {
    let authority = Authority::new();
    let tls = authority.tls(false, WithoutCertificate::Refused, Application::Http);
    let server = serve_over(Some(tls), quick()).await;
    let mut slow = server.connect().await;
    let drips = async {
        // A handshake record of 16 KiB, a byte at a time; an error says that the server has closed.
        for byte in [0x16, 3, 1, 0x40, 0].into_iter().chain(std::iter::repeat(1)) {
            if slow.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let others = async {
        assert!(exchange(&server, &authority, false, "").await.starts_with("HTTP/1.1 202"));
    };
    let both = async { tokio::join!(drips, others) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("it is cut off");
    let mut plain = server.connect().await;
    plain.write_all(POST).await.expect("it reads");
    assert!(!read_until(&mut plain, NEVER).await.contains("202"), "nothing is taken without TLS");
}
