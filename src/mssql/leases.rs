//! Who reads which partition: leases in the database, by its clock. They save wasted work; what keeps the rows right is
//! the condition on the progress.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::connect::Session;
use crate::mssql::statements::leases;
use crate::mssql::{execute, query};

/// A partition's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The partition's number.
    pub partition: usize,
    /// Who has it; it may have expired.
    pub owner: Option<String>,
    /// Whether anybody may claim it.
    pub is_free: bool,
}

/// What a worker sees of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// All leases, by partition.
    pub leases: Vec<Lease>,
    /// The workers that were seen within a lease.
    pub workers: Vec<String>,
}

/// Enters what is missing.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn enter(session: &mut Session, pipeline: &str, partitions: usize) -> Result<()> {
    execute(session, &leases::enter_leases(pipeline, partitions)).await.map_err(failed)
}

/// Says that the worker is there, keeps what it owns, and looks around.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn renew(session: &mut Session, pipeline: &str, worker: &str, lease: Duration) -> Result<View> {
    execute(session, &leases::renew(pipeline, worker, lease)).await.map_err(failed)?;
    let rows = query(session, &leases::leases(pipeline)).await.map_err(failed)?;
    let leases = rows.iter().map(|row| {
        let partition = row.try_get::<i32, _>("partition_id").map_err(failed)?;
        let owner = row.try_get::<&str, _>("owner").map_err(failed)?.map(str::to_owned);
        let expired = row.try_get::<i32, _>("expired").map_err(failed)? != Some(0);
        let partition = partition.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
            Error::new(Phase::Progress, ErrorKind::TableShape, "a lease has a partition that is no number")
        })?;
        Ok(Lease { partition, is_free: expired || owner.is_none(), owner })
    });
    let leases = leases.collect::<Result<Vec<_>>>()?;
    let rows = query(session, &leases::workers(pipeline, lease)).await.map_err(failed)?;
    let workers = rows.iter().map(|row| row.try_get::<&str, _>("worker").map_err(failed));
    let workers = workers.collect::<Result<Vec<_>>>()?.into_iter().flatten().map(str::to_owned).collect();
    Ok(View { leases, workers })
}

/// Claims a partition: `false` where somebody was quicker.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn claim(
    session: &mut Session,
    pipeline: &str,
    partition: usize,
    worker: &str,
    lease: Duration,
) -> Result<bool> {
    let rows = query(session, &leases::claim(pipeline, partition, worker, lease)).await.map_err(failed)?;
    match rows.first() {
        Some(row) => Ok(row.try_get::<i32, _>("claimed").map_err(failed)? == Some(1)),
        None => Ok(false),
    }
}

/// Gives a partition back.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn release(session: &mut Session, pipeline: &str, partition: usize, worker: &str) -> Result<()> {
    execute(session, &leases::release(pipeline, partition, worker)).await.map_err(failed)
}

/// Gives everything back, and takes leave.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn leave(session: &mut Session, pipeline: &str, worker: &str) -> Result<()> {
    execute(session, &leases::leave(pipeline, worker)).await.map_err(failed)
}

fn failed(error: tiberius::error::Error) -> Error {
    Error::sql(Phase::Progress, error)
}
