//! Runs a batch, statement by statement.

use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use sqlparser::ast::Expr;
use tokio_postgres::types::{FromSql, Type};

use super::super::batch::{self, Statement};
use super::super::bind::{BindError, Binder, Bound, Conversion, Scope, TableLock, Variable, convert};
use super::super::catalogue::find_table;
use super::super::encode::literal;
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::token::{
    Done, DoneKind, EnvironmentChange, write_done, write_environment_change, write_info,
};
use super::super::types::{Collation, Length, SqlType};
use super::transaction::{Outcome, ROLLBACK_STATEMENT, STATEMENT_SAVEPOINT};
use super::{Session, Writer};

/// A value in PostgreSQL's binary form, untouched.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// How a statement left its batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    /// RETURN, or an error after which nothing more of the batch runs.
    End,
    /// An error on its way to a CATCH block.
    Thrown(SqlError),
}

impl Session {
    /// Runs a batch and ends its answer.
    pub(super) async fn batch(&mut self, writer: &mut Writer, text: &str) -> Result<(), ConnectionError> {
        match batch::parse(text) {
            Err(error) => self.fail(writer, &error),
            Ok(statements) => {
                if let Flow::Thrown(error) = self.statements(writer, &statements).await? {
                    self.fail(writer, &error);
                }
                self.end_doomed(writer).await?;
            }
        }
        self.end_answer(writer);
        Ok(())
    }

    /// Every statement's DONE was written with "more"; the last one says that nothing follows.
    fn end_answer(&self, writer: &mut Writer) {
        // within a procedure the end of the call is still to come
        if self.done_kind == DoneKind::Batch && !writer.end_done() {
            write_done(&mut writer.buffer, self.done_kind, Done::default());
        }
    }

