//! Reads the TOML of a schema file. Every error names the field by its path, the value, and the constraint.

use std::collections::HashMap;

use encoding_rs::WINDOWS_1252;
use toml::{Table, Value};

use super::column::{Column, DefaultValue, ExcessDigits, Source, Unit};
use super::sql_type::SqlType;
use super::suggest::closest;
use super::{Format, MAX_COLUMNS, MAX_DEPTH, SchemaError};
use crate::sql_name::Identifier;

const SCHEMA_FIELDS: [&str; 2] = ["format", "column"];
const COLUMN_FIELDS: [&str; 9] =
    ["name", "type", "path", "from", "nullable", "default", "unit", "excess_digits", "as_json"];

/// Columns, in the order of the file. Defaults are not checked yet.
pub(super) fn parse(text: &str) -> Result<(Format, Vec<Column>), SchemaError> {
    let table: Table = text.parse()?;
    let file = Reader { table: &table, at: "" };
    file.only(&SCHEMA_FIELDS)?;
    let format = match file.string("format")? {
        None => return Err(file.refuse("format", "is missing; write `format = \"json\"`")),
        Some("json") => Format::Json,
        Some(other) => {
            return Err(file.refuse("format", format!("`{other}` is not supported; there is `json`")));
        }
    };
    let columns = match table.get("column") {
        Some(Value::Array(columns)) if !columns.is_empty() => columns,
        Some(Value::Array(_)) | None => {
            return Err(file.refuse("column", "is missing; write one `[[column]]` for each column"));
        }
        Some(other) => {
            return Err(file.refuse("column", format!("is {}, and has to be `[[column]]`", shown(other))));
        }
    };
    if columns.len() > MAX_COLUMNS {
        let message =
            format!("{} columns are more than the {MAX_COLUMNS} that a table may have", columns.len());
        return Err(file.refuse("column", message));
    }
    let mut names = HashMap::new();
    let mut parsed = Vec::with_capacity(columns.len());
    for (index, value) in columns.iter().enumerate() {
        let at = format!("column[{index}]");
        let Value::Table(table) = value else {
            return Err(SchemaError::field(at, format!("is {}, and has to be a table", shown(value))));
        };
        let reader = Reader { table, at: &at };
        let column = parse_column(&reader)?;
        if let Some(first) = names.insert(column.name.as_str().to_lowercase(), index) {
            let message = format!(
                "`{}` is the name of column[{first}] too; case does not tell names apart",
                column.name.as_str()
            );
            return Err(reader.refuse("name", message));
        }
        parsed.push(column);
    }
    Ok((format, parsed))
}

fn parse_column(reader: &Reader<'_>) -> Result<Column, SchemaError> {
    reader.only(&COLUMN_FIELDS)?;
    let name = reader.string("name")?.ok_or_else(|| reader.refuse("name", "is missing"))?;
    let name: Identifier =
        name.parse().map_err(|error| reader.refuse("name", format!("`{}`: {error}", name.escape_debug())))?;
    let type_text = reader
        .string("type")?
        .ok_or_else(|| reader.refuse("type", "is missing; write a T-SQL type, as in `nvarchar(64)`"))?;
    let sql_type: SqlType =
        type_text.parse().map_err(|error| reader.refuse("type", format!("`{type_text}`: {error}")))?;
    let source = parse_source(reader, &name, sql_type)?;
    Ok(Column {
        sql_type,
        nullable: reader.boolean("nullable")?.unwrap_or(true),
        default: parse_default(reader, sql_type, &source)?,
        unit: parse_unit(reader, sql_type, &source)?,
        excess_digits: parse_excess_digits(reader, sql_type)?,
        text_encoding: WINDOWS_1252,
        only_staged: false,
        name,
        source,
    })
}

fn parse_source(reader: &Reader<'_>, name: &Identifier, sql_type: SqlType) -> Result<Source, SchemaError> {
    let as_json = reader.boolean("as_json")?.unwrap_or(false);
    let path = parse_path(reader)?;
    let Some(from) = reader.string("from")? else {
        if as_json && !sql_type.is_text() {
            return Err(reader.refuse(
                "as_json",
                format!("only a text column can take JSON text, and `{sql_type}` is none"),
            ));
        }
        let path = path.unwrap_or_else(|| vec![name.as_str().to_owned()]);
        return Ok(Source::Field { path, as_json });
    };
    if path.is_some() {
        return Err(reader.refuse("path", "is set beside `from`; a value comes from one place"));
    }
    if as_json {
        return Err(reader.refuse("as_json", "is set beside `from`; it is for fields of the payload"));
    }
    let source = parse_from(from).map_err(|message| reader.refuse("from", format!("`{from}`: {message}")))?;
    match unfit(&source, sql_type) {
        Some(fitting) => {
            Err(reader.refuse("from", format!("`{from}` does not fit `{sql_type}`: it needs {fitting}")))
        }
        None => Ok(source),
    }
}

