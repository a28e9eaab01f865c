//! From a value as a client sends it to a field of PostgreSQL's binary COPY, without anything in between.

use super::decimal::{power_of_ten, rescale, write_numeric};
use super::error::SqlError;
use super::read::{Cursor, Truncated};
use super::type_info::{LengthPrefix, WireType};
use super::types::{DAYS_TO_POSTGRES_EPOCH, Length, SqlType, TICKS_PER_DAY};

mod older;
mod text;

pub(super) use text::to_windows_1252;

/// A value of `max` length may be so long; a row may too.
pub(super) const MAX_VALUE_BYTES: usize = 32 * 1024 * 1024;

const MAX_DAY: i32 = 3_652_058;
const MAX_OFFSET_MINUTES: i16 = 840;
const OID_INT8: u32 = 20;
const OID_INT2: u32 = 21;
/// The length that stands for NULL in a binary COPY.
const COPY_NULL: [u8; 4] = [0xFF; 4];

/// Why a value was not decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ValueError {
    /// Its end has not arrived.
    Truncated,
    Refused(SqlError),
}

impl From<Truncated> for ValueError {
    #[inline]
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl From<SqlError> for ValueError {
    fn from(error: SqlError) -> Self {
        Self::Refused(error)
    }
}

/// Where a value goes, for errors.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `database.schema.table`; empty where there is none.
    pub(super) table: String,
    pub(super) column: String,
    /// Its place in the load, from 1.
    pub(super) ordinal: usize,
}

/// Decodes the values of one column.
#[derive(Clone, Debug)]
pub(super) struct ColumnDecoder {
    wire: WireType,
    column: SqlType,
    nullable: bool,
    /// The field that a NULL becomes: NULL, or the column's default where a load does not keep NULLs.
    null_field: Vec<u8>,
    target: Target,
}

impl ColumnDecoder {
    /// # Errors
    /// Where the type that is sent is not one that the column takes from a client.
    pub(super) fn new(
        wire: WireType,
        column: SqlType,
        nullable: bool,
        target: Target,
    ) -> Result<Self, SqlError> {
        if let Some(sent) = wire.sql_type
            && !is_convertible(sent, column)
        {
            let Target { column: name, ordinal, .. } = &target;
            return Err(SqlError::new(
                4816,
                16,
                1,
                format!(
                    "Invalid column type from bcp client for colid {ordinal}: {sent} was sent for column '{name}' of type {column}."
                ),
            ));
        }
        Ok(Self { wire, column, nullable, null_field: COPY_NULL.to_vec(), target })
    }

    /// Whether it reads values of this type.
    pub(super) fn reads(&self, wire: WireType) -> bool {
        self.wire == wire
    }

    /// Has NULL become `field`, a field of a binary COPY without its length.
    pub(super) fn set_default(&mut self, field: &[u8]) {
        self.null_field.clear();
        put_field(&mut self.null_field, field);
    }

    /// Appends one field, its length included.
    #[inline]
    pub(super) fn decode(&self, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), ValueError> {
        match self.wire.prefix {
            LengthPrefix::Fixed(0) => self.null(out),
            LengthPrefix::Fixed(length) => {
                let bytes = cursor.take(usize::from(length))?;
                self.value(bytes, out)
            }
            LengthPrefix::Byte => match cursor.u8()? {
                0 => self.null(out),
                length => {
                    let bytes = cursor.take(usize::from(length))?;
                    self.value(bytes, out)
                }
            },
            LengthPrefix::Short => match cursor.u16()? {
                u16::MAX => self.null(out),
                length => {
                    let bytes = cursor.take(usize::from(length))?;
                    self.value(bytes, out)
                }
            },
            LengthPrefix::Chunks => self.chunks(cursor, out),
        }
    }

    fn null(&self, out: &mut Vec<u8>) -> Result<(), ValueError> {
        if !self.nullable && self.null_field == COPY_NULL {
            let Target { table, column, .. } = &self.target;
            return Err(ValueError::Refused(SqlError::new(
                515,
                16,
                2,
                format!(
                    "Cannot insert the value NULL into column '{column}', table '{table}'; column does not allow nulls. INSERT fails."
                ),
            )));
        }
        out.extend_from_slice(&self.null_field);
        Ok(())
    }

