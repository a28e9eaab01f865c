//! `sp_getapplock` and `sp_releaseapplock`, on PostgreSQL's advisory locks.
//!
//! All of them are held by the session there, also those of a transaction, and given back when it ends: those that
//! PostgreSQL ties to a transaction go with a rollback to a savepoint, and SQL Server's do not.

use sqlparser::ast::Expr;

use super::super::batch::{AppLockCall, AppLockProcedure, Argument};
use super::super::bind::{Conversion, Typed, Variable, convert};
use super::super::encode::literal;
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::token::{Done, DoneKind, write_done, write_return_status};
use super::super::types::SqlType;
use super::execute::Flow;
use super::transaction::{Outcome, STATEMENT_SAVEPOINT};
use super::{Session, Writer};

const GRANTED: i32 = 0;
const GRANTED_AFTER_WAITING: i32 = 1;
const TIMED_OUT: i32 = -1;
const CANCELLED: i32 = -2;
const DEADLOCK_VICTIM: i32 = -3;
const CALL_ERROR: i32 = -999;

/// What a resource's name is cut to, in UTF-16 units.
const MAX_RESOURCE_UNITS: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Transaction,
    Session,
}

/// A lock that this session holds. One that was asked for twice is here twice.
#[derive(Debug)]
pub(super) struct AppLock {
    key: i64,
    owner: Owner,
    is_shared: bool,
}

impl AppLock {
    fn unlock(&self) -> String {
        let function = if self.is_shared { "pg_advisory_unlock_shared" } else { "pg_advisory_unlock" };
        format!("{function}({})", self.key)
    }
}

/// A parameter's name, where it is given, and its value as text; `None` is NULL.
pub(super) type LockArgument = (Option<String>, Option<String>);

/// The values of a call, in the order of the procedure's parameters.
fn sort(
    procedure: AppLockProcedure,
    arguments: Vec<LockArgument>,
) -> Result<Vec<Option<Option<String>>>, SqlError> {
    let (name, parameters): (&str, &[&str]) = match procedure {
        AppLockProcedure::Get => {
            ("sp_getapplock", &["@Resource", "@LockMode", "@LockOwner", "@LockTimeout", "@DbPrincipal"])
        }
        AppLockProcedure::Release => ("sp_releaseapplock", &["@Resource", "@LockOwner", "@DbPrincipal"]),
    };
    let required = if procedure == AppLockProcedure::Get { 2 } else { 1 };
    let mut values = vec![None; parameters.len()];
    for (position, (own, value)) in arguments.into_iter().enumerate() {
        let index = match own {
            None => Some(position),
            Some(own) => match parameters.iter().position(|name| name.eq_ignore_ascii_case(&own)) {
                Some(index) => Some(index),
                None => {
                    let message = format!("{own} is not a parameter for procedure {name}.");
                    return Err(SqlError::new(8145, 16, 2, message));
                }
            },
        };
        match index.and_then(|index| values.get_mut(index)) {
            Some(slot) => *slot = Some(value),
            None => {
                let message = format!("Procedure or function {name} has too many arguments specified.");
                return Err(SqlError::new(8144, 16, 2, message));
            }
        }
    }
    if let Some(index) = values[..required].iter().position(Option::is_none) {
        let missing = parameters[index];
        return Err(SqlError::new(
            201,
            16,
            4,
            format!("Procedure or function '{name}' expects parameter '{missing}', which was not supplied."),
        ));
    }
    Ok(values)
}

/// FNV-1a: the lock manager of SQL Server hashes names too.
fn key(resource: &str) -> i64 {
    let units: Vec<u16> = resource.encode_utf16().take(MAX_RESOURCE_UNITS).collect();
    let bytes = b"applock".iter().copied().chain(units.into_iter().flat_map(u16::to_le_bytes));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    i64::from_le_bytes(hash.to_le_bytes())
}

/// Shared and exclusive are all that PostgreSQL has: modes that may share in SQL Server wait here, and none that
/// must wait shares.
fn is_shared(mode: &str) -> Option<bool> {
    match mode.to_ascii_lowercase().as_str() {
        "shared" | "intentshared" => Some(true),
        "update" | "intentexclusive" | "exclusive" => Some(false),
        _ => None,
    }
}

