//! From JSON's types to T-SQL's. Strict: what does not fit is a [`Problem`], never a nearest value.

mod number;
mod text;
mod timestamp;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

pub(crate) use number::Number;
pub(crate) use timestamp::ticks_from_unix_nanoseconds;

use super::column::{Cell, Column, ExcessDigits};
use super::reject::{Problem, RejectKind};
use super::sql_type::SqlType;

/// Base64 with the standard alphabet, padded or not. Bits beyond the last byte have to be zero.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) const NOT_A_NUMBER: Problem =
    Problem::new(RejectKind::BadNumber, "not a number by JSON's grammar");
const EXPECTED_BOOLEAN: Problem = Problem::new(RejectKind::WrongType, "expected true, false, 1 or 0");
const EXPECTED_INTEGER: Problem = Problem::new(RejectKind::WrongType, "expected an integer");
const EXPECTED_NUMBER: Problem = Problem::new(RejectKind::WrongType, "expected a number");
const EXPECTED_DECIMAL: Problem =
    Problem::new(RejectKind::WrongType, "expected a number, or a string of one");
const EXPECTED_STRING: Problem = Problem::new(RejectKind::WrongType, "expected a string");
const NUMBER_WITHOUT_UNIT: Problem = Problem::new(
    RejectKind::WrongType,
    "a number stands for a timestamp only where the schema gives its unit",
);
const BEYOND_TYPE: Problem = Problem::new(RejectKind::OutOfRange, "outside of the column's range");
const TOO_MANY_BYTES: Problem = Problem::new(RejectKind::TooLong, "more bytes than the column takes");
const NOT_BASE64: Problem = Problem::new(RejectKind::BadBase64, "not Base64 of the standard alphabet");
const NOT_A_UUID: Problem = Problem::new(RejectKind::BadUuid, "not a UUID of the form 8-4-4-4-12");

/// A value without parts, as it stands in JSON or in a header.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scalar<'a> {
    /// `true`, `false`
    Bool(bool),
    /// A number by JSON's grammar.
    Number(Number<'a>),
    /// Text, unescaped.
    Text(&'a str),
}

impl<'a> Scalar<'a> {
    /// Reads a number that is all of `text`.
    pub(super) fn number(text: &'a str) -> Option<Self> {
        Number::parse(text).map(Scalar::Number)
    }

    /// What text without a type of its own, from a header or a subject, is for such a column.
    pub(crate) fn untyped(sql_type: SqlType, text: &'a str) -> Result<Self, Problem> {
        match (sql_type, text) {
            (SqlType::Bit, "true") => Ok(Scalar::Bool(true)),
            (SqlType::Bit, "false") => Ok(Scalar::Bool(false)),
            (
                SqlType::Bit
                | SqlType::TinyInt
                | SqlType::SmallInt
                | SqlType::Int
                | SqlType::BigInt
                | SqlType::Real
                | SqlType::Float,
                _,
            ) => Self::number(text).ok_or(NOT_A_NUMBER),
            // A timestamp that is nothing but a number counts the column's unit.
            (SqlType::DateTime2 { .. } | SqlType::DateTimeOffset { .. }, _) => {
                Ok(Self::number(text).unwrap_or(Scalar::Text(text)))
            }
            _ => Ok(Scalar::Text(text)),
        }
    }
}

/// The cell that `scalar` is in `column`. `scratch` holds bytes that it cannot borrow.
#[inline]
pub(crate) fn cell<'a>(
    column: &Column,
    scalar: &Scalar<'a>,
    scratch: &'a mut Vec<u8>,
) -> Result<Cell<'a>, Problem> {
    match column.sql_type {
        SqlType::Bit => bit(scalar).map(Cell::Bit),
        SqlType::TinyInt => integer(scalar).map(Cell::TinyInt),
        SqlType::SmallInt => integer(scalar).map(Cell::SmallInt),
        SqlType::Int => integer(scalar).map(Cell::Int),
        SqlType::BigInt => integer(scalar).map(Cell::BigInt),
        SqlType::Real => match scalar {
            Scalar::Number(number) => number.to_f32().map(Cell::Real).ok_or(BEYOND_TYPE),
            _ => Err(EXPECTED_NUMBER),
        },
        SqlType::Float => match scalar {
            Scalar::Number(number) => number.to_f64().map(Cell::Float).ok_or(BEYOND_TYPE),
            _ => Err(EXPECTED_NUMBER),
        },
        SqlType::Decimal { precision, scale } => {
            let number = match scalar {
                Scalar::Number(number) => *number,
                Scalar::Text(text) => Number::parse(text).ok_or(NOT_A_NUMBER)?,
                Scalar::Bool(_) => return Err(EXPECTED_DECIMAL),
            };
            number.to_decimal(precision, scale, column.excess_digits).map(Cell::Decimal)
        }
        SqlType::Date => timestamp::date(string(scalar)?).map(Cell::Date),
        SqlType::Time { scale } => {
            timestamp::time(string(scalar)?, scale, column.excess_digits).map(Cell::Time)
        }
        SqlType::DateTime2 { scale } => match (scalar, column.unit) {
            (Scalar::Text(text), _) => {
                timestamp::date_time(text, scale, column.excess_digits).map(Cell::DateTime2)
            }
            (Scalar::Number(number), Some(unit)) => {
                timestamp::epoch(number, unit, scale, column.excess_digits).map(Cell::DateTime2)
            }
            (Scalar::Number(_), None) => Err(NUMBER_WITHOUT_UNIT),
            (Scalar::Bool(_), _) => Err(EXPECTED_STRING),
        },
        SqlType::DateTimeOffset { scale } => match (scalar, column.unit) {
            (Scalar::Text(text), _) => timestamp::date_time_offset(text, scale, column.excess_digits)
                .map(|(ticks, offset_minutes)| Cell::DateTimeOffset { ticks, offset_minutes }),
            (Scalar::Number(number), Some(unit)) => {
                timestamp::epoch(number, unit, scale, column.excess_digits)
                    .map(|ticks| Cell::DateTimeOffset { ticks, offset_minutes: 0 })
            }
            (Scalar::Number(_), None) => Err(NUMBER_WITHOUT_UNIT),
            (Scalar::Bool(_), _) => Err(EXPECTED_STRING),
        },
        SqlType::Char(_) | SqlType::VarChar(_) | SqlType::NChar(_) | SqlType::NVarChar(_) => {
            text_cell(column, string(scalar)?)
        }
        SqlType::Binary(_) | SqlType::VarBinary(_) => {
            base64(string(scalar)?, column.sql_type, scratch).map(Cell::Bytes)
        }
        SqlType::UniqueIdentifier => uuid(string(scalar)?).map(Cell::Uuid),
    }
}

