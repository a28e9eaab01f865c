//! What happens after an error: the one place that decides it, as one table and one match.
//!
//! Numbers are those of Microsoft's "Database engine events and errors", and of "Troubleshoot transient
//! connection errors in SQL Database". What is not listed is [`Disposition::Stop`]: never a silent retry, and
//! never an event's fault. Keep every list narrow.

use std::io;

use crate::error::{Error, ErrorKind, Phase};

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// The whole batch again on a new connection, with backoff, without end.
    Retry,
    /// As [`Disposition::Retry`], and the server asks for less at once.
    SlowDown,
    /// As [`Disposition::Retry`], and the server cannot take as much in one transaction.
    SmallerBatch,
    /// The table is not what it was: read its shape again, then retry.
    ReloadShape,
    /// A row is bad.
    Bisect,
    /// The batch may or may not be committed.
    OutcomeUnknown,
    /// Somebody else has moved the partition's progress: read where it is, and go on from there.
    StartAgain,
    /// The login was refused: once again with a fresh secret or token.
    Reauthenticate,
    /// Somebody has to mend something: not ready, say why, and try again slowly.
    Stop,
}

impl Disposition {
    /// A stable name for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Disposition::Retry => "retry",
            Disposition::SlowDown => "slow_down",
            Disposition::SmallerBatch => "smaller_batch",
            Disposition::ReloadShape => "reload_shape",
            Disposition::Bisect => "bisect",
            Disposition::OutcomeUnknown => "outcome_unknown",
            Disposition::StartAgain => "start_again",
            Disposition::Reauthenticate => "reauthenticate",
            Disposition::Stop => "stop",
        }
    }
}

/// What it means that a unique index of the table holds the key of a row already: that follows from how rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Duplicates {
    /// Nobody wrote the row before, as far as is known, and such a table is refused: somebody has changed it.
    #[default]
    Stop,
    /// Rows are written by key, and somebody else was quicker with this one: the next try finds it.
    Retry,
    /// Each event is written once, so the event itself repeats a key.
    Bisect,
}

impl From<Duplicates> for Disposition {
    fn from(duplicates: Duplicates) -> Self {
        match duplicates {
            Duplicates::Stop => Disposition::Stop,
            Duplicates::Retry => Disposition::Retry,
            Duplicates::Bisect => Disposition::Bisect,
        }
    }
}

/// Thrown by this program's own commit statement when there is no transaction to commit any more. From the range that
/// is free for applications, from 50,000 on.
pub const TRANSACTION_GONE: u32 = 51_317;

/// Thrown by this program's own merge by key when it was not its turn within its patience, or when the wait was a deadlock.
pub const TABLE_BUSY: u32 = 51_318;

/// Thrown by this program's own commit where the partition's progress is not where the batch begins, or may not go where
/// it ends.
pub const SUPERSEDED: u32 = 51_319;

/// Thrown where partitions are to be changed, and not all are at the barrier.
pub const NOT_AT_BARRIER: u32 = 51_320;

/// The login failed; in a session, that its token has ended.
pub const LOGIN_FAILED: u32 = 18_456;

/// A session's token has ended: what Azure SQL says at times in place of [`LOGIN_FAILED`]. In no list of Microsoft's; the text
/// in `sys.messages` says so (github.com/dotnet/SqlClient/issues/2792).
pub const TOKEN_ENDED: u32 = 37_396;

/// What a server error number means here.
#[derive(Debug, Clone, Copy)]
struct Rule {
    number: u32,
    disposition: Disposition,
    meaning: &'static str,
}

const fn rule(number: u32, disposition: Disposition, meaning: &'static str) -> Rule {
    Rule { number, disposition, meaning }
}

