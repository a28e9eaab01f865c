//! What the target table is: its columns held against the schema, and what its shape decides about a bulk load.

use encoding_rs::Encoding;
use tiberius::{Row, SqlBulkCopyOption, SqlBulkCopyOptions, TypeInfo};

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::connect::Session;
use crate::mssql::{execute, query, statements};
use crate::schema::{Column, Length, Schema, SchemaError, SqlType};
use crate::sql_name::TableName;

/// "There is already an object named …": another worker created the table in between.
const ALREADY_EXISTS: u32 = 2714;

/// A table that the rows of a schema can be loaded into.
#[derive(Debug, Clone)]
pub struct Target {
    /// The table's name, quoted.
    pub table: String,
    /// The columns to load, in the order of the schema.
    pub columns: Vec<TargetColumn>,
    /// What is asked of the server for each load.
    pub options: SqlBulkCopyOptions,
    /// What was decided from the table's shape, and why: for the log and for `check`.
    pub decisions: Vec<String>,
}

/// A column to load.
#[derive(Debug, Clone)]
pub struct TargetColumn {
    /// Its name, quoted.
    pub name: String,
    /// Digits of its fractional seconds, where it has any: a value is sent with as many.
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

/// A column as the server describes it.
#[derive(Debug, Clone)]
struct ServerColumn {
    name: String,
    type_name: String,
    /// In bytes; -1 for `max`.
    max_length: i32,
    precision: i32,
    scale: i32,
    nullable: bool,
    /// Identity or computed: the server makes its value.
    generated: bool,
    has_default: bool,
}

/// Reads the table's shape, creating the table first where `create` allows it and there is none.
///
/// # Errors
///
/// [`ErrorKind::TableShape`] where the table is missing, or rows of the schema do not fit it.
pub async fn prepare(
    session: &mut Session,
    table: &TableName,
    schema: &Schema,
    create: bool,
) -> Result<Target> {
    let failed = |error| Error::sql(Phase::Target, error);
    if object_id(session, table).await?.is_none() {
        if !create {
            return Err(shape(format!(
                "the table {table} does not exist, or the user may not see it: create it \
                 (`nats-sql-sink ddl` prints how), or set create_table = true"
            )));
        }
        tracing::info!(%table, "creating the table");
        match execute(session, &statements::create_table(table, schema)).await {
            Err(tiberius::error::Error::Server(token)) if token.code() == ALREADY_EXISTS => {}
            created => created.map_err(failed)?,
        }
    }

    let rows = query(session, &statements::columns(table)).await.map_err(failed)?;
    let server_columns: Vec<ServerColumn> = rows.iter().map(server_column).collect::<Result<_>>()?;
    let problems = misfits(schema.columns(), &server_columns);
    if !problems.is_empty() {
        return Err(shape(format!("the table {table} does not fit the schema: {}", problems.join("; "))));
    }

    let names: Vec<String> = schema.columns().iter().map(|column| column.name.quoted()).collect();
    let name_texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let quoted = table.quoted();
    let metadata = session.column_metadata(&quoted, &name_texts).await.map_err(failed)?;
    let columns = schema
        .columns()
        .iter()
        .zip(metadata.iter())
        .map(|(column, metadata)| {
            let server = server_columns.iter().find(|server| same_name(&server.name, column));
            TargetColumn {
                name: column.name.quoted(),
                scale: server.and_then(|server| u8::try_from(server.scale).ok()).unwrap_or_default(),
                encoding: encoding(metadata.base().ty()),
            }
        })
        .collect();
    let (options, decisions) = decide(session, table).await?;
    Ok(Target { table: quoted, columns, options, decisions })
}

async fn object_id(session: &mut Session, table: &TableName) -> Result<Option<i32>> {
    let rows =
        query(session, &statements::object_id(table)).await.map_err(|e| Error::sql(Phase::Target, e))?;
    match rows.first() {
        Some(row) => row.try_get(0).map_err(|error| Error::sql(Phase::Target, error)),
        None => Ok(None),
    }
}

/// Decides how to load from what indexes there are.
async fn decide(session: &mut Session, table: &TableName) -> Result<(SqlBulkCopyOptions, Vec<String>)> {
    let mut options =
        SqlBulkCopyOption::KeepNulls | SqlBulkCopyOption::CheckConstraints | SqlBulkCopyOption::FireTriggers;
    let mut decisions = vec![
        "KEEP_NULLS: a null stays a null, where a default would take its place".to_owned(),
        "CHECK_CONSTRAINTS and FIRE_TRIGGERS: a row is checked and noticed as one of an INSERT would be"
            .to_owned(),
    ];
    let rows = query(session, &statements::indexes(table)).await.map_err(|e| Error::sql(Phase::Target, e))?;
    let mut kinds = Vec::new();
    for row in &rows {
        kinds.push(integer(row, "type")?);
    }
    if kinds.iter().all(|kind| *kind == INDEX_TYPE_HEAP) {
        options |= SqlBulkCopyOption::TableLock;
        decisions.push("TABLOCK: a heap without indexes takes several loads at once under it".to_owned());
    } else {
        decisions.push("no TABLOCK: on a table with indexes it would let in one load at a time".to_owned());
    }
    Ok((options, decisions))
}

/// `sys.indexes.type` of a table that has no clustered index.
const INDEX_TYPE_HEAP: i32 = 0;

fn shape(message: String) -> Error {
    Error::new(Phase::Target, ErrorKind::TableShape, message)
}

fn integer(row: &Row, column: &str) -> Result<i32> {
    row.try_get::<i32, _>(column)
        .map_err(|error| Error::sql(Phase::Target, error))?
        .ok_or_else(|| shape(format!("the server's catalogue has no {column} for a column or index")))
}

fn text(row: &Row, column: &str) -> Result<String> {
    row.try_get::<&str, _>(column)
        .map_err(|error| Error::sql(Phase::Target, error))?
        .map(str::to_owned)
        .ok_or_else(|| shape(format!("the server's catalogue has no {column} for a column")))
}

fn server_column(row: &Row) -> Result<ServerColumn> {
    Ok(ServerColumn {
        name: text(row, "name")?,
        type_name: text(row, "type_name")?.to_ascii_lowercase(),
        max_length: integer(row, "max_length")?,
        precision: integer(row, "precision")?,
        scale: integer(row, "scale")?,
        nullable: integer(row, "is_nullable")? != 0,
        generated: integer(row, "is_identity")? != 0 || integer(row, "is_computed")? != 0,
        has_default: integer(row, "has_default")? != 0,
    })
}

/// Names compare without case, as under the default collation of Azure SQL. In a database with a case-sensitive one
/// a name that differs in case is refused by the server itself.
fn same_name(name: &str, column: &Column) -> bool {
    name.to_lowercase() == column.name.as_str().to_lowercase()
}

/// What keeps rows of the schema from fitting the table, in words for a person.
fn misfits(columns: &[Column], server_columns: &[ServerColumn]) -> Vec<String> {
    let mut problems = Vec::new();
    for column in columns {
        let name = column.name.as_str();
        let Some(server) = server_columns.iter().find(|server| same_name(&server.name, column)) else {
            problems.push(format!("column {name:?} is missing in the table"));
            continue;
        };
        if server.generated {
            problems
                .push(format!("column {name:?} is an identity or computed column, which the server fills"));
        }
        if column.nullable && !server.nullable {
            problems.push(format!("column {name:?} may be null in the schema, but not in the table"));
        }
        if !holds(server, &column.sql_type) {
            problems.push(format!(
                "column {name:?} is {} in the schema, but {} in the table",
                column.sql_type,
                describe(server)
            ));
        }
    }
    for server in server_columns {
        let given = columns.iter().any(|column| same_name(&server.name, column));
        if !given && !server.nullable && !server.has_default && !server.generated {
            problems.push(format!(
                "the table's column {:?} is not in the schema, takes no null and has no default",
                server.name
            ));
        }
    }
    problems
}

/// Whether every value of `sql_type` can be stored in the column as it is.
fn holds(server: &ServerColumn, sql_type: &SqlType) -> bool {
    let name = server.type_name.as_str();
    let bytes = |length: Length, unit: i32| match length {
        Length::Max => server.max_length == -1,
        Length::Limit(limit) => server.max_length == -1 || server.max_length >= i32::from(limit) * unit,
    };
    let seconds = |scale: u8| server.scale >= i32::from(scale);
    match *sql_type {
        SqlType::Bit => name == "bit",
        SqlType::TinyInt => name == "tinyint",
        SqlType::SmallInt => name == "smallint",
        SqlType::Int => name == "int",
        SqlType::BigInt => name == "bigint",
        SqlType::Real => name == "real",
        SqlType::Float => name == "float",
        SqlType::Decimal { precision, scale } => {
            matches!(name, "decimal" | "numeric")
                && server.scale == i32::from(scale)
                && server.precision >= i32::from(precision)
        }
        SqlType::Date => name == "date",
        SqlType::Time { scale } => name == "time" && seconds(scale),
        SqlType::DateTime2 { scale } => name == "datetime2" && seconds(scale),
        SqlType::DateTimeOffset { scale } => name == "datetimeoffset" && seconds(scale),
        SqlType::Char(length) => name == "char" && bytes(Length::Limit(length), 1),
        SqlType::VarChar(length) => name == "varchar" && bytes(length, 1),
        SqlType::NChar(length) => name == "nchar" && bytes(Length::Limit(length), 2),
        SqlType::NVarChar(length) => name == "nvarchar" && bytes(length, 2),
        SqlType::Binary(length) => name == "binary" && bytes(Length::Limit(length), 1),
        SqlType::VarBinary(length) => name == "varbinary" && bytes(length, 1),
        SqlType::UniqueIdentifier => name == "uniqueidentifier",
    }
}

fn describe(server: &ServerColumn) -> String {
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

    fn server(name: &str, type_name: &str) -> ServerColumn {
        ServerColumn {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            max_length: 0,
            precision: 0,
            scale: 0,
            nullable: true,
            generated: false,
            has_default: false,
        }
    }

    fn schema(columns: &str) -> Schema {
        Schema::parse(&format!("format = \"json\"\n{columns}")).expect("a valid schema")
    }

    const DEVICE: &str = "[[column]]\nname = \"device\"\ntype = \"nvarchar(64)\"\n";

    #[test]
    fn a_wider_column_of_the_same_type_holds_the_narrower() {
        let schema = schema(DEVICE);
        let column = |max_length| ServerColumn { max_length, ..server("Device", "nvarchar") };
        assert!(misfits(schema.columns(), &[column(128)]).is_empty());
        assert!(misfits(schema.columns(), &[column(-1)]).is_empty());
        assert_eq!(misfits(schema.columns(), &[column(126)]).len(), 1);
    }

    #[test]
    fn says_what_does_not_fit() {
        let schema = schema(DEVICE);
        let strict = ServerColumn { max_length: 128, nullable: false, ..server("device", "nvarchar") };
        assert!(misfits(schema.columns(), &[strict])[0].contains("may be null in the schema"));
        assert!(misfits(schema.columns(), &[])[0].contains("missing in the table"));
        assert!(misfits(schema.columns(), &[server("device", "int")])[0].contains("but int in the table"));
    }

    #[test]
    fn a_column_that_nobody_fills_must_have_a_value_of_its_own() {
        let schema = schema(DEVICE);
        let device = ServerColumn { max_length: 128, ..server("device", "nvarchar") };
        let other = ServerColumn { nullable: false, ..server("other", "int") };
        assert_eq!(misfits(schema.columns(), &[device.clone(), other.clone()]).len(), 1);
        let with_default = ServerColumn { has_default: true, ..other.clone() };
        assert!(misfits(schema.columns(), &[device.clone(), with_default]).is_empty());
        let identity = ServerColumn { generated: true, ..other };
        assert!(misfits(schema.columns(), &[device, identity]).is_empty());
    }
}
