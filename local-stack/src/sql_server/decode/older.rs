//! Values of the types that were there before `decimal` and `datetime2`: money and moments of a few bytes.

use super::super::error::SqlError;
use super::super::old_date_time;
use super::super::types::SqlType;
use super::{ColumnDecoder, ValueError, put_field};

/// Ten-thousandths.
const MONEY_SCALE: u8 = 4;

pub(super) fn money(decoder: &ColumnDecoder, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
    let units = match *bytes {
        // the four bytes of more weight come first
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]).rotate_left(32),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        _ => return Err(decoder.invalid()),
    };
    let magnitude = u128::from(units.unsigned_abs());
    match decoder.column {
        SqlType::Money | SqlType::SmallMoney => write_money(decoder, units < 0, magnitude, MONEY_SCALE, out),
        SqlType::Decimal { precision, scale } => {
            decoder.write_decimal(units < 0, magnitude, MONEY_SCALE, precision, scale, out)
        }
        _ => Err(decoder.invalid()),
    }
}

pub(super) fn write_money(
    decoder: &ColumnDecoder,
    negative: bool,
    magnitude: u128,
    from: u8,
    out: &mut Vec<u8>,
) -> Result<(), ValueError> {
    let largest = if decoder.column == SqlType::SmallMoney { 1 << 31 } else { 1 << 63 };
    let magnitude = super::rescale(magnitude, from, MONEY_SCALE)
        .filter(|magnitude| *magnitude < largest || (negative && *magnitude == largest));
    match magnitude {
        Some(magnitude) => {
            super::write_numeric(out, negative, magnitude, MONEY_SCALE);
            Ok(())
        }
        None => Err(ValueError::Refused(SqlError::new(
            8115,
            16,
            3,
            format!(
                "Arithmetic overflow error converting expression to data type {}.",
                decoder.column.name()
            ),
        ))),
    }
}

/// The ticks of a `datetime` or a `smalldatetime`.
pub(super) fn date_time(decoder: &ColumnDecoder, bytes: &[u8]) -> Result<i64, ValueError> {
    match *bytes {
        [a, b, c, d, e, f, g, h] => old_date_time::read([a, b, c, d, e, f, g, h]),
        [a, b, c, d] => old_date_time::read_small([a, b, c, d]),
        _ => None,
    }
    .ok_or_else(|| decoder.invalid())
}

/// Writes a moment into a column of any type that keeps a date and a time of day in ticks.
pub(super) fn write_moment(
    decoder: &ColumnDecoder,
    ticks: i64,
    sent_scale: u8,
    out: &mut Vec<u8>,
) -> Result<(), ValueError> {
    let ticks = match decoder.column {
        SqlType::DateTime => old_date_time::round(ticks).ok_or_else(|| out_of_range(decoder))?,
        SqlType::SmallDateTime => old_date_time::round_small(ticks).ok_or_else(|| out_of_range(decoder))?,
        _ => decoder.in_range(decoder.rounded(ticks, sent_scale))?,
    };
    put_field(out, &ticks.to_be_bytes());
    Ok(())
}

fn out_of_range(decoder: &ColumnDecoder) -> ValueError {
    ValueError::Refused(SqlError::new(
        242,
        16,
        3,
        format!(
            "The conversion of a datetime2 data type to a {} data type resulted in an out-of-range value.",
            decoder.column.name()
        ),
    ))
}
