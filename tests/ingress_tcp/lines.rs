//! What is taken, in which order, and when it is acknowledged.

use std::time::Duration;

use bytes::BytesMut;
use seriatim::framing::Framing;
use seriatim::ingress;
use seriatim::ingress::tcp::{Ack, Options};
use seriatim::log::memory::Faults;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::fixture::{always, line, lines, serve};

#[tokio::test]
async fn every_framing_takes_frames_split_at_every_byte_and_glued() {
    for framing in [Framing::Newline, Framing::LengthPrefix, Framing::OctetCounting, Framing::Mllp] {
        let mut options = Options::new(framing);
        options.ack = if framing == Framing::Mllp { Ack::MllpCommit } else { Ack::Line };
        let server = serve(options, ingress::Options::default(), 1).await;
        let mut stream = BytesMut::new();
        for body in ["one", "two", "three"] {
            framing.put(body.as_bytes(), &mut stream).expect("it can be framed");
        }
        let mut sender = server.connect().await;
        for byte in &stream {
            sender.send(&[*byte]).await;
        }
        sender.send(&stream).await;
        sender.finish().await;
        let answers = sender.rest().await;
        let expected: String = match framing {
            Framing::Mllp => "\x0b\x06\x1c\r".repeat(6),
            _ => (0..6).map(|offset| line(offset) + "\n").collect(),
        };
        assert_eq!(answers, expected, "{framing:?}");
        assert_eq!(server.values(), ["one", "two", "three", "one", "two", "three"], "{framing:?}");
    }
}

#[tokio::test]
async fn a_thousand_messages_stand_in_the_order_in_which_they_came() {
    for window in [1, 3, 1000] {
        let options = Options { window, ..Options::new(Framing::Newline) };
        let server = serve(options, ingress::Options::default(), 1).await;
        let mut sender = server.connect().await;
        let messages: Vec<String> = (0..1000).map(|n| format!("message {n}")).collect();
        for part in messages.join("\r\n").as_bytes().chunks(777) {
            sender.send(part).await;
        }
        sender.send(b"\n\n\nunfinished").await;
        sender.finish().await;
        let expected: Vec<String> = (0..1000).map(line).collect();
        assert_eq!(sender.rest().await.lines().collect::<Vec<_>>(), expected, "window {window}");
        assert_eq!(server.values(), messages, "window {window}");
    }
}

#[tokio::test]
async fn an_acknowledgement_comes_only_after_the_message_is_durable() {
    const DURABLE_AFTER: Duration = Duration::from_millis(200);
    let server = lines().await;
    server.log.set_faults(Faults { acknowledge_delay: always(DURABLE_AFTER), ..Faults::default() });
    let mut sender = server.connect().await;
    let began = Instant::now();
    sender.send(b"a\nb\n").await;
    assert_eq!(sender.lines(2).await, [line(0), line(1)]);
    assert!(began.elapsed() >= DURABLE_AFTER);
}

#[tokio::test]
async fn what_cannot_be_written_is_told_and_ends_the_connection() {
    let server = lines().await;
    let mut sender = server.connect().await;
    sender.send(b"a\n").await;
    assert_eq!(sender.lines(1).await, [line(0)]);
    server.log.set_faults(Faults { append_unavailable: 1.0, ..Faults::default() });
    sender.send(b"b\nc\nd\n").await;
    let rest = sender.rest().await;
    let problem: serde_json::Value = serde_json::from_str(&rest).unwrap_or_else(|e| panic!("{e}: {rest}"));
    assert_eq!((&problem["code"], &problem["retryable"]), (&"log-unavailable".into(), &true.into()));
    assert_eq!(server.values(), ["a"]);
}

