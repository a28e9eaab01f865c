//! Transactions: SQL Server's counter and savepoints on PostgreSQL's.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::encode::quote_identifier;
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::read::{Cursor, Truncated};
use super::super::token::{Done, DoneKind, EnvironmentChange, write_environment_change};
use super::{Session, Writer};

/// Descriptors name a transaction for the life of the server.
static LAST_DESCRIPTOR: AtomicU64 = AtomicU64::new(0x0000_0034_0000_0000);

/// Before each statement within a transaction, so that its error does not take the transaction with it.
pub(super) const STATEMENT_SAVEPOINT: &str = "tsql_statement";

/// Back to it, after an error.
pub(super) const ROLLBACK_STATEMENT: &str = "ROLLBACK TO SAVEPOINT tsql_statement; ";

/// What a statement of this server's own can end with: SQL Server's error, or the connection's end.
pub(super) type Outcome<T> = Result<Result<T, SqlError>, ConnectionError>;

const REQUEST_BEGIN: u16 = 5;
const REQUEST_COMMIT: u16 = 7;
const REQUEST_ROLLBACK: u16 = 8;
const REQUEST_SAVE: u16 = 9;
const FLAG_BEGIN_AFTER: u8 = 1;

impl Session {
    pub(super) async fn postgres(&self, sql: &str) -> Outcome<()> {
        match self.client.batch_execute(sql).await {
            Ok(()) => Ok(Ok(())),
            Err(error) => Ok(Err(self.explain(&error, "statement")?)),
        }
    }

    /// BEGIN TRANSACTION.
    pub(super) async fn begin(&mut self, writer: &mut Writer) -> Outcome<()> {
        if self.facts.transaction_count == 0 {
            if let Err(error) =
                self.postgres(&format!("BEGIN ISOLATION LEVEL {}", self.options.isolation)).await?
            {
                return Ok(Err(error));
            }
            self.descriptor = LAST_DESCRIPTOR.fetch_add(1, Ordering::Relaxed);
            self.facts.transaction_state = 1;
            write_environment_change(
                &mut writer.buffer,
                EnvironmentChange::BeginTransaction(self.descriptor),
            );
        }
        self.facts.transaction_count += 1;
        Ok(Ok(()))
    }

    /// COMMIT.
    pub(super) async fn commit(&mut self, writer: &mut Writer) -> Outcome<()> {
        match self.facts.transaction_count {
            0 => {
                return Ok(Err(SqlError::new(
                    3902,
                    16,
                    1,
                    "The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION.",
                )));
            }
            1 => {}
            _ => {
                self.facts.transaction_count -= 1;
                return Ok(Ok(()));
            }
        }
        if self.is_doomed {
            self.roll_back_all(writer).await?;
            return Ok(Err(SqlError::doomed()));
        }
        let committed = self.commit_in_postgres().await?;
        let descriptor = self.end_transaction();
        self.release_transaction_locks().await?;
        if self.faults.ends_session() {
            return Ok(committed);
        }
        write_environment_change(
            &mut writer.buffer,
            match committed {
                Ok(()) => EnvironmentChange::CommitTransaction(descriptor),
                Err(_) => EnvironmentChange::RollbackTransaction(descriptor),
            },
        );
        Ok(committed)
    }

    /// ROLLBACK, of everything or to a savepoint.
    pub(super) async fn roll_back(&mut self, writer: &mut Writer, savepoint: Option<&str>) -> Outcome<()> {
        if self.facts.transaction_count == 0 {
            return Ok(Err(SqlError::new(
                3903,
                16,
                1,
                "The ROLLBACK TRANSACTION request has no corresponding BEGIN TRANSACTION.",
            )));
        }
        if let Some(name) = savepoint {
            if self.is_doomed {
                return Ok(Err(SqlError::new(
                    3931,
                    16,
                    1,
                    "The current transaction cannot be committed and cannot be rolled back to a savepoint. Roll back the entire transaction.",
                )));
            }
            // a name that is no savepoint's may be the transaction's own, which nobody here keeps
            let name_sql = savepoint_name(name);
            let back = format!("SAVEPOINT {STATEMENT_SAVEPOINT}; ROLLBACK TO SAVEPOINT {name_sql}");
            if self.postgres(&self.rollback_sql(&back)).await?.is_ok() {
                return Ok(Ok(()));
            }
            let message =
                format!("Cannot roll back {name}. No transaction or savepoint of that name was found.");
            let back = format!("{ROLLBACK_STATEMENT}RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}");
            return match self.postgres(&back).await? {
                Ok(()) => Ok(Err(SqlError::new(6401, 16, 1, message))),
                Err(error) => Err(ConnectionError::Database(error.to_string())),
            };
        }
        self.roll_back_all(writer).await?;
        Ok(Ok(()))
    }