    fn chunks(&self, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), ValueError> {
        const NULL: u64 = u64::MAX;
        const UNKNOWN: u64 = u64::MAX - 1;
        let total = match cursor.u64()? {
            NULL => return self.null(out),
            UNKNOWN => None,
            total => Some(
                usize::try_from(total).ok().filter(|total| *total <= MAX_VALUE_BYTES).ok_or_else(too_long)?,
            ),
        };
        let mut gathered = Vec::new();
        loop {
            let length = usize::try_from(cursor.u32()?).map_err(|_| Truncated)?;
            if length == 0 {
                break;
            }
            if gathered.len() + length > MAX_VALUE_BYTES {
                return Err(too_long());
            }
            let chunk = cursor.take(length)?;
            // the whole value in one chunk, as most clients send it, is not copied
            if gathered.is_empty() && total == Some(length) {
                return match cursor.u32()? {
                    0 => self.value(chunk, out),
                    _ => Err(ValueError::Refused(SqlError::protocol(
                        "a value is longer than its total length",
                    ))),
                };
            }
            gathered.extend_from_slice(chunk);
        }
        if total.is_some_and(|total| total != gathered.len()) {
            return Err(ValueError::Refused(SqlError::protocol(
                "a value's chunks do not sum up to its total length",
            )));
        }
        self.value(&gathered, out)
    }

    #[inline]
    fn value(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
        let Some(sent) = self.wire.sql_type else { return Err(self.invalid()) };
        match sent {
            SqlType::Bit | SqlType::TinyInt | SqlType::SmallInt | SqlType::Int | SqlType::BigInt => {
                self.integer(sent, bytes, out)
            }
            SqlType::Real => {
                let value = f32::from_le_bytes(bytes.try_into().map_err(|_| self.invalid())?);
                self.float(f64::from(value), out)
            }
            SqlType::Float => {
                self.float(f64::from_le_bytes(bytes.try_into().map_err(|_| self.invalid())?), out)
            }
            SqlType::Decimal { scale, .. } => self.decimal(bytes, scale, out),
            SqlType::Money | SqlType::SmallMoney => older::money(self, bytes, out),
            SqlType::DateTime | SqlType::SmallDateTime => {
                older::write_moment(self, older::date_time(self, bytes)?, 7, out)
            }
            SqlType::Date => {
                let days = self.days(bytes)?;
                put_field(out, &(days - DAYS_TO_POSTGRES_EPOCH).to_be_bytes());
                Ok(())
            }
            SqlType::Time(scale) => {
                let ticks = self.ticks_of_day(bytes, scale)?;
                put_field(out, &(self.rounded(ticks, scale) % TICKS_PER_DAY).to_be_bytes());
                Ok(())
            }
            SqlType::DateTime2(scale) => {
                let (time, date) =
                    bytes.split_at_checked(bytes.len().wrapping_sub(3)).ok_or_else(|| self.invalid())?;
                let ticks = i64::from(self.days(date)?) * TICKS_PER_DAY + self.ticks_of_day(time, scale)?;
                older::write_moment(self, ticks, scale, out)
            }
            SqlType::DateTimeOffset(scale) => self.offset(bytes, scale, out),
            SqlType::UniqueIdentifier => {
                let &[a, b, c, d, e, f, g, h, ref rest @ ..] = bytes else { return Err(self.invalid()) };
                if rest.len() != 8 {
                    return Err(self.invalid());
                }
                out.extend_from_slice(&16u32.to_be_bytes());
                out.extend_from_slice(&[d, c, b, a, f, e, h, g]);
                out.extend_from_slice(rest);
                Ok(())
            }
            SqlType::Binary(_) | SqlType::VarBinary(_) => self.binary(bytes, out),
            SqlType::NChar(..) | SqlType::NVarChar(..) | SqlType::Xml => text::from_utf16(self, bytes, out),
            SqlType::Char(_, collation) | SqlType::VarChar(_, collation) => {
                text::from_bytes(self, bytes, collation, out)
            }
        }
    }

    #[inline]
    fn integer(&self, sent: SqlType, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
        let value = match (sent, bytes) {
            (SqlType::Bit, [byte]) => i64::from(*byte != 0),
            (SqlType::TinyInt, [byte]) => i64::from(*byte),
            (_, [a, b]) => i64::from(i16::from_le_bytes([*a, *b])),
            (_, [a, b, c, d]) => i64::from(i32::from_le_bytes([*a, *b, *c, *d])),
            (_, [a, b, c, d, e, f, g, h]) => i64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            _ => return Err(self.invalid()),
        };
        match self.column {
            SqlType::Bit => put_field(out, &i16::from(value != 0).to_be_bytes()),
            SqlType::TinyInt => put_field(
                out,
                &i16::from(u8::try_from(value).map_err(|_| self.overflow(value))?).to_be_bytes(),
            ),
            SqlType::SmallInt => {
                put_field(out, &i16::try_from(value).map_err(|_| self.overflow(value))?.to_be_bytes());
            }
            SqlType::Int => {
                put_field(out, &i32::try_from(value).map_err(|_| self.overflow(value))?.to_be_bytes());
            }
            SqlType::BigInt => put_field(out, &value.to_be_bytes()),
            SqlType::Decimal { precision, scale } => {
                return self.write_decimal(
                    value < 0,
                    u128::from(value.unsigned_abs()),
                    0,
                    precision,
                    scale,
                    out,
                );
            }
            _ => return Err(self.invalid()),
        }
        Ok(())
    }

