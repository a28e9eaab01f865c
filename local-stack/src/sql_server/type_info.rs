//! TYPE_INFO (MS-TDS 2.2.5.6): a type as it stands before the values of it.

use super::error::SqlError;
use super::read::{Cursor, Truncated};
use super::types::{Collation, Length, SqlType, decimal_length};

pub(super) const NULL_TYPE: u8 = 0x1F;
pub(super) const INT1: u8 = 0x30;
pub(super) const BIT: u8 = 0x32;
pub(super) const INT2: u8 = 0x34;
pub(super) const INT4: u8 = 0x38;
pub(super) const FLOAT4: u8 = 0x3B;
pub(super) const FLOAT8: u8 = 0x3E;
pub(super) const INT8: u8 = 0x7F;
pub(super) const MONEY: u8 = 0x3C;
pub(super) const MONEY4: u8 = 0x7A;
pub(super) const MONEY_N: u8 = 0x6E;
pub(super) const DATETIME: u8 = 0x3D;
pub(super) const DATETIME4: u8 = 0x3A;
pub(super) const DATETIME_N: u8 = 0x6F;
pub(super) const XML: u8 = 0xF1;
pub(super) const GUID: u8 = 0x24;
pub(super) const INT_N: u8 = 0x26;
pub(super) const BIT_N: u8 = 0x68;
pub(super) const DECIMAL_N: u8 = 0x6A;
pub(super) const NUMERIC_N: u8 = 0x6C;
pub(super) const FLOAT_N: u8 = 0x6D;
pub(super) const DATE_N: u8 = 0x28;
pub(super) const TIME_N: u8 = 0x29;
pub(super) const DATETIME2_N: u8 = 0x2A;
pub(super) const DATETIMEOFFSET_N: u8 = 0x2B;
pub(super) const BIG_VARBINARY: u8 = 0xA5;
pub(super) const BIG_VARCHAR: u8 = 0xA7;
pub(super) const BIG_BINARY: u8 = 0xAD;
pub(super) const BIG_CHAR: u8 = 0xAF;
pub(super) const NVARCHAR: u8 = 0xE7;
pub(super) const NCHAR: u8 = 0xEF;

const MAX_MARKER: u16 = 0xFFFF;

/// Writes a type for values that `encode` writes. Numbers of columns that are NOT NULL have the types of
/// fixed length, as SQL Server sends them.
pub(super) fn write_type_info(out: &mut Vec<u8>, sql_type: SqlType, nullable: bool) {
    let length_of = |length: Length, unit: u16| match length {
        Length::Limited(n) => n.saturating_mul(unit),
        Length::Max => MAX_MARKER,
    };
    match sql_type {
        SqlType::Bit if nullable => out.extend_from_slice(&[BIT_N, 1]),
        SqlType::TinyInt if nullable => out.extend_from_slice(&[INT_N, 1]),
        SqlType::SmallInt if nullable => out.extend_from_slice(&[INT_N, 2]),
        SqlType::Int if nullable => out.extend_from_slice(&[INT_N, 4]),
        SqlType::BigInt if nullable => out.extend_from_slice(&[INT_N, 8]),
        SqlType::Real if nullable => out.extend_from_slice(&[FLOAT_N, 4]),
        SqlType::Float if nullable => out.extend_from_slice(&[FLOAT_N, 8]),
        SqlType::Money if nullable => out.extend_from_slice(&[MONEY_N, 8]),
        SqlType::SmallMoney if nullable => out.extend_from_slice(&[MONEY_N, 4]),
        SqlType::DateTime if nullable => out.extend_from_slice(&[DATETIME_N, 8]),
        SqlType::SmallDateTime if nullable => out.extend_from_slice(&[DATETIME_N, 4]),
        SqlType::Money => out.push(MONEY),
        SqlType::SmallMoney => out.push(MONEY4),
        SqlType::DateTime => out.push(DATETIME),
        SqlType::SmallDateTime => out.push(DATETIME4),
        // no collection of schemas
        SqlType::Xml => out.extend_from_slice(&[XML, 0]),
        SqlType::Bit => out.push(BIT),
        SqlType::TinyInt => out.push(INT1),
        SqlType::SmallInt => out.push(INT2),
        SqlType::Int => out.push(INT4),
        SqlType::BigInt => out.push(INT8),
        SqlType::Real => out.push(FLOAT4),
        SqlType::Float => out.push(FLOAT8),
        SqlType::Decimal { precision, scale } => {
            out.extend_from_slice(&[DECIMAL_N, decimal_length(precision), precision, scale]);
        }
        SqlType::Date => out.push(DATE_N),
        SqlType::Time(scale) => out.extend_from_slice(&[TIME_N, scale]),
        SqlType::DateTime2(scale) => out.extend_from_slice(&[DATETIME2_N, scale]),
        SqlType::DateTimeOffset(scale) => out.extend_from_slice(&[DATETIMEOFFSET_N, scale]),
        SqlType::UniqueIdentifier => out.extend_from_slice(&[GUID, 16]),
        SqlType::Binary(n) => put_length(out, BIG_BINARY, n),
        SqlType::VarBinary(n) => put_length(out, BIG_VARBINARY, length_of(n, 1)),
        SqlType::Char(n, _) => put_length(out, BIG_CHAR, n),
        SqlType::VarChar(n, _) => put_length(out, BIG_VARCHAR, length_of(n, 1)),
        SqlType::NChar(n, _) => put_length(out, NCHAR, n.saturating_mul(2)),
        SqlType::NVarChar(n, _) => put_length(out, NVARCHAR, length_of(n, 2)),
    }
    if let Some(collation) = sql_type.collation() {
        out.extend_from_slice(&collation.wire());
    }
}

