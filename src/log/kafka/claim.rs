//! Claiming a control partition: the steps that precede every initialisation of a transactional
//! producer, so that a zombie that wakes up does not fence the living owner.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer as _, ConsumerGroupMetadata};
use rdkafka::producer::Producer as _;

use super::asker::Asker;
use super::client::Properties;
use super::errors::{code, of_group, of_transaction};
use super::native::{Consumer, Polled, Producer};
use super::standing::{Claiming, Standing};
use super::writer::CALL;
use crate::log::{Error, TopicPartition};

/// What a claim was made with.
pub(super) struct Claimed {
    pub(super) control: TopicPartition,
    /// As it was when the claim began; what is committed with it is refused once the group has
    /// moved on.
    pub(super) metadata: ConsumerGroupMetadata,
    generation: (i32, String),
    transactional_id: String,
    member: Weak<Polled<Consumer>>,
    standing: Arc<Standing>,
    pub(super) asker: Arc<Asker>,
    properties: Properties,
}

impl Claimed {
    /// Captures the member's generation. Does not block.
    pub(super) fn capture(
        control: &TopicPartition,
        member: &Weak<Polled<Consumer>>,
        standing: &Arc<Standing>,
        asker: &Arc<Asker>,
        properties: &Properties,
    ) -> Result<Self, Error> {
        let consumer = member.upgrade().ok_or_else(|| gone(control))?;
        let generation = consumer.generation();
        let metadata = consumer.client.group_metadata();
        let joining = || Error::Unavailable(format!("{control}: the group is sharing out its partitions"));
        let metadata = metadata.filter(|_| generation.0 >= 0).ok_or_else(joining)?;
        if consumer.generation() != generation {
            return Err(joining());
        }
        Ok(Self {
            control: control.clone(),
            metadata,
            generation,
            transactional_id: format!("{}.{}", standing.group, control.partition),
            member: member.clone(),
            standing: Arc::clone(standing),
            asker: Arc::clone(asker),
            properties: properties.clone(),
        })
    }

    /// What is claimed is not let go of until what this returns is dropped.
    pub(super) fn under_way(&self) -> Claiming<'_> {
        self.standing.claiming()
    }

    /// Has whoever holds the partition claim it again.
    pub(super) fn again(&self) {
        self.standing.again(&self.control);
    }

    /// No request of the claim's producer is sent a second time before this.
    pub(super) fn earliest_retry(&self) -> Duration {
        self.properties.earliest_retry()
    }

    /// The group as it was captured, and the partition this member's in it.
    fn check(&self, consumer: &Polled<Consumer>) -> Result<(), Error> {
        self.standing.check(&self.control)?;
        if consumer.generation() == self.generation {
            return Ok(());
        }
        Err(Error::Unavailable(format!("{}: the group has shared out its partitions since", self.control)))
    }
}

fn gone(control: &TopicPartition) -> Error {
    Error::Fenced(format!("{control}: the member has left the group"))
}

/// Confirms the claim with the broker, then makes the producer that fences all before it. Blocks,
/// for twice [`CALL`] or a little more.
pub(super) fn claim(claimed: &Claimed) -> Result<Polled<Producer>, Error> {
    let control = &claimed.control;
    let consumer = claimed.member.upgrade().ok_or_else(|| gone(control))?;
    claimed.check(&consumer)?;
    // Only a member of the group's present generation may store a position.
    let confirmed = consumer.client.commit(&position_of(control), CommitMode::Sync);
    let of_group = |code, at: &TopicPartition| of_group(code, at, claimed.standing.check(at).is_ok());
    confirmed.map_err(|e| claimed.asker.seen.judge(of_group, code(&e), control))?;
    claimed.check(&consumer)?;
    let producer = claimed.properties.committing(&claimed.transactional_id)?;
    // Once a broker has answered, the coordinator is found at once; else the library looks again
    // after half a second. Where none answers, the next call says so.
    drop(producer.client.client().fetch_metadata(Some(control.topic.as_str()), CALL));
    match producer.client.init_transactions(CALL) {
        Ok(()) => Ok(producer),
        Err(error) => Err(claimed.asker.seen.judge(of_transaction, producer.fatal().unwrap_or(code(&error)), control)),
    }
}

/// What is stored for a control partition when it is claimed. Its value means nothing: the broker
/// takes it only from a member of the generation that claims.
pub(super) fn position_of(control: &TopicPartition) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(1);
    let number = i32::try_from(control.partition.0).unwrap_or(i32::MAX);
    let mut element = list.add_partition(control.topic.as_str(), number);
    element.set_offset(rdkafka::Offset::Offset(0)).expect("an absolute offset is valid");
    list
}
