//! Senders that are slow, silent, gone, greedy or wrong.

use std::time::Duration;

use seriatim::framing::Framing;
use seriatim::ingress;
use seriatim::ingress::tcp::Options;
use seriatim::log::memory::Faults;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::fixture::{always, line, serve};

fn quick() -> ingress::Options {
    ingress::Options {
        body_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(500),
        ..ingress::Options::default()
    }
}

fn lines() -> Options {
    Options::new(Framing::Newline)
}

#[tokio::test]
async fn a_frame_that_is_too_long_is_told_after_the_answers_before_it() {
    let server = serve(lines(), ingress::Options { max_body: 10, ..quick() }, 1).await;
    let mut sender = server.connect().await;
    sender.send(b"0123456789\n").await;
    sender.send(&[b'x'; 100_000]).await;
    let rest = sender.rest().await;
    let (first, second) = rest.split_once('\n').expect("two lines");
    assert_eq!(first, line(0));
    assert!(second.contains(r#""code":"body-too-large""#), "{second}");
    assert_eq!(server.values(), ["0123456789"]);

    let server = serve(Options::new(Framing::LengthPrefix), quick(), 1).await;
    let mut sender = server.connect().await;
    sender.send(&u32::MAX.to_be_bytes()).await;
    assert!(sender.rest().await.contains("body-too-large"), "the length alone says so");
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_a_slow_frame_is_told() {
    let server = serve(Options { idle_timeout: Duration::from_millis(300), ..lines() }, quick(), 1).await;
    let mut silent = server.connect().await;
    assert_eq!(silent.rest().await, "");

    let mut slow = server.connect().await;
    // Blank lines are no frames, and bytes of one do not lengthen its time.
    slow.send(b"\n\nx").await;
    let drip = async {
        while slow.0.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), drip).await.expect("it is cut off");

    let mut stuck = server.connect().await;
    stuck.send(b"a\nunfinished").await;
    let rest = stuck.rest().await;
    assert!(rest.starts_with(&line(0)) && rest.contains("request-timeout"), "{rest}");
}

#[tokio::test]
async fn who_waits_for_an_answer_is_not_silent() {
    let server = serve(Options { idle_timeout: Duration::from_millis(100), ..lines() }, quick(), 1).await;
    server.log.set_faults(Faults { acknowledge_delay: always(Duration::from_millis(400)), ..Faults::default() });
    let mut sender = server.connect().await;
    sender.send(b"a\n").await;
    assert_eq!(sender.rest().await, line(0) + "\n");
}

#[tokio::test]
async fn nothing_more_is_read_while_the_log_does_not_answer() {
    let limits = ingress::Options { max_body: 64 * 1024, ..quick() };
    let server = serve(Options { window: 4, ..lines() }, limits, 1).await;
    server.log.set_faults(Faults { append_delay: always(Duration::from_secs(3600)), ..Faults::default() });
    let mut sender = server.connect().await;
    let message = [vec![b'x'; 60_000], vec![b'\n']].concat();
    let mut sent = 0;
    let flood = async {
        loop {
            sender.send(&message).await;
            sent += 1;
        }
    };
    let never: Result<std::convert::Infallible, _> = timeout(Duration::from_millis(500), flood).await;
    never.expect_err("writing stops, because reading does");
    // What the sockets of both sides hold, a few MiB, beside the window.
    assert!(sent < 500, "{sent} messages of 60 kB were taken");
}

#[tokio::test]
async fn a_sender_that_reads_no_answers_is_cut_off() {
    let server = serve(lines(), quick(), 1).await;
    let mut sender = server.connect().await;
    let messages = b"x\n".repeat(10_000);
    let flood = async { while sender.0.write_all(&messages).await.is_ok() {} };
    timeout(Duration::from_secs(60), flood).await.expect("it is cut off");
}

#[tokio::test]
async fn a_sender_that_vanishes_leaves_what_was_whole() {
    let server = serve(lines(), quick(), 1).await;
    let mut sender = server.connect().await;
    sender.send(b"a\nb\nunfin").await;
    drop(sender);
    crate::fixture::until(|| server.input(0).len() == 2).await;
    let mut next = server.connect().await;
    next.send(b"c\n").await;
    assert_eq!(next.lines(1).await, [line(2)]);
    assert_eq!(server.values(), ["a", "b", "c"]);
}

#[tokio::test]
async fn connections_of_one_peer_are_bounded() {
    let server = serve(lines(), ingress::Options { max_connections_per_peer: 2, ..quick() }, 1).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    first.send(b"a\n").await;
    second.send(b"b\n").await;
    assert_eq!((first.lines(1).await.len(), second.lines(1).await.len()), (1, 1));
    let mut third = server.connect().await;
    let mut nothing = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut third.0, &mut nothing);
    let closed = timeout(Duration::from_secs(20), closed).await.expect("it is closed at once");
    assert!(matches!(closed, Ok(0) | Err(_)), "{nothing:?}");
    drop(first);
    let served = async {
        loop {
            let mut next = server.connect().await;
            // It may be closed still, if the first one's end has not been seen yet.
            let _ = next.0.write_all(b"c\n").await;
            let mut answer = [0; 1];
            if matches!(tokio::io::AsyncReadExt::read(&mut next.0, &mut answer).await, Ok(1)) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(20), served).await.expect("one has left, another may come");
}

#[tokio::test]
async fn unfinished_frames_share_their_memory_and_time_out_of_it() {
    let limits = ingress::Options { max_body: 100_000, frame_memory: 1, ..quick() };
    let server = serve(lines(), limits, 1).await;
    let mut greedy = Vec::new();
    for _ in 0..5 {
        let mut sender = server.connect().await;
        sender.send(&[b'x'; 90_000]).await;
        greedy.push(sender);
    }
    let mut modest = server.connect().await;
    modest.send(b"small\n").await;
    assert_eq!(modest.lines(1).await, [line(0)], "what is whole needs none of it");
    for mut sender in greedy {
        assert!(sender.rest().await.contains("request-timeout"), "its time is over");
    }
    let mut later = server.connect().await;
    later.send(b"later\n").await;
    assert_eq!(later.lines(1).await.len(), 1, "the memory is free again");
}
