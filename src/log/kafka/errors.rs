//! What librdkafka's errors mean, in one table; and what follows from it for each kind of call.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::log::{Error, TopicPartition};
use crate::record::Partition;

/// What an error code tells about the thing that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It will never be taken like this: the record, the topic or a permission has to change.
    Refused,
    /// There is no such partition, as far as that broker knows. See [`super::seen`].
    Missing,
    /// Another instance with the same transactional id was initialised later.
    Fenced,
    /// The group has moved on without this member, or this is no member's generation.
    Stale,
    /// The group is sharing out its partitions anew; ask again.
    Rebalancing,
    /// It was not sent: it was taken from the queue, or there was no room in it.
    Unsent,
    /// The broker or the coordinator is away, moving or busy. Whether it did what was asked
    /// depends on when it went.
    Away,
    /// The position is not in the log.
    OutOfRange,
    /// The data or the client's state are not what they should be.
    Broken,
}

/// Codes that are not here mean [`Meaning::Broken`]: nothing is known about them, so the client is
/// made anew and the log is asked what happened.
const TABLE: &[(Code, Meaning)] = &[
    (Code::MessageSizeTooLarge, Meaning::Refused),
    (Code::InvalidMessageSize, Meaning::Refused),
    (Code::MessageBatchTooLarge, Meaning::Refused),
    (Code::InvalidRecord, Meaning::Refused),
    (Code::InvalidTimestamp, Meaning::Refused),
    (Code::PolicyViolation, Meaning::Refused),
    (Code::UnknownPartition, Meaning::Missing),
    (Code::UnknownTopic, Meaning::Missing),
    (Code::UnknownTopicOrPartition, Meaning::Missing),
    (Code::InvalidTopic, Meaning::Refused),
    (Code::TopicAuthorizationFailed, Meaning::Refused),
    (Code::GroupAuthorizationFailed, Meaning::Refused),
    (Code::ClusterAuthorizationFailed, Meaning::Refused),
    (Code::TransactionalIdAuthorizationFailed, Meaning::Refused),
    (Code::UnsupportedForMessageFormat, Meaning::Refused),
    (Code::UnsupportedCompressionType, Meaning::Refused),
    (Code::OffsetMetadataTooLarge, Meaning::Refused),
    (Code::InconsistentGroupProtocol, Meaning::Refused),
    (Code::InvalidSessionTimeout, Meaning::Refused),
    (Code::InvalidTransactionTimeout, Meaning::Refused),
    (Code::Fenced, Meaning::Fenced),
    (Code::ProducerFenced, Meaning::Fenced),
    // A broker that aborted a transaction for its time-out answers with the one or the other.
    (Code::InvalidProducerEpoch, Meaning::Fenced),
    (Code::InvalidTransactionalState, Meaning::Fenced),
    // The transactional id was idle for longer than the broker keeps it.
    (Code::InvalidProducerIdMapping, Meaning::Fenced),
    (Code::IllegalGeneration, Meaning::Stale),
    (Code::UnknownMemberId, Meaning::Stale),
    (Code::FencedInstanceId, Meaning::Stale),
    (Code::AssignmentLost, Meaning::Stale),
    (Code::PollExceeded, Meaning::Stale),
    (Code::RebalanceInProgress, Meaning::Rebalancing),
    (Code::MemberIdRequired, Meaning::Rebalancing),
    (Code::InProgress, Meaning::Rebalancing),
    (Code::QueueFull, Meaning::Unsent),
    (Code::PurgeQueue, Meaning::Unsent),
    (Code::MessageTimedOut, Meaning::Away),
    (Code::PurgeInflight, Meaning::Away),
    (Code::OperationTimedOut, Meaning::Away),
    (Code::TimedOutQueue, Meaning::Away),
    (Code::RequestTimedOut, Meaning::Away),
    (Code::BrokerTransportFailure, Meaning::Away),
    (Code::BrokerDestroy, Meaning::Away),
    (Code::DestroyBroker, Meaning::Away),
    (Code::AllBrokersDown, Meaning::Away),
    (Code::UnknownBroker, Meaning::Away),
    (Code::Resolve, Meaning::Away),
    (Code::SSL, Meaning::Away),
    (Code::Authentication, Meaning::Away),
    (Code::SaslAuthenticationFailed, Meaning::Away),
    (Code::WaitingForCoordinator, Meaning::Away),
    (Code::WaitCache, Meaning::Away),
    (Code::Retry, Meaning::Away),
    (Code::ISRInsufficient, Meaning::Away),
    (Code::LeaderNotAvailable, Meaning::Away),
    (Code::NotLeaderForPartition, Meaning::Away),
    (Code::BrokerNotAvailable, Meaning::Away),
    (Code::ReplicaNotAvailable, Meaning::Away),
    (Code::NetworkException, Meaning::Away),
    (Code::CoordinatorLoadInProgress, Meaning::Away),
    (Code::CoordinatorNotAvailable, Meaning::Away),
    (Code::NotCoordinator, Meaning::Away),
    (Code::NotController, Meaning::Away),
    (Code::NotEnoughReplicas, Meaning::Away),
    (Code::NotEnoughReplicasAfterAppend, Meaning::Away),
    (Code::ConcurrentTransactions, Meaning::Away),
    (Code::TransactionCoordinatorFenced, Meaning::Away),
    (Code::KafkaStorageError, Meaning::Away),
    (Code::FencedLeaderEpoch, Meaning::Away),
    (Code::UnknownLeaderEpoch, Meaning::Away),
    (Code::OffsetNotAvailable, Meaning::Away),
    (Code::PreferredLeaderNotAvailable, Meaning::Away),
    (Code::UnstableOffsetCommit, Meaning::Away),
    (Code::ThrottlingQuotaExceeded, Meaning::Away),
    (Code::ReassignmentInProgress, Meaning::Away),
    (Code::UnknownTopicId, Meaning::Away),
    (Code::RebootstrapRequired, Meaning::Away),
    (Code::OffsetOutOfRange, Meaning::OutOfRange),
    (Code::AutoOffsetReset, Meaning::OutOfRange),
    (Code::NoOffset, Meaning::OutOfRange),
];

