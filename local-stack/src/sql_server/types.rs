//! T-SQL's data types: their names, their order of precedence, and what stands for each in PostgreSQL.
//!
//! PostgreSQL keeps microseconds, SQL Server hundreds of nanoseconds, so times are counted in ticks of
//! 100 ns in a `bigint`. Where two values that SQL Server calls equal may differ in what they look like
//! (text without case, the offset of an instant), the stored value is the one that was sent, and
//! comparisons use a key that is computed from it.

use super::error::SqlError;

mod names;

pub(super) use names::Facets;

/// Ticks of 100 ns in a day.
pub(super) const TICKS_PER_DAY: i64 = 864_000_000_000;
/// Days from 0001-01-01, where TDS counts from, to 2000-01-01, where PostgreSQL does.
pub(super) const DAYS_TO_POSTGRES_EPOCH: i32 = 730_119;

/// A length in bytes for `varchar` and `varbinary`, in UTF-16 units for `nvarchar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Length {
    Limited(u16),
    Max,
}

/// The collations of this server. The first is the default of Azure SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Collation {
    Latin1,
    Latin1CaseSensitive,
    Latin1Binary,
    Utf8,
    Utf8Binary,
}

impl Collation {
    pub(super) const ALL: [Self; 5] =
        [Self::Latin1, Self::Latin1CaseSensitive, Self::Latin1Binary, Self::Utf8, Self::Utf8Binary];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Latin1 => "SQL_Latin1_General_CP1_CI_AS",
            Self::Latin1CaseSensitive => "SQL_Latin1_General_CP1_CS_AS",
            Self::Latin1Binary => "Latin1_General_100_BIN2",
            Self::Utf8 => "Latin1_General_100_CI_AS_SC_UTF8",
            Self::Utf8Binary => "Latin1_General_100_BIN2_UTF8",
        }
    }

    /// The collation that stands behind COLLATE.
    pub(super) fn of_clause(name: &str) -> Result<Self, SqlError> {
        if ["DATABASE_DEFAULT", "CATALOG_DEFAULT"].iter().any(|default| name.eq_ignore_ascii_case(default)) {
            return Ok(Self::Latin1);
        }
        Self::parse(name)
    }

    pub(super) fn parse(name: &str) -> Result<Self, SqlError> {
        Self::ALL
            .into_iter()
            .find(|collation| collation.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| SqlError::new(448, 16, 1, format!("Invalid collation '{name}'.")))
    }

    /// Whether `char` and `varchar` under it are UTF-8 and not Windows-1252.
    pub(super) fn is_utf8(self) -> bool {
        matches!(self, Self::Utf8 | Self::Utf8Binary)
    }

    pub(super) fn ignores_case(self) -> bool {
        matches!(self, Self::Latin1 | Self::Utf8)
    }

    /// The five bytes of MS-TDS 2.2.5.1.2: locale, flags and version, then the sort order.
    pub(super) fn wire(self) -> [u8; 5] {
        match self {
            Self::Latin1 => [0x09, 0x04, 0xD0, 0x00, 0x34],
            Self::Latin1CaseSensitive => [0x09, 0x04, 0xC0, 0x00, 0x33],
            Self::Latin1Binary => [0x09, 0x04, 0x00, 0x22, 0x00],
            Self::Utf8 => [0x09, 0x04, 0xD0, 0x24, 0x00],
            Self::Utf8Binary => [0x09, 0x04, 0x00, 0x26, 0x00],
        }
    }
}

/// A column's or an expression's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SqlType {
    Bit,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Real,
    Float,
    Decimal { precision: u8, scale: u8 },
    Money,
    SmallMoney,
    Date,
    Time(u8),
    DateTime2(u8),
    DateTimeOffset(u8),
    DateTime,
    SmallDateTime,
    Char(u16, Collation),
    VarChar(Length, Collation),
    NChar(u16, Collation),
    NVarChar(Length, Collation),
    Binary(u16),
    VarBinary(Length),
    UniqueIdentifier,
    Xml,
}

const MAX_CHARACTERS: u16 = 8000;
const MAX_NATIONAL_CHARACTERS: u16 = 4000;