    pub(super) async fn roll_back_all(&mut self, writer: &mut Writer) -> Result<(), ConnectionError> {
        if let Err(error) = self.postgres(&self.rollback_sql("ROLLBACK")).await? {
            return Err(ConnectionError::Database(error.to_string()));
        }
        let descriptor = self.end_transaction();
        self.release_transaction_locks().await?;
        write_environment_change(&mut writer.buffer, EnvironmentChange::RollbackTransaction(descriptor));
        Ok(())
    }

    fn end_transaction(&mut self) -> u64 {
        // those of a commit have been counted
        self.open_loads.roll_back();
        self.facts.transaction_count = 0;
        if self.changed_structure {
            self.structure_changed();
        }
        self.facts.transaction_state = 0;
        self.is_doomed = false;
        std::mem::take(&mut self.descriptor)
    }

    /// SAVE TRANSACTION.
    pub(super) async fn save(&mut self, name: &str) -> Outcome<()> {
        if self.facts.transaction_count == 0 {
            return Ok(Err(SqlError::new(
                628,
                16,
                0,
                "Cannot issue SAVE TRANSACTION when there is no active transaction.",
            )));
        }
        self.postgres(&format!("SAVEPOINT {}", savepoint_name(name))).await
    }

    /// Opens a transaction where SET IMPLICIT_TRANSACTIONS is on and a statement needs one.
    pub(super) async fn begin_implicitly(&mut self, writer: &mut Writer) -> Outcome<()> {
        if self.options.implicit_transactions && self.facts.transaction_count == 0 {
            self.begin(writer).await
        } else {
            Ok(Ok(()))
        }
    }

    /// Whether a statement's error has to be kept from the transaction around it: within TRY it dooms it under
    /// XACT_ABORT, and what is doomed can still be read.
    pub(super) fn needs_savepoint(&self) -> bool {
        self.facts.transaction_count > 0 && (!self.options.xact_abort || self.in_try > 0)
    }

    /// A batch leaves no doomed transaction behind.
    pub(super) async fn end_doomed(&mut self, writer: &mut Writer) -> Result<(), ConnectionError> {
        if !self.is_doomed || self.done_kind != DoneKind::Batch {
            return Ok(());
        }
        self.roll_back_all(writer).await?;
        const MESSAGE: &str =
            "Uncommittable transaction is detected at the end of the batch. The transaction is rolled back.";
        self.fail(writer, &SqlError::new(3998, 16, 1, MESSAGE));
        Ok(())
    }

    /// What an error does to the transaction: a rollback of the statement, or of everything.
    pub(super) async fn after_error(
        &mut self,
        writer: &mut Writer,
        error: &SqlError,
        has_savepoint: bool,
    ) -> Result<(), ConnectionError> {
        if self.facts.transaction_count == 0 {
            return Ok(());
        }
        // a deadlock's victim loses its transaction, and so does a snapshot's conflict
        let ends_transaction = matches!(error.number, 1205 | 3960)
            || (self.options.xact_abort && self.in_try == 0)
            || error.class >= 19;
        if ends_transaction {
            return self.roll_back_all(writer).await;
        }
        if self.options.xact_abort {
            self.is_doomed = true;
            self.facts.transaction_state = -1;
        }
        if has_savepoint {
            let back = format!("{ROLLBACK_STATEMENT}RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}");
            if let Err(error) = self.postgres(&back).await? {
                return Err(ConnectionError::Database(error.to_string()));
            }
        }
        Ok(())
    }

