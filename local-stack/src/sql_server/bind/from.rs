//! FROM: tables, joins, derived tables and hints.

use std::rc::Rc;

use sqlparser::ast::{Expr, JoinConstraint, JoinOperator, TableAlias, TableFactor, TableWithJoins};

use super::super::batch::name_parts;
use super::super::catalogue::{Table, same_name};
use super::super::encode::quote_identifier;
use super::super::error::SqlError;
use super::super::token::ResultColumn;
use super::scope::ScopeColumn;
use super::{Binder, Bound, Permission, Relation, Scope};

impl Binder<'_> {
    /// FROM, for PostgreSQL; `None` where there is none.
    pub(super) fn from(&self, tables: &[TableWithJoins], scope: &mut Scope<'_>) -> Bound<Option<String>> {
        let mut parts = Vec::new();
        for table in tables {
            parts.push(self.joined(table, scope)?);
        }
        Ok(if parts.is_empty() { None } else { Some(parts.join(", ")) })
    }

    fn joined(&self, table: &TableWithJoins, scope: &mut Scope<'_>) -> Bound<String> {
        let first = scope.relations.len();
        let mut sql = self.factor(&table.relation, scope)?;
        for join in &table.joins {
            let before = scope.relations.len();
            let right = self.factor(&join.relation, scope)?;
            let (keyword, constraint) = match &join.join_operator {
                JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) => {
                    ("JOIN", Some(constraint))
                }
                JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
                    ("LEFT JOIN", Some(constraint))
                }
                JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
                    ("RIGHT JOIN", Some(constraint))
                }
                JoinOperator::FullOuter(constraint) => ("FULL JOIN", Some(constraint)),
                JoinOperator::CrossJoin(JoinConstraint::None) => ("CROSS JOIN", None),
                _ => return Err(SqlError::unsupported("this kind of join").into()),
            };
            if matches!(keyword, "LEFT JOIN" | "FULL JOIN") {
                scope.relations[before..].iter_mut().for_each(Relation::make_nullable);
            }
            if matches!(keyword, "RIGHT JOIN" | "FULL JOIN") {
                scope.relations[first..before].iter_mut().for_each(Relation::make_nullable);
            }
            sql = match constraint {
                None => format!("{sql} {keyword} {right}"),
                Some(JoinConstraint::On(condition)) => {
                    format!("{sql} {keyword} {right} ON {}", self.condition(condition, scope)?)
                }
                Some(_) => return Err(SqlError::syntax("JOIN").into()),
            };
        }
        Ok(sql)
    }

    fn factor(&self, factor: &TableFactor, scope: &mut Scope<'_>) -> Bound<String> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_directives,
                inheritance: None,
            } if partitions.is_empty() && index_directives.is_empty() => {
                let parts = name_parts(name)?;
                if let [single] = parts.as_slice()
                    && let Some(relation) = self.common_table(single, alias.as_ref())?
                {
                    let sql = format!("{} AS {}", relation.table.clone().unwrap_or_default(), relation.alias);
                    scope.add(Relation { table: None, ..relation })?;
                    return Ok(sql);
                }
                let table = self.table(&parts, Permission::Select)?;
                self.hints(with_hints, &table)?;
                let relation = self.table_relation(&table, alias.as_ref())?;
                let sql = format!("{} AS {}", table.postgres, relation.alias);
                scope.add(relation)?;
                Ok(sql)
            }
            TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None } => {
                let mut bound = self.query(subquery, scope.parent)?;
                rename(&mut bound.columns, alias)?;
                if let Some(index) = bound.columns.iter().position(|column| column.name.is_empty()) {
                    return Err(SqlError::new(
                        8155,
                        16,
                        2,
                        format!(
                            "No column name was specified for column {} of '{}'.",
                            index + 1,
                            alias.name.value
                        ),
                    )
                    .into());
                }
                let relation = Relation::derived(alias.name.value.clone(), self.alias(), &bound.columns);
                let sql = format!("({}) AS {}", bound.sql, relation.alias);
                scope.add(relation)?;
                Ok(sql)
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                Ok(format!("({})", self.joined(table_with_joins, scope)?))
            }
            TableFactor::Table { args: Some(_), .. } => {
                Err(SqlError::unsupported("table-valued function").into())
            }
            other => Err(SqlError::unsupported(&format!("{other} in FROM")).into()),
        }
    }

    fn common_table(&self, name: &str, alias: Option<&TableAlias>) -> Bound<Option<Relation>> {
        let tables = self.common_tables.borrow();
        let Some(table) = tables.iter().rev().find(|table| same_name(&table.name, name)) else {
            return Ok(None);
        };
        let Some(columns) = &table.columns else {
            return Err(SqlError::unsupported("recursive common table expression").into());
        };
        let shown = alias.map_or_else(|| table.name.clone(), |alias| alias.name.value.clone());
        let mut relation = Relation::derived(shown, self.alias(), columns);
        relation.table = Some(table.alias.clone());
        Ok(Some(relation))
    }

    /// A table as a relation of FROM, under an alias of its own in PostgreSQL.
    pub(super) fn table_relation(&self, table: &Table, alias: Option<&TableAlias>) -> Bound<Relation> {
        if alias.is_some_and(|alias| !alias.columns.is_empty() || alias.at.is_some()) {
            return Err(SqlError::syntax("(").into());
        }
        let own = self.alias();
        let columns = table.columns.iter().map(|column| ScopeColumn {
            name: column.name.clone(),
            sql: format!("{own}.{}", quote_identifier(&column.postgres_name)),
            sql_type: column.sql_type,
            nullable: column.nullable,
            origin: column.origin,
        });
        Ok(Relation {
            name: alias.map_or_else(|| table.name.clone(), |alias| alias.name.value.clone()),
            schema: if alias.is_some() { None } else { Some(table.schema.clone()) },
            columns: columns.collect(),
            alias: own,
            table: Some(table.postgres.clone()),
            is_read: Rc::default(),
        })
    }

    /// Hints of a table. Those that make a reader wait for writers lock the table: more than SQL Server
    /// locks, and never less.
    pub(super) fn hints(&self, hints: &[Expr], table: &Table) -> Bound<()> {
        for hint in hints {
            let hint = hint.to_string().to_ascii_uppercase();
            match hint.as_str() {
                // PostgreSQL reads what is committed and waits for nobody
                "NOLOCK" | "READUNCOMMITTED" | "READCOMMITTED" | "ROWLOCK" | "PAGLOCK" | "NOEXPAND"
                | "KEEPIDENTITY" => {}
                "TABLOCK" | "READCOMMITTEDLOCK" | "REPEATABLEREAD" => self.lock(&table.postgres, "SHARE"),
                "UPDLOCK" | "HOLDLOCK" | "SERIALIZABLE" => self.lock(&table.postgres, "SHARE ROW EXCLUSIVE"),
                "TABLOCKX" | "XLOCK" => self.lock(&table.postgres, "EXCLUSIVE"),
                _ => return Err(SqlError::unsupported(&format!("table hint {hint}")).into()),
            }
        }
        Ok(())
    }
}

/// Gives columns the names that stand behind an alias.
pub(super) fn rename(columns: &mut [ResultColumn], alias: &TableAlias) -> Result<(), SqlError> {
    if alias.columns.is_empty() {
        return Ok(());
    }
    if alias.columns.len() != columns.len() {
        return Err(SqlError::new(
            8158,
            16,
            1,
            format!(
                "'{}' has more or fewer columns than were specified in the column list.",
                alias.name.value
            ),
        ));
    }
    for (column, name) in columns.iter_mut().zip(&alias.columns) {
        column.name.clone_from(&name.name.value);
    }
    Ok(())
}
