//! The T-SQL types that a column may have: parsed with T-SQL's limits and defaults, displayed as T-SQL writes them.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::suggest::closest;

/// Most bytes of a `char(n)`, `varchar(n)`, `binary(n)`, `varbinary(n)`.
const MAX_BYTES: u16 = 8_000;

/// Most UTF-16 units of an `nchar(n)`, `nvarchar(n)`.
const MAX_UNITS: u16 = 4_000;

/// Most digits of a `decimal`.
const MAX_PRECISION: u8 = 38;

/// Most fractional digits of a second.
const MAX_TIME_SCALE: u8 = 7;

/// The most bytes of one value that the driver loads in bulk, also into a column of `max`: tiberius 0.13 holds a value
/// against the length 0xFFFF by which the protocol says `max`, and refuses a longer one.
pub(super) const MAX_BULK_VALUE_BYTES: u16 = u16::MAX;

/// The declared length of a variable-length type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Length {
    /// At most so many: bytes, or UTF-16 units for `nvarchar`.
    Limit(u16),
    /// `max`: up to 65,535 bytes, the most that the driver loads in bulk, though SQL Server would store more.
    Max,
}

/// A T-SQL column type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlType {
    /// `bit`
    Bit,
    /// `tinyint`, 0 to 255
    TinyInt,
    /// `smallint`
    SmallInt,
    /// `int`
    Int,
    /// `bigint`
    BigInt,
    /// `real`
    Real,
    /// `float`
    Float,
    /// `decimal(precision, scale)`
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: u8,
    },
    /// `date`, 0001-01-01 to 9999-12-31
    Date,
    /// `time(scale)`
    Time {
        /// Fractional digits of the second, 0 to 7.
        scale: u8,
    },
    /// `datetime2(scale)`
    DateTime2 {
        /// Fractional digits of the second, 0 to 7.
        scale: u8,
    },
    /// `datetimeoffset(scale)`
    DateTimeOffset {
        /// Fractional digits of the second, 0 to 7.
        scale: u8,
    },
    /// `char(n)`: bytes in the column's code page
    Char(u16),
    /// `varchar(n | max)`: bytes in the column's code page
    VarChar(Length),
    /// `nchar(n)`: UTF-16 units
    NChar(u16),
    /// `nvarchar(n | max)`: UTF-16 units
    NVarChar(Length),
    /// `binary(n)`: bytes
    Binary(u16),
    /// `varbinary(n | max)`: bytes
    VarBinary(Length),
    /// `uniqueidentifier`
    UniqueIdentifier,
}

/// Every name that [`SqlType`] parses.
const NAMES: [&str; 20] = [
    "bit",
    "tinyint",
    "smallint",
    "int",
    "bigint",
    "real",
    "float",
    "decimal",
    "numeric",
    "date",
    "time",
    "datetime2",
    "datetimeoffset",
    "char",
    "varchar",
    "nchar",
    "nvarchar",
    "binary",
    "varbinary",
    "uniqueidentifier",
];

impl SqlType {
    /// Whether a value is text, in the column's code page or in UTF-16.
    pub fn is_text(self) -> bool {
        self.is_code_page_text() || matches!(self, SqlType::NChar(_) | SqlType::NVarChar(_))
    }

    /// Whether a value is text in the column's code page.
    pub fn is_code_page_text(self) -> bool {
        matches!(self, SqlType::Char(_) | SqlType::VarChar(_))
    }

    /// Whether a value is bytes.
    pub fn is_binary(self) -> bool {
        matches!(self, SqlType::Binary(_) | SqlType::VarBinary(_))
    }

    /// Whether a value is a date with a time.
    pub fn is_timestamp(self) -> bool {
        matches!(self, SqlType::DateTime2 { .. } | SqlType::DateTimeOffset { .. })
    }

    /// Fractional digits of the second, for the types that have a time of day.
    pub fn time_scale(self) -> Option<u8> {
        match self {
            SqlType::Time { scale } | SqlType::DateTime2 { scale } | SqlType::DateTimeOffset { scale } => {
                Some(scale)
            }
            _ => None,
        }
    }

    /// The longest value of a text or binary type: bytes, or UTF-16 units for `nchar` and `nvarchar`.
    pub fn longest_value(self) -> Option<usize> {
        match self {
            SqlType::NVarChar(Length::Max) => Some(usize::from(MAX_BULK_VALUE_BYTES / 2)),
            other => other.length().map(|length| match length {
                Length::Limit(limit) => usize::from(limit),
                Length::Max => usize::from(MAX_BULK_VALUE_BYTES),
            }),
        }
    }

