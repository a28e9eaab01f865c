//! What the target table is: its columns held against the schema, and what its shape decides about a bulk load.

mod catalogue;
mod fit;
mod keyed;
mod shape;

use encoding_rs::Encoding;
use tiberius::{SqlBulkCopyOptions, TypeInfo};

use self::catalogue::ServerIndex;
use self::fit::{misfits, same_name, too_few_digits};
pub use self::shape::Shape;
use crate::config::{DeliveryGuarantee, PipelineConfig};
use crate::disposition::Duplicates;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::keyed::Keyed;
use crate::mssql::connect::Session;
use crate::mssql::execute;
use crate::mssql::statements::{self, Merge, Trials};
use crate::schema::{Schema, SchemaError, SqlType};
use crate::sql_name::TableName;

/// "There is already an object named …": another worker created the table in between.
const ALREADY_EXISTS: u32 = 2714;

/// A table that the rows of a schema can be loaded into.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where rows are loaded: the table's name, quoted, or, where they are written by key, that of the temporary table that
    /// they are merged from.
    pub table: String,
    /// The columns to load, in the order of the schema.
    pub columns: Vec<TargetColumn>,
    /// What is asked of the server for each load.
    pub options: SqlBulkCopyOptions,
    /// How the table keeps its rows.
    pub shape: Shape,
    /// How rows get from there into the table by their key; `None` where they are appended.
    pub stage: Option<Stage>,
    /// What was decided from the table's shape, and why: for the log and for `check`.
    pub decisions: Vec<String>,
}

/// The temporary table of a batch, in which rows wait for their merge by key.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The statement that makes it.
    pub create: String,
    /// The statements that merge its rows into the table, and drop it.
    pub merge: Merge,
    /// The statements that try parts of it.
    pub trials: Trials,
}

/// A column to load.
#[derive(Debug, Clone)]
pub struct TargetColumn {
    /// Its name, quoted.
    pub name: String,
    /// Digits of its fractional seconds on the wire, where it has any: a value is sent with as many.
    pub scale: u8,
    /// What its text is encoded in on the wire, where that is not UTF-16.
    pub encoding: Option<&'static Encoding>,
}

impl Target {
    /// The schema with the code pages that the table's `char` and `varchar` columns have.
    ///
    /// # Errors
    ///
    /// A default of the schema cannot be written in its column's code page.
    pub fn with_encodings(&self, schema: &Schema) -> Result<Schema, SchemaError> {
        schema.with_text_encodings(|column| {
            let name = column.name.quoted();
            self.columns.iter().find(|target| target.name == name).and_then(|target| target.encoding)
        })
    }
}

/// How rows are written into a table.
#[derive(Debug, Clone)]
pub enum Way {
    /// Every event is a new row, and may be written again.
    Append,
    /// Every event is a new row, and is written once.
    AppendOnce,
    /// By their key.
    ByKey(Keyed),
}

impl Way {
    /// How rows of `schema`, which [`crate::keyed::plan`] has returned, are written.
    pub fn of(config: &PipelineConfig, schema: &Schema) -> Self {
        match (Keyed::of(config, schema), config.delivery) {
            (Some(keyed), _) => Way::ByKey(keyed),
            (None, DeliveryGuarantee::ExactlyOnce) => Way::AppendOnce,
            (None, DeliveryGuarantee::AtLeastOnce) => Way::Append,
        }
    }

    /// What it means that the table holds the key of a row already.
    pub fn duplicates(&self) -> Duplicates {
        match self {
            Way::Append => Duplicates::Stop,
            Way::AppendOnce => Duplicates::Bisect,
            Way::ByKey(_) => Duplicates::Retry,
        }
    }
}

/// Whether there is a table of this name that the user may see.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn exists(session: &mut Session, table: &TableName) -> Result<bool> {
    Ok(catalogue::object_id(session, table).await?.is_some())
}

