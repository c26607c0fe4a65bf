//! Pushing over real sockets: what arrives, and what becomes of every kind of answer.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use seriatim::deliver::{self, Destination, OnFailure, Options, PushAck, Retry, TcpOptions};
use seriatim::framing::{Decoder, Framing};
use seriatim::log::Log;
use seriatim::log::memory::Memory;
use seriatim::record::cursor::decode;
use seriatim::record::push::{PushCursor, PushPosition};
use seriatim::record::{BatchBuilder, Epoch, Name, Offset, OutputHeaders, Partition, Sequence, Source};
use seriatim::topics::Topics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A pipeline's end: a few outputs that wait to be pushed.
struct Rig {
    log: Memory,
    topics: Topics,
}

impl Rig {
    async fn new(bodies: &[&[u8]]) -> Self {
        let log = Memory::new(1);
        let topics = Topics::derive("t", &["default"], 1, 1);
        log.ensure(&topics.shapes()).await.expect("a new log takes them");
        let mut builder = BatchBuilder::default();
        for (body, sequence) in bodies.iter().zip(0..) {
            let headers = OutputHeaders {
                source: Source { lane: Partition(0), offset: Offset(70 + sequence) },
                output: 0,
                group: 0xfeed,
                sequence: Sequence(sequence),
                epoch: Epoch(1),
            };
            builder.push(None, Some(body), |h| {
                headers.encode(h);
                h.put(Name::ContentType, b"application/x-test");
                h.put_named(b"ce_type", b"made");
                h.put_named(b"Transfer-Encoding", b"chunked");
            });
        }
        let to = topics.destinations["default"].partition(Partition(0));
        log.append(&to, builder.finish()).await.expect("no faults").await.expect("no faults");
        Self { log, topics }
    }

    fn position(&self) -> Option<PushPosition> {
        let last = self.log.snapshot(&self.topics.cursors_deliver.partition(Partition(0))).pop()?;
        let mut cursor: PushCursor = decode(&last.value?).expect("it decodes");
        cursor.topics.remove("t.output")?.remove(&0)
    }

    /// Delivers until the committed position is what is wanted.
    async fn run_until(&self, options: Options, until: impl Fn(&PushPosition) -> bool) {
        self.run_to(Destination::http(options).expect("the options are right"), until).await;
    }

