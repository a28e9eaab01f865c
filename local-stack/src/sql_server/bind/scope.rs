//! Which names an expression may use.

use std::cell::Cell;
use std::rc::Rc;

use super::super::catalogue::{Column, same_name};
use super::super::encode::quote_identifier;
use super::super::error::SqlError;
use super::super::token::{ColumnOrigin, ResultColumn};
use super::super::types::SqlType;
use super::{Bound, Typed, column_alias};

/// A column in sight.
#[derive(Clone, Debug)]
pub(in super::super) struct ScopeColumn {
    pub(super) name: String,
    pub(super) sql: String,
    pub(super) sql_type: SqlType,
    pub(super) nullable: bool,
    pub(super) origin: ColumnOrigin,
}

impl ScopeColumn {
    pub(super) fn typed(&self) -> Typed {
        Typed {
            sql: self.sql.clone(),
            sql_type: Some(self.sql_type),
            nullable: self.nullable,
            origin: self.origin,
            name: Some(self.name.clone()),
            digits: None,
        }
    }
}

/// A table, view, derived table or common table expression in FROM.
#[derive(Clone, Debug)]
pub(in super::super) struct Relation {
    /// The name by which its columns are qualified.
    pub(super) name: String,
    /// Schema, where it is a table without an alias.
    pub(super) schema: Option<String>,
    /// The name in PostgreSQL's query.
    pub(super) alias: String,
    /// The quoted name of the table in PostgreSQL, where it is one.
    pub(super) table: Option<String>,
    pub(super) columns: Vec<ScopeColumn>,
    /// Whether an expression names one of its columns; copies share it.
    pub(super) is_read: Rc<Cell<bool>>,
}

impl Relation {
    /// A derived table whose columns are `c1`, `c2`, ….
    pub(super) fn derived(name: String, alias: String, columns: &[ResultColumn]) -> Self {
        let columns = columns.iter().enumerate().map(|(index, column)| ScopeColumn {
            name: column.name.clone(),
            sql: format!("{alias}.{}", column_alias(index)),
            sql_type: column.sql_type,
            nullable: column.nullable,
            origin: ColumnOrigin::Expression,
        });
        Self { name, schema: None, columns: columns.collect(), alias, table: None, is_read: Rc::default() }
    }

    /// A table's columns by their bare names, as a CHECK constraint has them.
    pub(in super::super) fn of_columns(name: &str, columns: &[Column]) -> Self {
        let columns = columns.iter().map(|column| ScopeColumn {
            name: column.name.clone(),
            sql: quote_identifier(&column.postgres_name),
            sql_type: column.sql_type,
            nullable: column.nullable,
            origin: column.origin,
        });
        Self {
            name: name.to_owned(),
            schema: None,
            alias: String::new(),
            table: None,
            columns: columns.collect(),
            is_read: Rc::default(),
        }
    }

    /// The columns of an outer join's other side may be NULL.
    pub(super) fn make_nullable(&mut self) {
        for column in &mut self.columns {
            column.nullable = true;
        }
    }
}

/// The relations of one SELECT, and of those around it.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Scope<'p> {
    pub(super) relations: Vec<Relation>,
    pub(super) parent: Option<&'p Scope<'p>>,
    /// The grouping expressions in PostgreSQL's SQL, where the query is grouped.
    pub(super) keys: Option<Vec<String>>,
}

impl<'p> Scope<'p> {
    pub(super) fn inside(parent: Option<&'p Scope<'p>>) -> Self {
        Self { relations: Vec::new(), parent, keys: None }
    }

    /// The scope with rows in sight and not groups, as within an aggregate's argument.
    pub(super) fn ungrouped(&self) -> Scope<'_> {
        Scope { relations: self.relations.clone(), parent: self.parent, keys: None }
    }

    pub(in super::super) fn add(&mut self, relation: Relation) -> Bound<()> {
        if self.relations.iter().any(|other| {
            same_name(&other.name, &relation.name)
                && other.schema == relation.schema
                && !relation.name.is_empty()
        }) {
            return Err(SqlError::new(
                1011,
                16,
                1,
                format!(
                    "The correlation name '{}' is specified multiple times in a FROM clause.",
                    relation.name
                ),
            )
            .into());
        }
        self.relations.push(relation);
        Ok(())
    }

    /// Finds a column; the second value tells whether it is one of this scope or of one around it.
    pub(super) fn column(&self, parts: &[String]) -> Bound<(Typed, bool)> {
        let Some((name, qualifier)) = parts.split_last() else { return Err(SqlError::syntax(".").into()) };
        let mut scope = Some(self);
        let mut inner = true;
        while let Some(current) = scope {
            let mut found =
                current.relations.iter().filter(|relation| relation.is_named(qualifier)).flat_map(
                    |relation| {
                        let columns = relation.columns.iter();
                        let named = columns.filter(|column| same_name(&column.name, name));
                        named.map(move |column| (relation, column))
                    },
                );
            if let Some((relation, column)) = found.next() {
                if found.next().is_some() {
                    return Err(SqlError::new(209, 16, 1, format!("Ambiguous column name '{name}'.")).into());
                }
                relation.is_read.set(true);
                return Ok((column.typed(), inner));
            }
            scope = current.parent;
            inner = false;
        }
        if qualifier.is_empty() || self.relation(qualifier).is_some() {
            Err(SqlError::new(207, 16, 1, format!("Invalid column name '{name}'.")).into())
        } else {
            Err(SqlError::new(
                4104,
                16,
                1,
                format!("The multi-part identifier \"{}\" could not be bound.", parts.join(".")),
            )
            .into())
        }
    }

    pub(super) fn relation(&self, qualifier: &[String]) -> Option<&Relation> {
        self.relations.iter().find(|relation| relation.is_named(qualifier))
    }
}

impl Relation {
    fn is_named(&self, qualifier: &[String]) -> bool {
        match qualifier {
            [] => true,
            [name] => same_name(&self.name, name),
            [.., schema, name] => {
                same_name(&self.name, name) && self.schema.as_ref().is_some_and(|own| same_name(own, schema))
            }
        }
    }
}
