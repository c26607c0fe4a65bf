use super::*;
use proptest::prelude::*;

const ALL: [Framing; 4] = [Framing::Newline, Framing::LengthPrefix, Framing::OctetCounting, Framing::Mllp];

/// What a decoder says of a stream that is fed in these pieces.
fn decode(framing: Framing, longest: usize, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let mut decoder = Decoder::new(framing, longest);
    let mut found = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => found.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_frame(), Err(error), "what is malformed stays so");
                    return (found, Some(error));
                }
            }
        }
        assert!(decoder.held() <= longest + MOST_AROUND, "what waits is at most one frame");
    }
    (found, None)
}

/// The most bytes of framing around a body.
const MOST_AROUND: usize = 12;

/// The same, one frame after the other in the plainest way, on the whole stream.
fn naive(framing: Framing, longest: usize, mut stream: &[u8]) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let mut found = Vec::new();
    while !stream.is_empty() {
        let (body, rest): (&[u8], &[u8]) = match framing {
            Framing::Newline => match stream.iter().position(|b| *b == b'\n') {
                Some(at) => (stream[..at].strip_suffix(b"\r").unwrap_or(&stream[..at]), &stream[at + 1..]),
                None if stream.strip_suffix(b"\r").unwrap_or(stream).len() > longest => {
                    return (found, Some(Malformed::TooLong(longest)));
                }
                None => break,
            },
            Framing::LengthPrefix => {
                let Some((length, rest)) = stream.split_first_chunk() else { break };
                let length = u32::from_be_bytes(*length) as usize;
                if length > longest {
                    return (found, Some(Malformed::TooLong(longest)));
                }
                let Some(pair) = rest.split_at_checked(length) else { break };
                pair
            }
            Framing::OctetCounting => {
                let digits = stream.iter().take_while(|b| b.is_ascii_digit()).count();
                if stream[0] == b'0' || digits == 0 {
                    return (found, Some(Malformed::Length));
                }
                let text = std::str::from_utf8(&stream[..digits]).expect("digits are text");
                let length = text.parse::<u128>().unwrap_or(u128::MAX);
                if length > longest as u128 {
                    return (found, Some(Malformed::TooLong(longest)));
                }
                match stream.get(digits) {
                    None => break,
                    Some(b' ') => {}
                    Some(_) => return (found, Some(Malformed::Length)),
                }
                let Some(pair) = stream[digits + 1..].split_at_checked(length as usize) else { break };
                pair
            }
            Framing::Mllp => {
                if stream[0] != START {
                    return (found, Some(Malformed::Start(stream[0])));
                }
                let inside = &stream[1..];
                let end = inside.iter().position(|b| matches!(*b, START | END));
                if end.unwrap_or(inside.len()) > longest {
                    return (found, Some(Malformed::TooLong(longest)));
                }
                let Some(end) = end else { break };
                match (inside[end], inside.get(end + 1)) {
                    (END, Some(b'\r')) => (&inside[..end], &inside[end + 2..]),
                    (END, None) => break,
                    _ => return (found, Some(Malformed::Stray)),
                }
            }
        };
        if body.len() > longest {
            return (found, Some(Malformed::TooLong(longest)));
        }
        if framing != Framing::Newline || !body.is_empty() {
            found.push(body.to_vec());
        }
        stream = rest;
    }
    (found, None)
}

fn pieces<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at = 0;
    let mut pieces = Vec::new();
    for end in cuts.iter().copied().chain([stream.len()]) {
        let end = end.clamp(at, stream.len());
        pieces.push(&stream[at..end]);
        at = end;
    }
    pieces
}

/// Bytes that mean something to one framing or another, and some that mean nothing.
fn telling() -> impl Strategy<Value = u8> {
    prop::sample::select(b"\n\r 0123456789x\x00\x01\x0b\x1c".to_vec())
}