    #[inline]
    fn float(&self, value: f64, out: &mut Vec<u8>) -> Result<(), ValueError> {
        if !value.is_finite() {
            return Err(self.invalid());
        }
        match self.column {
            SqlType::Real => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a float that a real cannot hold becomes infinite, and is refused"
                )]
                let narrow = value as f32;
                if !narrow.is_finite() {
                    return Err(ValueError::Refused(SqlError::new(
                        8115,
                        16,
                        2,
                        "Arithmetic overflow error converting expression to data type real.",
                    )));
                }
                put_field(out, &narrow.to_be_bytes());
            }
            _ => put_field(out, &value.to_be_bytes()),
        }
        Ok(())
    }

    #[inline]
    fn decimal(&self, bytes: &[u8], sent_scale: u8, out: &mut Vec<u8>) -> Result<(), ValueError> {
        let (sign, digits) = bytes.split_first().ok_or_else(|| self.invalid())?;
        let mut padded = [0u8; 16];
        if digits.is_empty() || *sign > 1 {
            return Err(self.invalid());
        }
        padded.get_mut(..digits.len()).ok_or_else(|| self.invalid())?.copy_from_slice(digits);
        match self.column {
            SqlType::Decimal { precision, scale } => {
                self.write_decimal(*sign == 0, u128::from_le_bytes(padded), sent_scale, precision, scale, out)
            }
            SqlType::Money | SqlType::SmallMoney => {
                older::write_money(self, *sign == 0, u128::from_le_bytes(padded), sent_scale, out)
            }
            _ => Err(self.invalid()),
        }
    }

    fn write_decimal(
        &self,
        negative: bool,
        magnitude: u128,
        from: u8,
        precision: u8,
        scale: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), ValueError> {
        let magnitude = if from == scale { Some(magnitude) } else { rescale(magnitude, from, scale) };
        match magnitude.filter(|magnitude| *magnitude < power_of_ten(u32::from(precision))) {
            Some(magnitude) => {
                write_numeric(out, negative, magnitude, scale);
                Ok(())
            }
            None => Err(ValueError::Refused(SqlError::new(
                8115,
                16,
                8,
                "Arithmetic overflow error converting numeric to data type numeric.",
            ))),
        }
    }

    #[inline]
    fn days(&self, bytes: &[u8]) -> Result<i32, ValueError> {
        let &[a, b, c] = bytes else { return Err(self.invalid()) };
        let days = i32::from_le_bytes([a, b, c, 0]);
        if days > MAX_DAY { Err(self.invalid()) } else { Ok(days) }
    }

    #[inline]
    fn ticks_of_day(&self, bytes: &[u8], scale: u8) -> Result<i64, ValueError> {
        let mut padded = [0u8; 8];
        padded
            .get_mut(..bytes.len().min(6))
            .and_then(|target| (target.len() == bytes.len()).then_some(target))
            .ok_or_else(|| self.invalid())?
            .copy_from_slice(bytes);
        let ticks = i64::from_le_bytes(padded)
            .checked_mul(10i64.pow(u32::from(7 - scale.min(7))))
            .ok_or_else(|| self.invalid())?;
        if ticks >= TICKS_PER_DAY { Err(self.invalid()) } else { Ok(ticks) }
    }

    /// Rounds ticks to the column's scale where it keeps fewer digits than were sent.
    #[inline]
    fn rounded(&self, ticks: i64, sent_scale: u8) -> i64 {
        match self.column {
            SqlType::Time(scale) | SqlType::DateTime2(scale) | SqlType::DateTimeOffset(scale)
                if scale < sent_scale =>
            {
                let unit = 10i64.pow(u32::from(7 - scale));
                (ticks + unit / 2) / unit * unit
            }
            _ => ticks,
        }
    }

    #[inline]
    fn in_range(&self, ticks: i64) -> Result<i64, ValueError> {
        const END: i64 = (MAX_DAY as i64 + 1) * TICKS_PER_DAY;
        if (0..END).contains(&ticks) { Ok(ticks) } else { Err(self.invalid()) }
    }

    fn offset(&self, bytes: &[u8], scale: u8, out: &mut Vec<u8>) -> Result<(), ValueError> {
        let (time, rest) =
            bytes.split_at_checked(bytes.len().wrapping_sub(5)).ok_or_else(|| self.invalid())?;
        let &[a, b, c, d, e] = rest else { return Err(self.invalid()) };
        let minutes = i16::from_le_bytes([d, e]);
        if !(-MAX_OFFSET_MINUTES..=MAX_OFFSET_MINUTES).contains(&minutes) {
            return Err(self.invalid());
        }
        let ticks = i64::from(self.days(&[a, b, c])?) * TICKS_PER_DAY + self.ticks_of_day(time, scale)?;
        let utc = self.in_range(self.rounded(ticks, scale))?;
        self.in_range(utc + i64::from(minutes) * 600_000_000)?;
        out.extend_from_slice(&30u32.to_be_bytes());
        out.extend_from_slice(&2u32.to_be_bytes());
        out.extend_from_slice(&OID_INT8.to_be_bytes());
        put_field(out, &utc.to_be_bytes());
        out.extend_from_slice(&OID_INT2.to_be_bytes());
        put_field(out, &minutes.to_be_bytes());
        Ok(())
    }

    fn binary(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
        let limit = match self.column {
            SqlType::Binary(n) | SqlType::VarBinary(Length::Limited(n)) => usize::from(n),
            _ => MAX_VALUE_BYTES,
        };
        if bytes.len() > limit {
            return Err(self.truncation(""));
        }
        let padding = if matches!(self.column, SqlType::Binary(_)) { limit - bytes.len() } else { 0 };
        out.extend_from_slice(&u32::try_from(bytes.len() + padding).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(bytes);
        out.resize(out.len() + padding, 0);
        Ok(())
    }

    #[cold]
    fn invalid(&self) -> ValueError {
        let Target { column, ordinal, .. } = &self.target;
        ValueError::Refused(SqlError::new(
            4815,
            16,
            1,
            format!("Received an invalid column value from the bcp client for colid {ordinal} ('{column}')."),
        ))
    }

    #[cold]
    fn overflow(&self, value: i64) -> ValueError {
        let sql_type = self.column.name();
        ValueError::Refused(match self.column {
            SqlType::TinyInt | SqlType::SmallInt => SqlError::new(
                220,
                16,
                1,
                format!("Arithmetic overflow error for data type {sql_type}, value = {value}."),
            ),
            _ => SqlError::new(
                8115,
                16,
                2,
                format!("Arithmetic overflow error converting expression to data type {sql_type}."),
            ),
        })
    }

    /// SQL Server repeats the part of the value that would have fitted.
    #[cold]
    fn truncation(&self, fitting: &str) -> ValueError {
        let Target { table, column, .. } = &self.target;
        ValueError::Refused(SqlError::new(
            2628,
            16,
            1,
            format!(
                "String or binary data would be truncated in table '{table}', column '{column}'. Truncated value: '{fitting}'."
            ),
        ))
    }
}