    /// A transaction manager request (MS-TDS 2.2.6.9).
    pub(super) async fn transaction_request(
        &mut self,
        writer: &mut Writer,
        mut cursor: Cursor<'_>,
    ) -> Result<(), ConnectionError> {
        let Ok(request) = TransactionRequest::read(&mut cursor) else {
            return Err(ConnectionError::Protocol("malformed transaction manager request"));
        };
        let outcome = match request {
            TransactionRequest::Begin { level } => {
                self.set_isolation(level);
                self.begin(writer).await?
            }
            TransactionRequest::Commit { next } => {
                let ended = self.commit(writer).await?;
                self.begin_again(writer, next, ended).await?
            }
            TransactionRequest::Rollback { name, next } => {
                let savepoint = (!name.is_empty()).then_some(name.as_str());
                let ended = self.roll_back(writer, savepoint).await?;
                if savepoint.is_some() { ended } else { self.begin_again(writer, next, ended).await? }
            }
            TransactionRequest::Save { name } => self.save(&name).await?,
            TransactionRequest::Distributed(_) => Err(SqlError::unsupported("distributed transaction")),
        };
        match outcome {
            Ok(()) => self.done(writer, Done::default()),
            Err(error) => {
                super::super::token::write_error(&mut writer.buffer, &error);
                self.facts.last_error = error.number;
                self.done(writer, Done { error: true, ..Done::default() });
            }
        }
        Ok(())
    }

    /// A commit or rollback may ask for the next transaction to begin with it.
    async fn begin_again(
        &mut self,
        writer: &mut Writer,
        next: Option<u8>,
        ended: Result<(), SqlError>,
    ) -> Outcome<()> {
        let (Ok(()), Some(level)) = (&ended, next) else { return Ok(ended) };
        self.set_isolation(level);
        self.begin(writer).await
    }

    fn set_isolation(&mut self, level: u8) {
        self.options.isolation = match level {
            1 | 2 => "READ COMMITTED",
            3 | 5 => "REPEATABLE READ",
            4 => "SERIALIZABLE",
            _ => return,
        };
    }
}

/// What a transaction manager request asks for.
#[derive(Debug)]
pub(super) enum TransactionRequest {
    Begin {
        level: u8,
    },
    /// `next` is the isolation level of a transaction that is to begin at once.
    Commit {
        next: Option<u8>,
    },
    Rollback {
        name: String,
        next: Option<u8>,
    },
    Save {
        name: String,
    },
    Distributed(u16),
}

impl TransactionRequest {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Truncated> {
        Ok(match cursor.u16()? {
            REQUEST_BEGIN => Self::Begin { level: cursor.u8()? },
            REQUEST_COMMIT => {
                let _name = transaction_name(cursor);
                Self::Commit { next: next_transaction(cursor) }
            }
            REQUEST_ROLLBACK => {
                Self::Rollback { name: transaction_name(cursor)?, next: next_transaction(cursor) }
            }
            REQUEST_SAVE => Self::Save { name: transaction_name(cursor)? },
            other => Self::Distributed(other),
        })
    }

    pub(super) fn number(&self) -> u16 {
        match self {
            Self::Begin { .. } => REQUEST_BEGIN,
            Self::Commit { .. } => REQUEST_COMMIT,
            Self::Rollback { .. } => REQUEST_ROLLBACK,
            Self::Save { .. } => REQUEST_SAVE,
            Self::Distributed(number) => *number,
        }
    }
}

fn next_transaction(cursor: &mut Cursor<'_>) -> Option<u8> {
    let flags = cursor.u8().unwrap_or(0);
    (flags & FLAG_BEGIN_AFTER != 0).then(|| cursor.u8().unwrap_or(0))
}

/// Users' savepoints have names of their own, and names compare without case.
fn savepoint_name(name: &str) -> String {
    quote_identifier(&super::super::catalogue::postgres_name(&format!("user {}", name.to_lowercase())))
}

/// A transaction's or a savepoint's name: its length is in bytes, unlike that of other names.
fn transaction_name(cursor: &mut Cursor<'_>) -> Result<String, Truncated> {
    let length = usize::from(cursor.u8()?);
    cursor.take(length).map(super::super::read::decode_utf16)
}
