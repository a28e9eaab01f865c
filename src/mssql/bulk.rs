//! From a `RecordBatch` to the rows of a bulk load: borrowed cells, no copy of a text.

use std::time::Duration;

use arrow::array::{
    Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
    Time64NanosecondArray, UInt8Array,
};
use tiberius::time::{Date, DateTime2, DateTimeOffset, Time};
use tiberius::{ColumnData, TokenRow, numeric::Numeric};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::connect::Session;
use crate::mssql::target::Target;
use crate::schema::{Schema, SqlType};

/// Rows after which the deadline of a load starts anew.
const ROWS_PER_DEADLINE: usize = 1024;
/// Days from 0001-01-01, from which SQL Server counts, to 1970-01-01, from which Arrow does.
const DAYS_TO_UNIX_EPOCH: i32 = 719_162;
/// 100-nanosecond ticks in a day.
const TICKS_PER_DAY: i64 = 864_000_000_000;
/// Digits of fractional seconds that a tick has.
const TICK_SCALE: u8 = 7;

/// How long the steps of a load may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For a statement, and for each step forward of a load.
    pub statement: Duration,
    /// For the server to work through a load, and for a commit.
    pub commit: Duration,
}

/// Sends all rows of all parts in one bulk load, within the transaction that is open, and returns when the server has
/// counted them.
///
/// # Errors
///
/// Whatever the server or the connection answers; [`ErrorKind::RowCount`] where the server counted another number of
/// rows. After any error the session is to be thrown away.
pub async fn load(
    session: &mut Session,
    target: &Target,
    schema: &Schema,
    parts: &[RecordBatch],
    deadlines: Deadlines,
) -> Result<()> {
    let names: Vec<&str> = target.columns.iter().map(|column| column.name.as_str()).collect();
    let starting = session.bulk_insert_with_options(&target.table, &names, target.options, &[]);
    let mut request = within(deadlines.statement, "starting the bulk load", starting).await?;
    let mut sent = 0;
    for rows in parts {
        let cells = Cells::new(target, schema, rows)?;
        let row_count = rows.num_rows();
        for first in (0..row_count).step_by(ROWS_PER_DEADLINE) {
            let sending = async {
                for row in first..row_count.min(first + ROWS_PER_DEADLINE) {
                    request.send(cells.row(row)).await?;
                }
                Ok(())
            };
            within(deadlines.statement, "sending rows", sending).await.map_err(unfit_row)?;
        }
        sent += row_count as u64;
    }
    let counts =
        within(deadlines.commit, "waiting for the server to work through the load", request.finalize())
            .await?;
    // A trigger's statements are counted before: the load's own count is the last.
    let counted = counts.rows_affected().last().copied().unwrap_or_default();
    if counted != sent {
        return Err(Error::new(
            Phase::Load,
            ErrorKind::RowCount { sent, counted },
            format!("{sent} rows were sent, and the server counted {counted}"),
        ));
    }
    Ok(())
}

/// What the driver refuses to encode is the row's fault, whichever way it puts it.
fn unfit_row(error: Error) -> Error {
    match error.kind {
        ErrorKind::SqlProtocol => {
            Error::new(Phase::Load, ErrorKind::BulkInput, "the client could not encode a value of a row")
        }
        _ => error,
    }
}

async fn within<T>(
    deadline: Duration,
    what: &str,
    step: impl Future<Output = Result<T, tiberius::error::Error>>,
) -> Result<T> {
    tokio::time::timeout(deadline, step)
        .await
        .map_err(|_elapsed| Error::sql_timeout(Phase::Load, what))?
        .map_err(|error| Error::sql(Phase::Load, error))
}

/// A batch, ready to be read row by row.
pub struct Cells<'a> {
    readers: Vec<Reader<'a>>,
}

impl<'a> Cells<'a> {
    /// Of rows that were decoded by `schema`, on their way into `target`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] where the rows are not of the schema's types, or not as many columns as the target's.
    pub fn new(target: &Target, schema: &Schema, rows: &'a RecordBatch) -> Result<Self> {
        Ok(Self { readers: readers(target, schema, rows)? })
    }

    /// The row of this number, which the batch has to have; its texts are borrowed.
    pub fn row(&self, number: usize) -> TokenRow<'a> {
        let mut cells = TokenRow::with_capacity(self.readers.len());
        for reader in &self.readers {
            cells.push(reader.cell(number));
        }
        cells
    }
}