/// Sorted by number: a test says so, and that none is there twice.
const RULES: &[Rule] = {
    use Disposition::{Bisect, Reauthenticate, ReloadShape, Retry, SlowDown, SmallerBatch, StartAgain, Stop};
    &[
        rule(207, Stop, "a column is missing"),
        rule(208, Stop, "the table is missing, or the user may not see it"),
        rule(220, Bisect, "a number is too large for its column"),
        rule(229, Stop, "a permission is missing"),
        rule(233, Bisect, "the server ended the connection over the data it was sent"),
        rule(241, Bisect, "a text is no date or time"),
        rule(242, Bisect, "a date or time is out of range"),
        rule(245, Bisect, "a text could not be converted"),
        rule(262, Stop, "the permission to create a table is missing"),
        rule(515, Bisect, "a value is missing where the column allows none"),
        rule(547, Bisect, "a check or foreign key constraint is violated"),
        rule(701, SmallerBatch, "the server is out of memory for this statement"),
        rule(916, Stop, "the login has no user in this database"),
        rule(1088, Stop, "the table is missing, or ALTER on it is"),
        rule(1105, SlowDown, "the database is full"),
        rule(1204, SmallerBatch, "the server is out of locks"),
        rule(1205, Retry, "deadlock victim"),
        rule(1222, Retry, "lock request timed out"),
        rule(1946, Bisect, "a key is longer than its index allows"),
        // As `Duplicates` says.
        rule(2601, Stop, "a unique index already holds this key"),
        rule(2627, Stop, "a unique or primary key constraint already holds this key"),
        rule(2628, Bisect, "a value is too long for its column"),
        rule(2760, Stop, "the schema does not exist, or ALTER on it is missing"),
        rule(3902, Retry, "commit without a transaction: the server had ended it"),
        rule(3903, Retry, "rollback without a transaction: the server had ended it"),
        rule(3906, Retry, "the database is read-only, as it is during a failover"),
        rule(3930, Retry, "the transaction is doomed"),
        rule(3960, Retry, "snapshot isolation update conflict"),
        rule(3971, Retry, "the server failed to resume the transaction"),
        rule(3980, Retry, "the request was aborted with its batch"),
        rule(3989, Retry, "the request may not start in this transaction"),
        rule(3998, Retry, "the transaction was doomed at the end of the batch"),
        // In the failover window 4060 comes with a retried login; out of it the name is wrong.
        rule(4060, Stop, "the database does not exist, or the login may not open it (CONNECT is missing)"),
        rule(4221, Retry, "the replica is not ready for logins"),
        rule(4815, Bisect, "a value has a length that its column does not allow"),
        rule(
            4816,
            ReloadShape,
            "a column has another type than when its shape was read, or is nvarchar of 2,001 to 4,000 characters, \
             which the driver announces wrongly",
        ),
        rule(4819, ReloadShape, "the rows are not in the order that was announced"),
        rule(4834, Stop, "the permission to load in bulk is missing"),
        rule(4891, ReloadShape, "the table changed while it was loaded"),
        rule(4896, Bisect, "a value is not one of its column's type"),
        rule(7339, Bisect, "a value is not one of its column's type"),
        rule(8114, Bisect, "a value could not be converted"),
        rule(8115, Bisect, "a number is too large for its column"),
        rule(8152, Bisect, "a value is too long for its column"),
        rule(8645, SmallerBatch, "timed out waiting for memory"),
        rule(9002, SlowDown, "the transaction log is full"),
        // As numbers that the server sends: bad row data ended the load. As socket codes they arrive as I/O errors.
        rule(10053, Bisect, "the server ended the connection over the data it was sent"),
        rule(10054, Bisect, "the server ended the connection over the data it was sent"),
        rule(10928, SlowDown, "a resource limit of the database is reached"),
        rule(10929, SlowDown, "the server is too busy"),
        rule(LOGIN_FAILED, Reauthenticate, "the login failed"),
        rule(TOKEN_ENDED, Retry, "the session's access token has ended"),
        rule(40197, Retry, "the service is being moved or upgraded"),
        rule(40501, SlowDown, "the service is busy"),
        rule(40544, SlowDown, "the database has reached its size quota"),
        rule(40549, SmallerBatch, "the transaction took too long"),
        rule(40550, SmallerBatch, "the transaction took too many locks"),
        rule(40551, SmallerBatch, "the transaction used too much of tempdb"),
        rule(40552, SmallerBatch, "the transaction used too much of the log"),
        rule(40553, SmallerBatch, "the transaction used too much memory"),
        rule(40613, Retry, "the database is not available just now"),
        rule(40615, Stop, "the server's firewall refuses this address"),
        rule(49918, SlowDown, "not enough resources"),
        rule(49919, SlowDown, "too many create or update operations"),
        rule(49920, SlowDown, "too many operations"),
        rule(TRANSACTION_GONE, Retry, "the server had rolled the transaction back before its commit"),
        rule(TABLE_BUSY, Retry, "others were writing the same table by key all the while"),
        rule(SUPERSEDED, StartAgain, "the partition's progress is not where this batch begins"),
    ]
};