    /// The declared length of text (bytes or UTF-16 units) and of bytes.
    pub fn length(self) -> Option<Length> {
        match self {
            SqlType::Char(n) | SqlType::NChar(n) | SqlType::Binary(n) => Some(Length::Limit(n)),
            SqlType::VarChar(length) | SqlType::NVarChar(length) | SqlType::VarBinary(length) => Some(length),
            _ => None,
        }
    }

    /// The Arrow type of such a column.
    pub fn arrow(self) -> DataType {
        match self {
            SqlType::Bit => DataType::Boolean,
            SqlType::TinyInt => DataType::UInt8,
            SqlType::SmallInt => DataType::Int16,
            SqlType::Int => DataType::Int32,
            // datetime2 counts ticks: see the decision record on Arrow types.
            SqlType::BigInt | SqlType::DateTime2 { .. } => DataType::Int64,
            SqlType::Real => DataType::Float32,
            SqlType::Float => DataType::Float64,
            SqlType::Decimal { precision, scale } => {
                DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(i8::MAX))
            }
            SqlType::Date => DataType::Date32,
            SqlType::Time { .. } => DataType::Time64(TimeUnit::Nanosecond),
            SqlType::DateTimeOffset { .. } => DataType::Struct(date_time_offset_fields()),
            SqlType::Char(_) | SqlType::VarChar(_) | SqlType::NChar(_) | SqlType::NVarChar(_) => {
                DataType::Utf8
            }
            SqlType::Binary(_) | SqlType::VarBinary(_) => DataType::Binary,
            SqlType::UniqueIdentifier => DataType::FixedSizeBinary(16),
        }
    }

    /// Bits that a value takes in Arrow apart from variable-length data: value or offset, and validity.
    pub(super) fn fixed_bits(self) -> usize {
        1 + match self {
            SqlType::Bit => 1,
            SqlType::TinyInt => 8,
            SqlType::SmallInt => 16,
            SqlType::Int | SqlType::Real | SqlType::Date => 32,
            SqlType::BigInt | SqlType::Float | SqlType::Time { .. } | SqlType::DateTime2 { .. } => 64,
            SqlType::Decimal { .. } | SqlType::UniqueIdentifier => 128,
            SqlType::DateTimeOffset { .. } => 64 + 16,
            // The offset.
            SqlType::Char(_) | SqlType::VarChar(_) | SqlType::NChar(_) | SqlType::NVarChar(_) => 32,
            SqlType::Binary(_) | SqlType::VarBinary(_) => 32,
        }
    }
}

/// The two parts of a `datetimeoffset`: `ticks` of 100 ns since 0001-01-01T00:00:00 UTC, and the offset.
pub fn date_time_offset_fields() -> Fields {
    Fields::from(vec![
        Field::new("ticks", DataType::Int64, false),
        Field::new("offset_minutes", DataType::Int16, false),
    ])
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlType::Bit => f.write_str("bit"),
            SqlType::TinyInt => f.write_str("tinyint"),
            SqlType::SmallInt => f.write_str("smallint"),
            SqlType::Int => f.write_str("int"),
            SqlType::BigInt => f.write_str("bigint"),
            SqlType::Real => f.write_str("real"),
            SqlType::Float => f.write_str("float"),
            SqlType::Decimal { precision, scale } => write!(f, "decimal({precision}, {scale})"),
            SqlType::Date => f.write_str("date"),
            SqlType::Time { scale } => write!(f, "time({scale})"),
            SqlType::DateTime2 { scale } => write!(f, "datetime2({scale})"),
            SqlType::DateTimeOffset { scale } => write!(f, "datetimeoffset({scale})"),
            SqlType::Char(n) => write!(f, "char({n})"),
            SqlType::VarChar(length) => write!(f, "varchar({length})"),
            SqlType::NChar(n) => write!(f, "nchar({n})"),
            SqlType::NVarChar(length) => write!(f, "nvarchar({length})"),
            SqlType::Binary(n) => write!(f, "binary({n})"),
            SqlType::VarBinary(length) => write!(f, "varbinary({length})"),
            SqlType::UniqueIdentifier => f.write_str("uniqueidentifier"),
        }
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Length::Limit(limit) => write!(f, "{limit}"),
            Length::Max => f.write_str("max"),
        }
    }
}

