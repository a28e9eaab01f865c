//! The T-SQL of the sink's own tables, in the schema `nats_sql_sink`: how far each partition is read, who reads it, and
//! which commits are to be announced.
//!
//! `pipeline`, worker and layout come in as texts of a few harmless characters, and as literals nonetheless.

use std::time::Duration;

use uuid::Uuid;

use super::literal;
use crate::disposition::{SUPERSEDED, TRANSACTION_GONE};

/// Texts that are compared byte by byte, whatever the database's collation: names that differ in case are two.
const EXACT: &str = "COLLATE Latin1_General_100_BIN2";

/// Creates the schema and its tables where they are missing: one statement to be run after the other.
pub fn create_state() -> Vec<String> {
    let table = |name: &str, columns: &str| {
        format!(
            "IF OBJECT_ID(N'nats_sql_sink.{name}', N'U') IS NULL\nCREATE TABLE nats_sql_sink.{name} (\n{columns}\n)"
        )
    };
    vec![
        "IF SCHEMA_ID(N'nats_sql_sink') IS NULL EXEC (N'CREATE SCHEMA nats_sql_sink')".to_owned(),
        table(
            "progress",
            &format!(
                "    pipeline nvarchar(64) {EXACT} NOT NULL,
    partition_id int NOT NULL,
    layout_hash varchar(64) {EXACT} NOT NULL,
    stream_created bigint NOT NULL,
    stream_sequence bigint NOT NULL,
    message_time datetime2(7) NULL,
    attempts int NOT NULL,
    batch_id uniqueidentifier NULL,
    barrier bigint NULL,
    updated_at datetime2(7) NOT NULL,
    CONSTRAINT PK_nats_sql_sink_progress PRIMARY KEY (pipeline, partition_id)"
            ),
        ),
        table(
            "leases",
            &format!(
                "    pipeline nvarchar(64) {EXACT} NOT NULL,
    partition_id int NOT NULL,
    owner nvarchar(128) {EXACT} NULL,
    expires_at datetime2(7) NOT NULL,
    CONSTRAINT PK_nats_sql_sink_leases PRIMARY KEY (pipeline, partition_id)"
            ),
        ),
        table(
            "workers",
            &format!(
                "    pipeline nvarchar(64) {EXACT} NOT NULL,
    worker nvarchar(128) {EXACT} NOT NULL,
    seen_at datetime2(7) NOT NULL,
    CONSTRAINT PK_nats_sql_sink_workers PRIMARY KEY (pipeline, worker)"
            ),
        ),
        table(
            "receipts",
            &format!(
                "    id bigint IDENTITY NOT NULL,
    pipeline nvarchar(64) {EXACT} NOT NULL,
    partition_id int NULL,
    table_name nvarchar(300) NOT NULL,
    batch_id uniqueidentifier NOT NULL,
    row_count bigint NOT NULL,
    previous_sequence bigint NULL,
    first_sequence bigint NULL,
    last_sequence bigint NULL,
    first_published_at bigint NULL,
    last_published_at bigint NULL,
    committed_at datetime2(7) NOT NULL,
    CONSTRAINT PK_nats_sql_sink_receipts PRIMARY KEY (pipeline, id)"
            ),
        ),
    ]
}

/// One row: how many of these tables are there, and may be seen.
pub(in crate::mssql) fn count_state(tables: &[&str]) -> String {
    let names: Vec<String> = tables.iter().map(|table| literal(table)).collect();
    format!(
        "SELECT COUNT(*) AS tables FROM sys.tables AS t JOIN sys.schemas AS s ON s.schema_id = t.schema_id \
         WHERE s.name = N'nats_sql_sink' AND t.name IN ({})",
        names.join(", ")
    )
}

/// One row: whether commits of this database are durable only later, whoever commits.
pub(in crate::mssql) const DELAYED_DURABILITY: &str = "SELECT CAST(delayed_durability_desc AS nvarchar(60)) AS delayed_durability FROM sys.databases WHERE database_id = DB_ID()";

