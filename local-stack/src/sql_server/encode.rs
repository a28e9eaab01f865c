//! From PostgreSQL's binary values to a row of TDS, and to literals of PostgreSQL's SQL.

use encoding_rs::WINDOWS_1252;

use super::decimal::{decimal_text, read_numeric};
use super::error::SqlError;
use super::old_date_time;
use super::types::{DAYS_TO_POSTGRES_EPOCH, Length, SqlType, TICKS_PER_DAY, decimal_length, time_length};

fn malformed(sql_type: SqlType) -> SqlError {
    SqlError::internal(&format!("a value of type {sql_type} has another form in the database than expected"))
}

fn fixed<const N: usize>(sql_type: SqlType, bytes: &[u8]) -> Result<[u8; N], SqlError> {
    bytes.try_into().map_err(|_| malformed(sql_type))
}

/// The parts of `tsql.datetimeoffset` in PostgreSQL's binary form of a row.
fn instant_and_offset(sql_type: SqlType, bytes: &[u8]) -> Result<(i64, i16), SqlError> {
    let bytes: [u8; 30] = fixed(sql_type, bytes)?;
    let utc = bytes[12..20].try_into().map_err(|_| malformed(sql_type))?;
    Ok((i64::from_be_bytes(utc), i16::from_be_bytes([bytes[28], bytes[29]])))
}

/// Appends a value as `write_type_info` announced it. `value` is PostgreSQL's binary form.
pub(super) fn write_value(
    out: &mut Vec<u8>,
    sql_type: SqlType,
    nullable: bool,
    value: Option<&[u8]>,
) -> Result<(), SqlError> {
    let Some(bytes) = value else {
        if !nullable && sql_type.has_fixed_form() {
            return Err(SqlError::internal("a NULL where none was expected"));
        }
        match sql_type {
            SqlType::VarChar(Length::Max, _)
            | SqlType::NVarChar(Length::Max, _)
            | SqlType::VarBinary(Length::Max)
            | SqlType::Xml => out.extend_from_slice(&[0xFF; 8]),
            _ if sql_type.is_text() || sql_type.is_binary() => out.extend_from_slice(&[0xFF; 2]),
            _ => out.push(0),
        }
        return Ok(());
    };
    let put = |out: &mut Vec<u8>, bytes: &[u8]| {
        if nullable {
            out.push(u8::try_from(bytes.len()).unwrap_or(0));
        }
        out.extend_from_slice(bytes);
    };
    match sql_type {
        SqlType::Bit | SqlType::TinyInt => {
            let [_, byte] = fixed(sql_type, bytes)?;
            put(out, &[byte]);
        }
        SqlType::SmallInt => put(out, &i16::from_be_bytes(fixed(sql_type, bytes)?).to_le_bytes()),
        SqlType::Int => put(out, &i32::from_be_bytes(fixed(sql_type, bytes)?).to_le_bytes()),
        SqlType::BigInt => put(out, &i64::from_be_bytes(fixed(sql_type, bytes)?).to_le_bytes()),
        SqlType::Real => put(out, &f32::from_be_bytes(fixed(sql_type, bytes)?).to_le_bytes()),
        SqlType::Float => put(out, &f64::from_be_bytes(fixed(sql_type, bytes)?).to_le_bytes()),
        SqlType::Decimal { precision, scale } => {
            let (negative, magnitude) = read_numeric(bytes, scale).ok_or_else(|| malformed(sql_type))?;
            let length = decimal_length(precision);
            out.push(length);
            out.push(u8::from(!negative));
            out.extend_from_slice(&magnitude.to_le_bytes()[..usize::from(length - 1)]);
        }
        SqlType::Money => {
            // the four bytes of more weight come first
            let units = money_units(sql_type, bytes)?.rotate_left(32);
            put(out, &units.to_le_bytes());
        }
        SqlType::SmallMoney => {
            let units = i32::try_from(money_units(sql_type, bytes)?).map_err(|_| malformed(sql_type))?;
            put(out, &units.to_le_bytes());
        }
        SqlType::DateTime => {
            put(out, &old_date_time::write(i64::from_be_bytes(fixed(sql_type, bytes)?)));
        }
        SqlType::SmallDateTime => {
            put(out, &old_date_time::write_small(i64::from_be_bytes(fixed(sql_type, bytes)?)));
        }
        SqlType::Date => {
            out.push(3);
            let days = i32::from_be_bytes(fixed(sql_type, bytes)?) + DAYS_TO_POSTGRES_EPOCH;
            out.extend_from_slice(&days.to_le_bytes()[..3]);
        }
        SqlType::Time(scale) => {
            out.push(time_length(scale));
            put_time(out, i64::from_be_bytes(fixed(sql_type, bytes)?), scale);
        }
        SqlType::DateTime2(scale) => {
            out.push(time_length(scale) + 3);
            put_time_and_date(out, i64::from_be_bytes(fixed(sql_type, bytes)?), scale);
        }
        SqlType::DateTimeOffset(scale) => {
            let (utc, minutes) = instant_and_offset(sql_type, bytes)?;
            out.push(time_length(scale) + 5);
            put_time_and_date(out, utc, scale);
            out.extend_from_slice(&minutes.to_le_bytes());
        }
        SqlType::UniqueIdentifier => {
            let [a, b, c, d, e, f, g, h, rest @ ..]: [u8; 16] = fixed(sql_type, bytes)?;
            out.push(16);
            out.extend_from_slice(&[d, c, b, a, f, e, h, g]);
            out.extend_from_slice(&rest);
        }
        SqlType::Binary(_) | SqlType::VarBinary(_) => put_long(out, sql_type, bytes),
        SqlType::NChar(..) | SqlType::NVarChar(..) | SqlType::Xml => {
            let text = std::str::from_utf8(bytes).map_err(|_| malformed(sql_type))?;
            let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            put_long(out, sql_type, &units);
        }
        SqlType::Char(_, collation) | SqlType::VarChar(_, collation) => {
            if collation.is_utf8() || bytes.is_ascii() {
                put_long(out, sql_type, bytes);
            } else {
                let text = std::str::from_utf8(bytes).map_err(|_| malformed(sql_type))?;
                put_long(out, sql_type, &WINDOWS_1252.encode(&super::decode::to_windows_1252(text)).0);
            }
        }
    }
    Ok(())
}