impl Session {
    /// EXECUTE of one of the two in a batch.
    pub(super) async fn execute_app_lock(
        &mut self,
        writer: &mut Writer,
        call: &AppLockCall,
    ) -> Result<Flow, ConnectionError> {
        let mut arguments = Vec::new();
        for Argument { name, value, .. } in &call.arguments {
            let value = match value {
                // a word without quotes is a text to EXECUTE
                Expr::Identifier(word) if !word.value.starts_with('@') => Some(word.value.clone()),
                value => match self.text(value).await? {
                    Ok(text) => Some(text),
                    Err(error) => return self.raise(writer, error).await,
                },
            };
            arguments.push((name.clone(), value));
        }
        let outcome = self.app_lock(call.procedure, arguments).await?;
        let status = *outcome.as_ref().unwrap_or(&CALL_ERROR);
        if let Some(name) = &call.result
            && let Err(error) = self.assign_int(name, status)
        {
            return self.raise(writer, error).await;
        }
        if let Err(error) = outcome {
            return self.raise(writer, error).await;
        }
        // a procedure within a procedure says nothing of its own
        if self.done_kind == DoneKind::Batch {
            write_return_status(&mut writer.buffer, status);
            write_done(&mut writer.buffer, DoneKind::Procedure, Done { more: true, ..Done::default() });
            writer.mark_done();
        }
        Ok(Flow::Next)
    }

    fn assign_int(&mut self, name: &str, value: i32) -> Result<(), SqlError> {
        let name = name.to_lowercase();
        let Some(sql_type) = self.variables.get(&name).map(|variable| variable.sql_type) else {
            let message = format!("Must declare the scalar variable \"{name}\".");
            return Err(SqlError::new(137, 15, 1, message));
        };
        let sql = literal(SqlType::Int, Some(&value.to_be_bytes()))?;
        let sql = convert(&Typed::new(sql, SqlType::Int, false), sql_type, Conversion::Explicit)?;
        self.variables.insert(name, Variable { sql_type, sql });
        Ok(())
    }

    /// Gets or releases a lock; what comes back is the procedure's return value.
    pub(super) async fn app_lock(
        &mut self,
        procedure: AppLockProcedure,
        arguments: Vec<LockArgument>,
    ) -> Outcome<i32> {
        let values = match sort(procedure, arguments) {
            Ok(values) => values,
            Err(error) => return Ok(Err(error)),
        };
        let name = match procedure {
            AppLockProcedure::Get => "sp_getapplock",
            AppLockProcedure::Release => "sp_releaseapplock",
        };
        let invalid = |number, what: &str| {
            Ok(Err(SqlError::new(number, 16, 1, format!("An invalid {what} was passed to {name}."))))
        };
        let mut values = values.into_iter();
        let Some(resource) = values.next().flatten().flatten() else {
            return invalid(1224, "application lock resource");
        };
        let mode = if procedure == AppLockProcedure::Get { values.next().flatten().flatten() } else { None };
        let owner = match values.next().flatten().flatten() {
            None => Owner::Transaction,
            Some(owner) if owner.eq_ignore_ascii_case("transaction") => Owner::Transaction,
            Some(owner) if owner.eq_ignore_ascii_case("session") => Owner::Session,
            Some(_) => return invalid(1226, "application lock owner"),
        };
        let timeout =
            if procedure == AppLockProcedure::Get { values.next().flatten().flatten() } else { None };
        // the locks of a principal can be seen by its members alone; this server has no others
        if values
            .next()
            .flatten()
            .flatten()
            .is_some_and(|principal| !principal.eq_ignore_ascii_case("public"))
        {
            return invalid(1230, "database principal");
        }
        let key = key(&resource);
        if procedure == AppLockProcedure::Release {
            return self.release_app_lock(key, owner, &resource).await;
        }
        let Some(is_shared) = mode.as_deref().and_then(is_shared) else {
            return invalid(1225, "application lock mode");
        };
        let timeout = match timeout.map(|timeout| timeout.trim().parse::<i32>()) {
            None => self.options.lock_timeout,
            Some(Ok(timeout)) if timeout >= -1 => timeout,
            Some(_) => return invalid(1227, "application lock time-out"),
        };
        if owner == Owner::Transaction && self.facts.transaction_count == 0 {
            return Ok(Err(SqlError::new(
                3918,
                16,
                1,
                "The statement or function must be executed in the context of a user transaction.",
            )));
        }
        let status = self.wait_for_app_lock(key, is_shared, timeout).await?;
        if let Ok(GRANTED | GRANTED_AFTER_WAITING) = status {
            self.app_locks.push(AppLock { key, owner, is_shared });
        }
        Ok(status)
    }