/// Reads the table's shape, creating the table first where `create` allows it and there is none. Rows are written as `way`
/// says.
///
/// # Errors
///
/// [`ErrorKind::TableShape`] where the table is missing, rows of the schema do not fit it, or one that is written again
/// would be refused, or where an index that writing by key needs is missing.
pub async fn prepare(
    session: &mut Session,
    table: &TableName,
    schema: &Schema,
    create: bool,
    way: &Way,
) -> Result<Target> {
    let keyed = match way {
        Way::ByKey(keyed) => Some(keyed),
        Way::Append | Way::AppendOnce => None,
    };
    let failed = |error| Error::sql(Phase::Target, error);
    if !exists(session, table).await? {
        if !create {
            return Err(misfit(format!(
                "the table {table} does not exist, or the user may not see it: create it \
                 (`nats-sql-sink ddl` prints how), or set create_table = true"
            )));
        }
        tracing::info!(%table, "creating the table");
        match execute(session, &statements::create_table(table, schema, keyed)).await {
            Err(tiberius::error::Error::Server(token)) if token.code() == ALREADY_EXISTS => {}
            created => created.map_err(failed)?,
        }
    }

    let server_columns = catalogue::columns(session, table).await?;
    let problems = misfits(schema, &server_columns);
    if !problems.is_empty() {
        return Err(misfit(format!("the table {table} does not fit the schema: {}", problems.join("; "))));
    }

    let indexes = catalogue::indexes(session, table).await?;
    let refusal = match way {
        Way::ByKey(keyed) => keyed::refusal(table, keyed, &server_columns, &indexes),
        Way::Append => refusal_of_append(table, &indexes),
        // What a unique index refuses then is an event that repeats a key.
        Way::AppendOnce => refusal_of_dropping(table, &indexes),
    };
    if let Some(problem) = refusal {
        return Err(misfit(problem));
    }

    let names: Vec<String> = schema.table_columns().map(|column| column.name.quoted()).collect();
    let name_texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let quoted = table.quoted();
    let metadata = session.column_metadata(&quoted, &name_texts).await.map_err(failed)?;
    let shape = Shape::of(&indexes);
    let (options, mut decisions) = if keyed.is_some() { shape.stage_options() } else { shape.options() };
    let mut columns = Vec::with_capacity(names.len());
    for (column, metadata) in schema.table_columns().zip(&metadata) {
        let type_info = metadata.base().ty();
        let scale = wire_scale(column.sql_type, type_info);
        let kept = server_columns.iter().find(|server| same_name(&server.name, column));
        if let Some(kept) = kept.map(|server| server.scale).filter(|kept| *kept < i32::from(scale)) {
            let name = column.name.as_str();
            decisions.push(format!(
                "column {name:?}: {scale} digits of the second are sent, and the server rounds them to {kept}"
            ));
        }
        columns.push(TargetColumn { name: column.name.quoted(), scale, encoding: encoding(type_info) });
    }
    let problems = too_few_digits(schema, &columns);
    if !problems.is_empty() {
        return Err(misfit(format!("the table {table} does not fit the schema: {}", problems.join("; "))));
    }
    let Some(keyed) = keyed else {
        return Ok(Target { table: quoted, columns, options, shape, stage: None, decisions });
    };
    let scales: Vec<u8> = columns.iter().map(|column| column.scale).collect();
    let stage_columns = keyed::stage_columns(schema, keyed, &server_columns, &scales)?;
    for column in schema.columns().iter().filter(|column| column.only_staged) {
        columns.push(TargetColumn { name: column.name.quoted(), scale: 0, encoding: None });
    }
    let stage = Stage {
        create: statements::create_stage(&stage_columns),
        merge: Merge::new(table, schema, keyed),
        trials: Trials::new(table, schema, keyed),
    };
    Ok(Target { table: statements::STAGE.to_owned(), columns, options, shape, stage: Some(stage), decisions })
}

