//! DROP, and schemas.

use super::super::super::catalogue::postgres_name;
use super::super::super::catalogue::temporary::{self, drop_table};
use super::super::super::encode::{quote_identifier, quote_literal};
use super::super::super::error::SqlError;
use super::super::super::packet::ConnectionError;
use super::super::Session;
use super::super::transaction::Outcome;
use super::draft::index_name;

impl Session {
    /// A procedure or a text that was executed is over.
    pub(in super::super) async fn leave_scope(&mut self) -> Result<(), ConnectionError> {
        self.drop_temporary(self.scope).await?;
        self.scope -= 1;
        Ok(())
    }

    /// Drops the temporary tables of a scope and of those within it.
    pub(in super::super) async fn drop_temporary(&mut self, scope: i32) -> Result<(), ConnectionError> {
        if self.deepest_temporary < Some(scope) {
            return Ok(());
        }
        let lost = |error: tokio_postgres::Error| ConnectionError::Database(error.to_string());
        if let Some(script) = temporary::drop_scope(&self.client, scope).await.map_err(lost)? {
            self.client.batch_execute(&script).await.map_err(lost)?;
        }
        self.deepest_temporary = scope.checked_sub(1).filter(|scope| *scope >= 0);
        Ok(())
    }

    pub(super) async fn drop_tables(&mut self, names: &[Vec<String>], if_exists: bool) -> Outcome<String> {
        let mut script = String::new();
        for name in names {
            match self.existing(name).await? {
                Ok(table) => {
                    script.push_str(&drop_table(&table.postgres, table.catalogue(), table.object_id));
                }
                Err(error) if error.number == 208 && if_exists => {}
                Err(error) if error.number == 208 => {
                    return Ok(Err(SqlError::new(
                        3701,
                        11,
                        5,
                        format!(
                            "Cannot drop the table '{}', because it does not exist or you do not have permission.",
                            name.join(".")
                        ),
                    )));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(script))
    }

    pub(super) async fn drop_index(
        &mut self,
        table: &[String],
        name: &str,
        if_exists: bool,
    ) -> Outcome<String> {
        let table = match self.existing(table).await? {
            Ok(table) => table,
            Err(error) => return Ok(Err(error)),
        };
        let id = table.object_id;
        let catalogue = table.catalogue();
        let find = format!(
            "SELECT index_id FROM {catalogue}.indexes WHERE object_id = {id} AND lower(name) = lower({}) AND NOT is_primary_key AND NOT is_unique_constraint",
            quote_literal(name)
        );
        match self.number(&find).await? {
            Err(error) => Ok(Err(error)),
            Ok(None) if if_exists => Ok(Ok(String::new())),
            Ok(None) => Ok(Err(SqlError::new(
                3701,
                11,
                7,
                format!(
                    "Cannot drop the index '{}.{name}', because it does not exist or you do not have permission.",
                    table.name
                ),
            ))),
            Ok(Some(index_id)) => {
                let schema = table.postgres.split_once('.').map_or("dbo", |(schema, _)| schema);
                // a columnstore has no index in PostgreSQL
                Ok(Ok(format!(
                    "DROP INDEX IF EXISTS {schema}.{}; DELETE FROM {catalogue}.indexes WHERE object_id = {id} AND index_id = {index_id}; \
                     INSERT INTO {catalogue}.indexes (object_id, index_id, name, type) SELECT {id}, 0, NULL, 0 \
                     WHERE NOT EXISTS (SELECT FROM {catalogue}.indexes WHERE object_id = {id} AND index_id IN (0, 1));",
                    quote_identifier(&index_name(name, 'i', id))
                )))
            }
        }
    }

    pub(super) async fn drop_schema(&mut self, name: &str, if_exists: bool) -> Outcome<String> {
        match self.number(&format!("SELECT tsql.schema_id({})", quote_literal(name))).await? {
            Err(error) => Ok(Err(error)),
            Ok(None) if if_exists => Ok(Ok(String::new())),
            Ok(Some(id)) if id > 4 => {
                // PostgreSQL refuses to drop one that is not empty
                Ok(Ok(format!(
                    "DROP SCHEMA {}; DELETE FROM tsql.schemas WHERE schema_id = {id};",
                    quote_identifier(&schema_name(name))
                )))
            }
            Ok(_) => Ok(Err(SqlError::new(
                15151,
                16,
                1,
                format!(
                    "Cannot drop the schema '{name}', because it does not exist or you do not have permission."
                ),
            ))),
        }
    }
}

/// PostgreSQL keeps some names for itself.
fn schema_name(name: &str) -> String {
    postgres_name(&format!("schema {}", name.to_lowercase()))
}

/// `owner` is who makes it, where nobody else is named.
pub(super) fn create_schema(name: &str, owner: Option<&str>) -> String {
    let postgres = schema_name(name);
    format!(
        "INSERT INTO tsql.schemas (schema_id, name, postgres_name, owner_id) VALUES (nextval('tsql.schema_ids'), {}, {}, {}); CREATE SCHEMA {};",
        quote_literal(name),
        quote_literal(&postgres),
        owner.map_or_else(|| "tsql.me()".to_owned(), |owner| format!("tsql.owner({})", quote_literal(owner))),
        quote_identifier(&postgres)
    )
}
