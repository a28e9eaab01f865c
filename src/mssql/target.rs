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
    /// The server makes its value, and takes none: identity, computed, rowversion, or of a temporal table's period.
    generated: bool,
    has_default: bool,
}

/// An index as the server describes it.
#[derive(Debug, Clone)]
struct ServerIndex {
    /// None of a heap.
    name: Option<String>,
    /// `sys.indexes.type`.
    kind: i32,
    unique: bool,
    /// It is still listed, but neither kept nor checked.
    disabled: bool,
    /// An identity column is in its key.
    identity_key: bool,
}

/// Reads the table's shape, creating the table first where `create` allows it and there is none.
///
/// # Errors
///
/// [`ErrorKind::TableShape`] where the table is missing, rows of the schema do not fit it, or one that is written again
/// would be refused.
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

    let rows = query(session, &statements::indexes(table)).await.map_err(failed)?;
    let indexes: Vec<ServerIndex> = rows.iter().map(server_index).collect::<Result<_>>()?;
    if let Some(problem) = refusal_of_append(table, &indexes) {
        return Err(shape(problem));
    }

    let names: Vec<String> = schema.columns().iter().map(|column| column.name.quoted()).collect();
    let name_texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let quoted = table.quoted();
    let metadata = session.column_metadata(&quoted, &name_texts).await.map_err(failed)?;
    let (options, mut decisions) = decide(&indexes);
    let mut columns = Vec::with_capacity(names.len());
    for (column, metadata) in schema.columns().iter().zip(&metadata) {
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
    let problems = too_few_digits(schema.columns(), &columns);
    if !problems.is_empty() {
        return Err(shape(format!("the table {table} does not fit the schema: {}", problems.join("; "))));
    }
    Ok(Target { table: quoted, columns, options, decisions })
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

/// Columns of the table that take fewer digits of the second than the schema's have.
fn too_few_digits(columns: &[Column], targets: &[TargetColumn]) -> Vec<String> {
    let pairs = columns.iter().zip(targets);
    pairs
        .filter(|(column, target)| column.sql_type.time_scale().is_some_and(|scale| scale > target.scale))
        .map(|(column, target)| {
            format!(
                "column {:?} is {} in the schema, but takes {} digits of the second in the table",
                column.name.as_str(),
                column.sql_type,
                target.scale
            )
        })
        .collect()
}

async fn object_id(session: &mut Session, table: &TableName) -> Result<Option<i32>> {
    let rows =
        query(session, &statements::object_id(table)).await.map_err(|e| Error::sql(Phase::Target, e))?;
    match rows.first() {
        Some(row) => row.try_get(0).map_err(|error| Error::sql(Phase::Target, error)),
        None => Ok(None),
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
             unique constraint that it belongs to (writing by key, which needs one, is not in this version yet)",
            names.join(" and ")
        )
    })
}

/// Decides how to load from what indexes there are.
fn decide(indexes: &[ServerIndex]) -> (SqlBulkCopyOptions, Vec<String>) {
    let mut options =
        SqlBulkCopyOption::KeepNulls | SqlBulkCopyOption::CheckConstraints | SqlBulkCopyOption::FireTriggers;
    let mut decisions = vec![
        "KEEP_NULLS: a null stays a null, where a default would take its place".to_owned(),
        "CHECK_CONSTRAINTS and FIRE_TRIGGERS: a row is checked and noticed as one of an INSERT would be"
            .to_owned(),
    ];
    if indexes.iter().all(|index| index.kind == INDEX_TYPE_HEAP) {
        options |= SqlBulkCopyOption::TableLock;
        decisions.push("TABLOCK: a heap without indexes takes several loads at once under it".to_owned());
    } else {
        decisions.push("no TABLOCK: on a table with indexes it would let in one load at a time".to_owned());
    }
    (options, decisions)
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

/// What `sys.types` calls a `rowversion`.
const TYPE_ROWVERSION: &str = "timestamp";

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
    })
}

