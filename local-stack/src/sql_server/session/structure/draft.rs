//! A table in the making: its columns, constraints and indexes, as a script for PostgreSQL.

use std::fmt::Write as _;

use super::super::super::batch::{IndexDefinition, IndexKind};
use super::super::super::catalogue::temporary::PREPARE;
use super::super::super::catalogue::{Catalogue, Column, same_name};
use super::super::super::encode::{quote_identifier, quote_literal};
use super::super::super::error::{INDEX_MARK, SqlError};

const MAX_COLUMNS: usize = 1024;

/// A table in the making: what is there already, and what is added to it.
pub(in super::super) struct Draft {
    /// It is made, and not altered.
    pub(super) is_new: bool,
    pub(super) catalogue: Catalogue,
    pub(super) object_id: i32,
    pub(super) schema_id: i32,
    pub(super) name: String,
    /// Its quoted name in PostgreSQL.
    pub(in super::super) postgres: String,
    pub(super) columns: Vec<Column>,
    /// Definitions of columns and constraints for PostgreSQL.
    pub(super) definitions: Vec<String>,
    /// What runs after the table is there.
    pub(super) script: String,
    pub(super) next_index: i32,
    pub(super) has_clustered: bool,
    /// Counts the constraints without a name, for the names that they get.
    pub(super) unnamed: usize,
}

impl Draft {
    pub(super) fn column(&self, name: &str) -> Result<&Column, SqlError> {
        self.columns.iter().find(|column| same_name(&column.name, name)).ok_or_else(|| {
            SqlError::new(
                1911,
                16,
                1,
                format!("Column name '{name}' does not exist in the target table or view."),
            )
        })
    }

    /// What makes the table in PostgreSQL and in the catalogue.
    pub(in super::super) fn create_script(&self) -> String {
        let (prepare, kind) = match self.catalogue {
            Catalogue::Database => ("", "TABLE"),
            Catalogue::Temporary => (PREPARE, "TEMPORARY TABLE"),
        };
        format!("{prepare}CREATE {kind} {} ({});{}", self.postgres, self.definitions.join(", "), self.script)
    }

    /// The number of a column that is to be added under this name.
    pub(super) fn next_column(&self, name: &str) -> Result<i32, SqlError> {
        if self.column(name).is_ok() {
            return Err(SqlError::new(
                2705,
                16,
                3,
                format!(
                    "Column names in each table must be unique. Column name '{name}' in table '{}' is specified more than once.",
                    self.name
                ),
            ));
        }
        if self.columns.len() < MAX_COLUMNS {
            // numbers of columns that are gone are not given again
            return Ok(self.columns.iter().map(|column| column.id).max().unwrap_or(0) + 1);
        }
        Err(SqlError::new(
            1702,
            16,
            1,
            format!(
                "CREATE TABLE failed because column '{name}' in table '{}' exceeds the maximum of {MAX_COLUMNS} columns.",
                self.name
            ),
        ))
    }

    /// Enters a constraint into the catalogue; gives its name, made up where it has none.
    pub(super) fn constraint_object(
        &mut self,
        name: Option<&str>,
        kind: &str,
        column: &str,
        definition: Option<(i32, &str)>,
    ) -> String {
        self.unnamed += 1;
        let prefix = match kind {
            "C" => "CK",
            "D" => "DF",
            other => other,
        };
        let table: String = self.name.chars().take(9).collect();
        let column: String = column.chars().take(5).collect();
        let made_up = format!(
            "{prefix}__{table}__{column}{}{:08X}{:02X}",
            if column.is_empty() { "" } else { "__" },
            self.object_id,
            self.unnamed
        );
        let system_named = name.is_none();
        let name = name.map_or(made_up, str::to_owned);
        let (column_id, definition) =
            definition.map_or((0, "NULL".to_owned()), |(id, text)| (id, quote_literal(text)));
        let _ = write!(
            self.script,
            "INSERT INTO {}.objects (schema_id, name, type, parent_object_id, created, definition, column_id, is_system_named) \
             VALUES ({}, {}, '{kind}', {}, tsql.now_ticks(), {definition}, {column_id}, {system_named});",
            self.catalogue,
            self.schema_id,
            quote_literal(&name),
            self.object_id
        );
        name
    }