/// Why a text is not the type of a column. The text is for who wrote the schema file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SqlTypeError(String);

fn refuse<T>(message: impl Into<String>) -> Result<T, SqlTypeError> {
    Err(SqlTypeError(message.into()))
}

impl FromStr for SqlType {
    type Err = SqlTypeError;

    /// Parses `name` or `name(argument, …)`, in any case, blanks allowed where T-SQL allows them.
    fn from_str(text: &str) -> Result<Self, SqlTypeError> {
        let (name, arguments) = split(text)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let plain = |sql_type: SqlType| match arguments.as_slice() {
            [] => Ok(sql_type),
            _ => refuse(format!("`{name}` takes no length")),
        };
        match name.as_str() {
            "bit" => plain(SqlType::Bit),
            "tinyint" => plain(SqlType::TinyInt),
            "smallint" => plain(SqlType::SmallInt),
            "int" | "integer" => plain(SqlType::Int),
            "bigint" => plain(SqlType::BigInt),
            "real" => plain(SqlType::Real),
            "float" => match arguments.as_slice() {
                [] => Ok(SqlType::Float),
                // T-SQL: float(1) to float(24) is real, float(25) to float(53) is float.
                [bits] => Ok(match number(bits, 1, 53, "bits of a `float`")? {
                    ..=24 => SqlType::Real,
                    _ => SqlType::Float,
                }),
                _ => refuse("`float` takes one argument at most"),
            },
            "decimal" | "numeric" | "dec" => decimal(&arguments),
            "date" => plain(SqlType::Date),
            "time" => Ok(SqlType::Time { scale: time_scale(&name, &arguments)? }),
            "datetime2" => Ok(SqlType::DateTime2 { scale: time_scale(&name, &arguments)? }),
            "datetimeoffset" => Ok(SqlType::DateTimeOffset { scale: time_scale(&name, &arguments)? }),
            "char" => Ok(SqlType::Char(fixed_length(&name, &arguments, MAX_BYTES)?)),
            "nchar" => Ok(SqlType::NChar(fixed_length(&name, &arguments, MAX_UNITS)?)),
            "binary" => Ok(SqlType::Binary(fixed_length(&name, &arguments, MAX_BYTES)?)),
            "varchar" => Ok(SqlType::VarChar(length(&name, &arguments, MAX_BYTES)?)),
            "nvarchar" => Ok(SqlType::NVarChar(length(&name, &arguments, MAX_UNITS)?)),
            "varbinary" => Ok(SqlType::VarBinary(length(&name, &arguments, MAX_BYTES)?)),
            "uniqueidentifier" => plain(SqlType::UniqueIdentifier),
            other => refuse(unknown(other)),
        }
    }
}

/// The lower-case name, and the arguments in the parentheses after it.
fn split(text: &str) -> Result<(String, Vec<String>), SqlTypeError> {
    let text = text.trim();
    let Some((name, rest)) = text.split_once('(') else {
        return Ok((text.to_ascii_lowercase(), Vec::new()));
    };
    let Some(inside) = rest.trim_end().strip_suffix(')') else {
        return refuse("the parenthesis is not closed");
    };
    let arguments = inside.split(',').map(|argument| argument.trim().to_ascii_lowercase()).collect();
    Ok((name.trim().to_ascii_lowercase(), arguments))
}

fn number(text: &str, least: u16, most: u16, what: &str) -> Result<u16, SqlTypeError> {
    match text.parse::<u16>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => refuse(format!("{what}: `{text}` is not between {least} and {most}")),
    }
}

fn small(text: &str, least: u8, most: u8, what: &str) -> Result<u8, SqlTypeError> {
    number(text, least.into(), most.into(), what).map(|number| u8::try_from(number).unwrap_or(most))
}

fn decimal(arguments: &[&str]) -> Result<SqlType, SqlTypeError> {
    let (precision, scale) = match arguments {
        [] => ("18", "0"),
        [precision] => (*precision, "0"),
        [precision, scale] => (*precision, *scale),
        _ => return refuse("`decimal` takes a precision and a scale"),
    };
    let precision = small(precision, 1, MAX_PRECISION, "precision of a `decimal`")?;
    let scale = small(scale, 0, precision, "scale of a `decimal`")?;
    Ok(SqlType::Decimal { precision, scale })
}