pub(super) fn meaning(code: Code) -> Meaning {
    TABLE.iter().find(|(of, _)| *of == code).map_or(Meaning::Broken, |(_, meaning)| *meaning)
}

/// A plain append: it was written, or not, or nobody knows.
pub(super) fn of_append(code: Code, at: &TopicPartition) -> Error {
    match meaning(code) {
        Meaning::Refused | Meaning::Missing => rejected(code, at),
        Meaning::Unsent => Error::Unavailable(format!("{at}: {code}")),
        _ => Error::Unknown(format!("{at}: {code}")),
    }
}

/// A transaction that was not asked to commit: none of it will ever be seen. `at` is what was
/// being written.
pub(super) fn of_transaction(code: Code, at: &TopicPartition) -> Error {
    match meaning(code) {
        Meaning::Refused | Meaning::Missing => rejected(code, at),
        Meaning::Fenced | Meaning::Stale => Error::Fenced(format!("{at}: {code}")),
        _ => Error::Unavailable(format!("{at}: {code}")),
    }
}

/// A transaction that was asked to commit.
pub(super) fn of_end(code: Code, at: &TopicPartition) -> Error {
    match meaning(code) {
        Meaning::Fenced => Error::Fenced(format!("{at}: {code}")),
        _ => Error::Unknown(format!("{at}: {code}")),
    }
}

/// A position that is stored for the group, or asked for. `held` says whether the partition is
/// still this member's, as far as it knows: if so its generation is merely old.
pub(super) fn of_group(code: Code, at: &TopicPartition, held: bool) -> Error {
    match meaning(code) {
        Meaning::Refused | Meaning::Missing => rejected(code, at),
        Meaning::Stale | Meaning::Fenced if !held => Error::Fenced(format!("{at}: {code}")),
        _ => Error::Unavailable(format!("{at}: {code}")),
    }
}

/// A question, which changes nothing.
pub(super) fn of_question(code: Code, at: &TopicPartition) -> Error {
    match meaning(code) {
        Meaning::Refused | Meaning::Missing => rejected(code, at),
        _ => Error::Unavailable(format!("{at}: {code}")),
    }
}