/// Ten-thousandths.
fn money_units(sql_type: SqlType, bytes: &[u8]) -> Result<i64, SqlError> {
    let (negative, magnitude) = read_numeric(bytes, 4).ok_or_else(|| malformed(sql_type))?;
    let units = i128::try_from(magnitude).map_err(|_| malformed(sql_type))?;
    i64::try_from(if negative { -units } else { units }).map_err(|_| malformed(sql_type))
}

fn put_time(out: &mut Vec<u8>, ticks_of_day: i64, scale: u8) {
    let units = ticks_of_day / 10i64.pow(u32::from(7 - scale.min(7)));
    out.extend_from_slice(&units.to_le_bytes()[..usize::from(time_length(scale))]);
}

fn put_time_and_date(out: &mut Vec<u8>, ticks: i64, scale: u8) {
    put_time(out, ticks.rem_euclid(TICKS_PER_DAY), scale);
    out.extend_from_slice(&ticks.div_euclid(TICKS_PER_DAY).to_le_bytes()[..3]);
}

fn put_long(out: &mut Vec<u8>, sql_type: SqlType, bytes: &[u8]) {
    if sql_type.length().is_some() {
        // an expression of a type with a bound is cut to it before it comes here
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX - 1);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&bytes[..usize::from(length)]);
        return;
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&u64::from(length).to_le_bytes());
    if length != 0 {
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&0u32.to_le_bytes());
}

