//! Arrow columns under construction, row by row. A row that fails is taken back.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
    Time64NanosecondArray, UInt8Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::schema::{Cell, Column, SqlType, date_time_offset_fields, grown};

/// Bits, packed: values of `bit`, and which rows are not NULL.
#[derive(Debug)]
struct Bits {
    words: Vec<u64>,
    length: usize,
}

impl Bits {
    fn with_capacity(bits: usize) -> Self {
        Self { words: Vec::with_capacity(bits.div_ceil(64)), length: 0 }
    }

    #[inline]
    fn push(&mut self, bit: bool) {
        let position = self.length % 64;
        if position == 0 {
            self.words.push(0);
        }
        if let Some(word) = self.words.last_mut() {
            *word |= u64::from(bit) << position;
        }
        self.length += 1;
    }

    fn truncate(&mut self, length: usize) {
        self.length = length;
        self.words.truncate(length.div_ceil(64));
        if !length.is_multiple_of(64)
            && let Some(word) = self.words.last_mut()
        {
            *word &= (1 << (length % 64)) - 1;
        }
    }

    fn finish(self) -> BooleanBuffer {
        // Arrow reads bits byte by byte: the words have to lie in memory from their lowest byte on.
        let words: Vec<u64> = match cfg!(target_endian = "big") {
            true => self.words.into_iter().map(u64::swap_bytes).collect(),
            false => self.words,
        };
        BooleanBuffer::new(Buffer::from_vec(words), 0, self.length)
    }
}

/// Values of a column of text or bytes, end to end.
#[derive(Debug)]
struct Bytes {
    offsets: Vec<i32>,
    data: Vec<u8>,
}

impl Bytes {
    fn with_capacity(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, data: Vec::new() }
    }

    /// Appends a value; [`Rows::check_size`] looks after what does not fit into an offset.
    #[inline]
    fn push(&mut self, value: &[u8]) {
        let needed = self.data.len() + value.len();
        if needed > self.data.capacity() {
            let capacity = grown(self.data.capacity(), needed);
            self.data.reserve_exact(capacity - self.data.len());
        }
        self.data.extend_from_slice(value);
        self.offsets.push(i32::try_from(needed).unwrap_or(i32::MAX));
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.data.truncate(self.offsets.last().map_or(0, |end| usize::try_from(*end).unwrap_or(0)));
    }

    fn finish(self) -> (OffsetBuffer<i32>, Buffer) {
        (OffsetBuffer::new(ScalarBuffer::from(self.offsets)), Buffer::from_vec(self.data))
    }
}

/// The values of one column.
#[derive(Debug)]
enum Values {
    Bit(Bits),
    TinyInt(Vec<u8>),
    SmallInt(Vec<i16>),
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Real(Vec<f32>),
    Float(Vec<f64>),
    Decimal(Vec<i128>),
    Date(Vec<i32>),
    Time(Vec<i64>),
    DateTime2(Vec<i64>),
    DateTimeOffset(Vec<i64>, Vec<i16>),
    Text(Bytes),
    Bytes(Bytes),
    Uuid(Vec<u8>),
}

/// One column under construction.
#[derive(Debug)]
struct ColumnRows {
    values: Values,
    valid: Option<Bits>,
}

impl ColumnRows {
    fn with_capacity(column: &Column, rows: usize) -> Self {
        let values = match column.sql_type {
            SqlType::Bit => Values::Bit(Bits::with_capacity(rows)),
            SqlType::TinyInt => Values::TinyInt(Vec::with_capacity(rows)),
            SqlType::SmallInt => Values::SmallInt(Vec::with_capacity(rows)),
            SqlType::Int => Values::Int(Vec::with_capacity(rows)),
            SqlType::BigInt => Values::BigInt(Vec::with_capacity(rows)),
            SqlType::Real => Values::Real(Vec::with_capacity(rows)),
            SqlType::Float => Values::Float(Vec::with_capacity(rows)),
            SqlType::Decimal { .. } => Values::Decimal(Vec::with_capacity(rows)),
            SqlType::Date => Values::Date(Vec::with_capacity(rows)),
            SqlType::Time { .. } => Values::Time(Vec::with_capacity(rows)),
            SqlType::DateTime2 { .. } => Values::DateTime2(Vec::with_capacity(rows)),
            SqlType::DateTimeOffset { .. } => {
                Values::DateTimeOffset(Vec::with_capacity(rows), Vec::with_capacity(rows))
            }
            SqlType::Char(_) | SqlType::VarChar(_) | SqlType::NChar(_) | SqlType::NVarChar(_) => {
                Values::Text(Bytes::with_capacity(rows))
            }
            SqlType::Binary(_) | SqlType::VarBinary(_) => Values::Bytes(Bytes::with_capacity(rows)),
            SqlType::UniqueIdentifier => Values::Uuid(Vec::with_capacity(rows * 16)),
        };
        Self { values, valid: column.nullable.then(|| Bits::with_capacity(rows)) }
    }

