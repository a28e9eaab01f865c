//! SELECT, INSERT, UPDATE and DELETE: bound, run in PostgreSQL, and their rows sent.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, pin_mut};
use sqlparser::ast::{Query, SetExpr, Statement as SqlStatement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::bind::{BoundQuery, Conversion, TableLock, Typed, convert};
use super::super::encode::{literal, write_value};
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::token::{
    COMMAND_DELETE, COMMAND_INSERT, COMMAND_SELECT, COMMAND_UPDATE, Done, DoneKind, ResultColumn, TOKEN_ROW,
    write_column_metadata,
};
use super::execute::{Flow, Raw};
use super::transaction::{Outcome, ROLLBACK_STATEMENT, STATEMENT_SAVEPOINT};
use super::{Session, Writer, select_into};

/// Each row is a query of its own.
const MAX_ACCUMULATED_ROWS: i64 = 4096;

/// What runs as one statement of PostgreSQL.
struct Command {
    sql: String,
    verb: &'static str,
    command: u16,
    locks: Vec<TableLock>,
    /// Its rows are counted and taken back.
    discards: bool,
}

impl Session {
    pub(super) fn sql<'a>(
        &'a mut self,
        writer: &'a mut Writer,
        statement: &'a SqlStatement,
    ) -> BoxFuture<'a, Result<Flow, ConnectionError>> {
        Box::pin(self.sql_now(writer, statement))
    }

    async fn sql_now(
        &mut self,
        writer: &mut Writer,
        statement: &SqlStatement,
    ) -> Result<Flow, ConnectionError> {
        if self.is_doomed && !matches!(statement, SqlStatement::Query(_)) {
            return self.raise(writer, SqlError::doomed()).await;
        }
        match statement {
            SqlStatement::Query(query) => match query.body.as_ref() {
                SetExpr::Insert(inner) | SetExpr::Update(inner) | SetExpr::Delete(inner)
                    if query.with.is_none() =>
                {
                    self.sql(writer, inner).await
                }
                SetExpr::Insert(inner) | SetExpr::Update(inner) | SetExpr::Delete(inner) => {
                    self.change_with(writer, query, inner).await
                }
                SetExpr::Merge(_) => self.raise(writer, SqlError::unsupported("MERGE")).await,
                _ => {
                    match select_into::split(query) {
                        Ok(None) => {}
                        Ok(Some((query, name))) => return self.select_into(writer, &query, &name).await,
                        Err(error) => return self.raise(writer, error).await,
                    }
                    let bound = self.bind(|binder| binder.query(query, None)).await?;
                    match bound {
                        Ok((bound, _)) if bound.reads_what_it_assigns(query) => {
                            self.accumulate(writer, query).await
                        }
                        Ok((bound, locks)) => self.select(writer, bound, locks).await,
                        Err(error) => self.raise(writer, error).await,
                    }
                }
            },
            SqlStatement::Insert(insert) => {
                let bound = self.bind(|binder| binder.insert(insert)).await?;
                let discards = self.discards()
                    && self.done_kind == DoneKind::InProcedure
                    && super::discard::is_parameterised(insert);
                self.change(writer, bound, "INSERT", COMMAND_INSERT, discards).await
            }
            SqlStatement::Update(update) => {
                let bound = self.bind(|binder| binder.update(update)).await?;
                self.change(writer, bound, "UPDATE", COMMAND_UPDATE, false).await
            }
            SqlStatement::Delete(delete) => {
                let bound = self.bind(|binder| binder.delete(delete)).await?;
                self.change(writer, bound, "DELETE", COMMAND_DELETE, false).await
            }
            other => {
                let text = other.to_string();
                let word = text.split_whitespace().next().unwrap_or("statement").to_owned();
                self.raise(writer, SqlError::unsupported(&word)).await
            }
        }
    }

    /// A change behind common table expressions.
    async fn change_with(
        &mut self,
        writer: &mut Writer,
        query: &Query,
        statement: &SqlStatement,
    ) -> Result<Flow, ConnectionError> {
        let Some(with) = &query.with else { return self.sql(writer, statement).await };
        let (verb, command) = match statement {
            SqlStatement::Insert(_) => ("INSERT", COMMAND_INSERT),
            SqlStatement::Update(_) => ("UPDATE", COMMAND_UPDATE),
            _ => ("DELETE", COMMAND_DELETE),
        };
        let bound = self.bind(|binder| {
            binder.change_with(with, |binder| match statement {
                SqlStatement::Insert(insert) => binder.insert(insert),
                SqlStatement::Update(update) => binder.update(update),
                SqlStatement::Delete(delete) => binder.delete(delete),
                _ => Err(SqlError::syntax("WITH").into()),
            })
        });
        let bound = bound.await?;
        self.change(writer, bound, verb, command, false).await
    }

    async fn change(
        &mut self,
        writer: &mut Writer,
        bound: Result<(String, Vec<TableLock>), SqlError>,
        verb: &'static str,
        command: u16,
        discards: bool,
    ) -> Result<Flow, ConnectionError> {
        let (sql, locks) = match bound {
            Ok(bound) => bound,
            Err(error) => return self.raise(writer, error).await,
        };
        self.command(writer, Command { sql, verb, command, locks, discards }, None).await
    }

    async fn select(
        &mut self,
        writer: &mut Writer,
        query: BoundQuery,
        locks: Vec<TableLock>,
    ) -> Result<Flow, ConnectionError> {
        if self.options.format_only {
            write_column_metadata(&mut writer.buffer, &query.columns);
            self.done(writer, Done { rows: Some(0), more: true, command: COMMAND_SELECT, ..Done::default() });
            return Ok(Flow::Next);
        }
        let BoundQuery { sql, columns, assigns } = query;
        let sql = with_postgres_types(&sql, &columns);
        if !assigns.is_empty() {
            return self.select_into_variables(writer, &sql, &columns, &assigns).await;
        }
        self.command(
            writer,
            Command { sql, verb: "SELECT", command: COMMAND_SELECT, locks, discards: false },
            Some(Arc::from(columns)),
        )
        .await
    }

    /// `SELECT @a = …`: the last row counts.
    async fn select_into_variables(
        &mut self,
        writer: &mut Writer,
        sql: &str,
        columns: &[ResultColumn],
        names: &[String],
    ) -> Result<Flow, ConnectionError> {
        let rows = match self.rows(sql).await {
            Ok(rows) => rows,
            Err(error) => {
                let error = self.explain(&error, "SELECT")?;
                return self.raise(writer, error).await;
            }
        };
        self.facts.row_count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if let Some(row) = rows.last()
            && let Err(error) = self.assign_row(row, columns, names)
        {
            return self.raise(writer, error).await;
        }
        Ok(Flow::Next)
    }

    /// `SELECT @a = @a + …`: each row sees what the row before it made of the variable.
    async fn accumulate(&mut self, writer: &mut Writer, query: &Query) -> Result<Flow, ConnectionError> {
        let mut count = 0;
        loop {
            if count == MAX_ACCUMULATED_ROWS {
                let what = "a variable that is assigned from itself over more than 4,096 rows";
                return self.raise(writer, SqlError::unsupported(what)).await;
            }
            let bound = match self.bind(|binder| binder.query(query, None)).await? {
                Ok((bound, _)) => bound,
                Err(error) => return self.raise(writer, error).await,
            };
            let sql = format!("{} OFFSET {count} LIMIT 1", with_postgres_types(&bound.sql, &bound.columns));
            let rows = match self.rows(&sql).await {
                Ok(rows) => rows,
                Err(error) => {
                    let error = self.explain(&error, "SELECT")?;
                    return self.raise(writer, error).await;
                }
            };
            let Some(row) = rows.first() else { break };
            if let Err(error) = self.assign_row(row, &bound.columns, &bound.assigns) {
                return self.raise(writer, error).await;
            }
            count += 1;
        }
        self.facts.row_count = count;
        Ok(Flow::Next)
    }

    fn assign_row(&mut self, row: &Row, columns: &[ResultColumn], names: &[String]) -> Result<(), SqlError> {
        for (index, (name, column)) in names.iter().zip(columns).enumerate() {
            let Some(variable) = self.variables.get_mut(name) else {
                let message = format!("Must declare the scalar variable \"{name}\".");
                return Err(SqlError::new(137, 15, 1, message));
            };
            let raw: Option<Raw<'_>> = row.try_get(index).ok().flatten();
            let sql = literal(column.sql_type, raw.map(|raw| raw.0))?;
            variable.sql =
                convert(&Typed::new(sql, column.sql_type, true), variable.sql_type, Conversion::Explicit)?;
        }
        Ok(())
    }

    /// Runs one statement, kept apart from the transaction around it, and sends what it gives.
    async fn command(
        &mut self,
        writer: &mut Writer,
        command: Command,
        columns: Option<Arc<[ResultColumn]>>,
    ) -> Result<Flow, ConnectionError> {
        if let Err(error) = self.begin_implicitly(writer).await? {
            return self.raise(writer, error).await;
        }
        let has_savepoint = self.needs_savepoint() || (command.discards && self.facts.transaction_count > 0);
        // locks live as long as a transaction
        let has_transaction =
            self.facts.transaction_count == 0 && (command.discards || !command.locks.is_empty());
        let mut before = String::new();
        if has_savepoint {
            before.push_str(&format!("SAVEPOINT {STATEMENT_SAVEPOINT};"));
        }
        if has_transaction {
            before.push_str("BEGIN;");
        }
        for TableLock { table, mode } in &command.locks {
            before.push_str(&format!("LOCK TABLE {table} IN {mode} MODE;"));
        }
        if has_savepoint && !command.locks.is_empty() {
            // locks outlive an error of the statement
            before.push_str(&format!(
                "RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}; SAVEPOINT {STATEMENT_SAVEPOINT};"
            ));
        }
        let mut outcome = match before.is_empty() {
            true => Ok(Ok(0)),
            false => match self.client.batch_execute(&before).await {
                Ok(()) => Ok(Ok(0)),
                Err(error) => self.explain(&error, command.verb).map(Err),
            },
        }?;
        if outcome.is_ok() {
            outcome = self.run_command(writer, &command, columns.as_deref()).await?;
        }
        let after = match (has_savepoint, has_transaction, &outcome) {
            (true, _, Ok(_)) if command.discards => {
                format!("{ROLLBACK_STATEMENT}RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}")
            }
            (_, true, Ok(_)) if command.discards => "ROLLBACK".into(),
            (true, _, Ok(_)) => format!("RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}"),
            (_, true, Ok(_)) => "COMMIT".into(),
            (_, true, Err(_)) => "ROLLBACK".into(),
            _ => String::new(),
        };
        if !after.is_empty()
            && let Err(error) = self.client.batch_execute(&after).await
        {
            outcome = Err(self.explain(&error, command.verb)?);
        }
        match outcome {
            Ok(rows) => {
                self.facts.last_error = 0;
                self.facts.row_count = i64::try_from(rows).unwrap_or(i64::MAX);
                if command.discards {
                    self.count_discarded(rows);
                }
                let rows = if self.options.no_count && columns.is_none() { None } else { Some(rows) };
                self.done(writer, Done { rows, more: true, command: command.command, ..Done::default() });
                Ok(Flow::Next)
            }
            Err(error) => {
                self.after_error(writer, &error, has_savepoint).await?;
                self.after_statement_error(writer, error)
            }
        }
    }

    async fn run_command(
        &self,
        writer: &mut Writer,
        command: &Command,
        columns: Option<&[ResultColumn]>,
    ) -> Outcome<u64> {
        tracing::trace!(sql = command.sql, "postgresql");
        let rows = match self.client.query_typed_raw(&command.sql, std::iter::empty::<(i32, Type)>()).await {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(self.explain(&error, command.verb)?)),
        };
        pin_mut!(rows);
        let mut count = 0;
        let mut has_metadata = false;
        while let Some(row) = rows.next().await {
            let row = match row {
                Ok(row) => row,
                Err(error) => return Ok(Err(self.explain(&error, command.verb)?)),
            };
            let Some(columns) = columns else { continue };
            if !has_metadata {
                write_column_metadata(&mut writer.buffer, columns);
                has_metadata = true;
            }
            let start = writer.buffer.len();
            writer.buffer.push(TOKEN_ROW);
            for (index, column) in columns.iter().enumerate() {
                let value: Option<Raw<'_>> = match row.try_get(index) {
                    Ok(value) => value,
                    Err(error) => return Ok(Err(SqlError::internal(&error.to_string()))),
                };
                if let Err(error) =
                    write_value(&mut writer.buffer, column.sql_type, column.nullable, value.map(|raw| raw.0))
                {
                    writer.buffer.truncate(start);
                    return Ok(Err(error));
                }
            }
            count += 1;
            writer.flush_if_large().await?;
        }
        if let Some(columns) = columns
            && !has_metadata
        {
            write_column_metadata(&mut writer.buffer, columns);
        }
        Ok(Ok(if columns.is_some() { count } else { rows.rows_affected().unwrap_or(0) }))
    }
}

/// A query whose columns have exactly the PostgreSQL types that their values are read with.
pub(super) fn with_postgres_types(sql: &str, columns: &[ResultColumn]) -> String {
    let casts: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| format!("c{}::{}", index + 1, column.sql_type.postgres()))
        .collect();
    format!("SELECT {} FROM ({sql}) AS result", casts.join(", "))
}
