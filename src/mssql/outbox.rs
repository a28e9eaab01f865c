//! The outbox: a row for each commit that is to be announced, written in its transaction and removed when NATS has it.

use tiberius::Row;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::connect::Session;
use crate::mssql::statements::receipts;
use crate::mssql::{execute, query};

/// A commit that is to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the outbox.
    pub id: i64,
    /// The partition, where there are any.
    pub partition: Option<i32>,
    /// The table, quoted.
    pub table: String,
    /// Tells this commit from every other.
    pub batch: String,
    /// Rows of the commit.
    pub rows: i64,
    /// Where the partition was before.
    pub previous: Option<i64>,
    /// The lowest and the highest sequence of its events.
    pub sequences: (i64, i64),
    /// When the first and the last of them were published: nanoseconds since 1970-01-01 UTC, by the NATS server's clock.
    pub published_at: (i64, i64),
    /// Microseconds since 1970-01-01 UTC, by the database server's clock.
    pub committed_at: i64,
}

/// Makes this session the one that announces the pipeline's commits: `false` where another is.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn own(session: &mut Session, pipeline: &str) -> Result<bool> {
    let rows = query(session, &receipts::own(pipeline)).await.map_err(failed)?;
    let got = rows.first().map(|row| row.try_get::<i32, _>("got").map_err(failed)).transpose()?.flatten();
    Ok(got.is_some_and(|got| got >= 0))
}

/// The oldest that wait.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn waiting(session: &mut Session, pipeline: &str, most: usize) -> Result<Vec<Waiting>> {
    let rows = query(session, &receipts::waiting(pipeline, most)).await.map_err(failed)?;
    rows.iter().map(read).collect()
}

/// Removes what is announced.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn remove(session: &mut Session, pipeline: &str, ids: &[i64]) -> Result<()> {
    execute(session, &receipts::remove(pipeline, ids)).await.map_err(failed)
}

fn read(row: &Row) -> Result<Waiting> {
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(failed);
    let required = |column: &str| number(column)?.ok_or_else(|| missing(column));
    let text = |column: &str| {
        let text = row.try_get::<&str, _>(column).map_err(failed)?;
        text.map(str::to_owned).ok_or_else(|| missing(column))
    };
    Ok(Waiting {
        id: required("id")?,
        partition: row.try_get::<i32, _>("partition_id").map_err(failed)?,
        table: text("table_name")?,
        batch: text("batch")?.to_ascii_lowercase(),
        rows: required("row_count")?,
        previous: number("previous_sequence")?,
        sequences: (required("first_sequence")?, required("last_sequence")?),
        published_at: (required("first_published_at")?, required("last_published_at")?),
        committed_at: required("committed_at")?,
    })
}

fn missing(column: &str) -> Error {
    Error::new(Phase::Receipt, ErrorKind::TableShape, format!("a receipt in the database has no {column}"))
}

fn failed(error: tiberius::error::Error) -> Error {
    Error::sql(Phase::Receipt, error)
}