/// `text` in a text column, if it fits.
#[inline]
pub(crate) fn text_cell<'a>(column: &Column, text: &'a str) -> Result<Cell<'a>, Problem> {
    text::check(column.sql_type, column.text_encoding, text)?;
    Ok(Cell::Text(text))
}

/// `bytes` in a binary column, if they fit.
pub(crate) fn bytes_cell<'a>(column: &Column, bytes: &'a [u8]) -> Result<Cell<'a>, Problem> {
    match column.sql_type.longest_value() {
        Some(longest) if bytes.len() > longest => Err(TOO_MANY_BYTES),
        _ => Ok(Cell::Bytes(bytes)),
    }
}

/// A position in a stream, in a `bigint` or `decimal` column.
pub(crate) fn sequence_cell(column: &Column, sequence: u64) -> Result<Cell<'static>, Problem> {
    match column.sql_type {
        SqlType::Decimal { scale, .. } => {
            // The schema's check left room for the digits of every u64.
            Ok(Cell::Decimal(i128::from(sequence) * 10_i128.pow(u32::from(scale))))
        }
        _ => i64::try_from(sequence).map(Cell::BigInt).map_err(|_| BEYOND_TYPE),
    }
}

/// A time of the server's or of our own clock, in a `datetime2` or `datetimeoffset` column.
pub(crate) fn clock_cell(column: &Column, unix_nanoseconds: i64) -> Result<Cell<'static>, Problem> {
    let scale = column.sql_type.time_scale().unwrap_or_default();
    let ticks = ticks_from_unix_nanoseconds(unix_nanoseconds, scale);
    Ok(match column.sql_type {
        SqlType::DateTimeOffset { .. } => Cell::DateTimeOffset { ticks, offset_minutes: 0 },
        _ => Cell::DateTime2(ticks),
    })
}

fn string<'a>(scalar: &Scalar<'a>) -> Result<&'a str, Problem> {
    match scalar {
        Scalar::Text(text) => Ok(text),
        _ => Err(EXPECTED_STRING),
    }
}

