//! SQL Server's own class, state and words for the errors that a script names by their number.

use super::super::error::SqlError;

/// An error as a script asks for it. What is `None` is taken from SQL Server's list; of a number that is not
/// in it, the class is 16 and the state 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// The error's number.
    pub number: i32,
    /// Its class, from 11 on; the connection ends with one of 20 or more.
    pub class: Option<u8>,
    /// Its state.
    pub state: Option<u8>,
    /// Its text.
    pub message: Option<String>,
}

impl From<i32> for ServerError {
    fn from(number: i32) -> Self {
        Self { number, class: None, state: None, message: None }
    }
}

impl ServerError {
    pub(super) fn to_sql_error(&self, database: &str) -> SqlError {
        let (class, state, message) = known(self.number, database);
        SqlError::new(
            self.number,
            self.class.unwrap_or(class),
            self.state.unwrap_or(state),
            self.message.clone().unwrap_or(message),
        )
    }
}

/// Whether the server ends the connection with this error, beside those of class 20 and more: the service was
/// reconfigured, or the session was terminated.
pub(in super::super) fn ends_session(error: &SqlError) -> bool {
    error.class >= 20 || matches!(error.number, 40197 | 40613 | 40549..=40553)
}

/// Classes: Microsoft Learn, "Database Engine events and errors" and, for what Azure SQL adds, "Troubleshoot
/// connectivity issues and other errors".
fn known(number: i32, database: &str) -> (u8, u8, String) {
    let (class, state, message) = match number {
        229 => (14, 5, "The INSERT permission was denied on the object."),
        262 => (14, 1, "Permission denied in the database."),
        615 => (21, 1, "Could not find the database in the list of databases."),
        701 => (17, 123, "There is insufficient system memory in resource pool 'default' to run this query."),
        926 => (14, 1, "The database cannot be opened. It has been marked SUSPECT by recovery."),
        1105 => {
            return (
                17,
                2,
                format!(
                    "Could not allocate space for an object in database '{database}' because the 'PRIMARY' filegroup is full."
                ),
            );
        }
        1204 => (
            19,
            4,
            "The instance of the SQL Server Database Engine cannot obtain a LOCK resource at this time.",
        ),
        1205 => (
            13,
            51,
            "Transaction was deadlocked on lock resources with another process and has been chosen as the deadlock victim. Rerun the transaction.",
        ),
        1222 => (16, 51, "Lock request time out period exceeded."),
        3906 => {
            return (
                16,
                2,
                format!("Failed to update database \"{database}\" because the database is read-only."),
            );
        }
        4060 => {
            return (
                11,
                1,
                format!("Cannot open database \"{database}\" requested by the login. The login failed."),
            );
        }
        4221 => (
            16,
            1,
            "Login to read-secondary failed due to long wait on 'HADR_DATABASE_WAIT_FOR_TRANSITION_TO_VERSIONING'.",
        ),
        8645 => (
            17,
            1,
            "A timeout occurred while waiting for memory resources to execute the query in resource pool 'default'. Rerun the query.",
        ),
        9002 => {
            return (
                17,
                4,
                format!("The transaction log for database '{database}' is full due to 'ACTIVE_TRANSACTION'."),
            );
        }
        10928 => (20, 1, "Resource ID: 2. The session limit for the database has been reached."),
        10929 => (
            20,
            1,
            "Resource ID: 2. The session minimum guarantee was exceeded, and the server is currently too busy to support more requests for this database.",
        ),
        18456 => (14, 1, "Login failed."),
        40197 => (17, 1, "The service has encountered an error processing your request. Please try again."),
        40501 => (20, 1, "The service is currently busy. Retry the request after 10 seconds."),
        40544 => (
            20,
            1,
            "The database has reached its size quota. Partition or delete data, drop indexes, or consult the documentation for possible resolutions.",
        ),
        40549 => (16, 1, "Session is terminated because you have a long-running transaction."),
        40550 => (16, 1, "The session has been terminated because it has acquired too many locks."),
        40551 => (16, 1, "The session has been terminated because of excessive TEMPDB usage."),
        40552 => (16, 1, "The session has been terminated because of excessive transaction log space usage."),
        40553 => (16, 1, "The session has been terminated because of excessive memory usage."),
        40613 => {
            return (
                17,
                1,
                format!(
                    "Database '{database}' on server 'local-stack' is not currently available. Please retry the connection later."
                ),
            );
        }
        40615 => (
            14,
            1,
            "Cannot open server requested by the login. The client is not allowed to access the server.",
        ),
        49918..=49920 => (
            16,
            1,
            "Cannot process request. Not enough resources to process request. The service is currently busy. Please retry the request later.",
        ),
        // the data of a row
        515 => {
            (16, 2, "Cannot insert the value NULL into a column; column does not allow nulls. INSERT fails.")
        }
        547 => (16, 0, "The INSERT statement conflicted with a CHECK constraint."),
        2601 => (14, 1, "Cannot insert duplicate key row in an object with a unique index."),
        2627 => (14, 1, "Violation of PRIMARY KEY constraint. Cannot insert duplicate key."),
        2628 => (16, 1, "String or binary data would be truncated."),
        8115 => (16, 2, "Arithmetic overflow error converting expression to data type."),
        _ => return (16, 1, format!("Error {number}, as a fault asks for it.")),
    };
    (class, state, message.to_owned())
}
