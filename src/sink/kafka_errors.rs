//! Floor 3: the one table from a Kafka error to what becomes of the record: tried again, sent again without its
//! bodies, refused for good, or sent again by a new client. Everything that an operator or time can mend is tried
//! again (an unknown topic, missing rights, a leader that moves); what the record itself is at fault for is not.

use rdkafka::types::RDKafkaErrorCode as Code;

use super::status::ErrorKind;

/// What becomes of a record, or of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes out again, later.
    Retry(ErrorKind),
    /// It goes out again without its bodies.
    TooLarge,
    /// It never will be taken.
    Reject,
    /// The client is of no more use; its records go out again by a new one.
    Fault,
    /// The client's own queue is full: later, and no trouble at all.
    Full,
    /// The client was told to let go of it.
    Purged,
}

/// Sorts an error.
pub(super) fn verdict(code: Code) -> Verdict {
    match code {
        Code::QueueFull => Verdict::Full,
        Code::PurgeQueue | Code::PurgeInflight => Verdict::Purged,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => Verdict::TooLarge,
        Code::Fatal
        | Code::Fenced
        | Code::ProducerFenced
        | Code::OutOfOrderSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping
        | Code::UnknownProducerId
        | Code::GaplessGuarantee
        | Code::Inconsistent
        | Code::State => Verdict::Fault,
        other => retriable(other).map_or(Verdict::Reject, Verdict::Retry),
    }
}

/// The kind of trouble that passes.
fn retriable(code: Code) -> Option<ErrorKind> {
    Some(match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId => {
            ErrorKind::UnknownTopic
        }
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SecurityDisabled => ErrorKind::Authorization,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => ErrorKind::Authentication,
        Code::SSL => ErrorKind::Tls,
        Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::TimedOutQueue
        | Code::ISRInsufficient
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::ThrottlingQuotaExceeded => ErrorKind::Timeout,
        Code::BrokerTransportFailure
        | Code::BrokerDestroy
        | Code::DestroyBroker
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::CriticalSystemResource
        | Code::NodeUpdate
        | Code::UnknownBroker
        | Code::Retry
        | Code::InProgress
        | Code::WaitCache
        | Code::Interrupted
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NetworkException
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotController
        | Code::KafkaStorageError
        | Code::LogDirNotFound
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::StaleBrokerEpoch
        | Code::ListenerNotFound
        | Code::ReassignmentInProgress
        | Code::InvalidMessage
        | Code::RebootstrapRequired => ErrorKind::Transport,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_retried_slimmed_rejected_or_a_fault() {
        assert_eq!(verdict(Code::MessageTimedOut), Verdict::Retry(ErrorKind::Timeout));
        assert_eq!(verdict(Code::NotLeaderForPartition), Verdict::Retry(ErrorKind::Transport));
        assert_eq!(verdict(Code::UnknownTopic), Verdict::Retry(ErrorKind::UnknownTopic));
        assert_eq!(verdict(Code::TopicAuthorizationFailed), Verdict::Retry(ErrorKind::Authorization));
        assert_eq!(verdict(Code::MessageSizeTooLarge), Verdict::TooLarge);
        assert_eq!(verdict(Code::InvalidRecord), Verdict::Reject);
        assert_eq!(verdict(Code::PolicyViolation), Verdict::Reject);
        assert_eq!(verdict(Code::Fatal), Verdict::Fault);
        assert_eq!(verdict(Code::QueueFull), Verdict::Full);
        assert_eq!(verdict(Code::PurgeInflight), Verdict::Purged);
    }
}