/// Waits no longer than this for a lock, milliseconds.
pub(in crate::mssql) fn lock_timeout(longest: Duration) -> String {
    format!("SET LOCK_TIMEOUT {}", longest.as_millis())
}

/// A partition of a pipeline, as its rows are found.
#[derive(Debug, Clone, Copy)]
pub(in crate::mssql) struct Key<'a> {
    pub(in crate::mssql) pipeline: &'a str,
    pub(in crate::mssql) partition: usize,
}

impl Key<'_> {
    fn matches(self) -> String {
        format!("pipeline = {} AND partition_id = {}", literal(self.pipeline), self.partition)
    }
}

/// Enters a pipeline whose progress nobody has kept: all its partitions at one sequence. Nothing where it is there. To
/// be run in a transaction.
pub(in crate::mssql) fn enter_pipeline(
    pipeline: &str,
    partitions: usize,
    layout_hash: &str,
    stream_created: i64,
    sequence: u64,
) -> String {
    let (name, hash) = (literal(pipeline), literal(layout_hash));
    let rows: Vec<String> = (0..partitions)
        .map(|partition| {
            format!("({name}, {partition}, {hash}, {stream_created}, {sequence}, 0, SYSUTCDATETIME())")
        })
        .collect();
    // a list of values has at most 1,000 rows
    let inserts: Vec<String> = rows
        .chunks(500)
        .map(|rows| {
            format!(
                "INSERT INTO nats_sql_sink.progress (pipeline, partition_id, layout_hash, stream_created, \
                 stream_sequence, attempts, updated_at) VALUES {};",
                rows.join(", ")
            )
        })
        .collect();
    format!(
        "IF NOT EXISTS (SELECT 1 FROM nats_sql_sink.progress WITH (UPDLOCK, HOLDLOCK) \
         WHERE pipeline = {name}) BEGIN {} END",
        inserts.join(" ")
    )
}

/// One row: how many partitions the pipeline has, the least and greatest of their layouts and of their streams.
pub(in crate::mssql) fn layout(pipeline: &str) -> String {
    format!(
        "SELECT COUNT(*) AS partitions, MIN(layout_hash) AS first_layout, MAX(layout_hash) AS last_layout, \
         MIN(stream_created) AS first_stream, MAX(stream_created) AS last_stream \
         FROM nats_sql_sink.progress WHERE pipeline = {}",
        literal(pipeline)
    )
}

const PROGRESS_COLUMNS: &str = "partition_id, layout_hash, stream_created, stream_sequence, attempts, \
                                CAST(batch_id AS nvarchar(36)) AS batch, barrier";

/// Counts an attempt, and reads where the partition is.
pub(in crate::mssql) fn attempt(key: Key<'_>) -> String {
    format!(
        "UPDATE nats_sql_sink.progress SET attempts = attempts + 1 WHERE {matches}; \
         SELECT {PROGRESS_COLUMNS} FROM nats_sql_sink.progress WHERE {matches}",
        matches = key.matches()
    )
}

/// Reads where the partition is, after every transaction that is about to change that: also where readers do not wait
/// for writers (READ_COMMITTED_SNAPSHOT, which is on in Azure SQL).
pub(in crate::mssql) fn settled_progress(key: Key<'_>) -> String {
    format!(
        "SELECT {PROGRESS_COLUMNS} FROM nats_sql_sink.progress WITH (UPDLOCK, READCOMMITTEDLOCK) WHERE {}",
        key.matches()
    )
}

/// Reads where all partitions of a pipeline are.
pub(in crate::mssql) fn all_progress(pipeline: &str) -> String {
    format!(
        "SELECT {PROGRESS_COLUMNS} FROM nats_sql_sink.progress WITH (READCOMMITTEDLOCK) WHERE pipeline = {} \
         ORDER BY partition_id",
        literal(pipeline)
    )
}