fn rejected(code: Code, at: &TopicPartition) -> Error {
    let reason = match code {
        Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            "there is no such partition; create the topic first".to_owned()
        }
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => {
            "the record is larger than the topic's max.message.bytes; raise it or send smaller records".to_owned()
        }
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => {
            format!("{code}; `seriatim topics plan --acls` says what each role needs")
        }
        _ => code.to_string(),
    };
    Error::Rejected { at: at.clone(), reason }
}

/// The code of an error of the wrapper; where it has none, the error is its own.
pub(super) fn code(error: &KafkaError) -> Code {
    match error {
        KafkaError::Transaction(error) => error.code(),
        KafkaError::AdminOp(code) => *code,
        other => other.rdkafka_error_code().unwrap_or(Code::Unknown),
    }
}

/// The partition by the numbers that librdkafka has for it.
pub(super) fn partition(number: i32) -> Partition {
    // Negative ones stand for "not yet known" and are never those of a record.
    Partition(u32::try_from(number).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::log::Topic;

    fn at() -> TopicPartition {
        Topic::from("orders.input").partition(Partition(3))
    }

    /// One letter an error: what each kind of call makes of the code.
    fn letters(code: Code) -> String {
        let letter = |error: Error| match error {
            Error::Unavailable(_) => 'a',
            Error::Rejected { .. } => 'r',
            Error::Unknown(_) => 'u',
            Error::Fenced(_) => 'f',
            Error::Lost { .. } | Error::Damaged(_) => 'x',
        };
        let at = at();
        let calls = [
            of_append(code, &at),
            of_transaction(code, &at),
            of_end(code, &at),
            of_group(code, &at, true),
            of_group(code, &at, false),
            of_question(code, &at),
        ];
        calls.map(letter).into_iter().collect()
    }

    #[test]
    fn every_code_is_judged_as_written_down() {
        // append, transaction, its end, group while the partition is held, group without it, question
        let refused = "rruRRR".to_lowercase();
        for (codes, expected) in [
            (
                &[
                    Code::MessageSizeTooLarge,
                    Code::InvalidRecord,
                    Code::UnknownPartition,
                    Code::UnknownTopicOrPartition,
                    Code::TopicAuthorizationFailed,
                    Code::TransactionalIdAuthorizationFailed,
                ][..],
                refused.as_str(),
            ),
            (
                &[
                    Code::Fenced,
                    Code::ProducerFenced,
                    Code::InvalidProducerEpoch,
                    Code::InvalidTransactionalState,
                    Code::InvalidProducerIdMapping,
                ],
                "uffafa",
            ),
            (&[Code::IllegalGeneration, Code::UnknownMemberId, Code::FencedInstanceId, Code::AssignmentLost], "ufuafa"),
            (&[Code::RebalanceInProgress, Code::MemberIdRequired], "uauaaa"),
            (&[Code::QueueFull, Code::PurgeQueue], "aauaaa"),
            (
                &[
                    Code::MessageTimedOut,
                    Code::OperationTimedOut,
                    Code::RequestTimedOut,
                    Code::BrokerTransportFailure,
                    Code::NotCoordinator,
                    Code::CoordinatorLoadInProgress,
                    Code::ConcurrentTransactions,
                    Code::NotEnoughReplicas,
                    Code::NotEnoughReplicasAfterAppend,
                    Code::PurgeInflight,
                ],
                "uauaaa",
            ),
            (&[Code::Unknown, Code::BadMessage, Code::OutOfOrderSequenceNumber, Code::Fatal, Code::State], "uauaaa"),
        ] {
            for code in codes {
                assert_eq!(letters(*code), expected, "{code:?}");
            }
        }
    }

    #[test]
    fn no_code_stands_twice_in_the_table() {
        let codes: BTreeSet<i32> = TABLE.iter().map(|(code, _)| *code as i32).collect();
        assert_eq!(codes.len(), TABLE.len());
    }

    #[test]
    fn nothing_that_may_have_been_written_is_called_unwritten() {
        for (code, meaning) in TABLE {
            let append = of_append(*code, &at());
            let certain = matches!(meaning, Meaning::Refused | Meaning::Missing | Meaning::Unsent);
            assert_eq!(matches!(append, Error::Unknown(_)), !certain, "{code:?}");
            assert!(matches!(of_end(*code, &at()), Error::Unknown(_) | Error::Fenced(_)), "{code:?}");
        }
    }
}
