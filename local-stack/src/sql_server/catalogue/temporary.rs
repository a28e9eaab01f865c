//! Temporary tables: PostgreSQL's own, with a catalogue beside them that is temporary too, so that a rollback and
//! the end of the session take both back.

use std::sync::Arc;

use tokio_postgres::Client;

use super::super::encode::quote_identifier;
use super::super::error::INDEX_MARK;
use super::{Catalogue, Table, read_columns};

/// Makes what a session's first temporary table needs. Scopes are a procedure within a procedure: what was made
/// in one ends with it, and hides what has the same name outside.
pub(in super::super) const PREPARE: &str = "\
    CREATE TEMPORARY TABLE IF NOT EXISTS objects (LIKE tsql.objects INCLUDING DEFAULTS, scope int, postgres_name text, PRIMARY KEY (object_id)); \
    CREATE TEMPORARY TABLE IF NOT EXISTS columns (LIKE tsql.columns INCLUDING DEFAULTS, PRIMARY KEY (object_id, column_id), \
        FOREIGN KEY (object_id) REFERENCES pg_temp.objects ON DELETE CASCADE); \
    CREATE TEMPORARY TABLE IF NOT EXISTS indexes (LIKE tsql.indexes INCLUDING DEFAULTS, PRIMARY KEY (object_id, index_id), \
        FOREIGN KEY (object_id) REFERENCES pg_temp.objects ON DELETE CASCADE); \
    CREATE TEMPORARY TABLE IF NOT EXISTS index_columns (LIKE tsql.index_columns INCLUDING DEFAULTS, \
        PRIMARY KEY (object_id, index_id, index_column_id), \
        FOREIGN KEY (object_id, index_id) REFERENCES pg_temp.indexes ON DELETE CASCADE);";

/// Whether the session at hand has temporary tables' catalogue.
const IS_PREPARED: &str = "SELECT to_regclass('pg_temp.objects') IS NOT NULL";

const FIND: &str = "SELECT o.object_id, o.name, o.postgres_name, o.scope, \
    EXISTS (SELECT FROM pg_temp.objects k WHERE k.parent_object_id = o.object_id AND k.type = 'C') \
    FROM pg_temp.objects o WHERE lower(o.name) = lower($1) AND o.type = 'U' ORDER BY o.scope DESC LIMIT 1";

const FIND_ENDED: &str =
    "SELECT object_id, postgres_name FROM pg_temp.objects WHERE scope >= $1 AND type = 'U'";

/// Whether a table of this name is a temporary one.
pub(in super::super) fn is_temporary(name: &str) -> bool {
    name.starts_with('#')
}

/// A temporary table's name in PostgreSQL, without its schema and quotes.
pub(in super::super) fn postgres_name(name: &str, object_id: i32) -> String {
    let mut end = name.len().min(48);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{INDEX_MARK}{object_id}", &name[..end])
}

/// A temporary table in PostgreSQL's SQL.
pub(in super::super) fn qualified(name: &str) -> String {
    format!("pg_temp.{}", quote_identifier(name))
}

/// The table of this name in the innermost scope that has one.
pub(super) async fn find(client: &Client, name: &str) -> Result<Option<Arc<Table>>, tokio_postgres::Error> {
    if !client.query_one(IS_PREPARED, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let Some(row) = client.query_opt(FIND, &[&name]).await? else { return Ok(None) };
    let object_id: i32 = row.try_get(0)?;
    Ok(Some(Arc::new(Table {
        object_id,
        schema: "dbo".to_owned(),
        name: row.try_get(1)?,
        postgres: qualified(row.try_get(2)?),
        columns: read_columns(client, Catalogue::Temporary, object_id).await?,
        has_checks: row.try_get(4)?,
        is_view: false,
        scope: Some(row.try_get(3)?),
    })))
}

/// What drops the tables of a scope and of those within it; `None` where there are none.
pub(in super::super) async fn drop_scope(
    client: &Client,
    scope: i32,
) -> Result<Option<String>, tokio_postgres::Error> {
    if !client.query_one(IS_PREPARED, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let mut script = String::new();
    for row in client.query(FIND_ENDED, &[&scope]).await? {
        let (object_id, name): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
        script.push_str(&drop_table(&qualified(&name), Catalogue::Temporary, object_id));
    }
    Ok((!script.is_empty()).then_some(script))
}

/// Drops a table, and its rows of the catalogue.
pub(in super::super) fn drop_table(postgres: &str, catalogue: Catalogue, object_id: i32) -> String {
    format!(
        "DROP TABLE {postgres}; DELETE FROM {catalogue}.objects WHERE object_id = {object_id} OR parent_object_id = {object_id};"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_fit_into_postgresql_and_differ() {
        let long = format!("#{}", "\u{e9}".repeat(110));
        assert!(postgres_name(&long, i32::MAX).len() <= 63);
        assert_ne!(postgres_name("#a", 1), postgres_name("#a", 2));
    }
}
