//! One explicit transaction per batch, and the only place that calls a row durable because of a commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tiberius::Row;
use uuid::Uuid;

use crate::delivery::Durable;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::bulk::{self, Deadlines};
use crate::mssql::connect::{Leased, Session};
use crate::mssql::progress::{self, Position};
use crate::mssql::statements::state::{self, Advance, NewReceipt};
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

impl Committed {
    /// How long the database took for the rows. That others were merging into the table before is not its doing.
    pub fn took(&self) -> Duration {
        let waited = self.merged.map(|merged| merged.waited).unwrap_or_default();
        (self.load + self.commit).saturating_sub(waited)
    }
}

/// What a merge by key did; the other rows of the batch were older than what is in the table, or there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// Rows of the table that were given other values.
    pub updated: u64,
    /// Rows that the table did not have.
    pub inserted: u64,
    /// How long it waited until no other merge into the table was under way.
    pub waited: Duration,
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
pub struct Commit {
    /// How far the partition is read then.
    pub progress: Option<Step>,
    /// What is announced of it.
    pub receipt: Option<Receipt>,
}

/// From one position of a partition to a later one.
#[derive(Debug, Clone)]
pub struct Step {
    /// The partition.
    pub position: Arc<Position>,
    /// Where it has to be.
    pub from: u64,
    /// Where it is then.
    pub to: u64,
    /// When the last event was published: nanoseconds since 1970-01-01 UTC.
    pub published_at: Option<i64>,
    /// Tells this step from every other.
    pub batch: Uuid,
}

impl Step {
    fn advance(&self) -> Advance<'_> {
        Advance {
            key: self.position.key(),
            layout_hash: &self.position.layout_hash,
            stream_created: self.position.stream_created,
            from: self.from,
            to: self.to,
            published_at: self.published_at,
            batch: self.batch,
        }
    }
}

/// What is announced of a commit.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// The table, quoted.
    pub table: String,
    /// The partition, where there are any.
    pub partition: Option<usize>,
    /// Tells this commit from every other.
    pub batch: Uuid,
    /// Where the partition was before.
    pub previous: Option<u64>,
    /// The lowest and the highest sequence of its events.
    pub sequences: (u64, u64),
    /// When the first and the last of them were published: nanoseconds since 1970-01-01 UTC.
    pub published_at: (i64, i64),
}

impl Receipt {
    fn announced(&self, rows: usize) -> NewReceipt<'_> {
        NewReceipt {
            pipeline: &self.pipeline,
            partition: self.partition,
            table: &self.table,
            batch: self.batch,
            rows,
            previous: self.previous,
            first: self.sequences.0,
            last: self.sequences.1,
            first_published_at: self.published_at.0,
            last_published_at: self.published_at.1,
        }
    }
}

/// What came of a commit whose answer was lost.
#[derive(Debug)]
pub enum Resolved {
    /// It is in.
    Committed(Durable),
    /// It is not in, and everything is as it was.
    NotCommitted,
    /// Another has moved the progress since: whether the batch is in follows from where it is.
    Superseded,
}

/// Finds out, on another connection, whether a step was made. Waits for a transaction that is about to make it.
///
/// What the old connection may still bring to the server afterwards finds the progress moved, or moves it and is found
/// by the next step of this worker: never both.
///
/// # Errors
///
/// The server's, and the connection's: it is not known yet.
pub async fn resolve(mut leased: Leased, step_made: &Step, deadline: Duration) -> Result<Resolved> {
    let reading = progress::settled(leased.session()?, &step_made.position);
    let found = tokio::time::timeout(deadline, reading)
        .await
        .map_err(|_elapsed| Error::sql_timeout(Phase::Progress, "reading the progress of a partition"))??;
    leased.give_back();
    let position = &step_made.position;
    Ok(match found {
        Some(found) if found.batch == Some(step_made.batch) => Resolved::Committed(Durable::committed()),
        Some(found)
            if found.sequence == step_made.from
                && found.stream_created == position.stream_created
                && found.layout_hash == position.layout_hash =>
        {
            Resolved::NotCommitted
        }
        Some(_) | None => Resolved::Superseded,
    })
}

/// Writes all rows in one transaction and commits it. The session is given back only after a success.
///
/// # Errors
///
/// In [`Phase::Commit`] the outcome may be unknown: `disposition` tells. In any other phase nothing was written.
pub async fn write(mut leased: Leased, rows: Rows<'_>, commit: &Commit) -> Result<Committed> {
    let started = Instant::now();
    let deadlines = rows.deadlines;
    let session = leased.session()?;
    begin(session, deadlines).await?;
    let merged = put(session, rows).await?;
    let loaded = Instant::now();
    let row_count = rows.parts.iter().map(RecordBatch::num_rows).sum();
    let announced = commit.receipt.as_ref().map(|receipt| receipt.announced(row_count));
    let ending = state::commit(commit.progress.as_ref().map(Step::advance).as_ref(), announced.as_ref());
    step(Phase::Commit, deadlines.commit, "committing", execute(session, &ending)).await?;
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
    // only the progress moves: every event was dead-lettered, or none was there
    if parts.iter().all(|part| part.num_rows() == 0) {
        return Ok(None);
    }
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
    match (count("updated"), count("inserted"), count("waited")) {
        (Some(updated), Some(inserted), Some(waited)) => {
            Ok(Merged { updated, inserted, waited: Duration::from_millis(waited) })
        }
        _ => {
            let message = "the merge by key did not answer with three numbers";
            Err(Error::new(Phase::Load, ErrorKind::SqlProtocol, message))
        }
    }
}

async fn begin(session: &mut Session, deadlines: Deadlines) -> Result<()> {
    step(Phase::Load, deadlines.statement, "beginning the transaction", execute(session, statements::BEGIN))
        .await
}

pub(super) async fn step<T>(
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
