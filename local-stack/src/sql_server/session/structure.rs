//! CREATE, ALTER, DROP and TRUNCATE: a script for PostgreSQL, and the catalogue's rows with it.

use std::fmt::Write as _;
use std::sync::Arc;

use super::super::batch::{
    ColumnDefinition, ConstraintDefinition, ConstraintKind, Ddl, IndexDefinition, IndexKind, TableItem,
};
use super::super::bind::{BindError, Conversion, Permission, Relation, Scope, convert, split_name};
use super::super::catalogue::temporary::is_temporary;
use super::super::catalogue::{Column, Table, postgres_name, same_name};
use super::super::encode::{quote_identifier, quote_literal};
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::token::ColumnOrigin;
use super::super::types::SqlType;
use super::transaction::{Outcome, STATEMENT_SAVEPOINT};
use super::{Session, Writer};

mod alter;
mod computed;
mod create;
mod draft;
mod drop;

use draft::Draft;
use drop::create_schema;

impl Session {
    pub(super) async fn ddl(&mut self, writer: &mut Writer, ddl: &Ddl) -> Outcome<()> {
        if self.is_doomed {
            return Ok(Err(SqlError::doomed()));
        }
        if let Err(error) = self.begin_implicitly(writer).await? {
            return Ok(Err(error));
        }
        if let Err(error) = self.check_ddl(ddl).await? {
            return Ok(Err(error));
        }
        let script = match ddl {
            Ddl::CreateTable { name, items } => {
                self.plan_table(name, items).await?.map(|draft| draft.create_script())
            }
            Ddl::AlterTableAdd { name, items } => self.alter_table(name, items).await?,
            Ddl::AlterColumn { name, column } => self.alter_column(name, column).await?,
            Ddl::DropColumns { name, columns, if_exists } => {
                self.drop_columns(name, columns, *if_exists).await?
            }
            Ddl::DropConstraints { name, constraints, if_exists } => {
                self.drop_constraints(name, constraints, *if_exists).await?
            }
            Ddl::CreateIndex { table, index } => self.create_index(table, index).await?,
            Ddl::DropTable { names, if_exists } => self.drop_tables(names, *if_exists).await?,
            Ddl::DropIndex { table, name, if_exists } => self.drop_index(table, name, *if_exists).await?,
            Ddl::Truncate(name) => match self.existing(name).await? {
                Ok(table) => Ok(format!("TRUNCATE {} RESTART IDENTITY;", table.postgres)),
                Err(_) => Err(SqlError::new(
                    4701,
                    16,
                    1,
                    format!(
                        "Cannot find the object \"{}\" because it does not exist or you do not have permissions.",
                        name.join(".")
                    ),
                )),
            },
            Ddl::CreateSchema { name, owner } => Ok(create_schema(name, owner.as_deref())),
            Ddl::DropSchema { name, if_exists } => self.drop_schema(name, *if_exists).await?,
        };
        match script {
            Ok(script) => self.run_script(&script).await,
            Err(error) => Ok(Err(super::security::of_missing(ddl, error))),
        }
    }

    /// Several statements as one, within a transaction and without.
    pub(super) fn held_together(&self, script: &str) -> String {
        if self.needs_savepoint() {
            format!("SAVEPOINT {STATEMENT_SAVEPOINT}; {script}; RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}")
        } else {
            script.to_owned()
        }
    }

    /// Several statements that hold or fail together.
    pub(super) async fn run_script(&mut self, script: &str) -> Outcome<()> {
        let has_savepoint = self.needs_savepoint();
        match self.client.batch_execute(&self.held_together(script)).await {
            Ok(()) => Ok(Ok(())),
            Err(error) => {
                let error = self.explain(&error, "ALTER TABLE")?;
                if has_savepoint {
                    let back = format!(
                        "ROLLBACK TO SAVEPOINT {STATEMENT_SAVEPOINT}; RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}"
                    );
                    self.client
                        .batch_execute(&back)
                        .await
                        .map_err(|error| ConnectionError::Database(error.to_string()))?;
                }
                Ok(Err(error))
            }
        }
    }

