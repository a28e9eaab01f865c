//! ALTER TABLE of what is there: columns of another type, columns and constraints that go.

use std::fmt::Write as _;

use super::super::super::batch::ColumnDefinition;
use super::super::super::bind::{Conversion, Typed, convert};
use super::super::super::catalogue::{Catalogue, Table, postgres_name};
use super::super::super::encode::{quote_identifier, quote_literal};
use super::super::super::error::SqlError;
use super::super::super::token::ColumnOrigin;
use super::super::Session;
use super::super::transaction::Outcome;
use super::draft::index_name;

impl Session {
    /// ALTER COLUMN: values are converted as an assignment would.
    pub(super) async fn alter_column(&mut self, name: &[String], new: &ColumnDefinition) -> Outcome<String> {
        let table = match self.existing(name).await? {
            Ok(table) => table,
            Err(error) => return Ok(Err(error)),
        };
        let Some(column) = table.column(&new.name) else {
            let message = format!(
                "ALTER TABLE ALTER COLUMN failed because column '{}' does not exist in table '{}'.",
                new.name, table.name
            );
            return Ok(Err(SqlError::new(4924, 16, 1, message)));
        };
        if column.origin != ColumnOrigin::Table {
            return Ok(Err(SqlError::unsupported("ALTER COLUMN of an identity or computed column")));
        }
        // what an index or a CHECK stands on may grow, and keeps its type otherwise
        let is_alike = std::mem::discriminant(&column.sql_type) == std::mem::discriminant(&new.sql_type);
        if !is_alike && let Some(error) = self.in_use(&table, column.id, "ALTER TABLE ALTER COLUMN").await? {
            return Ok(Err(error));
        }
        let postgres = quote_identifier(&column.postgres_name);
        let place = format!("table '{}', column '{}'", table.display(&self.shared.database), column.name);
        let value = Typed::new(postgres.clone(), column.sql_type, column.nullable);
        let value = match convert(&value, new.sql_type, Conversion::Assign(&place)) {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        };
        // SQL Server makes a column nullable where nothing else is said
        let nullable = new.nullable.unwrap_or(true);
        let verb = if nullable { "DROP" } else { "SET" };
        let facets = new.sql_type.facets();
        let collation =
            new.sql_type.collation().map_or("NULL".to_owned(), |collation| quote_literal(collation.name()));
        Ok(Ok(format!(
            "ALTER TABLE {} ALTER {postgres} TYPE {} USING {value}, ALTER {postgres} {verb} NOT NULL; \
             UPDATE {}.columns SET type_name = '{}', max_length = {}, precision = {}, scale = {}, collation_name = {collation}, \
             is_nullable = {nullable} WHERE object_id = {} AND column_id = {};",
            table.postgres,
            new.sql_type.postgres(),
            table.catalogue(),
            new.sql_type.name(),
            facets.max_length,
            facets.precision,
            facets.scale,
            table.object_id,
            column.id
        )))
    }

    pub(super) async fn drop_columns(
        &mut self,
        name: &[String],
        columns: &[String],
        if_exists: bool,
    ) -> Outcome<String> {
        let table = match self.existing(name).await? {
            Ok(table) => table,
            Err(error) => return Ok(Err(error)),
        };
        let mut script = String::new();
        for name in columns {
            let Some(column) = table.column(name) else {
                if if_exists {
                    continue;
                }
                let message = format!(
                    "ALTER TABLE DROP COLUMN failed because column '{name}' does not exist in table '{}'.",
                    table.name
                );
                return Ok(Err(SqlError::new(4924, 16, 1, message)));
            };
            if let Some(error) = self.in_use(&table, column.id, "ALTER TABLE DROP COLUMN").await? {
                return Ok(Err(error));
            }
            let _ = write!(
                script,
                "ALTER TABLE {} DROP {}; DELETE FROM {}.columns WHERE object_id = {} AND column_id = {};",
                table.postgres,
                quote_identifier(&column.postgres_name),
                table.catalogue(),
                table.object_id,
                column.id
            );
        }
        Ok(Ok(script))
    }

