//! Processors that need nothing outside of this process.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

use super::processor::{Answer, Failure, Job, Output, Processor};

/// Answers each message with itself: body, content type and attributes of a `CloudEvent`. For trying out and measuring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Processor for Echo {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        ready(Ok(echo(&job))).boxed()
    }

    fn at_once(&self, job: &Job) -> Option<Result<Answer, Failure>> {
        Some(Ok(echo(job)))
    }
}

/// Echoes each message after a pause, as a worker does that waits for something else.
#[derive(Clone, Copy, Debug)]
pub struct Sleep(pub Duration);

impl Processor for Sleep {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        tokio::time::sleep(self.0).map(move |()| Ok(echo(&job))).boxed()
    }
}

fn echo(job: &Job) -> Answer {
    let attributes = job.headers().filter(|(name, _)| name.starts_with(b"ce_"));
    let headers = attributes.map(|(name, value)| (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)));
    let content_type = job.shared_content_type();
    let output = Output { content_type, headers: headers.collect(), ..Output::new(job.shared_body()) };
    Answer::One(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Name, Offset, Partition, Source, Timestamp};

    #[test]
    fn an_echo_keeps_the_attributes_of_an_event() {
        let mut builder = BatchBuilder::default();
        builder.push(Some(b"k"), Some(b"{}"), |h| {
            h.put(Name::ContentType, b"application/json");
            h.put(Name::TraceParent, b"00-a-b-01");
            h.put_named(b"ce_id", b"7");
            h.put_named(b"ce_subject", "a \u{e4}".as_bytes());
            h.put_named(b"x-other", b"1");
        });
        let source = Source::from((Partition(3), Offset(42)));
        let Answer::One(output) = echo(&Job::new(source, 1, Timestamp(0), builder.finish())) else {
            unreachable!("an echo has one output");
        };
        let headers: Vec<(&[u8], &[u8])> = output.headers.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(headers, [(&b"ce_id"[..], &b"7"[..]), (b"ce_subject", "a \u{e4}".as_bytes())]);
        assert_eq!((&output.body[..], output.content_type.as_deref()), (&b"{}"[..], Some(&b"application/json"[..])));
    }
}