/// What a client may send for a column: its own kind of type.
fn is_convertible(sent: SqlType, column: SqlType) -> bool {
    match column {
        _ if sent.is_integer() => column.is_integer() || matches!(column, SqlType::Decimal { .. }),
        SqlType::Real | SqlType::Float => sent.is_approximate(),
        SqlType::Decimal { .. } | SqlType::Money | SqlType::SmallMoney => {
            matches!(sent, SqlType::Decimal { .. }) || sent.is_money()
        }
        SqlType::Date => sent == SqlType::Date,
        SqlType::Time(_) => matches!(sent, SqlType::Time(_)),
        SqlType::DateTime2(_) | SqlType::DateTime | SqlType::SmallDateTime => {
            matches!(sent, SqlType::DateTime2(_)) || sent.is_old_date_time()
        }
        SqlType::Xml => sent == SqlType::Xml || sent.is_text(),
        SqlType::DateTimeOffset(_) => matches!(sent, SqlType::DateTimeOffset(_)),
        SqlType::UniqueIdentifier => sent == SqlType::UniqueIdentifier,
        SqlType::Binary(_) | SqlType::VarBinary(_) => sent.is_binary(),
        _ => column.is_text() && sent.is_text(),
    }
}

#[inline]
fn put_field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cold]
fn too_long() -> ValueError {
    ValueError::Refused(SqlError::unsupported(&format!("a value of more than {MAX_VALUE_BYTES} bytes")))
}
