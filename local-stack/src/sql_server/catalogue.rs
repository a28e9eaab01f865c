//! What this server keeps of SQL Server's catalogue in the database, and how tables are looked up.

use std::sync::{Arc, LazyLock};

use tokio_postgres::Client;

use super::encode::quote_identifier;
use super::error::SqlError;
use super::token::ColumnOrigin;
use super::types::{Facets, SqlType};

mod security_views;
pub(super) mod temporary;
mod views;

use views::expand;

/// A column of a table or of a catalogue view.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) id: i32,
    pub(super) name: String,
    pub(super) postgres_name: String,
    pub(super) sql_type: SqlType,
    pub(super) nullable: bool,
    pub(super) origin: ColumnOrigin,
    /// The default, in PostgreSQL's SQL.
    pub(super) default_sql: Option<String>,
}

/// A table or a catalogue view.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) object_id: i32,
    pub(super) schema: String,
    pub(super) name: String,
    /// Its quoted name in PostgreSQL.
    pub(super) postgres: String,
    pub(super) columns: Vec<Column>,
    pub(super) has_checks: bool,
    /// Catalogue views are read only.
    pub(super) is_view: bool,
    /// Of a temporary table: the procedure within a procedure that made it, 0 where none did.
    pub(super) scope: Option<i32>,
}

/// Where a table's columns and indexes are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Catalogue {
    Database,
    /// The session's own, of temporary tables.
    Temporary,
}

impl std::fmt::Display for Catalogue {
    /// The schema in PostgreSQL.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Database => "tsql",
            Self::Temporary => "pg_temp",
        })
    }
}

impl Table {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| same_name(&column.name, name))
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.scope.is_some()
    }

    pub(super) fn catalogue(&self) -> Catalogue {
        if self.is_temporary() { Catalogue::Temporary } else { Catalogue::Database }
    }

    /// As errors name it.
    pub(super) fn display(&self, database: &str) -> String {
        let database = if self.is_temporary() { "tempdb" } else { database };
        format!("{database}.{}.{}", self.schema, self.name)
    }
}

/// Names compare without case.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!a.is_ascii() && a.to_lowercase() == b.to_lowercase())
}

/// PostgreSQL cuts names beyond 63 bytes without a word; T-SQL allows 128 characters.
pub(super) fn postgres_name(name: &str) -> String {
    const MAX_BYTES: usize = 63;
    if name.len() <= MAX_BYTES {
        return name.to_owned();
    }
    // FNV-1a: only has to tell the names of one database apart
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut end = 40;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{hash:016x}", &name[..end])
}

/// Makes or renews what this server needs in the database.
pub(super) async fn install(client: &Client) -> Result<(), tokio_postgres::Error> {
    use std::fmt::Write as _;
    let mut script = String::from("BEGIN;\nSELECT pg_advisory_xact_lock(20240229);\n");
    script.push_str(include_str!("catalogue/schema.sql"));
    script.push_str(include_str!("catalogue/security.sql"));
    script.push_str(include_str!("catalogue/functions.sql"));
    for (view, catalogue) in views::all() {
        let names: Vec<String> = expand(view.columns)
            .split(", ")
            .map(|column| quote_identifier(column.split_whitespace().next().unwrap_or("")))
            .collect();
        let name = system_view_name(view.schema(catalogue), view.name);
        // a view's columns cannot be changed in place
        let _ = writeln!(
            script,
            "DROP VIEW IF EXISTS {name};\nCREATE VIEW {name} ({}) AS {};",
            names.join(", "),
            view.query(catalogue)
        );
    }
    script.push_str("COMMIT;");
    client.batch_execute(&script).await
}

fn system_view_name(schema: &str, name: &str) -> String {
    format!(
        "sys.{}",
        quote_identifier(&if schema == "sys" { name.to_owned() } else { format!("{schema}.{name}") })
    )
}

/// The views of `sys` and `INFORMATION_SCHEMA` as tables that a query may name.
static SYSTEM_VIEWS: LazyLock<Vec<Arc<Table>>> = LazyLock::new(|| {
    views::all()
        .map(|(view, catalogue)| {
            let columns = expand(view.columns);
            let columns = split_columns(&columns).enumerate().filter_map(|(index, (name, sql_type))| {
                Some(Column {
                    id: i32::try_from(index + 1).ok()?,
                    name: name.to_owned(),
                    postgres_name: name.to_owned(),
                    sql_type: parse_type(sql_type).ok()?,
                    nullable: true,
                    origin: ColumnOrigin::Expression,
                    default_sql: None,
                })
            });
            Arc::new(Table {
                object_id: 0,
                schema: view.schema(catalogue).to_owned(),
                name: view.name.to_owned(),
                postgres: system_view_name(view.schema(catalogue), view.name),
                columns: columns.collect(),
                has_checks: false,
                is_view: true,
                scope: None,
            })
        })
        .collect()
});

