//! Types as they are written, and as the catalogue keeps them.

use super::super::error::SqlError;
use super::{
    Collation, Length, MAX_CHARACTERS, MAX_NATIONAL_CHARACTERS, SqlType, decimal_length, time_length,
};

/// A type as the catalogue's columns hold it: `sys.columns.max_length`, `precision`, `scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Facets {
    pub(in super::super) max_length: i16,
    pub(in super::super) precision: u8,
    pub(in super::super) scale: u8,
}

impl SqlType {
    /// Reads a type as it is written: a name and the arguments between its parentheses.
    pub(in super::super) fn parse(name: &str, arguments: &[String]) -> Result<Self, SqlError> {
        let name = name.to_ascii_lowercase();
        let collation = Collation::Latin1;
        let one = |default: u16, max: u16| -> Result<u16, SqlError> {
            let Some(text) = arguments.first() else { return Ok(default) };
            let value: u64 = text.parse().map_err(|_| wrong_argument(&name, text))?;
            match u16::try_from(value) {
                Ok(0) => {
                    Err(SqlError::new(1001, 15, 1, "Line 1: Length or precision specification 0 is invalid."))
                }
                Ok(value) if value <= max => Ok(value),
                _ => Err(SqlError::new(
                    131,
                    15,
                    2,
                    format!(
                        "The size ({value}) given to the type '{name}' exceeds the maximum allowed for any data type ({max})."
                    ),
                )),
            }
        };
        let length = |max: u16| -> Result<Length, SqlError> {
            match arguments.first() {
                Some(text) if text.eq_ignore_ascii_case("max") => Ok(Length::Max),
                _ => one(1, max).map(Length::Limited),
            }
        };
        let scale = || -> Result<u8, SqlError> {
            let Some(text) = arguments.first() else { return Ok(7) };
            match text.parse::<u8>() {
                Ok(value) if value <= 7 => Ok(value),
                _ => Err(SqlError::new(1002, 15, 1, format!("Line 1: Specified scale {text} is invalid."))),
            }
        };
        let allowed = match name.as_str() {
            "decimal" | "numeric" | "dec" => 2,
            "bit" | "tinyint" | "smallint" | "int" | "integer" | "bigint" | "real" | "date"
            | "uniqueidentifier" | "double precision" | "sysname" | "money" | "smallmoney" | "datetime"
            | "smalldatetime" => 0,
            // a collection of schemas
            "xml" if !arguments.is_empty() => {
                return Err(SqlError::unsupported("xml of a schema collection"));
            }
            _ => 1,
        };
        if arguments.len() > allowed {
            return Err(SqlError::new(
                2716,
                16,
                1,
                format!("Column, parameter, or variable: Cannot specify a column width on data type {name}."),
            ));
        }
        Ok(match name.as_str() {
            "bit" => Self::Bit,
            "tinyint" => Self::TinyInt,
            "smallint" => Self::SmallInt,
            "int" | "integer" => Self::Int,
            "bigint" => Self::BigInt,
            "real" => Self::Real,
            "double precision" => Self::Float,
            "float" => match one(53, 53)? {
                1..=24 => Self::Real,
                _ => Self::Float,
            },
            "decimal" | "numeric" | "dec" => {
                let precision = u8::try_from(one(18, 38)?).unwrap_or(38);
                let scale = match arguments.get(1) {
                    None => 0,
                    Some(text) => text.parse().map_err(|_| wrong_argument(&name, text))?,
                };
                if scale > precision {
                    return Err(SqlError::new(
                        192,
                        15,
                        1,
                        "The scale must be less than or equal to the precision.",
                    ));
                }
                Self::Decimal { precision, scale }
            }
            "date" => Self::Date,
            "time" => Self::Time(scale()?),
            "datetime2" => Self::DateTime2(scale()?),
            "datetimeoffset" => Self::DateTimeOffset(scale()?),
            "char" | "character" => Self::Char(one(1, MAX_CHARACTERS)?, collation),
            "varchar" | "character varying" | "char varying" => {
                Self::VarChar(length(MAX_CHARACTERS)?, collation)
            }
            "nchar" => Self::NChar(one(1, MAX_NATIONAL_CHARACTERS)?, collation),
            "nvarchar" => Self::NVarChar(length(MAX_NATIONAL_CHARACTERS)?, collation),
            "sysname" => Self::NVarChar(Length::Limited(128), collation),
            "binary" => Self::Binary(one(1, MAX_CHARACTERS)?),
            "varbinary" => Self::VarBinary(length(MAX_CHARACTERS)?),
            "uniqueidentifier" => Self::UniqueIdentifier,
            "money" => Self::Money,
            "smallmoney" => Self::SmallMoney,
            "datetime" => Self::DateTime,
            "smalldatetime" => Self::SmallDateTime,
            "xml" => Self::Xml,
            "sql_variant" | "text" | "ntext" | "image" | "timestamp" | "rowversion" | "hierarchyid"
            | "geography" | "geometry" | "json" | "vector" => {
                return Err(SqlError::unsupported(&format!("data type {name}")));
            }
            _ => {
                return Err(SqlError::new(
                    2715,
                    16,
                    6,
                    format!("Column, parameter, or variable #1: Cannot find data type {name}."),
                ));
            }
        })
    }