/// Whether the server fills a column of this type, with what the catalogue says of it: 0 where it is none of a kind.
fn is_generated(type_name: &str, kinds: &[i32]) -> bool {
    type_name == TYPE_ROWVERSION || kinds.iter().any(|kind| *kind != 0)
}

fn server_index(row: &Row) -> Result<ServerIndex> {
    let name = row.try_get::<&str, _>("name").map_err(|error| Error::sql(Phase::Target, error))?;
    Ok(ServerIndex {
        name: name.map(str::to_owned),
        kind: integer(row, "type")?,
        unique: integer(row, "is_unique")? != 0,
        disabled: integer(row, "is_disabled")? != 0,
        identity_key: integer(row, "has_identity_key")? != 0,
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
            problems.push(format!(
                "column {name:?} is an identity, computed, rowversion or period column, which the server fills"
            ));
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

/// Whether every value of `sql_type` can be stored in the column as it is, digits of the second aside.
fn holds(server: &ServerColumn, sql_type: &SqlType) -> bool {
    let name = server.type_name.as_str();
    let bytes = |length: Length, unit: i32| match length {
        Length::Max => server.max_length == -1,
        Length::Limit(limit) => server.max_length == -1 || server.max_length >= i32::from(limit) * unit,
    };
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
        // How many digits of the second: see `too_few_digits`.
        SqlType::Time { .. } => name == "time",
        SqlType::DateTime2 { .. } => name == "datetime2",
        SqlType::DateTimeOffset { .. } => name == "datetimeoffset",
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
    fn a_column_with_fewer_digits_of_the_second_does_not_fit() {
        let schema = schema("[[column]]\nname = \"at\"\ntype = \"datetime2(3)\"\n");
        let target = |scale| TargetColumn { name: "[at]".to_owned(), scale, encoding: None };
        assert!(too_few_digits(schema.columns(), &[target(3)]).is_empty());
        assert!(too_few_digits(schema.columns(), &[target(7)]).is_empty());
        let problems = too_few_digits(schema.columns(), &[target(2)]);
        assert!(problems[0].contains("datetime2(3) in the schema, but takes 2 digits"), "{problems:?}");
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

    #[test]
    fn what_the_server_fills_need_not_be_in_the_schema_and_must_not_be() {
        let schema = schema(DEVICE);
        let device = ServerColumn { max_length: 128, ..server("device", "nvarchar") };
        // identity, computed, and the kind of period column, as the catalogue has them
        for (type_name, kinds) in [
            ("timestamp", [0, 0, 0]),
            ("bigint", [1, 0, 0]),
            ("bigint", [0, 1, 0]),
            ("datetime2", [0, 0, 1]),
            ("datetime2", [0, 0, 2]),
        ] {
            let generated = is_generated(type_name, &kinds);
            let filled = ServerColumn { nullable: false, generated, ..server("filled", type_name) };
            let problems = misfits(schema.columns(), &[device.clone(), filled]);
            assert!(problems.is_empty(), "{type_name} {kinds:?}: {problems:?}");
        }
        assert!(!is_generated("datetime2", &[0, 0, 0]));
        let filled = ServerColumn { generated: true, ..device };
        assert!(misfits(schema.columns(), &[filled])[0].contains("which the server fills"));
    }

    fn unique_index() -> ServerIndex {
        ServerIndex {
            name: Some("one_name".to_owned()),
            kind: 2,
            unique: true,
            disabled: false,
            identity_key: false,
        }
    }

    #[test]
    fn a_unique_index_that_a_second_delivery_would_break_refuses_append() {
        let heap = ServerIndex { name: None, kind: INDEX_TYPE_HEAP, unique: false, ..unique_index() };
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
    fn a_table_lock_is_for_heaps_without_indexes() {
        let heap = ServerIndex { name: None, kind: INDEX_TYPE_HEAP, unique: false, ..unique_index() };
        let is_locked = |indexes: &[ServerIndex]| decide(indexes).1.iter().any(|d| d.starts_with("TABLOCK"));
        assert!(is_locked(std::slice::from_ref(&heap)));
        assert!(!is_locked(&[heap, unique_index()]));
    }
}
