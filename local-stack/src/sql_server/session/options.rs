//! SET, and what PostgreSQL has to know of it.

use super::super::batch::SetOption;
use super::super::packet::ConnectionError;
use super::transaction::Outcome;
use super::{Options, Session};

/// For PostgreSQL 0 waits without end, and 1 is the shortest.
pub(super) fn lock_timeout_sql(milliseconds: i32) -> String {
    let timeout = match milliseconds {
        -1 => 0,
        n => n.max(1),
    };
    format!("SET lock_timeout = {timeout}")
}

impl Session {
    pub(super) async fn set_option(&mut self, option: SetOption) -> Outcome<()> {
        match option {
            SetOption::XactAbort(on) => self.options.xact_abort = on,
            SetOption::NoCount(on) => self.options.no_count = on,
            SetOption::ImplicitTransactions(on) => self.options.implicit_transactions = on,
            SetOption::FormatOnly(on) => self.options.format_only = on,
            SetOption::Isolation(level) => self.options.isolation = level,
            SetOption::LockTimeout(milliseconds) => {
                self.options.lock_timeout = milliseconds;
                if let Err(error) = self.client.batch_execute(&lock_timeout_sql(milliseconds)).await {
                    return Ok(Err(self.explain(&error, "SET")?));
                }
            }
            SetOption::Nothing => {}
        }
        Ok(Ok(()))
    }

    /// Options as they were before a procedure or a text that was executed.
    pub(super) async fn restore_options(&mut self, options: Options) -> Result<(), ConnectionError> {
        let lock_timeout = self.options.lock_timeout;
        self.options = options;
        if options.lock_timeout == lock_timeout {
            return Ok(());
        }
        match self.postgres(&lock_timeout_sql(options.lock_timeout)).await? {
            Ok(()) => Ok(()),
            Err(error) => Err(ConnectionError::Database(error.to_string())),
        }
    }

    /// A rollback, after which PostgreSQL forgets what was SET within what it rolls back, and SQL Server does not.
    pub(super) fn rollback_sql(&self, rollback: &str) -> String {
        format!("{rollback}; {}", lock_timeout_sql(self.options.lock_timeout))
    }
}
