//! Schema files: how an event becomes a row. JSON, Arrow and T-SQL types side by side.
//!
//! Column types are T-SQL types, because the table is what the user looks at; the Arrow type follows from them
//! (`docs/adr/0003-arrow-types.md`). `docs/schema.md` is the user's page.

mod bound;
mod column;
mod convert;
mod file;
mod reject;
mod sql_type;
mod suggest;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use encoding_rs::Encoding;

pub(crate) use bound::grown;
pub use column::{Cell, Column, ExcessDigits, Source, Unit};
pub(crate) use convert::{Number, Scalar, bytes_cell, cell, clock_cell, sequence_cell, text_cell};
pub use reject::{Problem, RejectKind};
pub use sql_type::{Length, SqlType, SqlTypeError, date_time_offset_fields};

use crate::sql_name::Identifier;

/// As many columns as a table of SQL Server may have.
pub const MAX_COLUMNS: usize = 1_024;

/// Levels of nested objects and arrays, the event's own object included, that a payload may have.
pub const MAX_DEPTH: usize = 64;

/// The column beside those of the schema that tells an event's position in the stream.
const STAGED_SEQUENCE: &str = "nats_sql_sink_sequence";

/// The key of an Arrow field's metadata under which Arrow looks for the name of an extension type.
const EXTENSION_NAME: &str = "ARROW:extension:name";

/// How an event becomes a row.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The text that it was parsed from.
    text: Arc<str>,
    format: Format,
    columns: Vec<Column>,
    arrow: SchemaRef,
    bound: bound::Bound,
}

/// What a payload is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object an event, by RFC 8259.
    Json,
}

/// Why a schema is refused. The text is for who wrote the file, and quotes it.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The file could not be read.
    #[error("cannot read the schema file `{}`", path.display())]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("not a TOML file: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A field is missing, unknown, or holds what it may not.
    #[error("{field}: {message}")]
    Field {
        /// The field, as in `column[3].type`, counted from 0.
        field: String,
        /// The value, the constraint, and a hint where there is one.
        message: String,
    },
}

impl SchemaError {
    fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }
}

impl Schema {
    /// Reads a schema file.
    pub fn load(path: &Path) -> Result<Self, SchemaError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SchemaError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&text)
    }

    /// Parses the text of a schema file.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        let (format, columns) = file::parse(text)?;
        Self::from_columns(Arc::from(text), format, columns)
    }

    fn from_columns(text: Arc<str>, format: Format, columns: Vec<Column>) -> Result<Self, SchemaError> {
        for (index, column) in columns.iter().enumerate() {
            column
                .check_default()
                .map_err(|problem| SchemaError::field(format!("column[{index}].default"), problem))?;
        }
        let fields: Vec<Field> = columns.iter().map(arrow_field).collect();
        let bound = bound::Bound::of(&columns);
        Ok(Self { text, format, columns, arrow: Arc::new(arrow::datatypes::Schema::new(fields)), bound })
    }

    /// The text of the schema file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What payloads are written in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The columns in the order of the file, which is the order of the Arrow fields.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The columns that the table has.
    pub fn table_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.only_staged)
    }

    /// The same schema with one more column, which the table has not: the event's position in the stream, by which rows of
    /// one key are told apart. Its name is one that no other column has.
    ///
    /// # Errors
    ///
    /// Never of a schema that was parsed: its defaults fit.
    pub fn with_staged_sequence(&self) -> Result<Self, SchemaError> {
        let mut text = STAGED_SEQUENCE.to_owned();
        let name = loop {
            let name =
                Identifier::new(text.clone()).map_err(|e| SchemaError::field("column", e.to_string()))?;
            if self.column(&name).is_none() {
                break name;
            }
            text.push('_');
        };
        let mut columns = self.columns.clone();
        columns.push(Column {
            name,
            sql_type: SqlType::BigInt,
            source: Source::StreamSequence,
            nullable: false,
            default: None,
            unit: None,
            excess_digits: ExcessDigits::Reject,
            text_encoding: encoding_rs::WINDOWS_1252,
            only_staged: true,
        });
        Self::from_columns(Arc::clone(&self.text), self.format, columns)
    }

    /// The column of that name, whatever its case.
    pub fn column(&self, name: &Identifier) -> Option<&Column> {
        let name = name.as_str().to_lowercase();
        self.columns.iter().find(|column| column.name.as_str().to_lowercase() == name)
    }

    /// The Arrow schema of decoded rows.
    pub fn arrow(&self) -> SchemaRef {
        Arc::clone(&self.arrow)
    }

    /// The same schema with the code pages that the table's `char` and `varchar` columns have in truth. A column
    /// for which `encoding` gives `None` keeps what it had; other columns are not asked for.
    ///
    /// Until the table's collation is known it is Windows-1252, as with Azure SQL's default collation.
    ///
    /// # Errors
    /// When a default cannot be written in the column's code page, or has become too long by it.
    pub fn with_text_encodings(
        &self,
        encoding: impl Fn(&Column) -> Option<&'static Encoding>,
    ) -> Result<Self, SchemaError> {
        let mut columns = self.columns.clone();
        for column in columns.iter_mut().filter(|column| column.sql_type.is_code_page_text()) {
            if let Some(encoding) = encoding(column) {
                column.text_encoding = encoding;
            }
        }
        Self::from_columns(Arc::clone(&self.text), self.format, columns)
    }

    /// Bytes of Arrow buffers that every row takes, whatever is in it.
    pub fn fixed_row_bytes(&self) -> usize {
        self.bound.fixed_row_bytes()
    }

    /// The most bytes of Arrow buffers that decoding one event of `event_wire_bytes` (subject, headers and
    /// payload) can add, spare capacity included. A batch takes [`Schema::arrow_batch_bytes`] more.
    pub fn arrow_bytes_upper_bound(&self, event_wire_bytes: usize) -> usize {
        self.bound.event_bytes(event_wire_bytes)
    }

    /// How the bound of an event grows with its size, at most, so that events can be reserved for before their sizes
    /// are known: [`Schema::arrow_bytes_upper_bound`] of any `w` is at most that of 0, and 1, and this times `w / 1000`.
    pub fn arrow_bytes_per_thousand_wire_bytes(&self) -> usize {
        self.bound.per_thousand_wire_bytes()
    }

    /// Bytes of Arrow arrays that a batch takes beyond the sum of its events' bounds.
    pub fn arrow_batch_bytes(&self) -> usize {
        self.bound.batch_bytes()
    }
}

fn arrow_field(column: &Column) -> Field {
    let field = Field::new(column.name.as_str(), column.sql_type.arrow(), column.nullable);
    let extension = match column.sql_type {
        SqlType::DateTime2 { .. } => "nats_sql_sink.datetime2",
        SqlType::DateTimeOffset { .. } => "nats_sql_sink.datetimeoffset",
        SqlType::UniqueIdentifier => "arrow.uuid",
        _ => return field,
    };
    field.with_metadata(HashMap::from([(EXTENSION_NAME.to_owned(), extension.to_owned())]))
}