    /// What the catalogue says of a column of this type.
    pub(in super::super) fn facets(self) -> Facets {
        let facets = |max_length: i16, precision: u8, scale: u8| Facets { max_length, precision, scale };
        let bytes = |n: u16| i16::try_from(n).unwrap_or(i16::MAX);
        let length = |length: Length, unit: u16| match length {
            Length::Limited(n) => bytes(n.saturating_mul(unit)),
            Length::Max => -1,
        };
        match self {
            Self::Bit => facets(1, 1, 0),
            Self::TinyInt => facets(1, 3, 0),
            Self::SmallInt => facets(2, 5, 0),
            Self::Int => facets(4, 10, 0),
            Self::BigInt => facets(8, 19, 0),
            Self::Real => facets(4, 24, 0),
            Self::Float => facets(8, 53, 0),
            Self::Decimal { precision, scale } => {
                facets(i16::from(decimal_length(precision)), precision, scale)
            }
            Self::Money => facets(8, 19, 4),
            Self::SmallMoney => facets(4, 10, 4),
            Self::DateTime => facets(8, 23, 3),
            Self::SmallDateTime => facets(4, 16, 0),
            Self::Xml => facets(-1, 0, 0),
            Self::Date => facets(3, 10, 0),
            Self::Time(n) => facets(i16::from(time_length(n)), if n == 0 { 8 } else { 9 + n }, n),
            Self::DateTime2(n) => facets(i16::from(time_length(n)) + 3, if n == 0 { 19 } else { 20 + n }, n),
            Self::DateTimeOffset(n) => {
                facets(i16::from(time_length(n)) + 5, if n == 0 { 26 } else { 27 + n }, n)
            }
            Self::Char(n, _) | Self::Binary(n) => facets(bytes(n), 0, 0),
            Self::NChar(n, _) => facets(bytes(n.saturating_mul(2)), 0, 0),
            Self::VarChar(n, _) | Self::VarBinary(n) => facets(length(n, 1), 0, 0),
            Self::NVarChar(n, _) => facets(length(n, 2), 0, 0),
            Self::UniqueIdentifier => facets(16, 0, 0),
        }
    }

    /// The inverse of `name` and `facets`: how the catalogue's rows are read back.
    pub(in super::super) fn from_catalogue(
        name: &str,
        facets: Facets,
        collation: Option<&str>,
    ) -> Result<Self, SqlError> {
        let length = |unit: i16| match facets.max_length {
            -1 => "max".to_owned(),
            bytes => (bytes / unit).to_string(),
        };
        let arguments = match name {
            "decimal" | "numeric" => vec![facets.precision.to_string(), facets.scale.to_string()],
            "time" | "datetime2" | "datetimeoffset" => vec![facets.scale.to_string()],
            "char" | "varchar" | "binary" | "varbinary" => vec![length(1)],
            "nchar" | "nvarchar" => vec![length(2)],
            _ => Vec::new(),
        };
        let parsed = Self::parse(name, &arguments)?;
        Ok(match collation {
            Some(collation) => parsed.with_collation(Collation::parse(collation)?),
            None => parsed,
        })
    }
}

fn wrong_argument(name: &str, text: &str) -> SqlError {
    SqlError::new(102, 15, 1, format!("Incorrect syntax near '{text}' in the data type {name}."))
}
