//! Computed columns. PostgreSQL keeps their values, whether they are PERSISTED or not.

use std::fmt::Write as _;

use super::super::super::batch::{ComputedColumn, TableItem};
use super::super::super::bind::{BindError, Relation, Scope};
use super::super::super::catalogue::{Column, postgres_name};
use super::super::super::encode::{quote_identifier, quote_literal};
use super::super::super::error::SqlError;
use super::super::super::token::ColumnOrigin;
use super::super::Session;
use super::super::transaction::Outcome;
use super::Draft;

impl Session {
    pub(super) async fn add_computed(
        &mut self,
        draft: &mut Draft,
        computed: &ComputedColumn,
        items: &[TableItem],
    ) -> Outcome<()> {
        let id = match draft.next_column(&computed.name) {
            Ok(id) => id,
            Err(error) => return Ok(Err(error)),
        };
        // columns that come behind it, too, but no other computed one
        let in_sight: Vec<Column> = draft
            .columns
            .iter()
            .filter(|column| column.origin != ColumnOrigin::Computed)
            .cloned()
            .chain(items.iter().filter_map(|item| ahead(item, draft)))
            .collect();
        let table = draft.name.clone();
        let bound = self.bind(|binder| {
            let mut scope = Scope::default();
            scope
                .add(Relation::of_columns(&table, &in_sight))
                .map_err(|_| BindError::Refused(SqlError::syntax("AS")))?;
            binder.value(&computed.value, &scope)
        });
        let value = match bound.await? {
            Ok((value, _)) => value,
            Err(error) => return Ok(Err(error)),
        };
        let sql_type = value.type_or_int();
        let postgres = postgres_name(&computed.name);
        let column = if draft.is_new { "" } else { "COLUMN " };
        let not_null = if computed.not_null { " NOT NULL" } else { "" };
        draft.definitions.push(format!(
            "{column}{} {} GENERATED ALWAYS AS ({}) STORED{not_null}",
            quote_identifier(&postgres),
            sql_type.postgres(),
            value.sql
        ));
        let facets = sql_type.facets();
        let nullable = value.nullable && !computed.not_null;
        let _ = write!(
            draft.script,
            "INSERT INTO {}.columns (object_id, column_id, name, postgres_name, type_name, max_length, precision, scale, collation_name, is_nullable, \
             computed, is_persisted) VALUES ({}, {id}, {}, {}, '{}', {}, {}, {}, {}, {nullable}, {}, {});",
            draft.catalogue,
            draft.object_id,
            quote_literal(&computed.name),
            quote_literal(&postgres),
            sql_type.name(),
            facets.max_length,
            facets.precision,
            facets.scale,
            sql_type.collation().map_or("NULL".to_owned(), |collation| quote_literal(collation.name())),
            quote_literal(&format!("({})", computed.value)),
            computed.is_persisted,
        );
        draft.columns.push(Column {
            id,
            name: computed.name.clone(),
            postgres_name: postgres,
            sql_type,
            nullable,
            origin: ColumnOrigin::Computed,
            default_sql: None,
        });
        Ok(Ok(()))
    }
}

/// A column that is still to be added.
fn ahead(item: &TableItem, draft: &Draft) -> Option<Column> {
    let TableItem::Column(column) = item else { return None };
    draft.column(&column.name).is_err().then(|| Column {
        id: 0,
        name: column.name.clone(),
        postgres_name: postgres_name(&column.name),
        sql_type: column.sql_type,
        nullable: column.nullable.unwrap_or(true),
        origin: ColumnOrigin::Table,
        default_sql: None,
    })
}