impl SqlType {
    /// The same type under another collation; nothing changes for a type without one.
    pub(super) fn with_collation(self, collation: Collation) -> Self {
        match self {
            Self::Char(n, _) => Self::Char(n, collation),
            Self::VarChar(n, _) => Self::VarChar(n, collation),
            Self::NChar(n, _) => Self::NChar(n, collation),
            Self::NVarChar(n, _) => Self::NVarChar(n, collation),
            other => other,
        }
    }

    pub(super) fn collation(self) -> Option<Collation> {
        match self {
            Self::Char(_, c) | Self::VarChar(_, c) | Self::NChar(_, c) | Self::NVarChar(_, c) => Some(c),
            _ => None,
        }
    }

    /// The name alone, as in `sys.types`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bit => "bit",
            Self::TinyInt => "tinyint",
            Self::SmallInt => "smallint",
            Self::Int => "int",
            Self::BigInt => "bigint",
            Self::Real => "real",
            Self::Float => "float",
            Self::Decimal { .. } => "decimal",
            Self::Money => "money",
            Self::SmallMoney => "smallmoney",
            Self::Date => "date",
            Self::Time(_) => "time",
            Self::DateTime2(_) => "datetime2",
            Self::DateTimeOffset(_) => "datetimeoffset",
            Self::DateTime => "datetime",
            Self::SmallDateTime => "smalldatetime",
            Self::Char(..) => "char",
            Self::VarChar(..) => "varchar",
            Self::NChar(..) => "nchar",
            Self::NVarChar(..) => "nvarchar",
            Self::Binary(_) => "binary",
            Self::VarBinary(_) => "varbinary",
            Self::UniqueIdentifier => "uniqueidentifier",
            Self::Xml => "xml",
        }
    }

    /// The type that holds its values in PostgreSQL.
    pub(super) fn postgres(self) -> String {
        match self {
            Self::Bit | Self::TinyInt | Self::SmallInt => "int2".into(),
            Self::Int => "int4".into(),
            Self::BigInt | Self::Time(_) | Self::DateTime2(_) | Self::DateTime | Self::SmallDateTime => {
                "int8".into()
            }
            Self::Real => "float4".into(),
            Self::Float => "float8".into(),
            Self::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
            Self::Money => "numeric(19,4)".into(),
            Self::SmallMoney => "numeric(10,4)".into(),
            Self::Date => "date".into(),
            Self::DateTimeOffset(_) => "tsql.datetimeoffset".into(),
            Self::Char(..) | Self::VarChar(..) | Self::NChar(..) | Self::NVarChar(..) | Self::Xml => {
                "text".into()
            }
            Self::Binary(_) | Self::VarBinary(_) => "bytea".into(),
            Self::UniqueIdentifier => "uuid".into(),
        }
    }

    /// An expression that is equal for what SQL Server calls equal.
    pub(super) fn equality_key(self, sql: &str) -> String {
        match self {
            Self::DateTimeOffset(_) => format!("({sql}).utc"),
            Self::Binary(_) | Self::VarBinary(_) => format!("tsql.binary_key({sql})"),
            Self::Xml => format!("tsql.xml_key({sql})"),
            _ => match self.collation() {
                Some(collation) if collation.ignores_case() => format!("tsql.fold({sql})"),
                Some(_) => format!("rtrim({sql})"),
                None => sql.to_owned(),
            },
        }
    }

    /// An expression that sorts as SQL Server does.
    pub(super) fn order_key(self, sql: &str) -> String {
        match self {
            Self::UniqueIdentifier => format!("tsql.guid_key({sql})"),
            _ => self.equality_key(sql),
        }
    }

    /// Whether a stored value is more than its key, so that a group of equal ones needs a representative.
    pub(super) fn has_key(self) -> bool {
        self.collation().is_some()
            || matches!(self, Self::DateTimeOffset(_) | Self::Binary(_) | Self::VarBinary(_) | Self::Xml)
    }

    pub(super) fn is_text(self) -> bool {
        self.collation().is_some()
    }

    pub(super) fn is_national(self) -> bool {
        matches!(self, Self::NChar(..) | Self::NVarChar(..))
    }

    pub(super) fn is_integer(self) -> bool {
        matches!(self, Self::Bit | Self::TinyInt | Self::SmallInt | Self::Int | Self::BigInt)
    }

    pub(super) fn is_approximate(self) -> bool {
        matches!(self, Self::Real | Self::Float)
    }

    pub(super) fn is_number(self) -> bool {
        self.is_integer() || self.is_approximate() || matches!(self, Self::Decimal { .. })
    }

    pub(super) fn is_money(self) -> bool {
        matches!(self, Self::Money | Self::SmallMoney)
    }

    /// The date types that were there before `datetime2`.
    pub(super) fn is_old_date_time(self) -> bool {
        matches!(self, Self::DateTime | Self::SmallDateTime)
    }

    /// Whether TDS has a form of it that no length precedes.
    pub(super) fn has_fixed_form(self) -> bool {
        self.is_integer() || self.is_approximate() || self.is_money() || self.is_old_date_time()
    }

    pub(super) fn is_temporal(self) -> bool {
        matches!(self, Self::Date | Self::Time(_) | Self::DateTime2(_) | Self::DateTimeOffset(_))
            || self.is_old_date_time()
    }

    pub(super) fn is_binary(self) -> bool {
        matches!(self, Self::Binary(_) | Self::VarBinary(_))
    }

    /// Length in characters or bytes of a text or binary type; `None` without a bound.
    pub(super) fn length(self) -> Option<u16> {
        match self {
            Self::Char(n, _) | Self::NChar(n, _) | Self::Binary(n) => Some(n),
            Self::VarChar(Length::Limited(n), _)
            | Self::NVarChar(Length::Limited(n), _)
            | Self::VarBinary(Length::Limited(n)) => Some(n),
            _ => None,
        }
    }

    /// Microsoft Learn, "Data type precedence": of two types the higher one wins.
    pub(super) fn precedence(self) -> u8 {
        match self {
            Self::Xml => 27,
            Self::DateTimeOffset(_) => 26,
            Self::DateTime2(_) => 25,
            Self::DateTime => 24,
            Self::SmallDateTime => 23,
            Self::Date => 22,
            Self::Time(_) => 21,
            Self::Float => 20,
            Self::Real => 19,
            Self::Decimal { .. } => 18,
            Self::Money => 17,
            Self::SmallMoney => 16,
            Self::BigInt => 15,
            Self::Int => 14,
            Self::SmallInt => 13,
            Self::TinyInt => 12,
            Self::Bit => 11,
            Self::UniqueIdentifier => 6,
            Self::NVarChar(..) => 5,
            Self::NChar(..) => 4,
            Self::VarChar(..) => 3,
            Self::Char(..) => 2,
            Self::VarBinary(_) => 1,
            Self::Binary(_) => 0,
        }
    }

    /// Integers as the decimal they turn into beside a decimal.
    pub(super) fn as_decimal(self) -> Option<(u8, u8)> {
        Some(match self {
            Self::Decimal { precision, scale } => (precision, scale),
            Self::Bit => (1, 0),
            Self::TinyInt => (3, 0),
            Self::SmallInt => (5, 0),
            Self::Int => (10, 0),
            Self::BigInt => (19, 0),
            Self::Money => (19, 4),
            Self::SmallMoney => (10, 4),
            _ => return None,
        })
    }

    /// The one type of a CASE, a COALESCE, a UNION or a comparison of the two.
    pub(super) fn unify(self, other: Self) -> Result<Self, SqlError> {
        let (high, low) = if self.precedence() >= other.precedence() { (self, other) } else { (other, self) };
        let collation = match (self.collation(), other.collation()) {
            (Some(a), Some(b)) if a != b => {
                // the database's default gives way to a collation that somebody chose
                match (a, b) {
                    (Collation::Latin1, c) | (c, Collation::Latin1) => Some(c),
                    _ => {
                        return Err(SqlError::new(
                            468,
                            16,
                            9,
                            format!(
                                "Cannot resolve the collation conflict between \"{}\" and \"{}\" in the equal to operation.",
                                a.name(),
                                b.name()
                            ),
                        ));
                    }
                }
            }
            (a, b) => a.or(b),
        };
        let length = match (self.length(), other.length()) {
            (Some(a), Some(b)) => Length::Limited(a.max(b)),
            _ => Length::Max,
        };
        Ok(match high {
            Self::Decimal { precision, scale } => match low.as_decimal() {
                Some((other_precision, other_scale)) => {
                    let scale_max = scale.max(other_scale);
                    let whole = (precision - scale).max(other_precision - other_scale);
                    bounded_decimal(i32::from(whole) + i32::from(scale_max), i32::from(scale_max))
                }
                None => high,
            },
            Self::Time(a) => match low {
                Self::Time(b) => Self::Time(a.max(b)),
                _ => high,
            },
            Self::DateTime2(a) => match low {
                Self::DateTime2(b) => Self::DateTime2(a.max(b)),
                // a three-hundredth of a second has no end as a decimal
                Self::DateTime => Self::DateTime2(7),
                _ => high,
            },
            Self::DateTimeOffset(a) => match low {
                Self::DateTimeOffset(b) => Self::DateTimeOffset(a.max(b)),
                Self::DateTime => Self::DateTimeOffset(7),
                _ => high,
            },
            Self::NVarChar(_, c) if low.is_text() => {
                let length = match length {
                    Length::Limited(n) if n > MAX_NATIONAL_CHARACTERS => {
                        Length::Limited(MAX_NATIONAL_CHARACTERS)
                    }
                    other => other,
                };
                Self::NVarChar(length, collation.unwrap_or(c))
            }
            Self::NChar(_, c) if low.is_text() => match low {
                Self::VarChar(..) => Self::NVarChar(length, collation.unwrap_or(c)),
                _ => Self::NChar(
                    self.length().max(other.length()).unwrap_or(1).min(MAX_NATIONAL_CHARACTERS),
                    collation.unwrap_or(c),
                ),
            },
            Self::VarChar(_, c) if low.is_text() => Self::VarChar(length, collation.unwrap_or(c)),
            Self::Char(n, c) => Self::Char(n.max(low.length().unwrap_or(1)), collation.unwrap_or(c)),
            Self::VarBinary(_) => Self::VarBinary(length),
            Self::Binary(n) => Self::Binary(n.max(low.length().unwrap_or(1))),
            other => other,
        })
    }
}