/// A step of a partition's progress: from one position of the stream to a later one.
#[derive(Debug, Clone, Copy)]
pub(in crate::mssql) struct Advance<'a> {
    pub(in crate::mssql) key: Key<'a>,
    pub(in crate::mssql) layout_hash: &'a str,
    pub(in crate::mssql) stream_created: i64,
    pub(in crate::mssql) from: u64,
    pub(in crate::mssql) to: u64,
    /// Nanoseconds since 1970-01-01 UTC.
    pub(in crate::mssql) published_at: Option<i64>,
    pub(in crate::mssql) batch: Uuid,
}

/// Moves the progress, or throws: nobody else has moved it, the layout and the stream are the same, and no barrier is
/// crossed.
fn advance(advance: &Advance<'_>) -> String {
    let Advance { key, layout_hash, stream_created, from, to, published_at, batch } = advance;
    let message_time = published_at.map_or_else(|| "message_time".to_owned(), date_time);
    format!(
        "UPDATE nats_sql_sink.progress SET stream_sequence = {to}, message_time = {message_time}, attempts = 0, \
         batch_id = '{batch}', updated_at = SYSUTCDATETIME() \
         WHERE {} AND stream_sequence = {from} AND stream_sequence < {to} AND layout_hash = {} \
         AND stream_created = {stream_created} AND (barrier IS NULL OR barrier >= {to}); \
         IF @@ROWCOUNT <> 1 THROW {SUPERSEDED}, N'the progress of the partition is not where this batch begins', 1; ",
        key.matches(),
        literal(layout_hash)
    )
}

/// A `datetime2(7)` from nanoseconds since 1970-01-01 UTC.
fn date_time(nanoseconds: i64) -> String {
    let (seconds, rest) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let at = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (at.date(), at.time());
    format!(
        "CAST(N'{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:07}' AS datetime2(7))",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        rest / 100
    )
}

/// What a receipt says of a commit.
#[derive(Debug, Clone, Copy)]
pub(in crate::mssql) struct NewReceipt<'a> {
    pub(in crate::mssql) pipeline: &'a str,
    pub(in crate::mssql) partition: Option<usize>,
    pub(in crate::mssql) table: &'a str,
    pub(in crate::mssql) batch: Uuid,
    pub(in crate::mssql) rows: usize,
    pub(in crate::mssql) previous: Option<u64>,
    pub(in crate::mssql) first: u64,
    pub(in crate::mssql) last: u64,
    pub(in crate::mssql) first_published_at: i64,
    pub(in crate::mssql) last_published_at: i64,
}

fn receipt(receipt: &NewReceipt<'_>) -> String {
    let or_null = |value: Option<u64>| value.map_or_else(|| "NULL".to_owned(), |value| value.to_string());
    let NewReceipt { pipeline, partition, table, batch, rows, previous, first, last, .. } = receipt;
    format!(
        "INSERT INTO nats_sql_sink.receipts (pipeline, partition_id, table_name, batch_id, row_count, \
         previous_sequence, first_sequence, last_sequence, first_published_at, last_published_at, committed_at) \
         VALUES ({}, {}, {}, '{batch}', {rows}, {}, {first}, {last}, {}, {}, SYSUTCDATETIME()); ",
        literal(pipeline),
        or_null(partition.map(|partition| partition as u64)),
        literal(table),
        or_null(*previous),
        receipt.first_published_at,
        receipt.last_published_at,
    )
}

/// Commits the transaction that is open: one batch, so that nothing of it runs after an error of what is before it. First
/// it throws where the server has rolled the transaction back in the meantime: the next statement would commit by itself.
pub(in crate::mssql) fn commit(progress: Option<&Advance<'_>>, announced: Option<&NewReceipt<'_>>) -> String {
    format!(
        "IF XACT_STATE() <> 1 THROW {TRANSACTION_GONE}, N'the transaction of this batch is gone', 1; {}{}\
         COMMIT TRANSACTION",
        progress.map(advance).unwrap_or_default(),
        announced.map(receipt).unwrap_or_default(),
    )
}