fn parse_path(reader: &Reader<'_>) -> Result<Option<Vec<String>>, SchemaError> {
    let path: Vec<String> = match reader.table.get("path") {
        None => return Ok(None),
        Some(Value::String(dotted)) => dotted.split('.').map(str::to_owned).collect(),
        Some(Value::Array(keys)) => keys
            .iter()
            .map(|key| match key {
                Value::String(key) => Ok(key.clone()),
                other => Err(reader.refuse("path", format!("{} in it is not a key", shown(other)))),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => {
            let message = format!("{} is neither `\"a.b\"` nor `[\"a\", \"key.with.dots\"]`", shown(other));
            return Err(reader.refuse("path", message));
        }
    };
    // Written with dots, an empty key is a slip; written as an array, it is meant.
    if path.is_empty()
        || matches!(reader.table.get("path"), Some(Value::String(_))) && path.iter().any(String::is_empty)
    {
        return Err(reader
            .refuse("path", "has an empty key; a key with dots is written `[\"a\", \"key.with.dots\"]`"));
    }
    if path.len() > MAX_DEPTH {
        return Err(reader.refuse(
            "path",
            format!("{} levels are more than the {MAX_DEPTH} that payloads may have", path.len()),
        ));
    }
    Ok(Some(path))
}

fn parse_from(from: &str) -> Result<Source, String> {
    const NAMES: [&str; 7] =
        ["stream_sequence", "subject", "subject_token", "published_at", "received_at", "header", "payload"];
    if let Some((name, argument)) = from.strip_suffix(')').and_then(|call| call.split_once('(')) {
        return match name.trim() {
            "subject_token" => match argument.trim().parse::<usize>() {
                Ok(token) if token > 0 => Ok(Source::SubjectToken(token)),
                _ => Err("tokens are counted from 1, as in `subject_token(2)`".to_owned()),
            },
            "header" => {
                match argument.trim() {
                    name if is_header_name(name) => Ok(Source::Header(name.to_owned())),
                    _ => Err("a header has a name without blanks and colons, as in `header(Nats-Msg-Id)`"
                        .to_owned()),
                }
            }
            _ => Err("it takes no argument, or does not exist".to_owned()),
        };
    }
    match from {
        "stream_sequence" => Ok(Source::StreamSequence),
        "subject" => Ok(Source::Subject),
        "published_at" => Ok(Source::PublishedAt),
        "received_at" => Ok(Source::ReceivedAt),
        "payload" => Ok(Source::Payload),
        "subject_token" => Err("which token? The first is `subject_token(1)`".to_owned()),
        "header" => Err("which header? Write `header(Name)`".to_owned()),
        other => Err(match closest(other, &NAMES) {
            Some(name) => format!("there is no such source; did you mean `{name}`?"),
            None => format!("there is no such source; there are {}", NAMES.join(", ")),
        }),
    }
}

fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// What `source` needs instead, if it does not fit the type.
fn unfit(source: &Source, sql_type: SqlType) -> Option<&'static str> {
    let (fits, needs) = match source {
        Source::Field { .. } | Source::SubjectToken(_) | Source::Header(_) => (true, ""),
        Source::StreamSequence => (
            match sql_type {
                SqlType::BigInt => true,
                SqlType::Decimal { precision, scale } => precision - scale >= 20,
                _ => false,
            },
            "`bigint`, or `decimal(20, 0)`",
        ),
        Source::Subject => (sql_type.is_text(), "a text type, as `nvarchar(256)`"),
        Source::PublishedAt | Source::ReceivedAt => {
            (sql_type.is_timestamp(), "`datetime2` or `datetimeoffset`")
        }
        Source::Payload => (
            matches!(sql_type, SqlType::NVarChar(_) | SqlType::VarChar(_) | SqlType::VarBinary(_)),
            "`nvarchar`, `varchar` or `varbinary`",
        ),
    };
    (!fits).then_some(needs)
}

fn parse_default(
    reader: &Reader<'_>,
    sql_type: SqlType,
    source: &Source,
) -> Result<Option<DefaultValue>, SchemaError> {
    let Some(value) = reader.table.get("default") else { return Ok(None) };
    if !matches!(source, Source::Field { .. } | Source::SubjectToken(_) | Source::Header(_)) {
        return Err(reader.refuse("default", "is set, but `from` names what every event has"));
    }
    match value {
        Value::Boolean(value) => Ok(Some(DefaultValue::Bool(*value))),
        Value::Integer(value) => Ok(Some(DefaultValue::Number(value.to_string()))),
        Value::String(text) => Ok(Some(DefaultValue::Text(text.clone()))),
        Value::Datetime(value) => Ok(Some(DefaultValue::Text(value.to_string()))),
        // TOML's floats are binary: digits may be gone before they get here.
        Value::Float(value) if matches!(sql_type, SqlType::Decimal { .. }) => Err(reader
            .refuse("default", format!("{value} is binary; write the digits as text, as in `\"0.10\"`"))),
        Value::Float(value) if value.is_finite() => Ok(Some(DefaultValue::Number(format!("{value:e}")))),
        other => Err(reader.refuse("default", format!("{} is not a value of `{sql_type}`", shown(other)))),
    }
}

fn parse_unit(reader: &Reader<'_>, sql_type: SqlType, source: &Source) -> Result<Option<Unit>, SchemaError> {
    let Some(unit) = reader.string("unit")? else { return Ok(None) };
    if !sql_type.is_timestamp() {
        return Err(reader
            .refuse("unit", format!("is for `datetime2` and `datetimeoffset`, and this is `{sql_type}`")));
    }
    if matches!(source, Source::PublishedAt | Source::ReceivedAt) {
        return Err(reader.refuse("unit", "is for numbers in the payload, and `from` is none"));
    }
    match unit {
        "s" => Ok(Some(Unit::Seconds)),
        "ms" => Ok(Some(Unit::Milliseconds)),
        "us" => Ok(Some(Unit::Microseconds)),
        "ns" => Ok(Some(Unit::Nanoseconds)),
        other => Err(reader.refuse("unit", format!("`{other}` is none of `s`, `ms`, `us`, `ns`"))),
    }
}

fn parse_excess_digits(reader: &Reader<'_>, sql_type: SqlType) -> Result<ExcessDigits, SchemaError> {
    let is_decimal = matches!(sql_type, SqlType::Decimal { .. });
    match reader.string("excess_digits")? {
        None if is_decimal => Ok(ExcessDigits::Reject),
        None => Ok(ExcessDigits::Round),
        Some(_) if !is_decimal && sql_type.time_scale().is_none() => Err(reader.refuse(
            "excess_digits",
            format!("is for `decimal`, `time`, `datetime2` and `datetimeoffset`, and this is `{sql_type}`"),
        )),
        Some("reject") => Ok(ExcessDigits::Reject),
        Some("round") => Ok(ExcessDigits::Round),
        Some(other) => {
            Err(reader.refuse("excess_digits", format!("`{other}` is neither `reject` nor `round`")))
        }
    }
}

/// A table of the file, and the path that leads to it.
struct Reader<'a> {
    table: &'a Table,
    at: &'a str,
}

impl<'a> Reader<'a> {
    fn refuse(&self, field: &str, message: impl Into<String>) -> SchemaError {
        match self.at {
            "" => SchemaError::field(field, message),
            at => SchemaError::field(format!("{at}.{field}"), message),
        }
    }

    fn only(&self, known: &[&str]) -> Result<(), SchemaError> {
        match self.table.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(unknown) => Err(self.refuse(
                unknown,
                match closest(unknown, known) {
                    Some(name) => format!("unknown field; did you mean `{name}`?"),
                    None => format!("unknown field; there are {}", known.join(", ")),
                },
            )),
        }
    }

    fn string(&self, field: &str) -> Result<Option<&'a str>, SchemaError> {
        match self.table.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                Err(self.refuse(field, format!("is {}, and has to be text in quotes", shown(other))))
            }
        }
    }

    fn boolean(&self, field: &str) -> Result<Option<bool>, SchemaError> {
        match self.table.get(field) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(*value)),
            Some(other) => {
                Err(self.refuse(field, format!("is {}, and has to be `true` or `false`", shown(other))))
            }
        }
    }
}

/// A value of the file in a message.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        value => format!("`{value}`"),
    }
}