#[tokio::test]
async fn a_log_that_refuses_now_and_then_leaves_no_gap_in_any_framing() {
    for framing in [Framing::Newline, Framing::LengthPrefix, Framing::OctetCounting, Framing::Mllp] {
        for ack in [Ack::None, if framing == Framing::Mllp { Ack::MllpCommit } else { Ack::Line }] {
            // One message a batch, and several of them on their way at once.
            let options = Options { ack, window: 5, ..Options::new(framing) };
            let server = serve(options, ingress::Options::default(), 1).await;
            server.log.set_faults(Faults {
                acknowledge_delay: always(Duration::from_millis(4)),
                append_unavailable: 0.2,
                ..Faults::default()
            });
            let mut shares = Vec::new();
            for _ in 0..20 {
                let before = server.values().len();
                let mut sender = server.connect().await;
                for n in 0..20 {
                    let mut frame = BytesMut::new();
                    framing.put(n.to_string().as_bytes(), &mut frame).expect("it can be framed");
                    if sender.0.write_all(&frame).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                // It may have been closed already.
                let _ = sender.0.shutdown().await;
                let answers = sender.rest().await;
                let written = server.values().split_off(before);
                assert_eq!(written, (0..written.len()).map(|n| n.to_string()).collect::<Vec<_>>(), "{framing:?}");
                if ack == Ack::Line {
                    let accepted: Vec<_> = answers.lines().filter(|answer| answer.contains("offset")).collect();
                    assert_eq!(accepted, (before..before + written.len()).map(line).collect::<Vec<_>>());
                }
                shares.push(written.len());
            }
            assert!(shares.iter().any(|written| (1..20).contains(written)), "{framing:?}: {shares:?}");
        }
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_after_an_unknown_outcome() {
    // One message a batch, so that those after the unknown one are written; they must not be
    // acknowledged, or the sender would send only the first again, behind them.
    let options = Options { window: 1, ..Options::new(Framing::Newline) };
    let server = serve(options, ingress::Options::default(), 1).await;
    server.log.set_faults(Faults { append_unknown_written: 1.0, ..Faults::default() });
    let mut sender = server.connect().await;
    sender.send(b"a\nb\nc\n").await;
    let rest = sender.rest().await;
    assert_eq!(rest.lines().count(), 1, "{rest}");
    assert!(rest.contains(r#""outcome":"unknown""#), "{rest}");
}

#[tokio::test]
async fn without_acknowledgements_a_failure_closes() {
    let options = Options { ack: Ack::None, ..Options::new(Framing::Newline) };
    let server = serve(options, ingress::Options::default(), 1).await;
    let mut sender = server.connect().await;
    sender.send(b"a\n").await;
    crate::fixture::until(|| server.values() == ["a"]).await;
    server.log.set_faults(Faults { append_unavailable: 1.0, ..Faults::default() });
    sender.send(b"b\n").await;
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn connections_have_their_lanes_and_messages_the_ports_media_type() {
    let options = Options { content_type: Some("text/plain".to_owned()), ..Options::new(Framing::Newline) };
    let server = serve(options, ingress::Options::default(), 2).await;
    for expected in ["0", "1"] {
        let mut sender = server.connect().await;
        sender.send(b"a\nb\n").await;
        let answers = sender.lines(2).await;
        assert!(answers.iter().all(|line| line.contains(&format!("\"lane\":{expected},"))), "{answers:?}");
    }
    let headers: Vec<_> = (0..2).flat_map(|lane| server.input(lane)).map(|record| record.headers).collect();
    assert_eq!(headers, vec![vec![(b"content-type".to_vec(), b"text/plain".to_vec())]; 4]);
}

#[tokio::test]
async fn a_drain_answers_what_was_written_and_ends() {
    let server = lines().await;
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    server.log.set_faults(Faults { acknowledge_delay: always(Duration::from_millis(200)), ..Faults::default() });
    busy.send(b"a\nb\nunfinished").await;
    crate::fixture::until(|| server.input(0).len() == 2).await;
    server.drain.cancel();
    assert_eq!(busy.rest().await, format!("{}\n{}\n", line(0), line(1)));
    assert_eq!(idle.rest().await, "");
    let address = server.address;
    drop((idle, busy));
    server.end().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}
