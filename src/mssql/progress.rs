//! How far each partition of a pipeline is read: kept in the database, and changed in the transaction of the rows.

use std::time::Duration;

use tiberius::Row;
use uuid::Uuid;

use crate::disposition::DUPLICATE_KEY;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::connect::Session;
use crate::mssql::statements::state::{self, Key};
use crate::mssql::{execute, query};

/// A partition of a pipeline, and what its progress is valid for.
#[derive(Debug, Clone)]
pub struct Position {
    /// The pipeline's name.
    pub pipeline: String,
    /// The partition's number.
    pub partition: usize,
    /// How the stream is divided.
    pub layout_hash: String,
    /// Tells the stream from a later one of its name: nanoseconds since 1970-01-01 UTC.
    pub stream_created: i64,
}

impl Position {
    pub(super) fn key(&self) -> Key<'_> {
        Key { pipeline: &self.pipeline, partition: self.partition }
    }
}

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its number.
    pub partition: usize,
    /// The layout that it belongs to.
    pub layout_hash: String,
    /// The stream that it is of.
    pub stream_created: i64,
    /// Everything of the partition up to this sequence is in the table, or dead-lettered.
    pub sequence: u64,
    /// How often it was begun to go on from here.
    pub attempts: u64,
    /// The batch that led here.
    pub batch: Option<Uuid>,
    /// It may not go beyond this sequence.
    pub barrier: Option<u64>,
}

/// What is known of all partitions of a pipeline together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// How many partitions there are; none where nothing was kept yet.
    pub partitions: usize,
    /// Their layout; `None` where they are not all of one.
    pub layout_hash: Option<String>,
    /// Their stream; `None` where they are not all of one.
    pub stream_created: Option<i64>,
}

/// Creates the sink's own tables where `create` allows it, and checks that those are there which a pipeline uses.
///
/// # Errors
///
/// [`ErrorKind::TableShape`] where they are missing, or the database makes commits durable only later.
pub async fn prepare(session: &mut Session, used: &[&str], create: bool) -> Result<()> {
    if !are_there(session, used).await? {
        if !create {
            return Err(missing());
        }
        tracing::info!("creating the tables of the schema nats_sql_sink");
        for statement in state::create_state() {
            match execute(session, &statement).await {
                // Another worker was quicker.
                Err(tiberius::error::Error::Server(token)) if ALREADY_THERE.contains(&token.code()) => {}
                created => created.map_err(failed)?,
            }
        }
    }
    refuse_delayed_durability(session).await
}

/// "There is already an object named …", which CREATE SCHEMA says with 2759 after it.
const ALREADY_THERE: [u32; 2] = [2714, 2759];

/// What to do where the sink's own tables are missing and may not be created.
pub fn missing() -> Error {
    shape(
        "the tables of the schema nats_sql_sink are missing, or the user may not see them: create them \
         (`nats-sql-sink ddl` prints how), or set create_table = true",
    )
}

/// Whether these of the sink's own tables are there. Others are not asked for: who does not use them may not see them.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn are_there(session: &mut Session, used: &[&str]) -> Result<bool> {
    let rows = query(session, &state::count_state(used)).await.map_err(failed)?;
    let count = rows.first().map(|row| number::<i32>(row, "tables")).transpose()?;
    Ok(count.and_then(|count| usize::try_from(count).ok()) == Some(used.len()))
}

/// A commit that is not durable when it is confirmed can be lost with the server, after its events were given up.
///
/// # Errors
///
/// [`ErrorKind::TableShape`] where the database forces that on every transaction.
pub async fn refuse_delayed_durability(session: &mut Session) -> Result<()> {
    let rows = query(session, state::DELAYED_DURABILITY).await.map_err(failed)?;
    let forced = match rows.first() {
        Some(row) => row.try_get::<&str, _>(0).map_err(failed)?.is_some_and(|is| is == "FORCED"),
        None => false,
    };
    if forced {
        return Err(shape(
            "the database has DELAYED_DURABILITY = FORCED, so that a confirmed commit can be lost: set it to ALLOWED \
             or DISABLED",
        ));
    }
    Ok(())
}