/// The number of the type under which a value that may be NULL is sent.
pub(super) fn nullable_token(sql_type: SqlType) -> u8 {
    let mut info = Vec::new();
    write_type_info(&mut info, sql_type, true);
    info.first().copied().unwrap_or(NULL_TYPE)
}

fn put_length(out: &mut Vec<u8>, token: u8, length: u16) {
    out.push(token);
    out.extend_from_slice(&length.to_le_bytes());
}

/// How many bytes tell a value's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LengthPrefix {
    /// None: the type says it.
    Fixed(u8),
    /// One byte, 0 for NULL.
    Byte,
    /// Two bytes, 0xFFFF for NULL.
    Short,
    /// Eight bytes and chunks ("PLP").
    Chunks,
}

/// A type as a client wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WireType {
    /// `None` for the type of a bare NULL.
    pub(super) sql_type: Option<SqlType>,
    pub(super) prefix: LengthPrefix,
}

/// Why a type could not be read.
#[derive(Debug)]
pub(super) enum TypeInfoError {
    Truncated,
    Refused(SqlError),
}

impl From<Truncated> for TypeInfoError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl From<TypeInfoError> for SqlError {
    fn from(error: TypeInfoError) -> Self {
        match error {
            TypeInfoError::Truncated => Self::protocol("a type is cut off"),
            TypeInfoError::Refused(error) => error,
        }
    }
}