    async fn wait_for_app_lock(&mut self, key: i64, is_shared: bool, timeout: i32) -> Outcome<i32> {
        let suffix = if is_shared { "_shared" } else { "" };
        match self.single_value(&format!("SELECT pg_try_advisory_lock{suffix}({key})")).await? {
            Ok(Some(granted)) if granted == [1] => return Ok(Ok(GRANTED)),
            Ok(_) if timeout == 0 => return Ok(Ok(TIMED_OUT)),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        // a wait in vain is no error of the transaction around it, whatever XACT_ABORT says
        let in_transaction = self.facts.transaction_count > 0;
        let (before, after) = if in_transaction {
            (
                format!("SAVEPOINT {STATEMENT_SAVEPOINT};"),
                format!("; RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}"),
            )
        } else {
            (String::new(), String::new())
        };
        let script = format!(
            "{before}{}; SELECT pg_advisory_lock{suffix}({key}); {}{after}",
            super::options::lock_timeout_sql(timeout),
            super::options::lock_timeout_sql(self.options.lock_timeout),
        );
        let error = match self.client.batch_execute(&script).await {
            Ok(()) => return Ok(Ok(GRANTED_AFTER_WAITING)),
            Err(error) => self.explain(&error, "EXECUTE")?,
        };
        if in_transaction {
            let back = format!(
                "ROLLBACK TO SAVEPOINT {STATEMENT_SAVEPOINT}; RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}"
            );
            if let Err(error) = self.postgres(&back).await? {
                return Err(ConnectionError::Database(error.to_string()));
            }
        }
        Ok(match error.number {
            1222 => Ok(TIMED_OUT),
            1205 => Ok(DEADLOCK_VICTIM),
            3617 => Ok(CANCELLED),
            _ => Err(error),
        })
    }

    async fn release_app_lock(&mut self, key: i64, owner: Owner, resource: &str) -> Outcome<i32> {
        let held = self.app_locks.iter().rposition(|lock| lock.key == key && lock.owner == owner);
        let Some(held) = held else {
            return Ok(Err(SqlError::new(
                1223,
                16,
                1,
                format!(
                    "Cannot release the application lock (Database Principal: 'public', Resource: '{resource}') because it is not currently held."
                ),
            )));
        };
        let lock = self.app_locks.remove(held);
        let released = self.single_value(&format!("SELECT {}", lock.unlock())).await?;
        Ok(released.map(|_| GRANTED))
    }

    /// The transaction is over, and so are its locks.
    pub(super) async fn release_transaction_locks(&mut self) -> Result<(), ConnectionError> {
        self.release_locks_where(|lock| lock.owner == Owner::Transaction).await
    }

    /// The session is as it was after its login.
    pub(super) async fn release_session_locks(&mut self) -> Result<(), ConnectionError> {
        self.release_locks_where(|lock| lock.owner == Owner::Session).await
    }

    async fn release_locks_where(
        &mut self,
        goes: impl Fn(&AppLock) -> bool + Send,
    ) -> Result<(), ConnectionError> {
        let unlocks: Vec<String> =
            self.app_locks.extract_if(.., |lock| goes(lock)).map(|lock| lock.unlock()).collect();
        if unlocks.is_empty() {
            return Ok(());
        }
        match self.postgres(&format!("SELECT {}", unlocks.join(", "))).await? {
            Ok(()) => Ok(()),
            Err(error) => Err(ConnectionError::Database(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(name: Option<&str>, value: &str) -> LockArgument {
        (name.map(str::to_owned), Some(value.to_owned()))
    }

    #[test]
    fn arguments_are_taken_by_name_and_by_position() {
        let arguments = vec![
            argument(None, "r"),
            argument(Some("@locktimeout"), "5"),
            argument(Some("@LockMode"), "Shared"),
        ];
        let values = sort(AppLockProcedure::Get, arguments).unwrap();
        let some = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(values, [some("r"), some("Shared"), None, some("5"), None]);
        let number = |procedure, arguments| sort(procedure, arguments).unwrap_err().number;
        assert_eq!(number(AppLockProcedure::Get, vec![argument(None, "r")]), 201);
        assert_eq!(number(AppLockProcedure::Release, vec![argument(Some("@Name"), "r")]), 8145);
        assert_eq!(number(AppLockProcedure::Release, vec![argument(None, "r"); 4]), 8144);
    }

    #[test]
    fn names_differ_by_case_and_up_to_their_255th_character() {
        assert_ne!(key("a"), key("A"));
        assert_eq!(key(&"x".repeat(255)), key(&"x".repeat(300)));
    }
}
