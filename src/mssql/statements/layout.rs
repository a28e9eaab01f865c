//! The T-SQL of a change of the partitions: a barrier that all of them go up to, and what takes their place then.

use super::literal;
use super::state::enter_pipeline;
use crate::disposition::NOT_AT_BARRIER;

/// Sets the barrier of all partitions of a pipeline, in one transaction that holds them: not before where any of them is,
/// nor before `at_least`. One that was set before stays. One row: where it is.
pub(in crate::mssql) fn set_barrier(pipeline: &str, at_least: u64) -> String {
    let name = literal(pipeline);
    format!(
        "BEGIN TRANSACTION; DECLARE @former bigint, @most bigint, @barrier bigint; \
         SELECT @former = MAX(barrier), @most = MAX(stream_sequence) \
         FROM nats_sql_sink.progress WITH (UPDLOCK, HOLDLOCK) WHERE pipeline = {name}; \
         SET @barrier = CASE WHEN @former IS NOT NULL THEN @former WHEN @most > {at_least} THEN @most \
         ELSE {at_least} END; \
         UPDATE nats_sql_sink.progress SET barrier = @barrier WHERE pipeline = {name}; \
         COMMIT TRANSACTION; SELECT @barrier AS barrier"
    )
}

/// Takes the barrier away.
pub(in crate::mssql) fn clear_barrier(pipeline: &str) -> String {
    format!("UPDATE nats_sql_sink.progress SET barrier = NULL WHERE pipeline = {}", literal(pipeline))
}

/// Puts another division in the place of one whose partitions are all at the barrier. They have a batch, unlike those of a
/// pipeline that nobody has read yet: what the stream removes from now on is a gap.
pub(in crate::mssql) fn change(
    pipeline: &str,
    barrier: u64,
    partitions: usize,
    layout_hash: &str,
    stream_created: i64,
) -> String {
    let name = literal(pipeline);
    format!(
        "BEGIN TRANSACTION; IF EXISTS (SELECT 1 FROM nats_sql_sink.progress WITH (UPDLOCK, HOLDLOCK) \
         WHERE pipeline = {name} AND (stream_sequence <> {barrier} OR barrier IS NULL OR barrier <> {barrier})) \
         THROW {NOT_AT_BARRIER}, N'not all partitions are at the barrier', 1; \
         {}; UPDATE nats_sql_sink.progress SET batch_id = NEWID() WHERE pipeline = {name}; COMMIT TRANSACTION",
        replace(pipeline, barrier, partitions, layout_hash, stream_created)
    )
}

/// Begins with another stream, whatever is kept of the former one.
pub(in crate::mssql) fn new_stream(
    pipeline: &str,
    sequence: u64,
    partitions: usize,
    layout_hash: &str,
    stream_created: i64,
) -> String {
    format!(
        "BEGIN TRANSACTION; {}; COMMIT TRANSACTION",
        replace(pipeline, sequence, partitions, layout_hash, stream_created)
    )
}

fn replace(
    pipeline: &str,
    sequence: u64,
    partitions: usize,
    layout_hash: &str,
    stream_created: i64,
) -> String {
    let name = literal(pipeline);
    format!(
        "DELETE FROM nats_sql_sink.progress WHERE pipeline = {name}; \
         DELETE FROM nats_sql_sink.leases WHERE pipeline = {name}; {}",
        enter_pipeline(pipeline, partitions, layout_hash, stream_created, sequence)
    )
}