/// Reads a type as a client sends it, in an RPC's parameter or a bulk load's metadata.
pub(super) fn read_type_info(cursor: &mut Cursor<'_>) -> Result<WireType, TypeInfoError> {
    let token = cursor.u8()?;
    let refuse = |what: &str| TypeInfoError::Refused(SqlError::protocol(what));
    let fixed = |sql_type: SqlType, bytes: u8| WireType {
        sql_type: Some(sql_type),
        prefix: LengthPrefix::Fixed(bytes),
    };
    let byte = |sql_type: SqlType| WireType { sql_type: Some(sql_type), prefix: LengthPrefix::Byte };
    Ok(match token {
        NULL_TYPE => WireType { sql_type: None, prefix: LengthPrefix::Fixed(0) },
        INT1 => fixed(SqlType::TinyInt, 1),
        BIT => fixed(SqlType::Bit, 1),
        INT2 => fixed(SqlType::SmallInt, 2),
        INT4 => fixed(SqlType::Int, 4),
        INT8 => fixed(SqlType::BigInt, 8),
        FLOAT4 => fixed(SqlType::Real, 4),
        FLOAT8 => fixed(SqlType::Float, 8),
        MONEY => fixed(SqlType::Money, 8),
        MONEY4 => fixed(SqlType::SmallMoney, 4),
        DATETIME => fixed(SqlType::DateTime, 8),
        DATETIME4 => fixed(SqlType::SmallDateTime, 4),
        MONEY_N => byte(match cursor.u8()? {
            4 => SqlType::SmallMoney,
            8 => SqlType::Money,
            _ => return Err(refuse("a money of an unknown length")),
        }),
        DATETIME_N => byte(match cursor.u8()? {
            4 => SqlType::SmallDateTime,
            8 => SqlType::DateTime,
            _ => return Err(refuse("a datetime of an unknown length")),
        }),
        XML => match cursor.u8()? {
            0 => WireType { sql_type: Some(SqlType::Xml), prefix: LengthPrefix::Chunks },
            _ => {
                return Err(TypeInfoError::Refused(SqlError::unsupported("xml of a schema collection")));
            }
        },
        BIT_N => match cursor.u8()? {
            1 => byte(SqlType::Bit),
            _ => return Err(refuse("a bit of another length than 1")),
        },
        INT_N => byte(match cursor.u8()? {
            1 => SqlType::TinyInt,
            2 => SqlType::SmallInt,
            4 => SqlType::Int,
            8 => SqlType::BigInt,
            _ => return Err(refuse("an integer of an unknown length")),
        }),
        FLOAT_N => byte(match cursor.u8()? {
            4 => SqlType::Real,
            8 => SqlType::Float,
            _ => return Err(refuse("a float of an unknown length")),
        }),
        DECIMAL_N | NUMERIC_N => {
            let [_length, precision, scale] = cursor.array()?;
            if !(1..=38).contains(&precision) || scale > precision {
                return Err(refuse("a decimal of an impossible precision or scale"));
            }
            byte(SqlType::Decimal { precision, scale })
        }
        GUID => match cursor.u8()? {
            16 => byte(SqlType::UniqueIdentifier),
            _ => return Err(refuse("a uniqueidentifier of another length than 16")),
        },
        DATE_N => byte(SqlType::Date),
        TIME_N | DATETIME2_N | DATETIMEOFFSET_N => {
            let scale = cursor.u8()?;
            if scale > 7 {
                return Err(refuse("a scale above 7"));
            }
            byte(match token {
                TIME_N => SqlType::Time(scale),
                DATETIME2_N => SqlType::DateTime2(scale),
                _ => SqlType::DateTimeOffset(scale),
            })
        }
        BIG_VARBINARY | BIG_BINARY => {
            let (length, prefix) = read_length(cursor.u16()?, 8000)?;
            let sql_type = match length {
                Length::Limited(n) if token == BIG_BINARY => SqlType::Binary(n),
                _ => SqlType::VarBinary(length),
            };
            WireType { sql_type: Some(sql_type), prefix }
        }
        BIG_VARCHAR | BIG_CHAR => {
            let (length, prefix) = read_length(cursor.u16()?, 8000)?;
            let collation = read_collation(cursor)?;
            let sql_type = match length {
                Length::Limited(n) if token == BIG_CHAR => SqlType::Char(n, collation),
                _ => SqlType::VarChar(length, collation),
            };
            WireType { sql_type: Some(sql_type), prefix }
        }
        NVARCHAR | NCHAR => {
            let (length, prefix) = read_length(cursor.u16()?, 8000)?;
            let collation = read_collation(cursor)?;
            let sql_type = match length {
                Length::Limited(n) if token == NCHAR => SqlType::NChar(n / 2, collation),
                Length::Limited(n) => SqlType::NVarChar(Length::Limited(n / 2), collation),
                Length::Max => SqlType::NVarChar(Length::Max, collation),
            };
            WireType { sql_type: Some(sql_type), prefix }
        }
        other => {
            let name = match other {
                0xF0 => "data type udt",
                0xF3 => "table-valued parameter",
                0x62 => "data type sql_variant",
                0x22 | 0x23 | 0x63 => "data types text, ntext and image",
                _ => return Err(refuse("an unknown data type")),
            };
            return Err(TypeInfoError::Refused(SqlError::unsupported(name)));
        }
    })
}

fn read_length(length: u16, max: u16) -> Result<(Length, LengthPrefix), TypeInfoError> {
    match length {
        MAX_MARKER => Ok((Length::Max, LengthPrefix::Chunks)),
        n if n <= max => Ok((Length::Limited(n), LengthPrefix::Short)),
        _ => Err(TypeInfoError::Refused(SqlError::protocol("a length above 8000"))),
    }
}

/// A client's collation says only how its bytes are to be read: the column has one of its own.
fn read_collation(cursor: &mut Cursor<'_>) -> Result<Collation, TypeInfoError> {
    const FLAG_UTF8: u8 = 0x04;
    let [_, _, _, flags, _] = cursor.array::<5>()?;
    Ok(if flags & FLAG_UTF8 != 0 { Collation::Utf8 } else { Collation::Latin1 })
}