    async fn run_to(&self, destination: Destination, until: impl Fn(&PushPosition) -> bool) {
        let destinations = BTreeMap::from([("default".to_owned(), destination)]);
        let (log, drain) = (Arc::new(self.log.clone()), CancellationToken::new());
        let run = deliver::run_with(log, self.topics.clone(), destinations, "t.deliver", "m", 1, drain);
        let until = async {
            while !self.position().is_some_and(|position| until(&position)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            biased;
            ended = run => panic!("it ended: {ended:?}"),
            in_time = tokio::time::timeout(Duration::from_secs(30), until) => in_time.expect("it is stuck"),
        }
    }
}

fn options(at: SocketAddr) -> Options {
    let mut options = Options::new(format!("http://{at}/hook"));
    options.http.allow_private = true;
    options.timeout = Duration::from_millis(500);
    options.retry = Retry { backoff: Duration::from_millis(1), cap: Duration::from_millis(50), attempts: None };
    options
}

type Request = (String, HeaderMap, Bytes);
type Seen = Arc<Mutex<Vec<Request>>>;

/// Answers with these, one after the other, then 200; remembers what came.
async fn receiver(mut answers: Vec<Response>) -> (SocketAddr, Seen) {
    answers.reverse();
    let seen = Seen::default();
    let state = Arc::new((seen.clone(), Mutex::new(answers)));
    let handle = |State(state): State<Arc<(Seen, Mutex<Vec<Response>>)>>,
                  uri: axum::http::Uri,
                  headers: HeaderMap,
                  body: Bytes| async move {
        state.0.lock().expect("not poisoned").push((uri.path().to_owned(), headers, body));
        state.1.lock().expect("not poisoned").pop().unwrap_or_else(|| StatusCode::OK.into_response())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let app = Router::new().fallback(handle).with_state(state);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (at, seen)
}

#[tokio::test]
async fn an_item_arrives_untouched_signed_and_with_its_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secrets = [[1_u8; 32], [2_u8; 32]];
    let file = folder.path().join("secrets");
    let lines = secrets.map(|secret| format!("whsec_{}\n", STANDARD.encode(secret)));
    std::fs::write(&file, lines.concat()).expect("written");
    let body = b"\x00\xff{ \"b\" : 1,\n\"a\":2 }\r\n";
    let rig = Rig::new(&[body]).await;
    let (at, seen) = receiver(Vec::new()).await;
    let mut options = options(at);
    options.http.secret_files = vec![file];
    rig.run_until(options, |position| position.position == 1).await;
    let seen = seen.lock().expect("not poisoned");
    let [(path, headers, received)] = &seen[..] else { panic!("one request, not {}", seen.len()) };
    assert_eq!((path.as_str(), &received[..]), ("/hook", &body[..]));
    let header = |name: &str| headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().expect("text");
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    assert_eq!(id, "0-70-0-default");
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    let signatures: Vec<_> = header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), 2);
    for (secret, signature) in secrets.iter().zip(signatures) {
        let tag = STANDARD.decode(signature.strip_prefix("v1,").expect("version 1")).expect("base64");
        let mac = Hmac::<sha2::Sha256>::new_from_slice(secret).expect("any length").chain_update(&signed);
        mac.verify_slice(&tag).expect("the signature is right");
    }
    for (name, value) in [
        ("seriatim-destination", "default"),
        ("seriatim-group", "000000000000feed"),
        ("seriatim-sequence", "0"),
        ("seriatim-done-below", "0"),
        ("seriatim-epoch", "1"),
        ("seriatim-source", "0:70"),
        ("idempotency-key", id),
        ("content-type", "application/x-test"),
        ("ce-type", "made"),
        ("user-agent", concat!("seriatim/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    assert!(headers.get("transfer-encoding").is_none(), "a record does not steer the request");
}

#[tokio::test]
async fn whatever_may_pass_is_tried_again_with_the_same_id_and_redirects_are_never_followed() {
    let rig = Rig::new(&[b"x"]).await;
    let (elsewhere, followed) = receiver(Vec::new()).await;
    let mut answers: Vec<_> = [301, 302, 303, 307, 308]
        .map(|status| {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, [("location", format!("http://{elsewhere}/"))]).into_response()
        })
        .into();
    for status in [408, 409, 425, 429, 500, 501, 502, 503, 504, 599] {
        let status = StatusCode::from_u16(status).expect("a status");
        answers.push((status, [("retry-after", "0")], "later").into_response());
    }
    let attempts = answers.len() + 1;
    let (at, seen) = receiver(answers).await;
    rig.run_until(options(at), |position| position.position == 1).await;
    assert!(followed.lock().expect("not poisoned").is_empty());
    let seen = seen.lock().expect("not poisoned");
    assert_eq!(seen.len(), attempts);
    assert!(seen.iter().all(|(_, headers, body)| headers["webhook-id"] == "0-70-0-default" && body == "x"));
}

#[tokio::test]
async fn every_other_refusal_is_for_good() {
    for status in [400, 401, 403, 404, 405, 413, 422, 451, 499] {
        let rig = Rig::new(&[b"x", b"y"]).await;
        let status = StatusCode::from_u16(status).expect("a status");
        let (at, seen) = receiver(vec![(status, "no\nthank you").into_response()]).await;
        rig.run_until(options(at), |position| !position.halted.is_empty()).await;
        let reason = format!("status {}: no thank you", status.as_u16());
        assert_eq!(rig.position().expect("committed").halted, BTreeMap::from([(0, reason)]));
        assert_eq!(seen.lock().expect("not poisoned").len(), 1, "the next one waits");
        let skip = Options { on_failure: OnFailure::Skip, ..options(at) };
        let rig = Rig::new(&[b"x", b"y"]).await;
        rig.run_until(skip, |position| position.position == 2).await;
    }
}

/// Accepts connections one by one and lets `serve` deal with each; numbers from 0.
async fn raw<F>(serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.expect("it listens");
            tokio::spawn(serve(number, stream));
        }
    });
    at
}

