//! From the frames of one connection to batches for the lanes.

use std::sync::Arc;

use super::hl7::{Field, Header, NotHl7};
use super::stream::READ;
use super::{Ack, Options};
use crate::framing::{Decoder, Malformed};
use crate::ingress::auth::Principal;
use crate::ingress::envelope;
use crate::ingress::upload::MAX_BATCH;
use crate::record::{Batch, BatchBuilder, Name, Partition, partition_of_key};

/// What was taken next.
#[derive(Debug)]
pub(super) enum Taken {
    /// Messages for one lane, with the header of the one message where they are HL7's.
    Messages { lane: Partition, batch: Batch, header: Option<Header> },
    /// A message that is not what it should be, and why.
    Unusable { header: Option<Header>, reason: String },
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) decoder: Decoder,
    builder: BatchBuilder,
    options: Arc<Options>,
    pub(super) principal: Principal,
    lane: Partition,
    lanes: u32,
}

impl Intake {
    /// For a connection whose messages without a key go to `lane`, one of `lanes`.
    pub(super) fn new(
        options: Arc<Options>,
        principal: Principal,
        longest: usize,
        lane: Partition,
        lanes: u32,
    ) -> Self {
        let decoder = Decoder::new(options.framing, longest);
        Self { decoder, builder: BatchBuilder::default(), options, principal, lane, lanes }
    }

    /// Takes out what has come whole: up to `most` messages, one where each has a header of its
    /// own. `None` where nothing has.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where the stream cannot be read on; what came before it was taken before.
    pub(super) fn next(&mut self, most: usize) -> Result<Option<Taken>, Malformed> {
        if self.options.ack == Ack::Hl7 { self.next_of_hl7() } else { self.next_of_any(most) }
    }

    fn next_of_any(&mut self, most: usize) -> Result<Option<Taken>, Malformed> {
        // Headers that each message repeats may make a batch much larger than what was read.
        while self.builder.len() < most && self.builder.size() < MAX_BATCH - READ {
            match self.decoder.next_frame() {
                Ok(Some(body)) => push(&mut self.builder, &self.options, None, None, body),
                Ok(None) => break,
                Err(_) if !self.builder.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        if self.builder.is_empty() {
            return Ok(None);
        }
        Ok(Some(Taken::Messages { lane: self.lane, batch: self.builder.finish(), header: None }))
    }

    fn next_of_hl7(&mut self) -> Result<Option<Taken>, Malformed> {
        let Some(body) = self.decoder.next_frame()? else { return Ok(None) };
        let header = match Header::read(body) {
            Ok(header) => header,
            Err(error) => return Ok(Some(unusable(None, &error))),
        };
        let options = &self.options.hl7;
        let key = (!options.key.is_empty()).then(|| header.joined(&options.key));
        let id = match options.dedupe.then(|| identity(&self.principal, &header, &options.key)) {
            None => None,
            Some(Some(id)) => Some(id),
            Some(None) => {
                let reason = "MSH-10 and the key's fields are too long to tell messages apart by".to_owned();
                return Ok(Some(Taken::Unusable { header: Some(header), reason }));
            }
        };
        push(&mut self.builder, &self.options, key.as_deref(), id.as_deref(), body);
        let lane = key.or_else(|| options.dedupe.then(|| header.control_id().to_vec()));
        let lane = lane.map_or(self.lane, |key| partition_of_key(&key, self.lanes));
        Ok(Some(Taken::Messages { lane, batch: self.builder.finish(), header: Some(header) }))
    }
}

/// What tells a message from all others: its control id, among those of the same key.
fn identity(principal: &Principal, header: &Header, key: &[Field]) -> Option<Arc<str>> {
    let control_id = header.control_id();
    let id = if key.is_empty() { control_id.to_vec() } else { [&header.joined(key), control_id].join(&b'|') };
    envelope::identity(principal, &id)
}

fn unusable(header: Option<Header>, error: &NotHl7) -> Taken {
    Taken::Unusable { header, reason: error.to_string() }
}

fn push(to: &mut BatchBuilder, options: &Options, key: Option<&[u8]>, id: Option<&str>, body: &[u8]) {
    to.push(key, Some(body), |h| {
        if let Some(content_type) = &options.content_type {
            h.put(Name::ContentType, content_type.as_bytes());
        }
        if let Some(id) = id {
            h.put(Name::Id, id.as_bytes());
        }
    });
}
