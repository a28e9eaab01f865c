//! Changes with common table expressions: before a statement that reads them, and of the table behind one.

use std::sync::Arc;

use sqlparser::ast::{Query, SetExpr, TableFactor, With};

use super::super::batch::name_parts;
use super::super::catalogue::{Column, Table, same_name};
use super::super::error::SqlError;
use super::super::token::ResultColumn;
use super::{Binder, Bound, BoundQuery, Permission, Relation, Scope, Typed};

/// Asks the next SELECT for the row behind each of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted;

/// The column in which a row of PostgreSQL is known.
const ROW: &str = "row_id";

/// A common table expression whose rows are those of one table.
pub(super) struct RowSource {
    pub(super) table: Arc<Table>,
    pub(super) relation: Relation,
    /// The query, under the relation's alias.
    pub(super) sql: String,
    /// For each of the expression's columns, the table's column that it is.
    columns: Vec<Option<String>>,
}

impl RowSource {
    /// What ties the expression's rows to the table's, under the alias that the table has.
    pub(super) fn condition(&self, alias: &str) -> String {
        format!("{alias}.ctid = {}.{ROW}", self.relation.alias)
    }

    /// The table's column behind one of the expression's.
    pub(super) fn column(&self, name: &str) -> Result<&Column, SqlError> {
        let position = self.relation.columns.iter().position(|column| same_name(&column.name, name));
        let Some(position) = position else {
            return Err(SqlError::new(207, 16, 1, format!("Invalid column name '{name}'.")));
        };
        let column = self.columns.get(position).and_then(Option::as_deref);
        column.and_then(|own| self.table.column(own)).ok_or_else(|| {
            SqlError::new(
                4406,
                16,
                1,
                format!(
                    "Update or insert of view or function '{}' failed because it contains a derived or constant field.",
                    self.relation.name
                ),
            )
        })
    }
}

impl Binder<'_> {
    /// A statement that changes rows, behind the expressions that it may read.
    pub(in super::super) fn change_with(
        &self,
        with: &With,
        change: impl FnOnce(&Self) -> Bound<String>,
    ) -> Bound<String> {
        let with = self.common_table_expressions(with, None)?;
        Ok(format!("{with} {}", change(self)?))
    }

    /// The expression of this name, where there is one, as the rows of the table behind it.
    pub(super) fn row_source(&self, parts: &[String], permission: Permission) -> Bound<Option<RowSource>> {
        let [name] = parts else { return Ok(None) };
        let found = {
            let tables = self.common_tables.borrow();
            tables.iter().rev().find(|table| same_name(&table.name, name)).map(|table| {
                (table.name.clone(), table.query.clone(), table.columns.clone().unwrap_or_default())
            })
        };
        let Some((name, query, columns)) = found else { return Ok(None) };
        self.rows_of(&name, &query, Some(columns), permission).map(Some)
    }

    /// The rows of a query as those of the table behind it.
    pub(super) fn rows_of(
        &self,
        name: &str,
        query: &Query,
        columns: Option<Vec<ResultColumn>>,
        permission: Permission,
    ) -> Bound<RowSource> {
        let table = self.writable(&single_table(query, name)?, permission)?;
        // a row that changes between the two looks at it would be missed
        self.lock(&table.postgres, "SHARE ROW EXCLUSIVE");
        self.row_source.set(Some(Wanted));
        let bound = self.query(query, None);
        self.row_source.take();
        let BoundQuery { sql, columns: own, .. } = bound?;
        let sources = self.row_columns.take();
        let relation = Relation::derived(name.to_owned(), self.alias(), &columns.unwrap_or(own));
        let sql = format!("({sql}) AS {}", relation.alias);
        Ok(RowSource { table, relation, sql, columns: sources })
    }

    /// What a SELECT gives for the row behind each of its own.
    pub(super) fn row_of(
        &self,
        Wanted: Wanted,
        scope: &Scope<'_>,
        outputs: &[(String, Typed)],
        is_merged: bool,
    ) -> Bound<String> {
        let (false, [relation]) = (is_merged, scope.relations.as_slice()) else {
            const MESSAGE: &str = "Cannot update the view or function because it contains aggregates, or a DISTINCT or GROUP BY clause, \
                or PIVOT or UNPIVOT operator.";
            return Err(SqlError::new(4403, 16, 1, MESSAGE).into());
        };
        let source = |value: &Typed| {
            relation.columns.iter().find(|column| column.sql == value.sql).map(|column| column.name.clone())
        };
        self.row_columns.replace(outputs.iter().map(|(_, value)| source(value)).collect());
        Ok(format!("{}.ctid AS {ROW}", relation.alias))
    }
}

/// The one table that a query reads.
fn single_table(query: &Query, name: &str) -> Bound<sqlparser::ast::ObjectName> {
    let unsupported =
        || SqlError::unsupported(&format!("a change of {name}, which is not a SELECT from one table"));
    let (None, SetExpr::Select(select)) = (&query.with, query.body.as_ref()) else {
        return Err(unsupported().into());
    };
    match select.from.as_slice() {
        [table] if table.joins.is_empty() => match &table.relation {
            TableFactor::Table { name, args: None, .. } if name_parts(name).is_ok() => Ok(name.clone()),
            _ => Err(unsupported().into()),
        },
        _ => Err(unsupported().into()),
    }
}