proptest! {
    #[test]
    fn frames_are_the_same_however_they_arrive(
        stream in prop::collection::vec(telling(), 0..80),
        mut cuts in prop::collection::vec(0usize..80, 0..10),
        longest in 1usize..20,
    ) {
        cuts.sort_unstable();
        for framing in ALL {
            let expected = naive(framing, longest, &stream);
            prop_assert_eq!(&decode(framing, longest, &pieces(&stream, &cuts)), &expected, "{:?}", framing);
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(&decode(framing, longest, &bytes), &expected, "{:?} byte by byte", framing);
        }
    }

    #[test]
    fn what_is_put_comes_back(bodies in prop::collection::vec(prop::collection::vec(telling(), 0..30), 0..8)) {
        for framing in ALL {
            let mut stream = BytesMut::new();
            let mut sent = Vec::new();
            for body in &bodies {
                let before = stream.len();
                match framing.put(body, &mut stream) {
                    Ok(()) => sent.push(body.clone()),
                    Err(_) => prop_assert_eq!(stream.len(), before),
                }
            }
            prop_assert_eq!(decode(framing, 30, &[&stream]), (sent, None), "{:?}", framing);
        }
    }
}

#[test]
fn glued_frames_cut_at_every_byte_come_out_whole() {
    let bodies: [&[u8]; 3] = [b"MSH|^~\\&|A\rPID|1\r", b"x", b"yy"];
    for framing in ALL {
        let bodies = &bodies[usize::from(framing == Framing::Newline)..];
        let mut stream = BytesMut::new();
        for body in bodies {
            framing.put(body, &mut stream).expect("it can be framed");
        }
        let expected: Vec<_> = bodies.iter().map(|body| body.to_vec()).collect();
        for cut in 0..=stream.len() {
            let (frames, error) = decode(framing, 100, &[&stream[..cut], &stream[cut..]]);
            assert_eq!((&frames, error), (&expected, None), "{framing:?} cut at {cut}");
        }
    }
}

#[test]
fn a_length_is_judged_before_anything_is_kept_for_it() {
    assert_eq!(decode(Framing::LengthPrefix, 100, &[&[0, 0, 0, 101]]).1, Some(Malformed::TooLong(100)));
    assert_eq!(decode(Framing::LengthPrefix, 100, &[&[255; 4]]).1, Some(Malformed::TooLong(100)));
    for text in ["101", "99999999999999999999999999999999", "101 "] {
        assert_eq!(decode(Framing::OctetCounting, 100, &[text.as_bytes()]).1, Some(Malformed::TooLong(100)), "{text}");
    }
    for text in ["0", "01 x", " ", "x", "1x", "-1 x", "<34>1 message"] {
        assert_eq!(decode(Framing::OctetCounting, 100, &[text.as_bytes()]).1, Some(Malformed::Length), "{text}");
    }
    assert_eq!(decode(Framing::Newline, 2, &[b"ab\r", b"\nabc"]), (vec![b"ab".to_vec()], Some(Malformed::TooLong(2))));
    assert_eq!(decode(Framing::Mllp, 2, &[b"\x0babc"]).1, Some(Malformed::TooLong(2)));
}

#[test]
fn mllp_begins_and_ends_as_it_should_or_not_at_all() {
    assert_eq!(decode(Framing::Mllp, 9, &[b"MSH"]).1, Some(Malformed::Start(b'M')));
    assert_eq!(decode(Framing::Mllp, 9, &[b"\x0ba\x1c\r\n"]).1, Some(Malformed::Start(b'\n')));
    assert_eq!(decode(Framing::Mllp, 9, &[b"\x0ba\x0bb\x1c\r"]).1, Some(Malformed::Stray));
    assert_eq!(decode(Framing::Mllp, 9, &[b"\x0ba\x1c", b"b"]).1, Some(Malformed::Stray));
    assert_eq!(decode(Framing::Mllp, 9, &[b"\x0b\x1c", b"\r"]), (vec![vec![]], None));
}

#[test]
fn who_waits_holds_no_memory() {
    for framing in ALL {
        let mut decoder = Decoder::new(framing, 1000);
        let mut stream = BytesMut::new();
        framing.put(&[b'x'; 500], &mut stream).expect("it can be framed");
        decoder.feed(&stream);
        assert!(decoder.next_frame().is_ok_and(|frame| frame.is_some()));
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!((decoder.held(), decoder.buffer.capacity()), (0, 0));
    }
}

#[test]
fn a_flood_of_blank_lines_is_not_kept() {
    let mut decoder = Decoder::new(Framing::Newline, 10);
    for _ in 0..1000 {
        decoder.feed(b"\n\r\n\n");
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.held(), 0);
    }
}