    pub(super) async fn existing(&mut self, name: &[String]) -> Outcome<Arc<Table>> {
        match self.bind(|binder| binder.table(name, Permission::Checked)).await? {
            Ok((table, _)) if table.is_view => {
                Ok(Err(SqlError::new(259, 16, 1, "Ad hoc updates to system catalogs are not allowed.")))
            }
            Ok((table, _)) => Ok(Ok(table)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// A number from PostgreSQL.
    pub(super) async fn number(&mut self, sql: &str) -> Outcome<Option<i32>> {
        Ok(self
            .single_value(sql)
            .await?
            .map(|value| value.and_then(|bytes| bytes.as_slice().try_into().ok()).map(i32::from_be_bytes)))
    }

    /// A new table with its columns, constraints and indexes.
    pub(super) async fn plan_table(&mut self, name: &[String], items: &[TableItem]) -> Outcome<Draft> {
        let (schema, name) = match split_name(name, &self.shared.database) {
            Ok(parts) => parts,
            Err(error) => return Ok(Err(error)),
        };
        let mut draft = match if is_temporary(name) {
            self.temporary_draft(name).await?
        } else {
            self.new_draft(schema, name).await?
        } {
            Ok(draft) => draft,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.add_items(&mut draft, items).await? {
            return Ok(Err(error));
        }
        if draft.columns.is_empty() {
            return Ok(Err(SqlError::syntax(")")));
        }
        if !draft.has_clustered {
            let _ = write!(
                draft.script,
                "INSERT INTO {}.indexes (object_id, index_id, name, type) VALUES ({}, 0, NULL, 0);",
                draft.catalogue, draft.object_id
            );
        }
        Ok(Ok(draft))
    }

    async fn alter_table(&mut self, name: &[String], items: &[TableItem]) -> Outcome<String> {
        let mut draft = match self.draft_of(name).await? {
            Ok(draft) => draft,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.add_items(&mut draft, items).await? {
            return Ok(Err(error));
        }
        let mut script = String::new();
        for definition in &draft.definitions {
            let _ = write!(script, "ALTER TABLE {} ADD {definition};", draft.postgres);
        }
        script.push_str(&draft.script);
        Ok(Ok(script))
    }

    async fn create_index(&mut self, table: &[String], index: &IndexDefinition) -> Outcome<String> {
        let mut draft = match self.draft_of(table).await? {
            Ok(draft) => draft,
            Err(error) => return Ok(Err(error)),
        };
        Ok(draft.index(index).map(|()| draft.script))
    }

    async fn draft_of(&mut self, name: &[String]) -> Outcome<Draft> {
        let table = match self.existing(name).await? {
            Ok(table) => table,
            Err(error) => return Ok(Err(error)),
        };
        let catalogue = table.catalogue();
        let facts = format!(
            "SELECT o.schema_id, coalesce(max(i.index_id), 0), coalesce(bool_or(i.type IN (1, 5)), false)::int4, \
             (SELECT count(*) FROM {catalogue}.objects k WHERE k.parent_object_id = o.object_id)::int4 \
             FROM {catalogue}.objects o LEFT JOIN {catalogue}.indexes i USING (object_id) WHERE o.object_id = {} GROUP BY o.object_id, o.schema_id",
            table.object_id
        );
        let row = match self.client.query_one(&facts, &[]).await {
            Ok(row) => row,
            Err(error) => return Ok(Err(self.explain(&error, "ALTER TABLE")?)),
        };
        let fact = |index: usize| row.try_get::<_, i32>(index).unwrap_or(0);
        Ok(Ok(Draft {
            is_new: false,
            catalogue,
            object_id: table.object_id,
            schema_id: fact(0),
            name: table.name.clone(),
            postgres: table.postgres.clone(),
            columns: table.columns.clone(),
            definitions: Vec::new(),
            script: String::new(),
            next_index: fact(1).max(1) + 1,
            has_clustered: fact(2) != 0,
            unnamed: usize::try_from(fact(3)).unwrap_or(0),
        }))
    }

    async fn add_items(&mut self, draft: &mut Draft, items: &[TableItem]) -> Outcome<()> {
        let keys: Vec<&str> =
            items.iter().filter_map(primary_key).flatten().map(|(name, _)| name.as_str()).collect();
        for item in items {
            let added = match item {
                TableItem::Column(column) => {
                    self.add_column(draft, column, keys.iter().any(|key| same_name(key, &column.name)))
                        .await?
                }
                TableItem::Computed(column) => self.add_computed(draft, column, items).await?,
                TableItem::Constraint(_) | TableItem::Index(_) => Ok(()),
            };
            if added.is_err() {
                return Ok(added);
            }
        }
        let constraints: Vec<&ConstraintDefinition> = items
            .iter()
            .filter_map(|item| match item {
                TableItem::Column(column) => Some(column.constraints.as_slice()),
                TableItem::Constraint(constraint) => Some(std::slice::from_ref(constraint.as_ref())),
                TableItem::Computed(_) | TableItem::Index(_) => None,
            })
            .flatten()
            .collect();
        // clustered keys first: a primary key is clustered where nothing else is
        let wants_clustered = items.iter().any(|item| {
            matches!(
                item,
                TableItem::Index(IndexDefinition {
                    kind: IndexKind::Clustered | IndexKind::ClusteredColumnstore,
                    ..
                })
            )
        }) || constraints
            .iter()
            .any(|constraint| matches!(constraint.kind, ConstraintKind::Key { clustered: Some(true), .. }));
        for constraint in constraints {
            let added = self.add_constraint(draft, constraint, wants_clustered).await?;
            if added.is_err() {
                return Ok(added);
            }
        }
        for item in items {
            if let TableItem::Index(index) = item
                && let Err(error) = draft.index(index)
            {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    async fn add_column(
        &mut self,
        draft: &mut Draft,
        column: &ColumnDefinition,
        is_key: bool,
    ) -> Outcome<()> {
        let id = match draft.next_column(&column.name) {
            Ok(id) => id,
            Err(error) => return Ok(Err(error)),
        };
        let nullable = column.nullable.unwrap_or(!is_key && column.identity.is_none());
        if nullable && (is_key || column.identity.is_some()) {
            return Ok(Err(SqlError::new(
                8111,
                16,
                1,
                format!(
                    "Cannot define PRIMARY KEY constraint or IDENTITY on nullable column in table '{}'.",
                    draft.name
                ),
            )));
        }
        let postgres = postgres_name(&column.name);
        let mut definition = format!("{} {}", quote_identifier(&postgres), column.sql_type.postgres());
        if !nullable {
            definition.push_str(" NOT NULL");
        }
        let mut default_sql = None;
        if let Some((name, value)) = &column.default {
            let bound = self.bind(|binder| {
                let value = binder.value(value, &Scope::default())?;
                let place = format!("a DEFAULT of column '{}'", column.name);
                Ok(convert(&value, column.sql_type, Conversion::Assign(&place))?)
            });
            let sql = match bound.await? {
                Ok((sql, _)) => sql,
                Err(error) => return Ok(Err(error)),
            };
            let _ = write!(definition, " DEFAULT {sql}");
            draft.constraint_object(name.as_deref(), "D", &column.name, Some((id, &format!("({value})"))));
            default_sql = Some(sql);
        }
        if let Some((seed, increment)) = column.identity {
            if !column.sql_type.is_integer() || column.sql_type == SqlType::Bit || increment == 0 {
                return Ok(Err(SqlError::new(
                    2749,
                    16,
                    2,
                    format!(
                        "Identity column '{}' must be of data type int, bigint, smallint or tinyint, and constrained to be nonnullable.",
                        column.name
                    ),
                )));
            }
            let bound = if increment > 0 { format!("MINVALUE {seed}") } else { format!("MAXVALUE {seed}") };
            let _ = write!(
                definition,
                " GENERATED BY DEFAULT AS IDENTITY (START WITH {seed} INCREMENT BY {increment} {bound})"
            );
        }
        draft.definitions.push(if draft.is_new { definition } else { format!("COLUMN {definition}") });
        let facets = column.sql_type.facets();
        let text = |value: Option<&str>| value.map_or("NULL".to_owned(), quote_literal);
        let number = |value: Option<i64>| value.map_or("NULL".to_owned(), |value| value.to_string());
        let _ = write!(
            draft.script,
            "INSERT INTO {}.columns (object_id, column_id, name, postgres_name, type_name, max_length, precision, scale, collation_name, is_nullable, \
             identity_seed, identity_increment, default_sql) VALUES ({}, {id}, {}, {}, '{}', {}, {}, {}, {}, {nullable}, {}, {}, {});",
            draft.catalogue,
            draft.object_id,
            quote_literal(&column.name),
            quote_literal(&postgres),
            column.sql_type.name(),
            facets.max_length,
            facets.precision,
            facets.scale,
            text(column.sql_type.collation().map(|collation| collation.name())),
            number(column.identity.map(|(seed, _)| seed)),
            number(column.identity.map(|(_, increment)| increment)),
            text(default_sql.as_deref()),
        );
        draft.columns.push(Column {
            id,
            name: column.name.clone(),
            postgres_name: postgres,
            sql_type: column.sql_type,
            nullable,
            origin: if column.identity.is_some() { ColumnOrigin::Identity } else { ColumnOrigin::Table },
            default_sql,
        });
        Ok(Ok(()))
    }

    async fn add_constraint(
        &mut self,
        draft: &mut Draft,
        constraint: &ConstraintDefinition,
        wants_clustered: bool,
    ) -> Outcome<()> {
        match &constraint.kind {
            ConstraintKind::Key { primary, clustered, columns } => {
                let clustered = clustered.unwrap_or(*primary && !wants_clustered && !draft.has_clustered);
                Ok(draft.key(constraint.name.as_deref(), *primary, clustered, columns))
            }
            ConstraintKind::Check(condition) => {
                let columns = draft.columns.clone();
                let name = draft.name.clone();
                let bound = self.bind(|binder| {
                    let mut scope = Scope::default();
                    scope
                        .add(Relation::of_columns(&name, &columns))
                        .map_err(|_| BindError::Refused(SqlError::syntax("CHECK")))?;
                    binder.condition(condition, &scope)
                });
                let sql = match bound.await? {
                    Ok((sql, _)) => sql,
                    Err(error) => return Ok(Err(error)),
                };
                let name = draft.constraint_object(
                    constraint.name.as_deref(),
                    "C",
                    "",
                    Some((0, &format!("({condition})"))),
                );
                let definition = format!(
                    "CONSTRAINT {} CHECK (tsql.skips_checks() OR {sql})",
                    quote_identifier(&postgres_name(&name))
                );
                draft.definitions.push(definition);
                Ok(Ok(()))
            }
            ConstraintKind::Default { value, column } => {
                let column = match draft.column(column) {
                    Ok(column) => column.clone(),
                    Err(error) => return Ok(Err(error)),
                };
                let bound = self.bind(|binder| {
                    let value = binder.value(value, &Scope::default())?;
                    Ok(convert(&value, column.sql_type, Conversion::Assign("a DEFAULT"))?)
                });
                let sql = match bound.await? {
                    Ok((sql, _)) => sql,
                    Err(error) => return Ok(Err(error)),
                };
                draft.constraint_object(
                    constraint.name.as_deref(),
                    "D",
                    &column.name,
                    Some((column.id, &format!("({value})"))),
                );
                let _ = write!(
                    draft.script,
                    "ALTER TABLE {} ALTER {} SET DEFAULT {sql}; UPDATE {}.columns SET default_sql = {} WHERE object_id = {} AND column_id = {};",
                    draft.postgres,
                    quote_identifier(&column.postgres_name),
                    draft.catalogue,
                    quote_literal(&sql),
                    draft.object_id,
                    column.id
                );
                Ok(Ok(()))
            }
        }
    }
}

fn primary_key(item: &TableItem) -> Option<&Vec<(String, bool)>> {
    let constraints = match item {
        TableItem::Column(column) => column.constraints.as_slice(),
        TableItem::Constraint(constraint) => std::slice::from_ref(constraint.as_ref()),
        TableItem::Computed(_) | TableItem::Index(_) => &[],
    };
    constraints.iter().find_map(|constraint| match &constraint.kind {
        ConstraintKind::Key { primary: true, columns, .. } => Some(columns),
        _ => None,
    })
}
