//! Frames of records as they are read back from a disk or a broker: what decodes can be walked to
//! its end in every way, and re-framed without a change; what does not is refused, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seriatim::record::{Batch, BatchBuilder, Offset, OutputHeaders, ResultHeaders, Timestamp};

fuzz_target!(|input: (u8, &[u8])| {
    let (count, frame) = (u32::from(input.0), bytes::Bytes::copy_from_slice(input.1));
    let (base, timestamp) = (Offset(1), Timestamp(0));
    let Ok(batch) = Batch::decode(base, timestamp, count, frame) else { return };
    assert_eq!(batch.iter().count(), batch.len());
    assert_eq!(batch.singles().count(), batch.len());

    let mut builder = BatchBuilder::default();
    for record in &batch {
        // Whatever a stranger has put there: understood or not, but without a panic.
        let _ = OutputHeaders::decode(record.headers);
        let _ = ResultHeaders::decode(record.headers);
        builder.push_at((base, timestamp), (record.offset, record.timestamp), record.key, record.value, |h| {
            h.put_all(record.headers);
        });
    }
    let again = builder.finish_at(base, timestamp);
    assert_eq!(again.iter().count(), batch.len());
    for (one, other) in batch.iter().zip(&again) {
        assert_eq!((one.offset, one.timestamp, one.key, one.value), (other.offset, other.timestamp, other.key, other.value));
        assert!(one.headers.iter().eq(other.headers.iter()));
    }
});
