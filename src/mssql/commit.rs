//! One explicit transaction per batch, and the only place that calls a row durable because of a commit.

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

use crate::delivery::Durable;
use crate::error::{Error, Phase, Result};
use crate::mssql::bulk::{self, Deadlines};
use crate::mssql::connect::Leased;
use crate::mssql::target::Target;
use crate::mssql::{execute, statements};
use crate::schema::Schema;

/// A batch that is in.
#[derive(Debug)]
pub struct Committed {
    /// Evidence for its claims.
    pub durable: Durable,
    /// From the begin of the transaction until the server had counted the rows.
    pub load: Duration,
    /// From sending the commit until its answer.
    pub commit: Duration,
}

/// Writes all rows in one transaction and commits it. The session is given back only after a success.
///
/// # Errors
///
/// In [`Phase::Commit`] the outcome may be unknown: `disposition` tells. In any other phase nothing was written.
pub async fn write(
    mut leased: Leased,
    target: &Target,
    schema: &Schema,
    rows: &RecordBatch,
    deadlines: Deadlines,
) -> Result<Committed> {
    let started = Instant::now();
    let session = leased.session()?;
    step(Phase::Load, deadlines.statement, "beginning the transaction", execute(session, statements::BEGIN))
        .await?;
    bulk::load(session, target, schema, rows, deadlines).await?;
    let loaded = Instant::now();
    step(Phase::Commit, deadlines.commit, "committing", execute(session, &statements::commit())).await?;
    let durable = Durable::committed();
    let committed = Committed { durable, load: loaded - started, commit: loaded.elapsed() };
    leased.give_back();
    Ok(committed)
}

async fn step(
    phase: Phase,
    deadline: Duration,
    what: &str,
    statement: impl Future<Output = Result<(), tiberius::error::Error>>,
) -> Result<()> {
    tokio::time::timeout(deadline, statement)
        .await
        .map_err(|_elapsed| Error::sql_timeout(phase, what))?
        .map_err(|error| Error::sql(phase, error))
}