fn bit(scalar: &Scalar<'_>) -> Result<bool, Problem> {
    match scalar {
        Scalar::Bool(value) => Ok(*value),
        Scalar::Number(number) => match number.to_integer() {
            Some(Some(0)) => Ok(false),
            Some(Some(1)) => Ok(true),
            _ => Err(Problem::new(RejectKind::OutOfRange, EXPECTED_BOOLEAN.rule)),
        },
        Scalar::Text(_) => Err(EXPECTED_BOOLEAN),
    }
}

#[inline]
fn integer<T: TryFrom<i64>>(scalar: &Scalar<'_>) -> Result<T, Problem> {
    let Scalar::Number(number) = scalar else { return Err(EXPECTED_INTEGER) };
    match number.to_integer() {
        Some(Some(value)) => T::try_from(value).map_err(|_| BEYOND_TYPE),
        Some(None) => Err(BEYOND_TYPE),
        None => Err(EXPECTED_INTEGER),
    }
}

fn base64<'a>(text: &str, sql_type: SqlType, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Problem> {
    scratch.clear();
    BASE64.decode_vec(text, scratch).map_err(|_| NOT_BASE64)?;
    match sql_type.longest_value() {
        Some(longest) if scratch.len() > longest => Err(TOO_MANY_BYTES),
        _ => Ok(scratch),
    }
}

/// The value of a hexadecimal digit, or 255.
const HEX: [u8; 256] = {
    let mut table = [u8::MAX; 256];
    let digits = b"0123456789abcdef";
    let mut value = 0_u8;
    while value < 16 {
        let digit = digits[value as usize];
        table[digit as usize] = value;
        table[digit.to_ascii_uppercase() as usize] = value;
        value += 1;
    }
    table
};

fn uuid(text: &str) -> Result<[u8; 16], Problem> {
    /// Where the sixteen pairs of digits begin.
    const PAIRS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let text: &[u8; 36] = text.as_bytes().try_into().map_err(|_| NOT_A_UUID)?;
    let mut uuid = [0; 16];
    let mut invalid = (text[8] ^ b'-') | (text[13] ^ b'-') | (text[18] ^ b'-') | (text[23] ^ b'-');
    for (byte, pair) in uuid.iter_mut().zip(PAIRS) {
        let (high, low) = (HEX[usize::from(text[pair])], HEX[usize::from(text[pair + 1])]);
        invalid |= (high | low) & 0xF0;
        *byte = high << 4 | low & 0x0F;
    }
    match invalid {
        0 => Ok(uuid),
        _ => Err(NOT_A_UUID),
    }
}

/// Whether digits that a column does not keep are the event's fault.
pub(super) fn refuse_excess(excess: ExcessDigits, is_excess: bool) -> Result<(), Problem> {
    match (excess, is_excess) {
        (ExcessDigits::Reject, true) => {
            Err(Problem::new(RejectKind::ExcessDigits, "more digits after the point than the column keeps"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::sql_type::Length;

    #[test]
    fn uuids_in_either_case_and_in_one_form() {
        let bytes = uuid("00112233-4455-6677-8899-aAbBcCdDeEfF").expect("a uuid");
        assert_eq!(
            bytes,
            [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]
        );
        for text in [
            "",
            "00112233445566778899aabbccddeeff",
            "{00112233-4455-6677-8899-aabbccddeeff}",
            "00112233-4455-6677-8899-aabbccddeefg",
            "00112233-4455-6677-8899_aabbccddeeff",
            "0011223--4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(uuid(text), Err(NOT_A_UUID), "{text}");
        }
    }

    #[test]
    fn base64_padded_or_not_and_never_another_alphabet() {
        let mut scratch = Vec::new();
        for (text, bytes) in [("", &[][..]), ("aGk=", b"hi"), ("aGk", b"hi"), ("+/8=", &[0xfb, 0xff])] {
            assert_eq!(base64(text, SqlType::VarBinary(Length::Max), &mut scratch), Ok(bytes), "{text}");
        }
        // THEN url-safe letters, blanks, bits beyond the last byte and a lone letter are refused
        for text in ["-_8=", "aG k=", "aGl=", "a", "====", "aGk=="] {
            assert_eq!(
                base64(text, SqlType::VarBinary(Length::Max), &mut scratch),
                Err(NOT_BASE64),
                "{text}"
            );
        }
        assert_eq!(base64("aGk=", SqlType::Binary(1), &mut scratch), Err(TOO_MANY_BYTES));
    }
}
