//! What each role may do, and nothing beyond: worked out from the configuration, for `grants` to print, for `check` to hold
//! the live identities against, and for the worker to name what it is refused.
//!
//! `docs/least-privilege.md` is the reader's page.

pub mod nats;
pub mod sql;
#[cfg(test)]
mod tests;

use std::fmt;

use clap::ValueEnum;

/// Who has to do with a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Role {
    /// The worker.
    Loader,
    /// Publishes events.
    Publisher,
    /// Looks at dead letters, and publishes their events again.
    DeadLetterOperator,
    /// Reads which commits were announced.
    ReceiptsReader,
    /// Reads the tables.
    Analyst,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 5] =
        [Role::Loader, Role::Publisher, Role::DeadLetterOperator, Role::ReceiptsReader, Role::Analyst];

    /// A stable name: part of the names of users and roles, and of tags.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Loader => "loader",
            Role::Publisher => "publisher",
            Role::DeadLetterOperator => "dead_letter_operator",
            Role::ReceiptsReader => "receipts_reader",
            Role::Analyst => "analyst",
        }
    }

    /// What it is for, in words.
    pub fn purpose(self) -> &'static str {
        match self {
            Role::Loader => "the worker: `run`, `check` and `partitions`",
            Role::Publisher => "publishes events, and hears that the stream has them",
            Role::DeadLetterOperator => "reads and removes dead letters, and publishes their events again",
            Role::ReceiptsReader => "reads receipts, and nothing else",
            Role::Analyst => "reads the tables, and reaches no endpoint that writes",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What the subjects of a role's replies begin with, by the name of its user: below the usual `_INBOX`, so that users who may
/// subscribe to all of that need nothing new.
pub fn inbox_prefix(name: &str) -> String {
    format!("_INBOX.{name}")
}