    pub(super) fn key(
        &mut self,
        name: Option<&str>,
        primary: bool,
        clustered: bool,
        columns: &[(String, bool)],
    ) -> Result<(), SqlError> {
        let (kind, mark) = if primary { ("PK", 'p') } else { ("UQ", 'u') };
        let name = self.constraint_object(name, kind, "", None);
        let definition = IndexDefinition {
            name,
            unique: true,
            kind: if clustered { IndexKind::Clustered } else { IndexKind::Nonclustered },
            columns: columns.to_vec(),
            included: Vec::new(),
        };
        self.add_index(&definition, mark)
    }

    pub(super) fn index(&mut self, index: &IndexDefinition) -> Result<(), SqlError> {
        self.add_index(index, 'i')
    }

    /// `mark` tells in the index's PostgreSQL name what it belongs to: p, u or i.
    fn add_index(&mut self, index: &IndexDefinition, mark: char) -> Result<(), SqlError> {
        let clustered = matches!(index.kind, IndexKind::Clustered | IndexKind::ClusteredColumnstore);
        if clustered && self.has_clustered {
            return Err(SqlError::new(
                1902,
                16,
                3,
                format!(
                    "Cannot create more than one clustered index on table '{}'. Drop the existing clustered index before creating another.",
                    self.name
                ),
            ));
        }
        let id = if clustered {
            self.has_clustered = true;
            let _ = write!(
                self.script,
                "DELETE FROM {}.indexes WHERE object_id = {} AND index_id = 0;",
                self.catalogue, self.object_id
            );
            1
        } else {
            self.next_index += 1;
            self.next_index - 1
        };
        let (number, is_columnstore) = match index.kind {
            IndexKind::Clustered => (1, false),
            IndexKind::Nonclustered => (2, false),
            IndexKind::ClusteredColumnstore => (5, true),
            IndexKind::NonclusteredColumnstore => (6, true),
        };
        let mut keys = Vec::new();
        let mut rows = Vec::new();
        for (position, (name, descending)) in index.columns.iter().enumerate() {
            let column = self.column(name)?;
            if column.sql_type.length().is_none()
                && (column.sql_type.is_text() || column.sql_type.is_binary())
            {
                return Err(SqlError::new(
                    1919,
                    16,
                    1,
                    format!(
                        "Column '{name}' in table '{}' is of a type that is invalid for use as a key column in an index.",
                        self.name
                    ),
                ));
            }
            let own = quote_identifier(&column.postgres_name);
            let key = if index.unique {
                column.sql_type.equality_key(&own)
            } else {
                column.sql_type.order_key(&own)
            };
            keys.push(format!("({key}){}", if *descending { " DESC" } else { "" }));
            rows.push(format!(
                "({}, {id}, {}, {}, {}, {descending}, false)",
                self.object_id,
                position + 1,
                column.id,
                if is_columnstore { 0 } else { position + 1 }
            ));
        }
        for (position, name) in index.included.iter().enumerate() {
            let column = self.column(name)?;
            rows.push(format!(
                "({}, {id}, {}, {}, 0, false, true)",
                self.object_id,
                index.columns.len() + position + 1,
                column.id
            ));
        }
        let _ = write!(
            self.script,
            "INSERT INTO {}.indexes VALUES ({}, {id}, {}, {number}, {}, {}, {});",
            self.catalogue,
            self.object_id,
            quote_literal(&index.name),
            index.unique,
            mark == 'p',
            mark == 'u'
        );
        if !rows.is_empty() {
            let _ = write!(
                self.script,
                "INSERT INTO {}.index_columns VALUES {};",
                self.catalogue,
                rows.join(", ")
            );
        }
        if !is_columnstore {
            let unique = if index.unique { "UNIQUE " } else { "" };
            // two NULLs are one key in SQL Server
            let nulls = if index.unique { " NULLS NOT DISTINCT" } else { "" };
            let name = quote_identifier(&index_name(&index.name, mark, self.object_id));
            let _ = write!(
                self.script,
                "CREATE {unique}INDEX {name} ON {} ({}){nulls};",
                self.postgres,
                keys.join(", ")
            );
        }
        Ok(())
    }
}

/// An index's name in PostgreSQL, where it has to be unique in the schema and not in the table alone.
pub(super) fn index_name(name: &str, mark: char, object_id: i32) -> String {
    let mut end = name.len().min(48);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{INDEX_MARK}{mark}{object_id}", &name[..end])
}