fn time_scale(name: &str, arguments: &[&str]) -> Result<u8, SqlTypeError> {
    match arguments {
        [] => Ok(MAX_TIME_SCALE),
        [scale] => small(scale, 0, MAX_TIME_SCALE, &format!("fractional digits of a `{name}`")),
        _ => refuse(format!("`{name}` takes one argument at most")),
    }
}

fn fixed_length(name: &str, arguments: &[&str], most: u16) -> Result<u16, SqlTypeError> {
    match length(name, arguments, most)? {
        Length::Limit(limit) => Ok(limit),
        Length::Max => {
            refuse(format!("`{name}(max)` does not exist: write a number, or `{}(max)`", varying(name)))
        }
    }
}

fn length(name: &str, arguments: &[&str], most: u16) -> Result<Length, SqlTypeError> {
    match arguments {
        // T-SQL would read it as a length of 1, which nobody means.
        [] => refuse(format!("`{name}` needs a length, as in `{name}(64)`, or `{}(max)`", varying(name))),
        ["max"] => Ok(Length::Max),
        [limit] => number(limit, 1, most, &format!("length of `{name}`"))
            .map(Length::Limit)
            .map_err(|error| SqlTypeError(format!("{error}; longer values need `{}(max)`", varying(name)))),
        _ => refuse(format!("`{name}` takes one length")),
    }
}

/// The variable-length type that goes with `name`.
fn varying(name: &str) -> &'static str {
    match name {
        "char" | "varchar" => "varchar",
        "nchar" | "nvarchar" => "nvarchar",
        _ => "varbinary",
    }
}

fn unknown(name: &str) -> String {
    let instead = match name {
        "datetime" | "smalldatetime" | "timestamp" => Some("datetime2(3)"),
        "text" | "string" | "xml" | "ntext" | "json" => Some("nvarchar(max)"),
        "money" | "smallmoney" => Some("decimal(19, 4)"),
        "bool" | "boolean" => Some("bit"),
        "double" => Some("float"),
        "uuid" | "guid" => Some("uniqueidentifier"),
        "image" | "blob" | "bytes" => Some("varbinary(max)"),
        "long" | "int64" => Some("bigint"),
        _ => closest(name, &NAMES),
    };
    match instead {
        Some(instead) => format!("no such column type; did you mean `{instead}`?"),
        None => format!("no such column type; there are {}", NAMES.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SqlType {
        text.parse().expect(text)
    }

    #[test]
    fn displays_what_t_sql_would_make_of_it() {
        for (text, canonical) in [
            ("BIT", "bit"),
            (" Int ", "int"),
            ("float(24)", "real"),
            ("float(53)", "float"),
            ("decimal", "decimal(18, 0)"),
            ("numeric( 10 , 2 )", "decimal(10, 2)"),
            ("Decimal(38,38)", "decimal(38, 38)"),
            ("time", "time(7)"),
            ("datetime2 (3)", "datetime2(3)"),
            ("datetimeoffset(0)", "datetimeoffset(0)"),
            ("nvarchar(MAX)", "nvarchar(max)"),
            ("varchar(8000)", "varchar(8000)"),
            ("nchar(4000)", "nchar(4000)"),
            ("binary(16)", "binary(16)"),
            ("uniqueidentifier", "uniqueidentifier"),
        ] {
            assert_eq!(parse(text).to_string(), canonical);
            assert_eq!(parse(canonical), parse(text));
        }
    }

    #[test]
    fn refuses_with_the_constraint() {
        for (text, part) in [
            ("decimal(39)", "between 1 and 38"),
            ("decimal(5,6)", "between 0 and 5"),
            ("datetime2(8)", "between 0 and 7"),
            ("varchar", "varchar(64)"),
            ("nvarchar(4001)", "nvarchar(max)"),
            ("varchar(0)", "between 1 and 8000"),
            ("char(max)", "varchar(max)"),
            ("int(4)", "takes no length"),
            ("nvarchar(64", "not closed"),
            ("nvarchr(64)", "did you mean `nvarchar`"),
            ("datetime", "did you mean `datetime2(3)`"),
            ("geography", "there are bit"),
            ("", "no such column type"),
        ] {
            let error = text.parse::<SqlType>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
