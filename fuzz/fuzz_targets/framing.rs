//! Streams of frames: a decoder says the same however the bytes are cut, holds no more than one
//! frame and one piece, and gives back what was put.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seriatim::framing::{Decoder, Framing, Malformed};

const FRAMINGS: [Framing; 4] = [Framing::Newline, Framing::LengthPrefix, Framing::OctetCounting, Framing::Mllp];

/// The most bytes of framing around a body.
const MOST_AROUND: usize = 12;

fn decode(framing: Framing, longest: usize, stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let mut decoder = Decoder::new(framing, longest);
    let mut found = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.feed(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => found.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        assert!(decoder.held() <= longest + MOST_AROUND);
    }
    (found, None)
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (longest, piece, stream) = (usize::from(input.0), usize::from(input.1).max(1), input.2);
    for framing in FRAMINGS {
        let whole = decode(framing, longest, stream, stream.len().max(1));
        assert_eq!(decode(framing, longest, stream, piece), whole);
        assert!(whole.0.iter().all(|frame| frame.len() <= longest));

        let mut again = bytes::BytesMut::new();
        for frame in &whole.0 {
            // A line that ends with several CR is read, but cannot be told from its end when sent.
            if framing.put(frame, &mut again).is_err() {
                assert_eq!(framing, Framing::Newline);
                return;
            }
        }
        assert_eq!(decode(framing, longest, &again, piece), (whole.0, None));
    }
});
