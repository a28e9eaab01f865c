//! One explicit transaction per batch, and the only place that calls a row durable because of a commit.

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tiberius::Row;

use crate::delivery::Durable;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::bulk::{self, Deadlines};
use crate::mssql::connect::{Leased, Session};
use crate::mssql::target::Target;
use crate::mssql::{execute, query, statements};
use crate::schema::Schema;

/// A batch that is in.
#[derive(Debug)]
pub struct Committed {
    /// Evidence for its claims.
    pub durable: Durable,
    /// From the begin of the transaction until the server had counted the rows, and merged them where they go by key.
    pub load: Duration,
    /// From sending the commit until its answer.
    pub commit: Duration,
    /// What became of the rows, where they were written by key.
    pub merged: Option<Merged>,
}

/// What a merge by key did; the other rows of the batch were older than what is in the table, or there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// Rows of the table that were given other values.
    pub updated: u64,
    /// Rows that the table did not have.
    pub inserted: u64,
}

/// The rows of a transaction, and where they go.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The table.
    pub target: &'a Target,
    /// What the rows are.
    pub schema: &'a Schema,
    /// The rows.
    pub parts: &'a [RecordBatch],
    /// How long the steps may take.
    pub deadlines: Deadlines,
}

/// What is committed together with rows.
#[derive(Debug, Clone, Default)]
pub struct Commit {}

/// Writes all rows in one transaction and commits it. The session is given back only after a success.
///
/// # Errors
///
/// In [`Phase::Commit`] the outcome may be unknown: `disposition` tells. In any other phase nothing was written.
pub async fn write(mut leased: Leased, rows: Rows<'_>, _commit: &Commit) -> Result<Committed> {
    let started = Instant::now();
    let deadlines = rows.deadlines;
    let session = leased.session()?;
    begin(session, deadlines).await?;
    let merged = put(session, rows).await?;
    let loaded = Instant::now();
    step(Phase::Commit, deadlines.commit, "committing", execute(session, &statements::commit())).await?;
    let durable = Durable::committed();
    let committed = Committed { durable, load: loaded - started, commit: loaded.elapsed(), merged };
    leased.give_back();
    Ok(committed)
}

/// Puts all rows where they go as [`write`] does, and rolls that back: the server takes them, or says that it would not.
///
/// # Errors
///
/// As of [`write`] in [`Phase::Load`]. Nothing was written.
pub async fn try_out(mut leased: Leased, rows: Rows<'_>) -> Result<()> {
    let deadlines = rows.deadlines;
    let session = leased.session()?;
    begin(session, deadlines).await?;
    let tried = put(session, rows).await;
    // After an answer of the server the session is between two requests, and nothing was to be committed by it: a
    // search through a batch would otherwise log in anew for each trial that is refused.
    let answered = match &tried {
        Ok(_) => true,
        Err(error) => matches!(error.kind, ErrorKind::Server { class: ..20, .. }),
    };
    if answered {
        let rollback = execute(session, statements::ROLLBACK);
        match (step(Phase::Load, deadlines.commit, "rolling back", rollback).await, &tried) {
            (Ok(()), _) => leased.give_back(),
            (Err(error), Ok(_)) => return Err(error),
            // the session is thrown away, and what the server said of the rows stands
            (Err(_), Err(_)) => {}
        }
    }
    tried.map(|_| ())
}

/// Puts the rows into the table, within the transaction that is open.
async fn put(session: &mut Session, rows: Rows<'_>) -> Result<Option<Merged>> {
    let Rows { target, schema, parts, deadlines } = rows;
    let Some(stage) = &target.stage else {
        bulk::load(session, target, schema, parts, deadlines).await?;
        return Ok(None);
    };
    let create = execute(session, &stage.create);
    step(Phase::Load, deadlines.statement, "creating the temporary table", create).await?;
    bulk::load(session, target, schema, parts, deadlines).await?;
    // first as long for its turn, then as long for the work
    let text = stage.merge.text(deadlines.commit);
    let merge = query(session, &text);
    let answer = step(Phase::Load, 2 * deadlines.commit, "merging the rows by key", merge).await?;
    merged(&answer).map(Some)
}

fn merged(answer: &[Row]) -> Result<Merged> {
    let count = |column: &str| {
        let row = answer.first()?;
        u64::try_from(row.try_get::<i32, _>(column).ok()??).ok()
    };
    match (count("updated"), count("inserted")) {
        (Some(updated), Some(inserted)) => Ok(Merged { updated, inserted }),
        _ => {
            let message = "the merge by key did not answer with two numbers";
            Err(Error::new(Phase::Load, ErrorKind::SqlProtocol, message))
        }
    }
}

async fn begin(session: &mut Session, deadlines: Deadlines) -> Result<()> {
    step(Phase::Load, deadlines.statement, "beginning the transaction", execute(session, statements::BEGIN))
        .await
}

async fn step<T>(
    phase: Phase,
    deadline: Duration,
    what: &str,
    statement: impl Future<Output = Result<T, tiberius::error::Error>>,
) -> Result<T> {
    tokio::time::timeout(deadline, statement)
        .await
        .map_err(|_elapsed| Error::sql_timeout(phase, what))?
        .map_err(|error| Error::sql(phase, error))
}
