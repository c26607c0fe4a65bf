//! Records of the work topic: a record of the input, with what an answer to it has to repeat.

use crate::record::{BatchBuilder, Name, RecordRef, ResultHeaders, Round, Source, Status};

/// Adds the input record to a batch for the work topic. Of the headers that start with `seriatim-`
/// only those stay that a worker has a use for; the rest would be repeated in its answer.
pub(super) fn write(to: &mut BatchBuilder, record: &RecordRef<'_>, source: Source, round: Round, check: u32) {
    let headers = ResultHeaders { round, status: None, ..ResultHeaders::new(source, check, Status::Done) };
    to.push(record.key, record.value, |to| {
        for (name, value) in record.headers.iter().filter(|(name, _)| is_passed_on(name)) {
            to.put_named(name, value);
        }
        headers.encode(to);
    });
}

fn is_passed_on(name: &[u8]) -> bool {
    !name.starts_with(b"seriatim-") || [Name::Destination, Name::Batch].iter().any(|n| n.as_str().as_bytes() == name)
}