/// A text as a literal of PostgreSQL's SQL, with `standard_conforming_strings` on.
pub(super) fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as an identifier of PostgreSQL's SQL.
pub(super) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as an expression of PostgreSQL's SQL. `value` is PostgreSQL's binary form.
pub(super) fn literal(sql_type: SqlType, value: Option<&[u8]>) -> Result<String, SqlError> {
    let postgres = sql_type.postgres();
    let Some(bytes) = value else { return Ok(format!("NULL::{postgres}")) };
    Ok(match sql_type {
        SqlType::Bit | SqlType::TinyInt | SqlType::SmallInt => {
            format!("({})::int2", i16::from_be_bytes(fixed(sql_type, bytes)?))
        }
        SqlType::Int => format!("'{}'::int4", i32::from_be_bytes(fixed(sql_type, bytes)?)),
        SqlType::BigInt
        | SqlType::Time(_)
        | SqlType::DateTime2(_)
        | SqlType::DateTime
        | SqlType::SmallDateTime => {
            format!("'{}'::int8", i64::from_be_bytes(fixed(sql_type, bytes)?))
        }
        SqlType::Real => format!("'{:?}'::float4", f32::from_be_bytes(fixed(sql_type, bytes)?)),
        SqlType::Float => format!("'{:?}'::float8", f64::from_be_bytes(fixed(sql_type, bytes)?)),
        SqlType::Decimal { scale, .. } => {
            let (negative, magnitude) = read_numeric(bytes, scale).ok_or_else(|| malformed(sql_type))?;
            format!("'{}'::{postgres}", decimal_text(negative, magnitude, scale))
        }
        SqlType::Money | SqlType::SmallMoney => {
            let (negative, magnitude) = read_numeric(bytes, 4).ok_or_else(|| malformed(sql_type))?;
            format!("'{}'::{postgres}", decimal_text(negative, magnitude, 4))
        }
        SqlType::Date => format!("('2000-01-01'::date + ({}))", i32::from_be_bytes(fixed(sql_type, bytes)?)),
        SqlType::DateTimeOffset(_) => {
            let (utc, minutes) = instant_and_offset(sql_type, bytes)?;
            format!("ROW('{utc}', '{minutes}')::tsql.datetimeoffset")
        }
        SqlType::UniqueIdentifier => format!("'{}'::uuid", hex(bytes)),
        SqlType::Binary(_) | SqlType::VarBinary(_) => format!("'\\x{}'::bytea", hex(bytes)),
        _ => format!("{}::text", quote_literal(std::str::from_utf8(bytes).map_err(|_| malformed(sql_type))?)),
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::decode::{ColumnDecoder, Target};
    use super::super::noise::Noise;
    use super::super::read::Cursor;
    use super::super::type_info::{read_type_info, write_type_info};
    use super::super::types::Collation;
    use super::*;

    /// A value in PostgreSQL's binary form.
    fn stored(sql_type: SqlType, noise: &mut Noise) -> Vec<u8> {
        let bits = noise.next();
        let ticks = |limit: i64| i64::try_from(bits % u64::try_from(limit).unwrap()).unwrap();
        let text = |noise: &mut Noise, length: usize| -> String {
            const ALPHABET: [char; 6] = ['a', 'Z', ' ', '7', 'é', '€'];
            (0..noise.below(length + 1)).map(|_| ALPHABET[noise.below(6)]).collect()
        };
        let all = 3_652_058 * TICKS_PER_DAY;
        match sql_type {
            SqlType::Bit => i16::from(bits.is_multiple_of(2)).to_be_bytes().to_vec(),
            SqlType::TinyInt => i16::from(noise.byte()).to_be_bytes().to_vec(),
            SqlType::SmallInt => bits.to_be_bytes()[..2].to_vec(),
            SqlType::Int => bits.to_be_bytes()[..4].to_vec(),
            SqlType::BigInt => bits.to_be_bytes().to_vec(),
            SqlType::Real => 1.25f32.to_be_bytes().to_vec(),
            SqlType::Float => (-1e300f64).to_be_bytes().to_vec(),
            SqlType::Decimal { precision, scale } => {
                let mut field = Vec::new();
                let magnitude =
                    (u128::from(bits) << 60 | u128::from(noise.next())) % 10u128.pow(u32::from(precision));
                super::super::decimal::write_numeric(&mut field, bits.is_multiple_of(3), magnitude, scale);
                field.split_off(4)
            }
            SqlType::Money | SqlType::SmallMoney => {
                let limit = if sql_type == SqlType::Money { 1 << 63 } else { 1 << 31 };
                let mut field = Vec::new();
                let magnitude = u128::from(bits) % limit;
                super::super::decimal::write_numeric(&mut field, bits.is_multiple_of(3), magnitude, 4);
                field.split_off(4)
            }
            SqlType::DateTime => {
                let (days, parts) = (bits % 3_012_154, noise.next() % 25_920_000);
                let day = i64::try_from(days).unwrap() + old_date_time::FIRST_DAY;
                (day * TICKS_PER_DAY + old_date_time::ticks_of_parts(i64::try_from(parts).unwrap()))
                    .to_be_bytes()
                    .to_vec()
            }
            SqlType::SmallDateTime => {
                let minutes = i64::try_from(bits % (65_536 * 1440)).unwrap();
                (old_date_time::TICKS_TO_1900 + minutes * 600_000_000).to_be_bytes().to_vec()
            }
            SqlType::Xml => format!("<a b=\"{}\"/>", noise.byte()).into_bytes(),
            SqlType::Date => {
                (i32::try_from(bits % 3_652_059).unwrap() - DAYS_TO_POSTGRES_EPOCH).to_be_bytes().to_vec()
            }
            SqlType::Time(scale) => {
                let unit = 10i64.pow(u32::from(7 - scale));
                (ticks(TICKS_PER_DAY) / unit * unit).to_be_bytes().to_vec()
            }
            SqlType::DateTime2(scale) => {
                let unit = 10i64.pow(u32::from(7 - scale));
                (ticks(all) / unit * unit).to_be_bytes().to_vec()
            }
            SqlType::DateTimeOffset(scale) => {
                let unit = 10i64.pow(u32::from(7 - scale));
                let utc = (ticks(all - 2 * TICKS_PER_DAY) + TICKS_PER_DAY) / unit * unit;
                let mut row = [0, 0, 0, 2, 0, 0, 0, 20, 0, 0, 0, 8].to_vec();
                row.extend_from_slice(&utc.to_be_bytes());
                row.extend_from_slice(&[0, 0, 0, 21, 0, 0, 0, 2]);
                row.extend_from_slice(&(i16::from(noise.byte()) - 100).to_be_bytes());
                row
            }
            SqlType::UniqueIdentifier => [bits.to_be_bytes(), noise.next().to_be_bytes()].concat(),
            SqlType::Binary(n) => (0..n).map(|_| noise.byte()).collect(),
            SqlType::VarBinary(_) => (0..noise.below(9)).map(|_| noise.byte()).collect(),
            SqlType::NChar(n, _) => format!("{:<1$}", text(noise, 3), usize::from(n)).into_bytes(),
            SqlType::Char(n, collation) => {
                let text = text(noise, 2);
                let used = if collation.is_utf8() { text.len() } else { text.chars().count() };
                (text + &" ".repeat(usize::from(n) - used)).into_bytes()
            }
            _ => text(noise, 3).into_bytes(),
        }
    }

    fn types() -> Vec<SqlType> {
        let mut types = vec![
            SqlType::Bit,
            SqlType::TinyInt,
            SqlType::SmallInt,
            SqlType::Int,
            SqlType::BigInt,
            SqlType::Real,
            SqlType::Float,
            SqlType::Date,
            SqlType::Money,
            SqlType::SmallMoney,
            SqlType::DateTime,
            SqlType::SmallDateTime,
            SqlType::Xml,
            SqlType::UniqueIdentifier,
            SqlType::Binary(4),
            SqlType::VarBinary(Length::Limited(9)),
            SqlType::VarBinary(Length::Max),
        ];
        for scale in 0..=7 {
            types.extend([SqlType::Time(scale), SqlType::DateTime2(scale), SqlType::DateTimeOffset(scale)]);
        }
        for (precision, scale) in [(1, 0), (9, 2), (18, 6), (28, 28), (38, 0), (38, 37)] {
            types.push(SqlType::Decimal { precision, scale });
        }
        for collation in Collation::ALL {
            types.extend([
                SqlType::Char(9, collation),
                SqlType::VarChar(Length::Limited(12), collation),
                SqlType::VarChar(Length::Max, collation),
                SqlType::NChar(5, collation),
                SqlType::NVarChar(Length::Limited(4), collation),
                SqlType::NVarChar(Length::Max, collation),
            ]);
        }
        types
    }

    #[test]
    fn what_a_client_is_sent_it_can_send_back() {
        let mut noise = Noise::new(2);
        for sql_type in types() {
            for nullable in [true, false] {
                let mut announced = Vec::new();
                write_type_info(&mut announced, sql_type, nullable);
                let wire = read_type_info(&mut Cursor::new(&announced)).unwrap();
                let target = Target { table: "t".into(), column: "c".into(), ordinal: 1 };
                let decoder = ColumnDecoder::new(wire, sql_type, nullable, target).unwrap();
                for _ in 0..200 {
                    let value = stored(sql_type, &mut noise);
                    let mut sent = Vec::new();
                    write_value(&mut sent, sql_type, nullable, Some(&value)).unwrap();
                    let mut field = Vec::new();
                    let mut cursor = Cursor::new(&sent);
                    decoder.decode(&mut cursor, &mut field).unwrap();
                    assert_eq!(cursor.remaining(), 0, "{sql_type}");
                    assert_eq!(field[4..], value, "{sql_type}");
                }
            }
            let mut sent = Vec::new();
            write_value(&mut sent, sql_type, true, None).unwrap();
            let mut announced = Vec::new();
            write_type_info(&mut announced, sql_type, true);
            let wire = read_type_info(&mut Cursor::new(&announced)).unwrap();
            let target = Target { table: "t".into(), column: "c".into(), ordinal: 1 };
            let decoder = ColumnDecoder::new(wire, sql_type, true, target).unwrap();
            let mut field = Vec::new();
            decoder.decode(&mut Cursor::new(&sent), &mut field).unwrap();
            assert_eq!(field, [0xFF; 4], "{sql_type}");
        }
    }

    #[test]
    fn a_value_of_any_bytes_is_decoded_or_refused() {
        let mut noise = Noise::new(3);
        let types = types();
        for _ in 0..100_000 {
            let column = types[noise.below(types.len())];
            let mut announced = Vec::new();
            write_type_info(&mut announced, types[noise.below(types.len())], noise.byte() > 127);
            let announced = if noise.byte() > 200 { noise.mutate(&announced) } else { announced };
            let Ok(wire) = read_type_info(&mut Cursor::new(&announced)) else { continue };
            let target = Target { table: "t".into(), column: "c".into(), ordinal: 1 };
            let Ok(decoder) = ColumnDecoder::new(wire, column, noise.byte() > 127, target) else { continue };
            let value = stored(column, &mut noise);
            let mut sent = Vec::new();
            let _ = write_value(&mut sent, column, true, Some(&value));
            let _ = decoder.decode(&mut Cursor::new(&noise.mutate(&sent)), &mut Vec::new());
        }
    }
}
