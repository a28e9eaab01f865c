//! One column: its type, where its value comes from, and what becomes of an absent one.

use encoding_rs::Encoding;

use super::convert::{self, Scalar};
use super::reject::Problem;
use super::sql_type::SqlType;
use crate::sql_name::Identifier;

/// A column of the schema.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name in the table.
    pub name: Identifier,
    /// Its type in the table.
    pub sql_type: SqlType,
    /// Where its value comes from.
    pub source: Source,
    /// Whether it takes NULL.
    pub nullable: bool,
    /// What an absent or null field becomes, instead of NULL. It fits the type: that was checked.
    pub default: Option<DefaultValue>,
    /// What a number counts, where a timestamp is written as one.
    pub unit: Option<Unit>,
    /// What becomes of digits that the column does not keep.
    pub excess_digits: ExcessDigits,
    /// The code page of a `char` or `varchar`.
    pub text_encoding: &'static Encoding,
    /// The table has no such column: it is for the merge by key alone. See [`super::Schema::with_staged_sequence`].
    pub only_staged: bool,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A field of the payload.
    Field {
        /// The keys that lead to it, from the outermost object on.
        path: Vec<String>,
        /// Whether the column takes the field's JSON text as it stands.
        as_json: bool,
    },
    /// The event's position in the stream.
    StreamSequence,
    /// The subject.
    Subject,
    /// The part of the subject between two dots, counted from 1.
    SubjectToken(usize),
    /// When the stream stored the event.
    PublishedAt,
    /// When this process received the event.
    ReceivedAt,
    /// The first value of a header.
    Header(String),
    /// The payload as it stands.
    Payload,
}

/// What a number counts that stands for a timestamp, since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

/// What becomes of digits that a column does not keep. Zeros are no digits in this sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExcessDigits {
    /// The event is rejected.
    Reject,
    /// The value is rounded, a half away from zero, as SQL Server does it.
    Round,
}

/// A default as the schema file has it.
#[derive(Debug, Clone, PartialEq)]
pub enum DefaultValue {
    /// `true` or `false`
    Bool(bool),
    /// A number, as JSON writes it.
    Number(String),
    /// Text, and everything that JSON writes as text.
    Text(String),
}

impl DefaultValue {
    fn scalar(&self) -> Option<Scalar<'_>> {
        match self {
            DefaultValue::Bool(value) => Some(Scalar::Bool(*value)),
            DefaultValue::Number(text) => Scalar::number(text),
            DefaultValue::Text(text) => Some(Scalar::Text(text)),
        }
    }
}

/// A value that fits its column, ready for Arrow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// `bit`
    Bit(bool),
    /// `tinyint`
    TinyInt(u8),
    /// `smallint`
    SmallInt(i16),
    /// `int`
    Int(i32),
    /// `bigint`
    BigInt(i64),
    /// `real`
    Real(f32),
    /// `float`
    Float(f64),
    /// `decimal`, without its point
    Decimal(i128),
    /// `date`: days since 1970-01-01
    Date(i32),
    /// `time`: nanoseconds since midnight
    Time(i64),
    /// `datetime2`: ticks of 100 ns since 0001-01-01T00:00:00
    DateTime2(i64),
    /// `datetimeoffset`
    DateTimeOffset {
        /// Ticks of 100 ns since 0001-01-01T00:00:00 UTC.
        ticks: i64,
        /// Minutes east of UTC.
        offset_minutes: i16,
    },
    /// All text.
    Text(&'a str),
    /// `binary`, `varbinary`
    Bytes(&'a [u8]),
    /// `uniqueidentifier`, in RFC 4122's byte order
    Uuid([u8; 16]),
}

impl Column {
    /// The default as a cell; `scratch` holds what it cannot borrow.
    pub(crate) fn default_cell<'a>(&'a self, scratch: &'a mut Vec<u8>) -> Option<Cell<'a>> {
        let scalar = self.default.as_ref()?.scalar()?;
        convert::cell(self, &scalar, scratch).ok()
    }

    /// Whether the default fits the type; the message names it and the rule.
    pub(super) fn check_default(&self) -> Result<(), String> {
        let Some(default) = &self.default else { return Ok(()) };
        let refuse = |problem: Problem| {
            let shown = match default {
                DefaultValue::Bool(value) => value.to_string(),
                DefaultValue::Number(text) => text.clone(),
                DefaultValue::Text(text) => format!("{text:?}"),
            };
            format!("{shown} does not fit `{}`: {problem}", self.sql_type)
        };
        let scalar = default.scalar().ok_or_else(|| refuse(convert::NOT_A_NUMBER))?;
        convert::cell(self, &scalar, &mut Vec::new()).map(|_| ()).map_err(refuse)
    }
}
