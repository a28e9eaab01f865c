//! Which errors of JetStream's API pass by themselves.

use async_nats::jetstream::{Error, ErrorCode};

use crate::error::ErrorKind;

/// Errors of a cluster that elects a leader, starts, or has not decided yet. Source: nats-server, `errors.json`. All others
/// are for somebody to mend.
const PASSING: [ErrorCode; 9] = [
    ErrorCode::CLUSTER_INCOMPLETE,
    ErrorCode::CLUSTER_NOT_ASSIGNED,
    ErrorCode::CLUSTER_NOT_AVAILABLE,
    ErrorCode::CLUSTER_NOT_LEADER,
    ErrorCode::STREAM_OFFLINE,
    ErrorCode::CONSUMER_OFFLINE,
    ErrorCode::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY,
    ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT,
    ErrorCode::RAFT_GENERAL,
];

/// What kind of error it is that JetStream answers with.
pub(super) fn kind(error: &Error) -> ErrorKind {
    if PASSING.contains(&error.error_code()) { ErrorKind::NatsUnavailable } else { ErrorKind::StreamSetup }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u64) -> ErrorKind {
        let text = format!(r#"{{"code":503,"err_code":{code},"description":""}}"#);
        kind(&serde_json::from_str(&text).expect("an answer"))
    }

    #[test]
    fn what_a_cluster_says_while_it_elects_passes() {
        for code in [10_008, 10_009, 10_118, 10_119, 10_163, 10_164] {
            assert_eq!(answer(code), ErrorKind::NatsUnavailable, "{code}");
        }
    }

    #[test]
    fn what_somebody_has_to_mend_does_not() {
        // resources, JetStream switched off, a full stream, a sealed one, a missing one, and what nobody knows
        for code in [10_023, 10_047, 10_076, 10_077, 10_109, 10_059, 99_999] {
            assert_eq!(answer(code), ErrorKind::StreamSetup, "{code}");
        }
    }
}
