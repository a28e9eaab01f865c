//! What a new table begins with.

use std::fmt::Write as _;

use super::super::super::catalogue::temporary;
use super::super::super::catalogue::{Catalogue, find_table, postgres_name};
use super::super::super::encode::{quote_identifier, quote_literal};
use super::super::super::error::SqlError;
use super::super::Session;
use super::super::transaction::Outcome;
use super::Draft;

impl Session {
    /// A table of the database.
    pub(super) async fn new_draft(&mut self, schema: &str, name: &str) -> Outcome<Draft> {
        let found = match self.number(&format!("SELECT tsql.schema_id({})", quote_literal(schema))).await? {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let Some(schema_id) = found.filter(|id| !matches!(id, 3 | 4)) else {
            return Ok(Err(SqlError::new(
                2760,
                16,
                1,
                format!(
                    "The specified schema name \"{schema}\" either does not exist or you do not have permission to use it."
                ),
            )));
        };
        match find_table(&self.client, schema, name).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Ok(Err(already_there(name)));
            }
            Err(error) => return Ok(Err(self.explain(&error, "CREATE TABLE")?)),
        }
        let object_id = match self.number("SELECT nextval('tsql.object_ids')::int4").await? {
            Ok(id) => id.unwrap_or(0),
            Err(error) => return Ok(Err(error)),
        };
        let postgres_schema = match self
            .single_value(&format!("SELECT postgres_name FROM tsql.schemas WHERE schema_id = {schema_id}"))
            .await?
        {
            Ok(value) => String::from_utf8(value.unwrap_or_default()).unwrap_or_default(),
            Err(error) => return Ok(Err(error)),
        };
        let mut draft = Draft {
            is_new: true,
            catalogue: Catalogue::Database,
            object_id,
            schema_id,
            name: name.to_owned(),
            postgres: format!(
                "{}.{}",
                quote_identifier(&postgres_schema),
                quote_identifier(&postgres_name(name))
            ),
            columns: Vec::new(),
            definitions: Vec::new(),
            script: String::new(),
            next_index: 2,
            has_clustered: false,
            unnamed: 0,
        };
        let _ = write!(
            draft.script,
            "INSERT INTO tsql.objects (object_id, schema_id, name, type, created) VALUES ({object_id}, {schema_id}, {}, 'U', tsql.now_ticks());",
            quote_literal(name)
        );
        Ok(Ok(draft))
    }

    /// A temporary table of the scope at hand.
    pub(super) async fn temporary_draft(&mut self, name: &str) -> Outcome<Draft> {
        const MAX_NAME_CHARACTERS: usize = 116;
        if name.chars().count() > MAX_NAME_CHARACTERS {
            let message = format!(
                "The object or column name starting with '{name}' is too long. The maximum length is {MAX_NAME_CHARACTERS} characters."
            );
            return Ok(Err(SqlError::new(193, 15, 1, message)));
        }
        match find_table(&self.client, "tempdb", name).await {
            Ok(Some(table)) if table.scope == Some(self.scope) => return Ok(Err(already_there(name))),
            Ok(_) => {}
            Err(error) => return Ok(Err(self.explain(&error, "CREATE TABLE")?)),
        }
        let object_id = match self.number("SELECT nextval('tsql.object_ids')::int4").await? {
            Ok(id) => id.unwrap_or(0),
            Err(error) => return Ok(Err(error)),
        };
        let own_name = temporary::postgres_name(name, object_id);
        let script = format!(
            "INSERT INTO pg_temp.objects (object_id, schema_id, name, type, created, scope, postgres_name) \
             VALUES ({object_id}, 1, {}, 'U', tsql.now_ticks(), {}, {});",
            quote_literal(name),
            self.scope,
            quote_literal(&own_name)
        );
        self.deepest_temporary = self.deepest_temporary.max(Some(self.scope));
        Ok(Ok(Draft {
            is_new: true,
            catalogue: Catalogue::Temporary,
            object_id,
            schema_id: 1,
            name: name.to_owned(),
            postgres: temporary::qualified(&own_name),
            columns: Vec::new(),
            definitions: Vec::new(),
            script,
            next_index: 2,
            has_clustered: false,
            unnamed: 0,
        }))
    }
}

fn already_there(name: &str) -> SqlError {
    SqlError::new(2714, 16, 6, format!("There is already an object named '{name}' in the database."))
}