/// A decimal whose precision would pass 38 gives up digits after the point, but keeps six of them
/// (Microsoft Learn, "Precision, scale, and length").
pub(super) fn bounded_decimal(precision: i32, scale: i32) -> SqlType {
    let (precision, scale) = if precision > 38 {
        let whole = precision - scale;
        (38, scale.min((38 - whole).max(scale.min(6))))
    } else {
        (precision, scale)
    };
    SqlType::Decimal {
        precision: u8::try_from(precision).unwrap_or(38),
        scale: u8::try_from(scale.max(0)).unwrap_or(0),
    }
}

/// Bytes of a decimal in TDS, the sign included.
pub(super) fn decimal_length(precision: u8) -> u8 {
    match precision {
        0..=9 => 5,
        10..=19 => 9,
        20..=28 => 13,
        _ => 17,
    }
}

/// Bytes of a time of day in TDS by its scale.
pub(super) fn time_length(scale: u8) -> u8 {
    match scale {
        0..=2 => 3,
        3..=4 => 4,
        _ => 5,
    }
}

impl std::fmt::Display for SqlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name();
        match self {
            Self::Decimal { precision, scale } => write!(f, "{name}({precision},{scale})"),
            Self::Time(n) | Self::DateTime2(n) | Self::DateTimeOffset(n) => write!(f, "{name}({n})"),
            Self::VarChar(Length::Max, _) | Self::NVarChar(Length::Max, _) | Self::VarBinary(Length::Max) => {
                write!(f, "{name}(max)")
            }
            _ => match self.length() {
                Some(n) => write!(f, "{name}({n})"),
                None => f.write_str(name),
            },
        }
    }
}
