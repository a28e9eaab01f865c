//! `SELECT … INTO`: a table of a query's columns, with its rows.

use sqlparser::ast::{Expr, Query, SetExpr};
use tokio_postgres::SimpleQueryMessage;

use super::super::batch::{ColumnDefinition, TableItem};
use super::super::bind::{BoundQuery, TableLock};
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::token::{COMMAND_SELECT, ColumnOrigin, Done};
use super::command::with_postgres_types;
use super::execute::Flow;
use super::transaction::Outcome;
use super::{Session, Writer};

/// The query without INTO, and the name behind it.
pub(super) fn split(query: &Query) -> Result<Option<(Query, Vec<String>)>, SqlError> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Ok(None) };
    let Some(into) = &select.into else { return Ok(None) };
    let name = match into.targets.as_slice() {
        [Expr::Identifier(name)] => vec![name.value.clone()],
        [Expr::CompoundIdentifier(parts)] => parts.iter().map(|part| part.value.clone()).collect(),
        _ => return Err(SqlError::syntax("INTO")),
    };
    let mut select = select.clone();
    select.into = None;
    Ok(Some((Query { body: Box::new(SetExpr::Select(select)), ..query.clone() }, name)))
}

impl Session {
    pub(super) async fn select_into(
        &mut self,
        writer: &mut Writer,
        query: &Query,
        name: &[String],
    ) -> Result<Flow, ConnectionError> {
        if self.is_doomed {
            return self.raise(writer, SqlError::doomed()).await;
        }
        if let Err(error) = self.begin_implicitly(writer).await? {
            return self.raise(writer, error).await;
        }
        self.structure_changed();
        let script = match self.plan_select_into(query, name).await? {
            Ok(script) => script,
            Err(error) => return self.raise(writer, error).await,
        };
        let has_savepoint = self.needs_savepoint();
        let outcome = match self.client.simple_query(&self.held_together(&script)).await {
            Ok(messages) => Ok(last_count(&messages)),
            Err(error) => Err(self.explain(&error, "INSERT")?),
        };
        match outcome {
            Ok(rows) => {
                self.facts.last_error = 0;
                self.facts.row_count = i64::try_from(rows).unwrap_or(i64::MAX);
                let rows = (!self.options.no_count).then_some(rows);
                self.done(writer, Done { rows, more: true, command: COMMAND_SELECT, ..Done::default() });
                Ok(Flow::Next)
            }
            Err(error) => {
                self.after_error(writer, &error, has_savepoint).await?;
                self.after_statement_error(writer, error)
            }
        }
    }

    async fn plan_select_into(&mut self, query: &Query, name: &[String]) -> Outcome<String> {
        if let Err(error) = self.check_create_table(name).await? {
            return Ok(Err(error));
        }
        let (BoundQuery { sql, columns, assigns }, locks) =
            match self.bind(|binder| binder.query(query, None)).await? {
                Ok(bound) => bound,
                Err(error) => return Ok(Err(error)),
            };
        if !assigns.is_empty() {
            return Ok(Err(SqlError::syntax("INTO")));
        }
        let mut items = Vec::with_capacity(columns.len());
        for column in &columns {
            if column.name.is_empty() {
                const MESSAGE: &str = "An object or column name is missing or empty. For SELECT INTO statements, verify each column has a name. \
                    For other statements, look for empty alias names. Aliases defined as \"\" or [] are not allowed. Change the alias to a valid name.";
                return Ok(Err(SqlError::new(1038, 15, 5, MESSAGE)));
            }
            if column.origin == ColumnOrigin::Identity {
                return Ok(Err(SqlError::unsupported("SELECT INTO of an identity column")));
            }
            items.push(TableItem::Column(Box::new(ColumnDefinition {
                name: column.name.clone(),
                sql_type: column.sql_type,
                nullable: Some(column.nullable),
                identity: None,
                default: None,
                constraints: Vec::new(),
            })));
        }
        let draft = match self.plan_table(name, &items).await? {
            Ok(draft) => draft,
            Err(error) => return Ok(Err(error)),
        };
        let locks: String = locks
            .iter()
            .map(|TableLock { table, mode }| format!("LOCK TABLE {table} IN {mode} MODE; "))
            .collect();
        Ok(Ok(format!(
            "{locks}{} INSERT INTO {} {}",
            draft.create_script(),
            draft.postgres,
            with_postgres_types(&sql, &columns)
        )))
    }
}

/// What the last of several statements that counts rows has counted.
fn last_count(messages: &[SimpleQueryMessage]) -> u64 {
    let count = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::CommandComplete(rows) if *rows > 0 => Some(*rows),
        _ => None,
    };
    messages.iter().rev().find_map(count).unwrap_or(0)
}
