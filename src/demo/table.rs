//! What the table holds at the end, read back over TDS and held against what was published.

use anyhow::Context as _;
use tiberius::{ColumnData, Row};

use crate::mssql;
use crate::mssql::connect::Session;
use crate::sql_name::TableName;

/// The table's own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) rows: u64,
    pub(super) distinct_event_ids: u64,
    first: i64,
    last: i64,
    /// Of all event numbers: a row that was lost and one that came twice cannot make up for each other.
    sum: i64,
}

impl Account {
    /// What it should be when the events from 1 to `published` are there, each once.
    pub(super) fn expected(published: u64) -> anyhow::Result<Self> {
        let last = i64::try_from(published)?;
        let first = i64::from(published > 0);
        Ok(Self { rows: published, distinct_event_ids: published, first, last, sum: last * (last + 1) / 2 })
    }

    /// Reads it.
    pub(super) async fn read(session: &mut Session, table: &TableName) -> anyhow::Result<Self> {
        let sql = format!(
            "SELECT COUNT_BIG(*) AS row_count, COUNT_BIG(DISTINCT event_id) AS distinct_event_ids, \
             MIN(sequence) AS first, MAX(sequence) AS last, SUM(sequence) AS sum FROM {table}"
        );
        let rows = mssql::query(session, &sql).await.context("counting the rows")?;
        let row = rows.first().context("the count has no row")?;
        let number = |column: &str| anyhow::Ok(row.try_get::<i64, _>(column)?.unwrap_or_default());
        Ok(Self {
            rows: u64::try_from(number("row_count")?)?,
            distinct_event_ids: u64::try_from(number("distinct_event_ids")?)?,
            first: number("first")?,
            last: number("last")?,
            sum: number("sum")?,
        })
    }
}

/// The first rows of the table, by their place in the stream: a heading, and then a line each.
pub(super) async fn sample(session: &mut Session, table: &TableName) -> anyhow::Result<Vec<Vec<String>>> {
    let sql = format!(
        "SELECT TOP 5 stream_sequence, event_id, device, site, temperature, humidity, ok, message \
         FROM {table} ORDER BY stream_sequence"
    );
    let rows = mssql::query(session, &sql).await.context("reading sample rows")?;
    let heading =
        rows.first().map(|row| row.columns().iter().map(|column| column.name().to_owned()).collect());
    Ok(heading.into_iter().chain(rows.into_iter().map(texts)).collect())
}

fn texts(row: Row) -> Vec<String> {
    row.into_iter().map(|cell| text(&cell)).collect()
}

fn text(cell: &ColumnData<'_>) -> String {
    fn or_null<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
    }
    match cell {
        ColumnData::U8(value) => or_null(*value),
        ColumnData::I16(value) => or_null(*value),
        ColumnData::I32(value) => or_null(*value),
        ColumnData::I64(value) => or_null(*value),
        ColumnData::F32(value) => or_null(*value),
        ColumnData::F64(value) => or_null(*value),
        ColumnData::Bit(value) => or_null(value.map(u8::from)),
        ColumnData::String(value) => or_null(value.as_deref()),
        ColumnData::Guid(value) => or_null(*value),
        ColumnData::Numeric(value) => or_null(*value),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_and_a_doubled_row_do_not_make_up_for_each_other() {
        let expected = Account::expected(4).expect("a small number");
        assert_eq!((expected.first, expected.last, expected.sum), (1, 4, 10));
        let doubled = Account { distinct_event_ids: 3, sum: 9, ..expected };
        assert_ne!(doubled, expected);
    }
}
