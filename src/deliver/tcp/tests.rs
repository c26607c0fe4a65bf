use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};

use super::*;

fn options(address: String, framing: Framing, ack: PushAck) -> TcpOptions {
    let connect_timeout = Duration::from_secs(5);
    TcpOptions { address, framing, ack, tls: false, allow_private: true, connect_timeout }
}

/// A receiver that lets `serve` deal with each connection; counts them.
async fn receiver<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (String, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            serve(stream).await;
        }
    });
    (address, count)
}

/// Answers each frame with what `answer` makes of it; ends where that is nothing.
async fn answering(mut stream: TcpStream, framing: Framing, answer: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut frames = Decoder::new(framing, 1 << 20);
    let mut space = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut space).await {
        frames.feed(&space[..count]);
        while let Some(frame) = frames.next_frame().expect("it is well formed") {
            let Some(answer) = answer(frame) else { return };
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

fn tcp(options: &TcpOptions) -> Tcp {
    Tcp::new(options).expect("the options are right")
}

#[tokio::test]
async fn an_answer_is_waited_for_and_the_connection_used_again() {
    for framing in [Framing::Newline, Framing::LengthPrefix, Framing::OctetCounting, Framing::Mllp] {
        let echo = move |frame: &[u8]| {
            let mut answer = BytesMut::new();
            match framing {
                Framing::Mllp => Framing::Mllp.put(&[0x06], &mut answer),
                _ => Framing::Newline.put(frame, &mut answer),
            }
            .expect("it can be framed");
            Some(answer.to_vec())
        };
        let (address, connections) = receiver(move |stream| answering(stream, framing, echo)).await;
        let tcp = tcp(&options(address, framing, PushAck::Answer));
        for _ in 0..3 {
            assert_eq!(tcp.0.attempt(b"message").await, Ok(answer::accepted()), "{framing:?}");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{framing:?}");
    }
}

#[tokio::test]
async fn without_an_answer_nothing_is_delivered() {
    let (address, connections) = receiver(|stream| answering(stream, Framing::Mllp, |_| None)).await;
    let tcp = tcp(&options(address, Framing::Mllp, PushAck::Answer));
    for expected in 1..3 {
        let failure = tcp.0.attempt(b"message").await.expect_err("it closes without an answer");
        assert_eq!(failure.kind, FailureKind::Connection);
        assert_eq!(connections.load(Ordering::Relaxed), expected, "each attempt has a connection of its own");
    }
}

#[tokio::test]
async fn a_receiver_that_has_closed_meanwhile_is_dialled_anew() {
    let once = |mut stream: TcpStream| async move {
        let mut space = [0; 64];
        // One message, one answer, and the end.
        let _ = stream.read(&mut space).await;
        let _ = stream.write_all(b"ok\n").await;
    };
    let (address, connections) = receiver(once).await;
    let tcp = tcp(&options(address, Framing::Newline, PushAck::Answer));
    assert_eq!(tcp.0.attempt(b"one").await, Ok(answer::accepted()));
    let ended = async {
        while let Some(connection) = tcp.0.take_idle() {
            tcp.0.keep(connection);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the end is seen");
    assert_eq!(tcp.0.attempt(b"two").await, Ok(answer::accepted()));
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_message_that_cannot_be_framed_is_refused_without_a_connection() {
    let (address, connections) = receiver(|stream| answering(stream, Framing::Newline, |_| None)).await;
    let tcp = tcp(&options(address, Framing::Newline, PushAck::Answer));
    let answer = tcp.0.attempt(b"two\nlines").await.expect("it is an answer");
    assert_eq!((answer.status, connections.load(Ordering::Relaxed)), (422, 0));
}

#[tokio::test]
async fn private_addresses_are_not_dialled_whatever_a_name_resolves_to() {
    let (address, connections) = receiver(|stream| answering(stream, Framing::Newline, |_| None)).await;
    let port = address.rsplit(':').next().expect("it has a port");
    let mut options = options(format!("receiver.example:{port}"), Framing::Newline, PushAck::Answer);
    (options.tls, options.allow_private) = (true, false);
    let lookup: Lookup = Arc::new(|_| Box::pin(async { Ok(vec!["127.0.0.1:0".parse().expect("an address")]) }));
    let tcp = Tcp::with_lookup(&options, lookup).expect("the options are right");
    let failure = tcp.0.attempt(b"message").await.expect_err("it is blocked");
    assert_eq!((failure.kind, connections.load(Ordering::Relaxed)), (FailureKind::Blocked, 0));

    options.address = format!("127.0.0.1:{port}");
    assert!(matches!(Tcp::new(&options), Err(BadOptions::Address(_))));
    (options.address, options.tls) = ("receiver.example:1".to_owned(), false);
    let error = Tcp::new(&options).expect_err("it is without TLS").to_string();
    assert!(error.contains("set tls or allow_private"), "{error}");
    options.address = "receiver.example".to_owned();
    assert!(Tcp::new(&options).expect_err("it has no port").to_string().contains("HOST:PORT"));
}
