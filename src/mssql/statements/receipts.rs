//! The T-SQL of the outbox: commits that are to be announced.

use super::literal;

/// One row: whether this session is the one that announces the pipeline's commits, from now on and until it ends.
pub(in crate::mssql) fn own(pipeline: &str) -> String {
    let resource = literal(&format!("nats_sql_sink:receipts:{pipeline}"));
    format!(
        "DECLARE @got int; EXEC @got = sp_getapplock @Resource = {resource}, @LockMode = 'Exclusive', \
         @LockOwner = 'Session', @LockTimeout = 0; SELECT @got AS got"
    )
}

/// The oldest receipts of a pipeline, at most so many: times in microseconds since 1970-01-01 UTC where the server made
/// them.
pub(in crate::mssql) fn waiting(pipeline: &str, most: usize) -> String {
    format!(
        "SELECT TOP ({most}) id, partition_id, table_name, CAST(batch_id AS nvarchar(36)) AS batch, row_count, \
         previous_sequence, first_sequence, last_sequence, first_published_at, last_published_at, \
         DATEDIFF_BIG(microsecond, CAST(N'1970-01-01' AS datetime2(7)), committed_at) AS committed_at \
         FROM nats_sql_sink.receipts WITH (READCOMMITTEDLOCK) WHERE pipeline = {} ORDER BY id",
        literal(pipeline)
    )
}

/// Removes what is announced.
pub(in crate::mssql) fn remove(pipeline: &str, ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
    let name = literal(pipeline);
    format!("DELETE FROM nats_sql_sink.receipts WHERE pipeline = {name} AND id IN ({})", ids.join(", "))
}
