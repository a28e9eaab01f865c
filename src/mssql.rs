//! The database: `connect` makes sessions, `target` knows what the table is, `bulk` turns a `RecordBatch` into rows,
//! `commit` makes them durable together with what `progress` keeps of a partition, `leases` says who reads it,
//! `rights` asks what the user may do, `trials` tries parts of a batch by key, `layout` changes how a stream is divided,
//! `outbox` keeps what is to be announced, and `statements` holds all T-SQL.

use futures_util::TryStreamExt;
use tiberius::{QueryItem, Row};

pub mod bulk;
pub mod commit;
pub mod connect;
mod kept;
pub mod layout;
mod login;
pub mod leases;
pub mod outbox;
pub mod progress;
pub mod rights;
pub mod statements;
pub mod target;
pub mod trials;

use connect::Session;

/// Runs a batch for its effect.
///
/// Not through `sp_executesql`, as the driver's `execute` would: SET options would revert with it.
async fn execute(session: &mut Session, sql: &str) -> Result<(), tiberius::error::Error> {
    let mut answer = session.simple_query(sql).await?;
    // An error token can follow results: the answer is read to its end.
    while answer.try_next().await?.is_some() {}
    Ok(())
}

/// Runs a batch that answers with rows.
pub(crate) async fn query(session: &mut Session, sql: &str) -> Result<Vec<Row>, tiberius::error::Error> {
    let mut answer = session.simple_query(sql).await?;
    let mut rows = Vec::new();
    while let Some(item) = answer.try_next().await? {
        if let QueryItem::Row(row) = item {
            rows.push(row);
        }
    }
    Ok(rows)
}
