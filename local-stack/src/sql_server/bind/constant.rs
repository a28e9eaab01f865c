//! Constants.

use sqlparser::ast::Value;

use super::super::encode::quote_literal;
use super::super::error::SqlError;
use super::super::types::{Collation, Length, SqlType};
use super::{Bound, Typed};

/// A constant, of the type that SQL Server gives it.
pub(super) fn constant(value: &Value) -> Bound<Typed> {
    let text = |text: &str, national: bool| {
        let collation = Collation::Latin1;
        if national {
            let length = u16::try_from(text.encode_utf16().count().max(1))
                .ok()
                .filter(|n| *n <= 4000)
                .map_or(Length::Max, Length::Limited);
            Typed::new(format!("{}::text", quote_literal(text)), SqlType::NVarChar(length, collation), false)
        } else {
            let text = super::super::decode::to_windows_1252(text);
            let length = u16::try_from(text.chars().count().max(1))
                .ok()
                .filter(|n| *n <= 8000)
                .map_or(Length::Max, Length::Limited);
            Typed::new(format!("{}::text", quote_literal(&text)), SqlType::VarChar(length, collation), false)
        }
    };
    Ok(match value {
        Value::Null => Typed::null(),
        Value::SingleQuotedString(string) => {
            refuse_nul(string)?;
            text(string, false)
        }
        Value::NationalStringLiteral(string) => {
            refuse_nul(string)?;
            text(string, true)
        }
        Value::HexStringLiteral(digits) => {
            let digits = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.clone() };
            if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(SqlError::syntax(&digits).into());
            }
            let length = u16::try_from((digits.len() / 2).max(1))
                .ok()
                .filter(|n| *n <= 8000)
                .map_or(Length::Max, Length::Limited);
            Typed::new(format!("'\\x{digits}'::bytea"), SqlType::VarBinary(length), false)
        }
        Value::Number(number, false) => number_constant(number)?,
        other => return Err(SqlError::unsupported(&format!("constant {other}")).into()),
    })
}

fn refuse_nul(text: &str) -> Result<(), SqlError> {
    if text.contains('\0') { Err(SqlError::unsupported("the character U+0000 in text")) } else { Ok(()) }
}

fn number_constant(number: &str) -> Result<Typed, SqlError> {
    if !number.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-')) {
        return Err(SqlError::syntax(number));
    }
    if number.contains(['e', 'E']) {
        return match number.parse::<f64>() {
            // SQL Server warns, and takes 0
            Ok(value) if value.is_subnormal() => Ok(Typed::new("'0'::float8", SqlType::Float, false)),
            Ok(value) if value.is_finite() => {
                Ok(Typed::new(format!("'{number}'::float8"), SqlType::Float, false))
            }
            _ => Err(SqlError::new(
                168,
                15,
                1,
                format!(
                    "The floating point value '{number}' is out of the range of computer representation (8 bytes)."
                ),
            )),
        };
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.trim_start_matches('0');
    let digits = u8::try_from(whole.len() + fraction.len()).unwrap_or(u8::MAX);
    if digits > 38 {
        return Err(SqlError::new(
            1007,
            15,
            1,
            format!(
                "The number '{number}' is out of the range for numeric representation (maximum precision 38)."
            ),
        ));
    }
    if !number.contains('.') && number.parse::<i32>().is_ok() {
        let mut value = Typed::new(number, SqlType::Int, false);
        value.digits = Some(digits.max(1));
        return Ok(value);
    }
    let scale = u8::try_from(fraction.len()).unwrap_or(0);
    let sql_type = SqlType::Decimal { precision: digits.max(1).max(scale), scale };
    Ok(Typed::new(format!("'{number}'::{}", sql_type.postgres()), sql_type, false))
}