fn split_columns(columns: &str) -> impl Iterator<Item = (&str, &str)> {
    columns.split(", ").filter_map(|column| column.trim().split_once(' '))
}

fn parse_type(text: &str) -> Result<SqlType, SqlError> {
    match text.split_once('(') {
        Some((name, argument)) => SqlType::parse(name.trim(), &[argument.trim_end_matches(')').to_owned()]),
        None => SqlType::parse(text.trim(), &[]),
    }
}

const FIND_TABLE: &str = "SELECT o.object_id, s.name, s.postgres_name, o.name, \
    EXISTS (SELECT FROM tsql.objects k WHERE k.parent_object_id = o.object_id AND k.type = 'C') \
    FROM tsql.objects o JOIN tsql.schemas s USING (schema_id) \
    WHERE lower(s.name) = lower($1) AND lower(o.name) = lower($2) AND o.type = 'U'";

const COLUMN_FACTS: &str = "column_id, name, postgres_name, type_name, max_length, precision, scale, collation_name, is_nullable, \
    identity_seed IS NOT NULL, computed IS NOT NULL, default_sql";

/// Looks a table up by its name. `None` where there is none.
pub(super) async fn find_table(
    client: &Client,
    schema: &str,
    name: &str,
) -> Result<Option<Arc<Table>>, tokio_postgres::Error> {
    if let Some(view) =
        SYSTEM_VIEWS.iter().find(|view| same_name(&view.schema, schema) && same_name(&view.name, name))
    {
        return Ok(Some(view.clone()));
    }
    if temporary::is_temporary(name) {
        return temporary::find(client, name).await;
    }
    let (schema, name) = (schema.to_owned(), name.to_owned());
    let Some(row) = client.query_opt(FIND_TABLE, &[&schema, &name]).await? else { return Ok(None) };
    let object_id: i32 = row.try_get(0)?;
    let schema: String = row.try_get(1)?;
    let postgres_schema: String = row.try_get(2)?;
    let name: String = row.try_get(3)?;
    let columns = read_columns(client, Catalogue::Database, object_id).await?;
    let postgres =
        format!("{}.{}", quote_identifier(&postgres_schema), quote_identifier(&postgres_name(&name)));
    Ok(Some(Arc::new(Table {
        object_id,
        schema,
        name,
        postgres,
        columns,
        has_checks: row.try_get(4)?,
        is_view: false,
        scope: None,
    })))
}

async fn read_columns(
    client: &Client,
    catalogue: Catalogue,
    object_id: i32,
) -> Result<Vec<Column>, tokio_postgres::Error> {
    let mut columns = Vec::new();
    let sql =
        format!("SELECT {COLUMN_FACTS} FROM {catalogue}.columns WHERE object_id = $1 ORDER BY column_id");
    for row in client.query(&sql, &[&object_id]).await? {
        let type_name: String = row.try_get(3)?;
        let byte = |index: usize| -> Result<u8, tokio_postgres::Error> {
            Ok(u8::try_from(row.try_get::<_, i16>(index)?).unwrap_or(0))
        };
        let facets = Facets { max_length: row.try_get(4)?, precision: byte(5)?, scale: byte(6)? };
        let collation: Option<String> = row.try_get(7)?;
        let Ok(sql_type) = SqlType::from_catalogue(&type_name, facets, collation.as_deref()) else {
            continue;
        };
        let origin = match (row.try_get(9)?, row.try_get(10)?) {
            (true, _) => ColumnOrigin::Identity,
            (_, true) => ColumnOrigin::Computed,
            _ => ColumnOrigin::Table,
        };
        columns.push(Column {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            postgres_name: row.try_get(2)?,
            sql_type,
            nullable: row.try_get(8)?,
            origin,
            default_sql: row.try_get(11)?,
        });
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_every_view_has_a_type() {
        for ((view, _), table) in views::all().zip(SYSTEM_VIEWS.iter()) {
            assert_eq!(split_columns(&expand(view.columns)).count(), table.columns.len(), "{}", view.name);
        }
    }

    #[test]
    fn long_names_differ_in_postgresql_as_they_do_in_sql_server() {
        let (a, b) = ("x".repeat(100) + "a", "x".repeat(100) + "b");
        assert_ne!(postgres_name(&a), postgres_name(&b));
        assert!(postgres_name(&"é".repeat(128)).len() <= 63);
        assert_eq!(postgres_name("short"), "short");
    }
}