async fn read_request(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_with_its_connection() {
    let rig = Rig::new(&[b"x"]).await;
    let closed = Arc::new(tokio::sync::Notify::new());
    let notify = closed.clone();
    let at = raw(move |number, mut stream| {
        let closed = notify.clone();
        async move {
            read_request(&mut stream).await?;
            if number > 0 {
                return stream.write_all(OK).await;
            }
            // Nothing is said; the other side has to hang up, or this reads for ever.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            closed.notify_one();
            Ok(())
        }
    })
    .await;
    rig.run_until(options(at), |position| position.position == 1).await;
    tokio::time::timeout(Duration::from_secs(5), closed.notified()).await.expect("the connection is closed");
}

#[tokio::test]
async fn resets_and_garbage_are_tried_again_on_new_connections() {
    let rig = Rig::new(&[b"x"]).await;
    let at = raw(|number, mut stream| async move {
        match number {
            // Reset before anything is read: unread data makes the close one.
            0 => stream.readable().await,
            1 => read_request(&mut stream).await,
            2 => {
                read_request(&mut stream).await?;
                stream.write_all(b"HTTP/1.1 200").await
            }
            3 => {
                read_request(&mut stream).await?;
                stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await
            }
            _ => {
                read_request(&mut stream).await?;
                stream.write_all(OK).await
            }
        }
    })
    .await;
    rig.run_until(options(at), |position| position.position == 1).await;
}

#[tokio::test]
async fn a_success_counts_although_its_body_never_comes() {
    let rig = Rig::new(&[b"x", b"y"]).await;
    let connections = Arc::new(Mutex::new(0));
    let count = connections.clone();
    let at = raw(move |_, mut stream| {
        *count.lock().expect("not poisoned") += 1;
        async move {
            read_request(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await?;
            std::future::pending().await
        }
    })
    .await;
    rig.run_until(options(at), |position| position.position == 2).await;
    assert_eq!(*connections.lock().expect("not poisoned"), 2, "each item was sent once");
}

#[tokio::test]
async fn an_endless_refusal_costs_neither_time_nor_memory() {
    let rig = Rig::new(&[b"x"]).await;
    let at = raw(|_, mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").await?;
        loop {
            stream.write_all(&[b'a'; 4096]).await?;
        }
    })
    .await;
    rig.run_until(options(at), |position| !position.halted.is_empty()).await;
    let reason = rig.position().expect("committed").halted.remove(&0).expect("it is halted");
    assert!(reason.starts_with("status 404: aaaa") && reason.len() <= 256, "{reason}");
}

#[tokio::test]
async fn bad_options_are_refused_before_anything_is_claimed() {
    let rig = Rig::new(&[]).await;
    let start = |name: &str, options: Options| {
        let destinations = BTreeMap::from([(name.to_owned(), options)]);
        let (log, drain): (Arc<dyn Log>, _) = (Arc::new(rig.log.clone()), CancellationToken::new());
        deliver::run(log, rig.topics.clone(), destinations, "t.deliver", "m", 1, drain)
    };
    let error = start("default", Options::new("https://10.0.0.1/")).await.expect_err("a private address");
    assert!(
        error.to_string().starts_with("destination default: http.url: 10.0.0.1 is not an address of the public"),
        "{error}"
    );
    let error = start("other", Options::new("https://receiver.example/")).await.expect_err("no topic");
    assert_eq!(error.to_string(), "destination other has no topic");
    let mut unreadable = Options::new("https://receiver.example/");
    unreadable.http.secret_files = vec!["/nonexistent/secret".into()];
    let error = start("default", unreadable).await.expect_err("no secret");
    assert!(error.to_string().starts_with("destination default: http.secret_file: /nonexistent/secret: "), "{error}");
    assert!(rig.position().is_none());
}

/// What a receiver of HL7 does with a message.
#[derive(Clone, Copy)]
enum Does {
    Answers(&'static str),
    HangsUp,
}

/// A receiver over MLLP that does these, one message after the other, then accepts; remembers what
/// came.
async fn hospital(does: Vec<Does>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let remembered = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut does = does.into_iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut frames, mut space) = (Decoder::new(Framing::Mllp, 1 << 20), [0; 1024]);
            'open: while let Ok(count @ 1..) = stream.read(&mut space).await {
                frames.feed(&space[..count]);
                while let Some(frame) = frames.next_frame().expect("it is well formed") {
                    let message = String::from_utf8(frame.to_vec()).expect("it is text");
                    let id = message.split('|').nth(9).expect("it has a control id").to_owned();
                    remembered.lock().expect("not poisoned").push(id.clone());
                    match does.next().unwrap_or(Does::Answers("AA")) {
                        Does::HangsUp => break 'open,
                        Does::Answers(code) => {
                            let answer = format!("\x0bMSH|^~\\&|B|B|A|A|||ACK|1|P|2.5\rMSA|{code}|{id}\r\x1c\r");
                            stream.write_all(answer.as_bytes()).await.expect("it reads");
                        }
                    }
                }
            }
        }
    });
    (at, seen)
}

fn over_mllp(at: SocketAddr) -> Destination {
    let receiver = TcpOptions {
        address: at.to_string(),
        framing: Framing::Mllp,
        ack: PushAck::Answer,
        tls: false,
        allow_private: true,
        connect_timeout: Duration::from_secs(5),
    };
    Destination::tcp(&receiver, options(at)).expect("the options are right")
}

fn hl7(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|A|A|B|B|||ORU|{id}|P|2.5\r").into_bytes()
}

#[tokio::test]
async fn over_mllp_the_next_goes_when_the_last_is_acknowledged() {
    let bodies = ["1", "2", "3"].map(hl7);
    let rig = Rig::new(&bodies.each_ref().map(Vec::as_slice)).await;
    let does = [Does::Answers("AR"), Does::Answers("AA"), Does::HangsUp, Does::Answers("CA"), Does::Answers("AA")];
    let (at, seen) = hospital(does.to_vec()).await;
    rig.run_to(over_mllp(at), |position| position.position == 3).await;
    assert_eq!(*seen.lock().expect("not poisoned"), ["1", "1", "2", "2", "3"]);
}

#[tokio::test]
async fn what_an_hl7_receiver_refuses_for_good_is_up_to_the_policy() {
    let bodies = ["1", "2"].map(hl7);
    let rig = Rig::new(&bodies.each_ref().map(Vec::as_slice)).await;
    let (at, seen) = hospital(vec![Does::Answers("AE")]).await;
    let mut destination = over_mllp(at);
    destination.options.on_failure = OnFailure::DeadLetter;
    rig.run_to(destination, |position| position.position == 2).await;
    assert_eq!(*seen.lock().expect("not poisoned"), ["1", "2"]);
    let letters = rig.log.snapshot(&rig.topics.dead_letter.partition(Partition(0)));
    assert_eq!(letters.len(), 1);
}
