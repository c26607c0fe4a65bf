//! What a partition of an embedded log holds, where that is text.

use seriatim::log::embedded::Embedded;
use seriatim::log::{Log as _, Topic, TopicPartition, Visibility};
use seriatim::record::{Offset, Partition};

/// The partition that is written to.
pub(crate) fn partition() -> TopicPartition {
    Topic::from("topic").partition(Partition(0))
}

/// Everything in it that is durable.
pub(crate) async fn values(log: &Embedded) -> Vec<String> {
    let end = log.bounds(&partition()).await.expect("it exists").stable_end;
    let mut reader = log.read(&partition(), Offset::ZERO, Visibility::Durable, 1000).await.expect("it exists");
    let mut found = Vec::new();
    while reader.position() < end {
        let fetched = reader.next().await.expect("nothing was removed");
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        found.extend(fetched.batches.iter().flatten().map(|record| text(record.value)));
    }
    found
}
