//! Pushes over TLS from the real program: to a receiver of frames and to one over HTTP, whose certificate is trusted
//! or not.

#[path = "ingress_tcp/authority.rs"]
#[allow(dead_code, reason = "servers need more of it")]
mod authority;
#[path = "cli_verbs/program.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod program;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use authority::Authority;
use program::{Folder, Pipeline};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

type Stream = BufReader<StreamOwned<ServerConnection, TcpStream>>;

/// How long anything may take that takes a moment; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver behind TLS as `localhost`; `serve` reads one message and answers it. Gives its port and what comes.
fn start(authority: &Authority, serve: fn(&mut Stream) -> Option<String>) -> (u16, Receiver<String>) {
    let pem = |name: &str| std::fs::read(authority.file(name)).expect("it was written");
    let certificate = CertificateDer::from_pem_slice(&pem("server-certificate")).expect("it is one");
    let key = PrivateKeyDer::from_pem_slice(&pem("server-key")).expect("it is one");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("ring has them").with_no_client_auth().with_single_cert(vec![certificate], key);
    let config = Arc::new(config.expect("they belong together"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (to, came) = sync_channel(100);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (config, to): (_, SyncSender<String>) = (config.clone(), to.clone());
            std::thread::spawn(move || {
                let server = ServerConnection::new(config).expect("the configuration is right");
                let mut stream = BufReader::new(StreamOwned::new(server, connection));
                while let Some(body) = serve(&mut stream) {
                    to.send(body).expect("the test waits for it");
                }
            });
        }
    });
    (port, came)
}

fn serve_line(stream: &mut Stream) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    stream.get_mut().write_all(b"ok\n").ok()?;
    Some(line.trim_end().to_owned())
}

fn serve_request(stream: &mut Stream) -> Option<String> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    stream.get_mut().write_all(b"HTTP/1.1 204 x\r\n\r\n").ok()?;
    String::from_utf8(body).ok()
}

/// Sends three messages, which come in order to a receiver that is trusted; to another one nothing comes.
fn trusted_or_not(serve: fn(&mut Stream) -> Option<String>, push: impl Fn(u16) -> String) {
    let (authority, another) = (Authority::new(), Authority::new());
    let (root, other_root) = (authority.file("root"), another.file("root"));
    let (port, came) = start(&authority, serve);
    let push = push(port);
    let folder = Folder::new();
    let other_root = other_root.to_str().expect("temporary folders are text");
    let env = [("SERIATIM_DESTINATIONS__DEFAULT__PUSH", push.as_str()), ("SSL_CERT_FILE", other_root)];
    let pipeline = Pipeline::start(&folder, &env);
    assert_eq!(pipeline.run_with(&["send", "-"], "one\ntwo\nthree\n").code, 0);
    let test = pipeline.run(&["dest", "test", "default"]);
    assert_eq!(test.code, 1, "{} {}", test.out, test.err);
    assert!(test.out.contains("certificate"), "it says why: {}", test.out);
    assert!(came.try_recv().is_err(), "nothing goes to whom nobody vouches for");
    drop(pipeline);

    let root = root.to_str().expect("temporary folders are text");
    let env = [("SERIATIM_DESTINATIONS__DEFAULT__PUSH", push.as_str()), ("SSL_CERT_FILE", root)];
    let pipeline = Pipeline::start(&folder, &env);
    let bodies: Vec<_> = (0..3).map(|_| came.recv_timeout(PATIENCE).expect("it comes")).collect();
    assert_eq!(bodies, ["one", "two", "three"]);
    let test = pipeline.run(&["dest", "test", "default"]);
    assert_eq!(test.code, 0, "{} {}", test.out, test.err);
    assert_eq!(came.recv_timeout(PATIENCE).expect("it comes"), r#"{"test":true}"#);
}

#[test]
fn frames_go_over_tls_to_whom_a_root_vouches_for() {
    trusted_or_not(serve_line, |port| {
        format!(
            "{{ tcp = {{ address = 'localhost:{port}', framing = 'newline', tls = true, allow_private = true }}, \
             retry = {{ cap = '500ms' }} }}"
        )
    });
}

#[test]
fn so_do_requests() {
    trusted_or_not(serve_request, |port| {
        format!(
            "{{ http = {{ url = 'https://localhost:{port}/', allow_private = true }}, retry = {{ cap = '500ms' }} }}"
        )
    });
}
