//! All T-SQL text that this program sends, apart from what tiberius sends for a bulk load. Names come in as types that
//! can quote themselves; nothing else is put into a statement.

mod keyed;
pub(super) mod layout;
pub(super) mod leases;
pub(super) mod receipts;
pub(super) mod rights;
pub mod state;

pub use self::keyed::{Merge, Trials};
pub(super) use self::keyed::{STAGE, StageColumn, create_key_index, create_stage};
use crate::keyed::Keyed;
use crate::schema::Schema;
use crate::sql_name::TableName;

/// Sent once on every new connection. With `XACT_ABORT` an error rolls the whole transaction back, so that nothing of
/// a batch can be left in an open one; the isolation level is set in words because a server can default to another.
pub(super) const PREPARE_SESSION: &str = "SET XACT_ABORT ON; SET TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// Begins the transaction of a batch.
pub(super) const BEGIN: &str = "BEGIN TRANSACTION";

/// Ends it without a trace, where the server has not done so already.
pub(super) const ROLLBACK: &str = "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION";

/// One row, one column: the table's object id, NULL where there is none that the user may see.
pub(super) fn object_id(table: &TableName) -> String {
    format!("SELECT OBJECT_ID({}) AS object_id", literal(&table.quoted()))
}

/// The table's columns in their order.
pub(super) fn columns(table: &TableName) -> String {
    format!(
        "SELECT c.name AS name, t.name AS type_name, CAST(c.max_length AS int) AS max_length, \
         CAST(c.precision AS int) AS precision, CAST(c.scale AS int) AS scale, \
         CAST(c.is_nullable AS int) AS is_nullable, CAST(c.is_identity AS int) AS is_identity, \
         CAST(c.is_computed AS int) AS is_computed, \
         CAST(c.generated_always_type AS int) AS generated_always_type, \
         CAST(CASE WHEN c.default_object_id = 0 THEN 0 ELSE 1 END AS int) AS has_default, \
         c.collation_name AS collation_name \
         FROM sys.columns AS c \
         JOIN sys.types AS t ON t.system_type_id = c.system_type_id AND t.user_type_id = c.system_type_id \
         WHERE c.object_id = OBJECT_ID({}) ORDER BY c.column_id",
        literal(&table.quoted())
    )
}

/// The table's indexes; a heap is listed as one of type 0, without a name.
pub(super) fn indexes(table: &TableName) -> String {
    format!(
        "SELECT CAST(i.index_id AS int) AS index_id, i.name AS name, CAST(i.type AS int) AS type, \
         CAST(i.is_unique AS int) AS is_unique, \
         CAST(i.is_disabled AS int) AS is_disabled, CASE WHEN i.has_filter = 1 THEN 1 ELSE 0 END AS has_filter, \
         CASE WHEN i.ignore_dup_key = 1 THEN 1 ELSE 0 END AS ignore_dup_key, \
         CAST(CASE WHEN EXISTS (SELECT 1 FROM sys.index_columns AS k \
         JOIN sys.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id \
         WHERE k.object_id = i.object_id AND k.index_id = i.index_id AND k.key_ordinal > 0 \
         AND c.is_identity = 1) THEN 1 ELSE 0 END AS int) AS has_identity_key \
         FROM sys.indexes AS i WHERE i.object_id = OBJECT_ID({})",
        literal(&table.quoted())
    )
}

/// The columns of the keys of the table's indexes, in their order.
pub(super) fn index_columns(table: &TableName) -> String {
    format!(
        "SELECT CAST(k.index_id AS int) AS index_id, c.name AS name FROM sys.index_columns AS k \
         JOIN sys.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id \
         WHERE k.object_id = OBJECT_ID({}) AND k.key_ordinal > 0 ORDER BY k.index_id, k.key_ordinal",
        literal(&table.quoted())
    )
}

/// Creates the table of a schema where there is none: with a primary key, where rows are written by key.
pub fn create_table(table: &TableName, schema: &Schema, keyed: Option<&Keyed>) -> String {
    let mut lines: Vec<String> = schema
        .table_columns()
        .map(|column| {
            let null = if column.nullable { "NULL" } else { "NOT NULL" };
            format!("    {} {} {null}", column.name.quoted(), column.sql_type)
        })
        .collect();
    if let Some(keyed) = keyed {
        lines.push(format!("    {}", self::keyed::primary_key(schema, keyed)));
    }
    format!(
        "IF OBJECT_ID({}, N'U') IS NULL\nCREATE TABLE {} (\n{}\n)",
        literal(&table.quoted()),
        table.quoted(),
        lines.join(",\n")
    )
}

/// A national character literal.
pub(crate) fn literal(text: &str) -> String {
    format!("N'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_cannot_be_left() {
        assert_eq!(literal("a'; DROP TABLE t; --"), "N'a''; DROP TABLE t; --'");
    }
}