/// The digits of the second that a value of such a column has on the wire; 0 where it has none.
///
/// Asked of the answer to a query, not of the catalogue: this is the form that the rows of a load have to have, and a
/// server may keep fewer digits than it takes (Babelfish takes seven and lists six).
fn wire_scale(sql_type: SqlType, type_info: &TypeInfo) -> u8 {
    match type_info {
        TypeInfo::VarLenSized(context) if sql_type.time_scale().is_some() => {
            u8::try_from(context.len()).unwrap_or_default()
        }
        _ => 0,
    }
}

/// Why rows must not be appended to a table with these indexes, if so.
///
/// An event that is delivered again is written again. A unique index would refuse it, and a good row would stop the
/// pipeline, or look like a bad one. Where the key has an identity column no two rows are alike to the index.
fn refusal_of_append(table: &TableName, indexes: &[ServerIndex]) -> Option<String> {
    let refusing = indexes.iter().filter(|index| index.unique && !index.disabled && !index.identity_key);
    let names: Vec<_> =
        refusing.map(|index| format!("{:?}", index.name.as_deref().unwrap_or_default())).collect();
    (!names.is_empty()).then(|| {
        format!(
            "the table {table} cannot be appended to while it has the unique index {}: an event that is delivered \
             again would be refused as a duplicate, and stop the pipeline; drop the index, or the primary key or \
             unique constraint that it belongs to, or write by its key: write = \"insert_if_absent\" or \"upsert\"",
            names.join(" and ")
        )
    })
}

/// Why rows that are written once must not go into a table with these indexes, if so: what an index drops without an error
/// is a row that the server does not count, and no event that is known to be bad.
fn refusal_of_dropping(table: &TableName, indexes: &[ServerIndex]) -> Option<String> {
    let dropping =
        indexes.iter().find(|index| index.unique && !index.disabled && index.ignores_duplicates)?;
    let name = dropping.name.as_deref().unwrap_or_default();
    Some(format!(
        "the unique index {name:?} of the table {table} drops rows without an error: make it WITH (IGNORE_DUP_KEY = OFF)"
    ))
}

fn misfit(message: String) -> Error {
    Error::new(Phase::Target, ErrorKind::TableShape, message)
}

/// The encoding of a `char` or `varchar` column's collation.
fn encoding(type_info: &TypeInfo) -> Option<&'static Encoding> {
    match type_info {
        TypeInfo::VarLenSized(context) => context.collation().and_then(|collation| collation.encoding().ok()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique_index() -> ServerIndex {
        ServerIndex {
            name: Some("one_name".to_owned()),
            kind: 2,
            unique: true,
            disabled: false,
            identity_key: false,
            filtered: false,
            ignores_duplicates: false,
            key: vec!["id".to_owned()],
        }
    }

    #[test]
    fn a_unique_index_that_a_second_delivery_would_break_refuses_append() {
        let heap = ServerIndex { name: None, kind: shape::HEAP, unique: false, ..unique_index() };
        let table: TableName = "dbo.t".parse().expect("a name");
        for (index, refused) in [
            (unique_index(), true),
            (ServerIndex { kind: 1, ..unique_index() }, true),
            (ServerIndex { unique: false, ..unique_index() }, false),
            (ServerIndex { disabled: true, ..unique_index() }, false),
            (ServerIndex { identity_key: true, ..unique_index() }, false),
        ] {
            let problem = refusal_of_append(&table, &[heap.clone(), index.clone()]);
            assert_eq!(problem.is_some(), refused, "{index:?}");
            assert!(problem.is_none_or(|text| text.contains("\"one_name\"")), "{index:?}");
        }
    }

    #[test]
    fn an_index_that_drops_rows_refuses_to_have_them_written_once() {
        let table: TableName = "dbo.t".parse().expect("a name");
        let dropping = ServerIndex { ignores_duplicates: true, ..unique_index() };
        assert!(
            refusal_of_dropping(&table, std::slice::from_ref(&dropping))
                .expect("refused")
                .contains("IGNORE_DUP_KEY = OFF")
        );
        for index in [unique_index(), ServerIndex { disabled: true, ..dropping }] {
            assert_eq!(refusal_of_dropping(&table, &[index]), None);
        }
    }
}
