//! Changing how a stream is divided, and beginning with another stream: what the command `partitions` does.

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::connect::Session;
use crate::mssql::progress::Position;
use crate::mssql::statements::layout;
use crate::mssql::{execute, query};

/// Sets the barrier of all partitions of a pipeline, and tells where it is: not before `at_least`, nor before where any
/// partition is. A barrier that was set before stays.
///
/// # Errors
///
/// The server's, and the connection's; [`ErrorKind::TableShape`] where nothing is kept of the pipeline.
pub async fn set_barrier(session: &mut Session, pipeline: &str, at_least: u64) -> Result<u64> {
    let rows = query(session, &layout::set_barrier(pipeline, at_least)).await.map_err(failed)?;
    let barrier =
        rows.first().map(|row| row.try_get::<i64, _>("barrier").map_err(failed)).transpose()?.flatten();
    barrier.and_then(|barrier| u64::try_from(barrier).ok()).ok_or_else(|| {
        Error::new(Phase::Progress, ErrorKind::TableShape, "the barrier could not be set: nothing is kept")
    })
}

/// Takes the barrier away.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn clear_barrier(session: &mut Session, pipeline: &str) -> Result<()> {
    execute(session, &layout::clear_barrier(pipeline)).await.map_err(failed)
}

/// Puts another division in the place of the one at hand, whose partitions are all at the barrier.
///
/// # Errors
///
/// The server's, and the connection's: also that not all are there.
pub async fn change(session: &mut Session, to: &Position, partitions: usize, barrier: u64) -> Result<()> {
    let sql = layout::change(&to.pipeline, barrier, partitions, &to.layout_hash, to.stream_created);
    execute(session, &sql).await.map_err(failed)
}

/// Begins with another stream, behind `sequence`.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn new_stream(
    session: &mut Session,
    to: &Position,
    partitions: usize,
    sequence: u64,
) -> Result<()> {
    let sql = layout::new_stream(&to.pipeline, sequence, partitions, &to.layout_hash, to.stream_created);
    execute(session, &sql).await.map_err(failed)
}

fn failed(error: tiberius::error::Error) -> Error {
    Error::sql(Phase::Progress, error)
}