fn rule_for(number: u32) -> Option<&'static Rule> {
    RULES.binary_search_by_key(&number, |rule| rule.number).ok().map(|index| &RULES[index])
}

/// What a server error number means, in a few words; `None` for one that this program does not know.
pub fn meaning(number: u32) -> Option<&'static str> {
    rule_for(number).map(|rule| rule.meaning)
}

/// Whether the server asks for less with this error, whatever becomes of the batch because of it.
pub fn asks_for_less(error: &Error) -> bool {
    let rule = error.number().and_then(rule_for);
    rule.is_some_and(|rule| rule.disposition == Disposition::SlowDown)
}

/// Whether the server's text for this number names objects only (tables, columns, logins), never a row's value.
pub fn names_objects_only(number: u32) -> bool {
    matches!(
        number,
        207 | 208 | 229 | 262 | 916 | 1088 | 1105 | 2760 | 4060 | 4834 | 9002 | 18456 | 40613 | 40615
    )
}

/// The numbers of a duplicate key.
pub const DUPLICATE_KEY: [u32; 2] = [2601, 2627];

/// Decides what happens after `error`, where rows are written so that a duplicate key means `duplicates`.
pub fn disposition(error: &Error, duplicates: Duplicates) -> Disposition {
    match (&error.kind, error.phase) {
        // From class 20 on the server ends the connection, and no longer says what became of the commit.
        (
            ErrorKind::Server { class: 20.., .. } | ErrorKind::SqlIo(_) | ErrorKind::SqlProtocol,
            Phase::Commit,
        ) => Disposition::OutcomeUnknown,
        // What Azure SQL says of its own troubles, and not of the transaction, leaves open what became of a commit.
        (ErrorKind::Server { number: 40_000..50_000, .. }, Phase::Commit) => Disposition::OutcomeUnknown,
        (ErrorKind::Server { number: TOKEN_ENDED, .. }, Phase::Connect) => Disposition::Reauthenticate,
        // Not of a login, but of a session whose token has ended while it was used: the next one has another.
        (ErrorKind::Server { number: LOGIN_FAILED | TOKEN_ENDED, .. }, Phase::Commit) => {
            Disposition::OutcomeUnknown
        }
        (ErrorKind::Server { number: LOGIN_FAILED, .. }, phase) if phase != Phase::Connect => {
            Disposition::Retry
        }
        (ErrorKind::Server { number, .. }, _) if DUPLICATE_KEY.contains(number) => duplicates.into(),
        (ErrorKind::Server { number, .. }, _) => {
            rule_for(*number).map_or(Disposition::Stop, |rule| rule.disposition)
        }
        // A name that does not resolve, or an address that is none, is mended by a person.
        (ErrorKind::SqlIo(io::ErrorKind::InvalidInput), _) => Disposition::Stop,
        // The server may be unable to take so much at once; where it is away instead, less does no harm.
        (ErrorKind::SqlIo(io::ErrorKind::TimedOut), Phase::Load) => Disposition::SmallerBatch,
        (ErrorKind::SqlIo(_), _) => Disposition::Retry,
        (ErrorKind::BulkInput, _) => Disposition::Bisect,
        (ErrorKind::NatsUnavailable | ErrorKind::CredentialUnavailable, _) => Disposition::Retry,
        (
            ErrorKind::SqlTls
            | ErrorKind::SqlProtocol
            | ErrorKind::RowCount { .. }
            | ErrorKind::RowsRefused { .. }
            | ErrorKind::TableShape
            | ErrorKind::Credential
            | ErrorKind::NatsRefused
            | ErrorKind::StreamSetup
            | ErrorKind::DecoderFailed
            | ErrorKind::Internal,
            _,
        ) => Disposition::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disposition(error: &Error) -> Disposition {
        super::disposition(error, Duplicates::Stop)
    }

    fn server(phase: Phase, number: u32, class: u8) -> Error {
        Error::new(phase, ErrorKind::Server { number, class }, "")
    }

    #[test]
    fn rules_are_sorted_and_unique() {
        assert!(RULES.is_sorted_by(|a, b| a.number < b.number));
    }

    #[test]
    fn an_unknown_number_stops() {
        assert_eq!(disposition(&server(Phase::Load, 99_999, 16)), Disposition::Stop);
    }

    #[test]
    fn each_group_of_the_table_has_its_disposition() {
        for (number, expected) in [
            (1205, Disposition::Retry),
            (40613, Disposition::Retry),
            (40501, Disposition::SlowDown),
            (9002, Disposition::SlowDown),
            (8645, Disposition::SmallerBatch),
            (4891, Disposition::ReloadShape),
            (547, Disposition::Bisect),
            (1946, Disposition::Bisect),
            (TABLE_BUSY, Disposition::Retry),
            (10054, Disposition::Bisect),
            (208, Disposition::Stop),
        ] {
            assert_eq!(disposition(&server(Phase::Load, number, 16)), expected, "{number}");
        }
    }

    #[test]
    fn a_login_that_fails_is_tried_once_more_and_a_session_whose_token_ends_is_an_ordinary_loss() {
        for (phase, expected) in [
            (Phase::Connect, Disposition::Reauthenticate),
            (Phase::Load, Disposition::Retry),
            (Phase::Target, Disposition::Retry),
            (Phase::Progress, Disposition::Retry),
            (Phase::Commit, Disposition::OutcomeUnknown),
        ] {
            assert_eq!(disposition(&server(phase, LOGIN_FAILED, 14)), expected, "{phase}");
            assert_eq!(disposition(&server(phase, TOKEN_ENDED, 16)), expected, "{phase}");
        }
        let none = |kind| disposition(&Error::new(Phase::Connect, kind, ""));
        assert_eq!(none(ErrorKind::CredentialUnavailable), Disposition::Retry);
        assert_eq!(none(ErrorKind::Credential), Disposition::Stop);
    }

    #[test]
    fn a_connection_lost_during_commit_leaves_the_outcome_unknown() {
        let lost = |phase| Error::new(phase, ErrorKind::SqlIo(io::ErrorKind::ConnectionReset), "");
        assert_eq!(disposition(&lost(Phase::Commit)), Disposition::OutcomeUnknown);
        assert_eq!(disposition(&lost(Phase::Load)), Disposition::Retry);
        assert_eq!(disposition(&server(Phase::Commit, 40197, 20)), Disposition::OutcomeUnknown);
        assert_eq!(disposition(&server(Phase::Commit, 40197, 17)), Disposition::OutcomeUnknown);
        assert_eq!(disposition(&server(Phase::Load, 40197, 17)), Disposition::Retry);
    }

    #[test]
    fn a_server_that_asks_for_less_does_so_in_every_phase() {
        for (number, expected) in [(40501, true), (10928, true), (49918, true), (40613, false), (1205, false)]
        {
            for phase in [Phase::Connect, Phase::Load, Phase::Commit] {
                assert_eq!(asks_for_less(&server(phase, number, 17)), expected, "{number} {phase:?}");
            }
        }
        assert!(!asks_for_less(&Error::new(Phase::Load, ErrorKind::SqlProtocol, "")));
    }

    #[test]
    fn a_load_that_takes_too_long_is_tried_with_less() {
        let late = |phase| Error::new(phase, ErrorKind::SqlIo(io::ErrorKind::TimedOut), "");
        assert_eq!(disposition(&late(Phase::Load)), Disposition::SmallerBatch);
        assert_eq!(disposition(&late(Phase::Connect)), Disposition::Retry);
        assert_eq!(disposition(&late(Phase::Commit)), Disposition::OutcomeUnknown);
    }

    #[test]
    fn a_definite_refusal_of_the_commit_is_not_unknown() {
        assert_eq!(disposition(&server(Phase::Commit, 3930, 16)), Disposition::Retry);
    }

    #[test]
    fn a_duplicate_key_means_what_the_way_of_writing_makes_of_it() {
        for number in DUPLICATE_KEY {
            for (duplicates, expected) in [
                (Duplicates::Stop, Disposition::Stop),
                (Duplicates::Retry, Disposition::Retry),
                (Duplicates::Bisect, Disposition::Bisect),
            ] {
                assert_eq!(
                    super::disposition(&server(Phase::Load, number, 14), duplicates),
                    expected,
                    "{number}"
                );
            }
        }
    }

    #[test]
    fn what_the_server_counts_differently_stops() {
        let error = Error::new(Phase::Load, ErrorKind::RowCount { sent: 2, counted: 1 }, "");
        assert_eq!(disposition(&error), Disposition::Stop);
    }
}