    /// Error 4922 where an index, a constraint, a default or a computed column needs a column.
    async fn in_use(
        &mut self,
        table: &Table,
        column_id: i32,
        verb: &str,
    ) -> Result<Option<SqlError>, super::super::super::packet::ConnectionError> {
        let (catalogue, id) = (table.catalogue(), table.object_id);
        let Some(column) = table.columns.iter().find(|column| column.id == column_id) else {
            return Ok(None);
        };
        // constraints but NOT NULL, and what other columns are computed from
        let find = format!(
            "SELECT (EXISTS (SELECT FROM {catalogue}.index_columns WHERE object_id = {id} AND column_id = {column_id}) \
             OR EXISTS (SELECT FROM {catalogue}.objects WHERE parent_object_id = {id} AND type = 'D' AND column_id = {column_id}) \
             OR EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
                LEFT JOIN pg_catalog.pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid \
                LEFT JOIN pg_catalog.pg_attrdef v ON d.classid = 'pg_attrdef'::regclass AND v.oid = d.objid \
                WHERE d.refobjid = {}::regclass AND a.attname = {} AND (k.contype <> 'n' OR v.adnum <> a.attnum)))::int4",
            quote_literal(&table.postgres),
            quote_literal(&column.postgres_name)
        );
        Ok(match self.number(&find).await? {
            Err(error) => Some(error),
            Ok(Some(0) | None) => None,
            Ok(Some(_)) => {
                let message =
                    format!("{verb} {} failed because one or more objects access this column.", column.name);
                Some(SqlError::new(4922, 16, 9, message))
            }
        })
    }

    pub(super) async fn drop_constraints(
        &mut self,
        name: &[String],
        constraints: &[String],
        if_exists: bool,
    ) -> Outcome<String> {
        let table = match self.existing(name).await? {
            Ok(table) => table,
            Err(error) => return Ok(Err(error)),
        };
        let (catalogue, id) = (table.catalogue(), table.object_id);
        let mut script = String::new();
        for constraint in constraints {
            let find = format!(
                "SELECT rpad(type, 2) || name || chr(1) || coalesce(column_id, 0) FROM {catalogue}.objects \
                 WHERE parent_object_id = {id} AND lower(name) = lower({})",
                quote_literal(constraint)
            );
            let found = match self.single_value(&find).await? {
                Ok(found) => found.and_then(|bytes| String::from_utf8(bytes).ok()),
                Err(error) => return Ok(Err(error)),
            };
            let parts = found.as_deref().and_then(|found| {
                let (kind, rest) = found.split_at_checked(2)?;
                let (name, column) = rest.split_once('\u{1}')?;
                Some((kind.trim_end(), name, column))
            });
            let Some((kind, own, column)) = parts else {
                if if_exists {
                    continue;
                }
                return Ok(Err(SqlError::new(3728, 16, 1, format!("'{constraint}' is not a constraint."))));
            };
            script.push_str(&drop_constraint(&table, catalogue, kind, own, column));
            let _ = write!(
                script,
                "DELETE FROM {catalogue}.objects WHERE parent_object_id = {id} AND name = {};",
                quote_literal(own)
            );
        }
        Ok(Ok(script))
    }
}

fn drop_constraint(table: &Table, catalogue: Catalogue, kind: &str, name: &str, column: &str) -> String {
    let (postgres, id) = (&table.postgres, table.object_id);
    match kind {
        "PK" | "UQ" => {
            let schema = postgres.split_once('.').map_or("dbo", |(schema, _)| schema);
            let mark = if kind == "PK" { 'p' } else { 'u' };
            format!(
                "DROP INDEX {schema}.{}; DELETE FROM {catalogue}.indexes WHERE object_id = {id} AND name = {}; \
                 INSERT INTO {catalogue}.indexes (object_id, index_id, name, type) SELECT {id}, 0, NULL, 0 \
                 WHERE NOT EXISTS (SELECT FROM {catalogue}.indexes WHERE object_id = {id} AND index_id IN (0, 1));",
                quote_identifier(&index_name(name, mark, id)),
                quote_literal(name)
            )
        }
        "C" => format!("ALTER TABLE {postgres} DROP CONSTRAINT {};", quote_identifier(&postgres_name(name))),
        // a default; the column is known by its number
        _ => {
            let own = table.columns.iter().find(|own| own.id.to_string() == column);
            own.map_or_else(String::new, |own| {
                format!(
                    "ALTER TABLE {postgres} ALTER {} DROP DEFAULT; UPDATE {catalogue}.columns SET default_sql = NULL \
                     WHERE object_id = {id} AND column_id = {column};",
                    quote_identifier(&own.postgres_name)
                )
            })
        }
    }
}