/// A column of the batch, ready to be read cell by cell.
enum Reader<'a> {
    Bit(&'a BooleanArray),
    TinyInt(&'a UInt8Array),
    SmallInt(&'a Int16Array),
    Int(&'a Int32Array),
    BigInt(&'a Int64Array),
    Real(&'a Float32Array),
    Float(&'a Float64Array),
    Decimal(&'a Decimal128Array, u8),
    Date(&'a Date32Array),
    Time(&'a Time64NanosecondArray, u8),
    DateTime2(&'a Int64Array, u8),
    DateTimeOffset { whole: &'a StructArray, ticks: &'a Int64Array, minutes: &'a Int16Array, scale: u8 },
    Text(&'a StringArray),
    Binary(&'a BinaryArray),
    Guid(&'a FixedSizeBinaryArray),
}

fn readers<'a>(target: &Target, schema: &Schema, rows: &'a RecordBatch) -> Result<Vec<Reader<'a>>> {
    let mismatch = || Error::new(Phase::Load, ErrorKind::Internal, "the rows are not of the schema's types");
    if target.columns.len() != rows.num_columns() || schema.columns().len() != rows.num_columns() {
        return Err(mismatch());
    }
    let columns = rows.columns().iter().zip(schema.columns()).zip(&target.columns);
    columns
        .map(|((array, column), to)| reader(array, &column.sql_type, to.scale).ok_or_else(mismatch))
        .collect()
}

fn reader<'a>(array: &'a dyn Array, sql_type: &SqlType, scale: u8) -> Option<Reader<'a>> {
    let array = array.as_any();
    Some(match sql_type {
        SqlType::Bit => Reader::Bit(array.downcast_ref()?),
        SqlType::TinyInt => Reader::TinyInt(array.downcast_ref()?),
        SqlType::SmallInt => Reader::SmallInt(array.downcast_ref()?),
        SqlType::Int => Reader::Int(array.downcast_ref()?),
        SqlType::BigInt => Reader::BigInt(array.downcast_ref()?),
        SqlType::Real => Reader::Real(array.downcast_ref()?),
        SqlType::Float => Reader::Float(array.downcast_ref()?),
        SqlType::Decimal { scale, .. } => Reader::Decimal(array.downcast_ref()?, *scale),
        SqlType::Date => Reader::Date(array.downcast_ref()?),
        SqlType::Time { .. } => Reader::Time(array.downcast_ref()?, scale),
        SqlType::DateTime2 { .. } => Reader::DateTime2(array.downcast_ref()?, scale),
        SqlType::DateTimeOffset { .. } => {
            let whole: &StructArray = array.downcast_ref()?;
            Reader::DateTimeOffset {
                whole,
                ticks: whole.columns().first()?.as_any().downcast_ref()?,
                minutes: whole.columns().get(1)?.as_any().downcast_ref()?,
                scale,
            }
        }
        SqlType::Char(_) | SqlType::VarChar(_) | SqlType::NChar(_) | SqlType::NVarChar(_) => {
            Reader::Text(array.downcast_ref()?)
        }
        SqlType::Binary(_) | SqlType::VarBinary(_) => Reader::Binary(array.downcast_ref()?),
        SqlType::UniqueIdentifier => Reader::Guid(array.downcast_ref()?),
    })
}

impl<'a> Reader<'a> {
    fn cell(&self, row: usize) -> ColumnData<'a> {
        match self {
            Reader::Bit(array) => ColumnData::Bit(array.is_valid(row).then(|| array.value(row))),
            Reader::TinyInt(array) => ColumnData::U8(array.is_valid(row).then(|| array.value(row))),
            Reader::SmallInt(array) => ColumnData::I16(array.is_valid(row).then(|| array.value(row))),
            Reader::Int(array) => ColumnData::I32(array.is_valid(row).then(|| array.value(row))),
            Reader::BigInt(array) => ColumnData::I64(array.is_valid(row).then(|| array.value(row))),
            Reader::Real(array) => ColumnData::F32(array.is_valid(row).then(|| array.value(row))),
            Reader::Float(array) => ColumnData::F64(array.is_valid(row).then(|| array.value(row))),
            Reader::Decimal(array, scale) => ColumnData::Numeric(
                array.is_valid(row).then(|| Numeric::new_with_scale(array.value(row), *scale)),
            ),
            Reader::Date(array) => ColumnData::Date(array.is_valid(row).then(|| date(array.value(row)))),
            Reader::Time(array, scale) => {
                ColumnData::Time(array.is_valid(row).then(|| time(array.value(row) / 100, *scale)))
            }
            Reader::DateTime2(array, scale) => {
                ColumnData::DateTime2(array.is_valid(row).then(|| date_time(array.value(row), *scale)))
            }
            Reader::DateTimeOffset { whole, ticks, minutes, scale } => ColumnData::DateTimeOffset(
                whole
                    .is_valid(row)
                    .then(|| DateTimeOffset::new(date_time(ticks.value(row), *scale), minutes.value(row))),
            ),
            Reader::Text(array) => ColumnData::String(array.is_valid(row).then(|| array.value(row).into())),
            Reader::Binary(array) => ColumnData::Binary(array.is_valid(row).then(|| array.value(row).into())),
            Reader::Guid(array) => {
                // A value of a 16-byte array is 16 bytes long.
                let guid =
                    array.is_valid(row).then(|| Uuid::from_slice(array.value(row)).unwrap_or_default());
                ColumnData::Guid(guid)
            }
        }
    }
}

/// `days` since 1970-01-01, within 0001-01-01 to 9999-12-31.
fn date(days: i32) -> Date {
    Date::new((days + DAYS_TO_UNIX_EPOCH).unsigned_abs())
}

/// `ticks` of 100 ns since midnight, a multiple of what `scale` digits can express.
fn time(ticks: i64, scale: u8) -> Time {
    let step = 10_u64.pow(u32::from(TICK_SCALE.saturating_sub(scale)));
    Time::new(ticks.unsigned_abs() / step, scale)
}

/// `ticks` of 100 ns since 0001-01-01T00:00:00, within the years 1 to 9999.
fn date_time(ticks: i64, scale: u8) -> DateTime2 {
    // Year 9999 ends 3,652,059 days after 0001-01-01.
    let days = u32::try_from(ticks.div_euclid(TICKS_PER_DAY)).unwrap_or_default();
    DateTime2::new(Date::new(days), time(ticks.rem_euclid(TICKS_PER_DAY), scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epochs_meet() {
        assert_eq!(date(0).days(), 719_162);
        assert_eq!(date(-719_162).days(), 0);
        assert_eq!(date_time(719_162 * TICKS_PER_DAY, 7).date(), date(0));
    }

    #[test]
    fn fractional_seconds_are_sent_with_the_scale_of_the_column() {
        assert_eq!(time(12_345_670, 7).increments(), 12_345_670);
        assert_eq!(time(12_340_000, 3).increments(), 1_234);
        assert_eq!((time(10_000_000, 0).increments(), time(10_000_000, 0).scale()), (1, 0));
    }
}