/// Enters a pipeline that nobody has kept the progress of, at `sequence`, and tells what is kept.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn enter(
    session: &mut Session,
    position: &Position,
    partitions: usize,
    sequence: u64,
) -> Result<Kept> {
    let Position { pipeline, layout_hash, stream_created, .. } = position;
    let sql = state::enter_pipeline(pipeline, partitions, layout_hash, *stream_created, sequence);
    match execute(session, &format!("BEGIN TRANSACTION; {sql}; COMMIT TRANSACTION")).await {
        // Another worker was quicker.
        Err(tiberius::error::Error::Server(token)) if DUPLICATE_KEY.contains(&token.code()) => {}
        entered => entered.map_err(failed)?,
    }
    kept(session, pipeline).await
}

/// Tells what is kept of a pipeline.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn kept(session: &mut Session, pipeline: &str) -> Result<Kept> {
    let rows = query(session, &state::layout(pipeline)).await.map_err(failed)?;
    let row = rows.first().ok_or_else(|| shape("the server does not count"))?;
    let text =
        |column: &str| row.try_get::<&str, _>(column).map(|text| text.map(str::to_owned)).map_err(failed);
    let (first_layout, last_layout) = (text("first_layout")?, text("last_layout")?);
    let bigint = |column: &str| row.try_get::<i64, _>(column).map_err(failed);
    let (first_stream, last_stream) = (bigint("first_stream")?, bigint("last_stream")?);
    Ok(Kept {
        partitions: usize::try_from(number::<i32>(row, "partitions")?).unwrap_or_default(),
        layout_hash: first_layout.filter(|first| Some(first) == last_layout.as_ref()),
        stream_created: first_stream.filter(|first| Some(*first) == last_stream),
    })
}

/// Counts an attempt to go on, and tells from where. `None` where the partition is not there.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn attempt(session: &mut Session, position: &Position) -> Result<Option<Progress>> {
    read(session, &state::attempt(position.key())).await.map(|rows| rows.into_iter().next())
}

/// Tells where the partition is, when everything that was about to change that has ended. `None` where the partition is
/// not there.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn settled(session: &mut Session, position: &Position) -> Result<Option<Progress>> {
    read(session, &state::settled_progress(position.key())).await.map(|rows| rows.into_iter().next())
}

/// Tells where all partitions of a pipeline are, by their number.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn all(session: &mut Session, pipeline: &str) -> Result<Vec<Progress>> {
    read(session, &state::all_progress(pipeline)).await
}

/// Waits no longer than this for locks on this session: what others hold is not waited for.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn wait_for_locks(session: &mut Session, longest: Duration) -> Result<()> {
    execute(session, &state::lock_timeout(longest)).await.map_err(failed)
}

async fn read(session: &mut Session, sql: &str) -> Result<Vec<Progress>> {
    let rows = query(session, sql).await.map_err(failed)?;
    rows.iter().map(progress).collect()
}

fn progress(row: &Row) -> Result<Progress> {
    let positive =
        |column: &str| number::<i64>(row, column).map(|value| u64::try_from(value).unwrap_or_default());
    let batch = row.try_get::<&str, _>("batch").map_err(failed)?;
    let barrier = row.try_get::<i64, _>("barrier").map_err(failed)?;
    Ok(Progress {
        partition: usize::try_from(number::<i32>(row, "partition_id")?).unwrap_or_default(),
        layout_hash: row.try_get::<&str, _>("layout_hash").map_err(failed)?.unwrap_or_default().to_owned(),
        stream_created: number(row, "stream_created")?,
        sequence: positive("stream_sequence")?,
        attempts: u64::try_from(number::<i32>(row, "attempts")?).unwrap_or_default(),
        batch: batch.and_then(|text| Uuid::parse_str(text).ok()),
        barrier: barrier.and_then(|value| u64::try_from(value).ok()),
    })
}

fn number<'a, T: tiberius::FromSql<'a>>(row: &'a Row, column: &str) -> Result<T> {
    row.try_get::<T, _>(column)
        .map_err(failed)?
        .ok_or_else(|| shape(&format!("the table nats_sql_sink.progress has no {column}")))
}

fn failed(error: tiberius::error::Error) -> Error {
    Error::sql(Phase::Progress, error)
}

fn shape(message: &str) -> Error {
    Error::new(Phase::Progress, ErrorKind::TableShape, message)
}
