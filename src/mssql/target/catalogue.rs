//! What the server's catalogue says of a table: its columns and its indexes.

use tiberius::Row;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::connect::Session;
use crate::mssql::{query, statements};
use crate::sql_name::TableName;

/// What `sys.types` calls a `rowversion`.
const TYPE_ROWVERSION: &str = "timestamp";

/// A column as the server describes it.
#[derive(Debug, Clone)]
pub(super) struct ServerColumn {
    pub(super) name: String,
    pub(super) type_name: String,
    /// In bytes; -1 for `max`.
    pub(super) max_length: i32,
    pub(super) precision: i32,
    pub(super) scale: i32,
    pub(super) nullable: bool,
    /// The server makes its value, and takes none: identity, computed, rowversion, or of a temporal table's period.
    pub(super) generated: bool,
    pub(super) has_default: bool,
    /// Of text.
    pub(super) collation: Option<String>,
}

/// An index as the server describes it.
#[derive(Debug, Clone)]
pub(super) struct ServerIndex {
    /// None of a heap.
    pub(super) name: Option<String>,
    /// `sys.indexes.type`.
    pub(super) kind: i32,
    pub(super) unique: bool,
    /// It is still listed, but neither kept nor checked.
    pub(super) disabled: bool,
    /// An identity column is in its key.
    pub(super) identity_key: bool,
    /// It holds some rows only.
    pub(super) filtered: bool,
    /// It drops a row that it holds already, where others refuse it.
    pub(super) ignores_duplicates: bool,
    /// The columns of its key, in their order.
    pub(super) key: Vec<String>,
}

/// The table's object id; `None` where there is none that the user may see.
pub(super) async fn object_id(session: &mut Session, table: &TableName) -> Result<Option<i32>> {
    let rows =
        query(session, &statements::object_id(table)).await.map_err(|e| Error::sql(Phase::Target, e))?;
    match rows.first() {
        Some(row) => row.try_get(0).map_err(|error| Error::sql(Phase::Target, error)),
        None => Ok(None),
    }
}

/// The table's columns in their order.
pub(super) async fn columns(session: &mut Session, table: &TableName) -> Result<Vec<ServerColumn>> {
    let rows = query(session, &statements::columns(table)).await.map_err(|e| Error::sql(Phase::Target, e))?;
    rows.iter().map(server_column).collect()
}

/// The table's indexes, with the columns of their keys.
pub(super) async fn indexes(session: &mut Session, table: &TableName) -> Result<Vec<ServerIndex>> {
    let failed = |error| Error::sql(Phase::Target, error);
    let mut indexes = Vec::new();
    for row in query(session, &statements::indexes(table)).await.map_err(failed)? {
        indexes.push((integer(&row, "index_id")?, server_index(&row)?));
    }
    for row in query(session, &statements::index_columns(table)).await.map_err(failed)? {
        let id = integer(&row, "index_id")?;
        if let Some((_, index)) = indexes.iter_mut().find(|(index_id, _)| *index_id == id) {
            index.key.push(text(&row, "name")?);
        }
    }
    Ok(indexes.into_iter().map(|(_, index)| index).collect())
}

fn integer(row: &Row, column: &str) -> Result<i32> {
    row.try_get::<i32, _>(column)
        .map_err(|error| Error::sql(Phase::Target, error))?
        .ok_or_else(|| shape(format!("the server's catalogue has no {column} for a column or index")))
}

fn optional_text(row: &Row, column: &str) -> Result<Option<String>> {
    let text = row.try_get::<&str, _>(column).map_err(|error| Error::sql(Phase::Target, error))?;
    Ok(text.map(str::to_owned))
}

fn text(row: &Row, column: &str) -> Result<String> {
    optional_text(row, column)?
        .ok_or_else(|| shape(format!("the server's catalogue has no {column} for a column")))
}

fn server_column(row: &Row) -> Result<ServerColumn> {
    let type_name = text(row, "type_name")?.to_ascii_lowercase();
    let kinds = ["is_identity", "is_computed", "generated_always_type"];
    let kinds: Vec<i32> = kinds.iter().map(|kind| integer(row, kind)).collect::<Result<_>>()?;
    Ok(ServerColumn {
        name: text(row, "name")?,
        max_length: integer(row, "max_length")?,
        precision: integer(row, "precision")?,
        scale: integer(row, "scale")?,
        nullable: integer(row, "is_nullable")? != 0,
        generated: is_generated(&type_name, &kinds),
        type_name,
        has_default: integer(row, "has_default")? != 0,
        collation: optional_text(row, "collation_name")?,
    })
}

/// Whether the server fills a column of this type, with what the catalogue says of it: 0 where it is none of a kind.
pub(super) fn is_generated(type_name: &str, kinds: &[i32]) -> bool {
    type_name == TYPE_ROWVERSION || kinds.iter().any(|kind| *kind != 0)
}

fn server_index(row: &Row) -> Result<ServerIndex> {
    Ok(ServerIndex {
        name: optional_text(row, "name")?,
        kind: integer(row, "type")?,
        unique: integer(row, "is_unique")? != 0,
        disabled: integer(row, "is_disabled")? != 0,
        identity_key: integer(row, "has_identity_key")? != 0,
        filtered: integer(row, "has_filter")? != 0,
        ignores_duplicates: integer(row, "ignore_dup_key")? != 0,
        key: Vec::new(),
    })
}

/// Its type, as T-SQL writes it.
pub(super) fn describe(server: &ServerColumn) -> String {
    let ServerColumn { type_name, max_length, precision, scale, .. } = server;
    match type_name.as_str() {
        "decimal" | "numeric" => format!("{type_name}({precision},{scale})"),
        "time" | "datetime2" | "datetimeoffset" => format!("{type_name}({scale})"),
        "char" | "varchar" | "binary" | "varbinary" | "nchar" | "nvarchar" => match max_length {
            -1 => format!("{type_name}(max)"),
            length if type_name.starts_with('n') => format!("{type_name}({})", length / 2),
            length => format!("{type_name}({length})"),
        },
        _ => type_name.clone(),
    }
}

fn shape(message: String) -> Error {
    Error::new(Phase::Target, ErrorKind::TableShape, message)
}