    /// Appends a cell of this column's type. False, and nothing changed, for one of another type.
    #[inline]
    fn push(&mut self, cell: &Cell<'_>) -> bool {
        match (&mut self.values, *cell) {
            (Values::Bit(values), Cell::Bit(value)) => values.push(value),
            (Values::TinyInt(values), Cell::TinyInt(value)) => values.push(value),
            (Values::SmallInt(values), Cell::SmallInt(value)) => values.push(value),
            (Values::Int(values), Cell::Int(value)) => values.push(value),
            (Values::BigInt(values), Cell::BigInt(value)) => values.push(value),
            (Values::Real(values), Cell::Real(value)) => values.push(value),
            (Values::Float(values), Cell::Float(value)) => values.push(value),
            (Values::Decimal(values), Cell::Decimal(value)) => values.push(value),
            (Values::Date(values), Cell::Date(value)) => values.push(value),
            (Values::Time(values), Cell::Time(value)) => values.push(value),
            (Values::DateTime2(values), Cell::DateTime2(value)) => values.push(value),
            (Values::DateTimeOffset(all_ticks, minutes), Cell::DateTimeOffset { ticks, offset_minutes }) => {
                all_ticks.push(ticks);
                minutes.push(offset_minutes);
            }
            (Values::Text(values), Cell::Text(value)) => values.push(value.as_bytes()),
            (Values::Bytes(values), Cell::Bytes(value)) => values.push(value),
            (Values::Uuid(values), Cell::Uuid(value)) => values.extend_from_slice(&value),
            _ => return false,
        }
        if let Some(valid) = &mut self.valid {
            valid.push(true);
        }
        true
    }