    pub(super) async fn statements(
        &mut self,
        writer: &mut Writer,
        statements: &[Statement],
    ) -> Result<Flow, ConnectionError> {
        for statement in statements {
            match self.statement(writer, statement).await? {
                Flow::Next => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::Next)
    }

    /// Boxed, because statements hold statements.
    fn statement<'a>(
        &'a mut self,
        writer: &'a mut Writer,
        statement: &'a Statement,
    ) -> BoxFuture<'a, Result<Flow, ConnectionError>> {
        Box::pin(async move {
            let flow = self.statement_now(writer, statement).await;
            if super::discard::changes_structure(statement) {
                self.structure_changed();
            }
            flow
        })
    }

    async fn statement_now(
        &mut self,
        writer: &mut Writer,
        statement: &Statement,
    ) -> Result<Flow, ConnectionError> {
        if let Some(error) = self.refused_write(statement) {
            return self.raise(writer, error).await;
        }
        let outcome = match statement {
            Statement::Sql(sql) => return self.sql(writer, sql).await,
            Statement::Ddl(ddl) => {
                let outcome = self.ddl(writer, ddl).await?;
                return self.finish_statement(writer, outcome.map(|()| Done::default()), "DDL").await;
            }
            Statement::Security(security) => {
                let outcome = self.security(writer, security).await?;
                return self.finish_statement(writer, outcome.map(|()| Done::default()), "DDL").await;
            }
            Statement::InsertBulk(bulk) => {
                let outcome = self.plan_load(bulk).await?;
                return self.finish_statement(writer, outcome.map(|()| Done::default()), "INSERT BULK").await;
            }
            Statement::If { condition, then, otherwise } => {
                return self.branch(writer, condition, then, otherwise.as_deref()).await;
            }
            Statement::Block(statements) => return self.statements(writer, statements).await,
            Statement::Try { body, catch } => return self.try_catch(writer, body, catch).await,
            Statement::Declare(declarations) => {
                let mut outcome = Ok(());
                for (name, sql_type, value) in declarations {
                    outcome = self.assign_variable(name, *sql_type, value.as_ref()).await?;
                    if outcome.is_err() {
                        break;
                    }
                }
                outcome
            }
            Statement::SetVariable(name, value) => {
                let Some(sql_type) =
                    self.variables.get(&name.to_lowercase()).map(|variable| variable.sql_type)
                else {
                    return self
                        .raise(
                            writer,
                            SqlError::new(
                                137,
                                15,
                                1,
                                format!("Must declare the scalar variable \"{name}\"."),
                            ),
                        )
                        .await;
                };
                self.assign_variable(name, sql_type, Some(value)).await?
            }
            Statement::SetOption(option) => self.set_option(*option).await?,
            Statement::Begin => self.begin(writer).await?,
            Statement::Commit => self.commit(writer).await?,
            Statement::Rollback(name) => self.roll_back(writer, name.as_deref()).await?,
            Statement::Save(name) => self.save(name).await?,
            Statement::Throw(None) => match self.facts.caught.clone() {
                Some(error) => return self.throw(writer, error).await,
                None => Err(SqlError::new(
                    10704,
                    15,
                    1,
                    "To rethrow an error, a THROW statement must be used inside a CATCH block.",
                )),
            },
            Statement::Throw(Some(thrown)) => {
                let (number, message, state) = thrown.as_ref();
                match self.thrown(number, message, state).await? {
                    Ok(error) => return self.throw(writer, error).await,
                    Err(error) => Err(error),
                }
            }
            Statement::Print(message) => {
                let text = SqlType::NVarChar(Length::Max, Collation::Latin1);
                match self.evaluate(message, text).await? {
                    Ok(value) => {
                        let message = value.unwrap_or_default();
                        write_info(
                            &mut writer.buffer,
                            &SqlError::new(0, 0, 1, String::from_utf8_lossy(&message)),
                        );
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Statement::WaitFor(seconds) => {
                let sql = format!("SELECT pg_sleep({seconds})");
                match self.rows(&sql).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(self.explain(&error, "WAITFOR")?),
                }
            }
            Statement::Use(name) => {
                let database = self.shared.database.clone();
                if name.eq_ignore_ascii_case(&database) {
                    write_environment_change(
                        &mut writer.buffer,
                        EnvironmentChange::Database { new: &database, old: &database },
                    );
                    Ok(())
                } else {
                    Err(SqlError::new(
                        40508,
                        16,
                        1,
                        "USE statement is not supported to switch between databases. Use a new connection to connect to a different database.",
                    ))
                }
            }
            Statement::Execute(execute) => return self.execute(writer, execute).await,
            Statement::AppLock(call) => return self.execute_app_lock(writer, call).await,
            Statement::Return => return Ok(Flow::End),
        };
        match outcome {
            Ok(()) => {
                self.facts.last_error = 0;
                Ok(Flow::Next)
            }
            Err(error) => self.raise(writer, error).await,
        }
    }

    async fn branch(
        &mut self,
        writer: &mut Writer,
        condition: &Expr,
        then: &Statement,
        otherwise: Option<&Statement>,
    ) -> Result<Flow, ConnectionError> {
        match self.test(condition).await? {
            Err(error) => self.raise(writer, error).await,
            Ok(true) => self.statement(writer, then).await,
            Ok(false) => match otherwise {
                Some(otherwise) => self.statement(writer, otherwise).await,
                None => Ok(Flow::Next),
            },
        }
    }

    async fn try_catch(
        &mut self,
        writer: &mut Writer,
        body: &[Statement],
        catch: &[Statement],
    ) -> Result<Flow, ConnectionError> {
        self.in_try += 1;
        let flow = self.statements(writer, body).await;
        self.in_try -= 1;
        let Flow::Thrown(error) = flow? else { return Ok(Flow::Next) };
        let outer = self.facts.caught.replace(error);
        let flow = self.statements(writer, catch).await;
        self.facts.caught = outer;
        flow
    }

    /// An error of a statement that changed nothing: to the client, or to a CATCH block.
    pub(super) async fn raise(
        &mut self,
        writer: &mut Writer,
        error: SqlError,
    ) -> Result<Flow, ConnectionError> {
        self.after_error(writer, &error, false).await?;
        self.after_statement_error(writer, error)
    }

    /// THROW ends the batch, whatever the error.
    async fn throw(&mut self, writer: &mut Writer, error: SqlError) -> Result<Flow, ConnectionError> {
        match self.raise(writer, error).await? {
            Flow::Next => Ok(Flow::End),
            other => Ok(other),
        }
    }

    pub(super) fn after_statement_error(
        &mut self,
        writer: &mut Writer,
        error: SqlError,
    ) -> Result<Flow, ConnectionError> {
        if self.in_try > 0 && error.class < 20 {
            self.facts.last_error = error.number;
            return Ok(Flow::Thrown(error));
        }
        let ends = self.options.xact_abort
            || error.ends_batch()
            || self.is_cancelled.load(std::sync::atomic::Ordering::Relaxed);
        self.fail(writer, &error);
        Ok(if ends { Flow::End } else { Flow::Next })
    }

    async fn finish_statement(
        &mut self,
        writer: &mut Writer,
        outcome: Result<Done, SqlError>,
        _verb: &str,
    ) -> Result<Flow, ConnectionError> {
        match outcome {
            Ok(done) => {
                self.facts.last_error = 0;
                self.done(writer, Done { more: true, ..done });
                Ok(Flow::Next)
            }
            Err(error) => self.raise(writer, error).await,
        }
    }

    async fn thrown(&mut self, number: &Expr, message: &Expr, state: &Expr) -> Outcome<SqlError> {
        let number = match self.evaluate(number, SqlType::Int).await? {
            Ok(value) => int(value.as_deref()),
            Err(error) => return Ok(Err(error)),
        };
        let message = match self
            .evaluate(message, SqlType::NVarChar(Length::Limited(2048), Collation::Latin1))
            .await?
        {
            Ok(value) => String::from_utf8_lossy(&value.unwrap_or_default()).into_owned(),
            Err(error) => return Ok(Err(error)),
        };
        let state = match self.evaluate(state, SqlType::Int).await? {
            Ok(value) => u8::try_from(int(value.as_deref())).unwrap_or(0),
            Err(error) => return Ok(Err(error)),
        };
        if number < 50_000 {
            return Ok(Err(SqlError::new(
                35100,
                16,
                10,
                format!(
                    "Error number {number} in the THROW statement is outside the valid range. Specify an error number in the valid range of 50000 to 2147483647."
                ),
            )));
        }
        Ok(Ok(SqlError::new(number, 16, state, message)))
    }

    /// Binds again and again until all tables that a statement names were looked up.
    pub(super) async fn bind<T: Send>(
        &mut self,
        bind: impl Fn(&Binder<'_>) -> Bound<T> + Send + Sync,
    ) -> Outcome<(T, Vec<TableLock>)> {
        self.tables.clear();
        self.facts.transaction_state = match (self.facts.transaction_count, self.is_doomed) {
            (0, _) => 0,
            (_, true) => -1,
            _ => 1,
        };
        loop {
            let (bound, accesses) = {
                let binder = Binder::new(&self.tables, &self.facts, &self.variables);
                let bound = bind(&binder).map(|bound| (bound, binder.locks.take()));
                (bound, binder.accesses.take())
            };
            let missing = match bound {
                Ok(bound) => return Ok(self.check_permissions(&accesses).await?.map(|()| bound)),
                Err(BindError::Refused(error)) => return Ok(Err(error)),
                Err(BindError::Missing(name)) => name,
            };
            let found = match find_table(&self.client, &missing.schema, &missing.name).await {
                Ok(found) => found,
                Err(error) => return Ok(Err(self.explain(&error, "statement")?)),
            };
            self.tables.insert(missing, found);
        }
    }

    /// An expression's value in PostgreSQL's binary form.
    pub(super) async fn evaluate(
        &mut self,
        expression: &Expr,
        sql_type: SqlType,
    ) -> Outcome<Option<Vec<u8>>> {
        let bound = self
            .bind(|binder| {
                let value = binder.value(expression, &Scope::default())?;
                Ok(convert(&value, sql_type, Conversion::Explicit)?)
            })
            .await?;
        match bound {
            Ok((sql, _)) => self.single_value(&format!("SELECT {sql}")).await,
            Err(error) => Ok(Err(error)),
        }
    }

    pub(super) async fn single_value(&mut self, sql: &str) -> Outcome<Option<Vec<u8>>> {
        match self.rows(sql).await {
            Ok(rows) => {
                let value = rows.first().and_then(|row| {
                    row.try_get::<_, Option<Raw<'_>>>(0).ok().flatten().map(|raw| raw.0.to_vec())
                });
                Ok(Ok(value))
            }
            Err(error) => Ok(Err(self.explain(&error, "SELECT")?)),
        }
    }

    /// All rows of a query that gives few; its error does not take the transaction with it.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
        if !self.needs_savepoint() {
            return self.rows_now(sql).await;
        }
        self.client.batch_execute(&format!("SAVEPOINT {STATEMENT_SAVEPOINT}")).await?;
        let rows = self.rows_now(sql).await;
        let back = if rows.is_ok() { "" } else { ROLLBACK_STATEMENT };
        self.client.batch_execute(&format!("{back}RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}")).await?;
        rows
    }

    async fn rows_now(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
        let rows = self.client.query_typed_raw(sql, std::iter::empty::<(i32, Type)>()).await?;
        rows.try_collect().await
    }

    async fn test(&mut self, condition: &Expr) -> Outcome<bool> {
        let bound = self.bind(|binder| binder.condition(condition, &Scope::default())).await?;
        match bound {
            Ok((sql, _)) => {
                let value = self.single_value(&format!("SELECT CASE WHEN {sql} THEN 1 ELSE 0 END")).await?;
                Ok(value.map(|value| int(value.as_deref()) == 1))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn assign_variable(&mut self, name: &str, sql_type: SqlType, value: Option<&Expr>) -> Outcome<()> {
        let value = match value {
            None => None,
            Some(value) => match self.evaluate(value, sql_type).await? {
                Ok(value) => value,
                Err(error) => return Ok(Err(error)),
            },
        };
        Ok(literal(sql_type, value.as_deref()).map(|sql| {
            self.variables.insert(name.to_lowercase(), Variable { sql_type, sql });
        }))
    }
}

fn int(value: Option<&[u8]>) -> i32 {
    value.and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_be_bytes)
}
