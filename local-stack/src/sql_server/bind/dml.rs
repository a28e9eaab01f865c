//! INSERT, UPDATE and DELETE.

use std::sync::Arc;

use sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, Insert, JoinConstraint, JoinOperator, ObjectName,
    SetExpr, TableFactor, TableObject, TableWithJoins, Update, UpdateTableFromKind,
};

use super::super::batch::name_parts;
use super::super::catalogue::{Column, Table, same_name};
use super::super::encode::quote_identifier;
use super::super::error::SqlError;
use super::super::token::ColumnOrigin;
use super::convert::{Conversion, convert};
use super::updatable::RowSource;
use super::{Binder, Bound, Permission, Scope, Typed, column_alias};

impl Binder<'_> {
    /// A value as it is stored in a column.
    fn assign(&self, value: &Typed, table: &Table, column: &Column) -> Bound<String> {
        let place = format!("table '{}', column '{}'", table.display(&self.session.database), column.name);
        convert(value, column.sql_type, Conversion::Assign(&place)).map_err(Into::into)
    }

    pub(super) fn writable(&self, name: &ObjectName, permission: Permission) -> Bound<Arc<Table>> {
        let table = self.table(&name_parts(name)?, permission)?;
        if table.is_view {
            return Err(
                SqlError::new(259, 16, 1, "Ad hoc updates to system catalogs are not allowed.").into()
            );
        }
        Ok(table)
    }

    pub(in super::super) fn insert(&self, insert: &Insert) -> Bound<String> {
        if insert.output.is_some() || insert.returning.is_some() {
            return Err(SqlError::unsupported("OUTPUT").into());
        }
        let TableObject::TableName(name) = &insert.table else {
            return Err(SqlError::syntax("INSERT").into());
        };
        if insert.table_alias.is_some()
            || insert.overwrite
            || !insert.assignments.is_empty()
            || insert.partitioned.is_some()
            || insert.on.is_some()
        {
            return Err(SqlError::syntax("INSERT").into());
        }
        let table = self.writable(name, Permission::Insert)?;
        let columns: Vec<&Column> = if insert.columns.is_empty() {
            table.columns.iter().filter(|column| column.origin == ColumnOrigin::Table).collect()
        } else {
            insert.columns.iter().map(|name| self.target_column(&table, name)).collect::<Bound<_>>()?
        };
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].iter().any(|other| other.id == column.id) {
                return Err(SqlError::new(264, 16, 1, format!("The column name '{}' is specified more than once in the SET clause or column list of an INSERT.", column.name)).into());
            }
            refuse_read_only(column, &table)?;
        }
        let names: Vec<String> =
            columns.iter().map(|column| quote_identifier(&column.postgres_name)).collect();
        let target = format!("INSERT INTO {} ({})", table.postgres, names.join(", "));
        let Some(source) = &insert.source else {
            return Ok(format!("INSERT INTO {} DEFAULT VALUES", table.postgres));
        };
        let wrong_count = || {
            SqlError::new(
                213,
                16,
                1,
                "Column name or number of supplied values does not match table definition.",
            )
        };
        if let SetExpr::Values(values) = source.body.as_ref()
            && source.with.is_none()
        {
            let scope = Scope::default();
            let mut rows = Vec::new();
            for row in &values.rows {
                if row.len() != columns.len() {
                    return Err(wrong_count().into());
                }
                let items = row
                    .iter()
                    .zip(&columns)
                    .map(|(expression, column)| match expression {
                        Expr::Identifier(name)
                            if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("DEFAULT") =>
                        {
                            Ok(default_of(column))
                        }
                        _ => self.assign(&self.value(expression, &scope)?, &table, column),
                    })
                    .collect::<Bound<Vec<_>>>()?;
                rows.push(format!("({})", items.join(", ")));
            }
            return Ok(format!("{target} VALUES {}", rows.join(", ")));
        }
        let bound = self.query(source, None)?;
        if bound.columns.len() != columns.len() {
            return Err(wrong_count().into());
        }
        let alias = self.alias();
        let items = bound
            .columns
            .iter()
            .zip(&columns)
            .enumerate()
            .map(|(index, (from, column))| {
                let value =
                    Typed::new(format!("{alias}.{}", column_alias(index)), from.sql_type, from.nullable);
                self.assign(&value, &table, column)
            })
            .collect::<Bound<Vec<_>>>()?;
        Ok(format!("{target} SELECT {} FROM ({}) AS {alias}", items.join(", "), bound.sql))
    }

    fn target_column<'t>(&self, table: &'t Table, name: &ObjectName) -> Bound<&'t Column> {
        let parts = name_parts(name)?;
        let name = parts.last().map_or("", String::as_str);
        table
            .column(name)
            .ok_or_else(|| SqlError::new(207, 16, 1, format!("Invalid column name '{name}'.")).into())
    }

    pub(in super::super) fn update(&self, update: &Update) -> Bound<String> {
        if update.output.is_some()
            || update.returning.is_some()
            || update.limit.is_some()
            || !update.order_by.is_empty()
        {
            return Err(SqlError::unsupported("OUTPUT or TOP of UPDATE").into());
        }
        let from: &[TableWithJoins] = match &update.from {
            None => &[],
            Some(UpdateTableFromKind::AfterSet(from) | UpdateTableFromKind::BeforeSet(from)) => from,
        };
        let TableFactor::Table { name, alias: None, with_hints, .. } = &update.table.relation else {
            return Err(SqlError::syntax("UPDATE").into());
        };
        if !update.table.joins.is_empty() {
            return Err(SqlError::syntax("JOIN").into());
        }
        let target = self.target(name, with_hints, from, Permission::Update)?;
        let mut items = Vec::new();
        for Assignment { target: column, value } in &update.assignments {
            let AssignmentTarget::ColumnName(column) = column else {
                return Err(SqlError::syntax("(").into());
            };
            let column = target.column(self, column)?;
            refuse_read_only(column, &target.table)?;
            let value = match value {
                Expr::Identifier(name)
                    if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("DEFAULT") =>
                {
                    default_of(column)
                }
                value => self.assign(&self.value(value, &target.scope)?, &target.table, column)?,
            };
            items.push(format!("{} = {value}", quote_identifier(&column.postgres_name)));
        }
        let mut sql =
            format!("UPDATE {} AS {} SET {}", target.table.postgres, target.alias, items.join(", "));
        target.finish(self, &mut sql, "FROM", update.selection.as_ref())?;
        Ok(sql)
    }

    pub(in super::super) fn delete(&self, delete: &Delete) -> Bound<String> {
        if delete.output.is_some()
            || delete.returning.is_some()
            || delete.using.is_some()
            || !delete.order_by.is_empty()
        {
            return Err(SqlError::unsupported("OUTPUT or USING of DELETE").into());
        }
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let target = match (delete.tables.as_slice(), from.as_slice()) {
            (
                [],
                [
                    TableWithJoins {
                        relation: TableFactor::Table { name, alias: None, with_hints, .. },
                        joins,
                    },
                ],
            ) if joins.is_empty() => self.target(name, with_hints, &[], Permission::Delete)?,
            ([name], from) => self.target(name, &[], from, Permission::Delete)?,
            _ => return Err(SqlError::unsupported("this form of DELETE").into()),
        };
        if let Some(count) = &delete.limit {
            return self.delete_top(&target, count, delete.selection.as_ref());
        }
        let mut sql = format!("DELETE FROM {} AS {}", target.table.postgres, target.alias);
        target.finish(self, &mut sql, "USING", delete.selection.as_ref())?;
        Ok(sql)
    }

    /// `DELETE TOP (n)`: some rows, nobody knows which.
    fn delete_top(&self, target: &Target<'_>, count: &Expr, selection: Option<&Expr>) -> Bound<String> {
        // a row that changes between the two looks at it would be missed
        self.lock(&target.table.postgres, "SHARE ROW EXCLUSIVE");
        let (own, rows) = (self.alias(), self.alias());
        let mut sql = format!(
            "SELECT {}.ctid AS row_id FROM {} AS {}",
            target.alias, target.table.postgres, target.alias
        );
        target.finish(self, &mut sql, ",", selection)?;
        let count = self.row_count(count)?;
        Ok(format!(
            "DELETE FROM {} AS {own} USING ({sql} LIMIT {count}) AS {rows} WHERE {own}.ctid = {rows}.row_id",
            target.table.postgres
        ))
    }

    /// The table that changes, found in FROM where there is one.
    fn target<'s>(
        &self,
        name: &ObjectName,
        hints: &[Expr],
        from: &[TableWithJoins],
        permission: Permission,
    ) -> Bound<Target<'s>> {
        let parts = name_parts(name)?;
        let mut scope = Scope::inside(None);
        let source = match from {
            [] => self.row_source(&parts, permission)?,
            // `DELETE s FROM (SELECT …) AS s`
            [TableWithJoins { relation, joins }] if joins.is_empty() => match relation {
                TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None }
                    if alias.columns.is_empty()
                        && matches!(parts.as_slice(), [name] if same_name(name, &alias.name.value)) =>
                {
                    Some(self.rows_of(&alias.name.value, subquery, None, permission)?)
                }
                _ => None,
            },
            _ => None,
        };
        if let Some(source) = source {
            let alias = self.alias();
            scope.add(source.relation.clone())?;
            let (others, conditions) = (vec![source.sql.clone()], vec![source.condition(&alias)]);
            let table = source.table.clone();
            return Ok(Target { table, alias, scope, others, conditions, source: Some(source) });
        }
        if from.is_empty() {
            let table = self.writable(name, permission)?;
            self.hints(hints, &table)?;
            let relation = self.table_relation(&table, None)?;
            let alias = relation.alias.clone();
            scope.add(relation)?;
            return Ok(Target {
                table,
                alias,
                scope,
                others: Vec::new(),
                conditions: Vec::new(),
                source: None,
            });
        }
        // PostgreSQL joins the target with what is in FROM: inner joins alone can be taken apart for that
        let mut factors = Vec::new();
        let mut conditions = Vec::new();
        for table in from {
            factors.push(&table.relation);
            for join in &table.joins {
                factors.push(&join.relation);
                match &join.join_operator {
                    JoinOperator::Join(JoinConstraint::On(condition))
                    | JoinOperator::Inner(JoinConstraint::On(condition)) => conditions.push(condition),
                    JoinOperator::CrossJoin(JoinConstraint::None) => {}
                    _ => {
                        return Err(SqlError::unsupported("outer join in FROM of an UPDATE or DELETE").into());
                    }
                }
            }
        }
        let mut found = None;
        let mut others = Vec::new();
        for factor in factors {
            if let TableFactor::Table { name: own, alias, with_hints, .. } = factor {
                let own_parts = name_parts(own)?;
                let shown = alias.as_ref().map_or_else(
                    || own_parts.last().cloned().unwrap_or_default(),
                    |alias| alias.name.value.clone(),
                );
                if found.is_none() && parts.last().is_some_and(|name| same_name(name, &shown)) {
                    let table = self.writable(own, permission)?;
                    self.hints(with_hints, &table)?;
                    self.hints(hints, &table)?;
                    let relation = self.table_relation(&table, alias.as_ref())?;
                    found = Some((table, relation.alias.clone()));
                    scope.add(relation)?;
                    continue;
                }
            }
            let single = TableWithJoins { relation: factor.clone(), joins: Vec::new() };
            others.extend(self.from(std::slice::from_ref(&single), &mut scope)?);
        }
        let Some((table, alias)) = found else {
            return Err(SqlError::unsupported("an UPDATE or DELETE whose table is not in its FROM").into());
        };
        let conditions = conditions
            .into_iter()
            .map(|condition| self.condition(condition, &scope))
            .collect::<Bound<Vec<_>>>()?;
        Ok(Target { table, alias, scope, others, conditions, source: None })
    }
}