    /// Appends NULL. False, and nothing changed, where the column takes none.
    fn push_null(&mut self) -> bool {
        let Some(valid) = &mut self.valid else { return false };
        valid.push(false);
        match &mut self.values {
            Values::Bit(values) => values.push(false),
            Values::TinyInt(values) => values.push(0),
            Values::SmallInt(values) => values.push(0),
            Values::Int(values) | Values::Date(values) => values.push(0),
            Values::BigInt(values) | Values::Time(values) | Values::DateTime2(values) => values.push(0),
            Values::Real(values) => values.push(0.0),
            Values::Float(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::DateTimeOffset(ticks, minutes) => {
                ticks.push(0);
                minutes.push(0);
            }
            Values::Text(values) | Values::Bytes(values) => values.push(&[]),
            Values::Uuid(values) => values.extend_from_slice(&[0; 16]),
        }
        true
    }

    fn truncate(&mut self, rows: usize) {
        if let Some(valid) = &mut self.valid {
            valid.truncate(rows);
        }
        match &mut self.values {
            Values::Bit(values) => values.truncate(rows),
            Values::TinyInt(values) => values.truncate(rows),
            Values::SmallInt(values) => values.truncate(rows),
            Values::Int(values) | Values::Date(values) => values.truncate(rows),
            Values::BigInt(values) | Values::Time(values) | Values::DateTime2(values) => {
                values.truncate(rows);
            }
            Values::Real(values) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Decimal(values) => values.truncate(rows),
            Values::DateTimeOffset(ticks, minutes) => {
                ticks.truncate(rows);
                minutes.truncate(rows);
            }
            Values::Text(values) | Values::Bytes(values) => values.truncate(rows),
            Values::Uuid(values) => values.truncate(rows * 16),
        }
    }

    fn data_bytes(&self) -> usize {
        match &self.values {
            Values::Text(values) | Values::Bytes(values) => values.data.len(),
            _ => 0,
        }
    }

    fn finish(self, sql_type: SqlType) -> Result<ArrayRef, ArrowError> {
        let nulls = self.valid.map(|valid| NullBuffer::new(valid.finish()));
        Ok(match self.values {
            Values::Bit(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::TinyInt(values) => Arc::new(UInt8Array::try_new(values.into(), nulls)?),
            Values::SmallInt(values) => Arc::new(Int16Array::try_new(values.into(), nulls)?),
            Values::Int(values) => Arc::new(Int32Array::try_new(values.into(), nulls)?),
            Values::BigInt(values) | Values::DateTime2(values) => {
                Arc::new(Int64Array::try_new(values.into(), nulls)?)
            }
            Values::Real(values) => Arc::new(Float32Array::try_new(values.into(), nulls)?),
            Values::Float(values) => Arc::new(Float64Array::try_new(values.into(), nulls)?),
            Values::Decimal(values) => {
                let array = Decimal128Array::try_new(values.into(), nulls)?;
                Arc::new(array.with_data_type(sql_type.arrow()))
            }
            Values::Date(values) => Arc::new(Date32Array::try_new(values.into(), nulls)?),
            Values::Time(values) => Arc::new(Time64NanosecondArray::try_new(values.into(), nulls)?),
            Values::DateTimeOffset(ticks, minutes) => {
                let ticks: ArrayRef = Arc::new(Int64Array::try_new(ticks.into(), None)?);
                let minutes: ArrayRef = Arc::new(Int16Array::try_new(minutes.into(), None)?);
                Arc::new(StructArray::try_new(date_time_offset_fields(), vec![ticks, minutes], nulls)?)
            }
            Values::Text(values) => {
                let (offsets, data) = values.finish();
                Arc::new(StringArray::try_new(offsets, data, nulls)?)
            }
            Values::Bytes(values) => {
                let (offsets, data) = values.finish();
                Arc::new(BinaryArray::try_new(offsets, data, nulls)?)
            }
            Values::Uuid(values) => {
                Arc::new(FixedSizeBinaryArray::try_new(16, Buffer::from_vec(values), nulls)?)
            }
        })
    }
}

/// The rows of a batch under construction.
#[derive(Debug)]
pub(super) struct Rows {
    columns: Vec<ColumnRows>,
    /// Which columns the current row has a cell for.
    filled: Vec<u64>,
    rows: usize,
}

impl Rows {
    /// No rows, with room for `rows` of them.
    pub(super) fn with_capacity(columns: &[Column], rows: usize) -> Self {
        Self {
            columns: columns.iter().map(|column| ColumnRows::with_capacity(column, rows)).collect(),
            filled: vec![0; columns.len().div_ceil(64)],
            rows: 0,
        }
    }

    #[inline]
    fn fill(&mut self, column: usize) {
        if let Some(word) = self.filled.get_mut(column / 64) {
            *word |= 1 << (column % 64);
        }
    }

    /// Sets a column of the current row, once. False where the cell is not of the column's type.
    #[inline]
    pub(super) fn push(&mut self, column: usize, cell: &Cell<'_>) -> bool {
        self.fill(column);
        self.columns.get_mut(column).is_some_and(|rows| rows.push(cell))
    }

    /// Sets a column of the current row to NULL, once. False where the column takes none.
    pub(super) fn push_null(&mut self, column: usize) -> bool {
        self.fill(column);
        self.columns.get_mut(column).is_some_and(ColumnRows::push_null)
    }

    /// The first column at or after `from` that the current row has nothing for.
    pub(super) fn next_unfilled(&self, from: usize) -> Option<usize> {
        let mut word_index = from / 64;
        let mut mask = u64::MAX << (from % 64);
        while let Some(word) = self.filled.get(word_index) {
            let unfilled = !word & mask;
            if unfilled != 0 {
                let column = word_index * 64 + unfilled.trailing_zeros() as usize;
                return (column < self.columns.len()).then_some(column);
            }
            mask = u64::MAX;
            word_index += 1;
        }
        None
    }

    /// Ends the current row, of which every column is filled.
    pub(super) fn commit(&mut self) {
        self.rows += 1;
        self.filled.fill(0);
    }

    /// Takes back what the current row has left.
    pub(super) fn roll_back(&mut self) {
        let rows = self.rows;
        for column in &mut self.columns {
            column.truncate(rows);
        }
        self.filled.fill(0);
    }

    /// Bytes of the column that has most of them: Arrow's offsets end at 2 GiB.
    pub(super) fn largest_column_bytes(&self) -> usize {
        self.columns.iter().map(ColumnRows::data_bytes).max().unwrap_or(0)
    }

    /// The finished rows.
    pub(super) fn finish(self, columns: &[Column], schema: SchemaRef) -> Result<RecordBatch, ArrowError> {
        let arrays = self
            .columns
            .into_iter()
            .zip(columns)
            .map(|(rows, column)| rows.finish(column.sql_type))
            .collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(schema, arrays)
    }
}