/// The table that an UPDATE or DELETE changes, and what it is joined with.
struct Target<'s> {
    table: Arc<Table>,
    alias: String,
    scope: Scope<'s>,
    others: Vec<String>,
    conditions: Vec<String>,
    /// The common table expression that stands for the table.
    source: Option<RowSource>,
}

impl Target<'_> {
    fn column(&self, binder: &Binder<'_>, name: &ObjectName) -> Bound<&Column> {
        match &self.source {
            None => binder.target_column(&self.table, name),
            Some(source) => {
                let parts = name_parts(name)?;
                Ok(source.column(parts.last().map_or("", String::as_str))?)
            }
        }
    }

    fn finish(
        &self,
        binder: &Binder<'_>,
        sql: &mut String,
        keyword: &str,
        selection: Option<&Expr>,
    ) -> Bound<()> {
        if !self.others.is_empty() {
            sql.push_str(&format!(" {keyword} {}", self.others.join(", ")));
        }
        let mut conditions = self.conditions.clone();
        if let Some(selection) = selection {
            conditions.push(binder.condition(selection, &self.scope)?);
        }
        // to change rows needs no permission to read them, as long as nothing depends on what is in them
        let mut relations = self.scope.relations.iter();
        if relations.any(|relation| relation.alias == self.alias && relation.is_read.get()) {
            binder.needs(Permission::Select, &self.table);
        }
        if !conditions.is_empty() {
            sql.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
        }
        Ok(())
    }
}

fn default_of(column: &Column) -> String {
    column.default_sql.clone().unwrap_or_else(|| format!("NULL::{}", column.sql_type.postgres()))
}

fn refuse_read_only(column: &Column, table: &Table) -> Result<(), SqlError> {
    match column.origin {
        ColumnOrigin::Identity => Err(SqlError::new(
            544,
            16,
            1,
            format!(
                "Cannot insert explicit value for identity column in table '{}' when IDENTITY_INSERT is set to OFF.",
                table.name
            ),
        )),
        ColumnOrigin::Computed => Err(SqlError::new(
            271,
            16,
            1,
            format!("The column \"{}\" cannot be modified because it is a computed column.", column.name),
        )),
        _ => Ok(()),
    }
}
