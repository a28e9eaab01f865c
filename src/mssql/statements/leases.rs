//! The T-SQL of who works: leases on partitions, by the server's clock.

use std::time::Duration;

use super::literal;

/// Enters the partitions of a pipeline, free to be claimed, where they are missing.
pub(in crate::mssql) fn enter_leases(pipeline: &str, partitions: usize) -> String {
    let name = literal(pipeline);
    let statements: Vec<String> = (0..partitions)
        .map(|partition| {
            format!(
                "INSERT INTO nats_sql_sink.leases (pipeline, partition_id, owner, expires_at) \
                 SELECT {name}, {partition}, NULL, SYSUTCDATETIME() WHERE NOT EXISTS (SELECT 1 \
                 FROM nats_sql_sink.leases WITH (UPDLOCK, HOLDLOCK) \
                 WHERE pipeline = {name} AND partition_id = {partition});"
            )
        })
        .collect();
    statements.join(" ")
}

/// Says that a worker is there, and keeps what it owns.
pub(in crate::mssql) fn renew(pipeline: &str, worker: &str, lease: Duration) -> String {
    let (name, worker, lease) = (literal(pipeline), literal(worker), lease.as_millis());
    format!(
        "UPDATE nats_sql_sink.workers SET seen_at = SYSUTCDATETIME() WHERE pipeline = {name} AND worker = {worker}; \
         IF @@ROWCOUNT = 0 INSERT INTO nats_sql_sink.workers (pipeline, worker, seen_at) \
         VALUES ({name}, {worker}, SYSUTCDATETIME()); \
         UPDATE nats_sql_sink.leases SET expires_at = DATEADD(millisecond, {lease}, SYSUTCDATETIME()) \
         WHERE pipeline = {name} AND owner = {worker}"
    )
}

/// The leases of a pipeline: a row each, with its owner, and whether it has expired.
pub(in crate::mssql) fn leases(pipeline: &str) -> String {
    format!(
        "SELECT partition_id, owner, CASE WHEN expires_at < SYSUTCDATETIME() THEN 1 ELSE 0 END AS expired \
         FROM nats_sql_sink.leases WITH (READCOMMITTEDLOCK) WHERE pipeline = {} ORDER BY partition_id",
        literal(pipeline)
    )
}

/// The workers of a pipeline that were seen within a lease: a row each.
pub(in crate::mssql) fn workers(pipeline: &str, lease: Duration) -> String {
    format!(
        "SELECT worker FROM nats_sql_sink.workers WITH (READCOMMITTEDLOCK) WHERE pipeline = {} \
         AND seen_at > DATEADD(millisecond, -{}, SYSUTCDATETIME())",
        literal(pipeline),
        lease.as_millis()
    )
}

/// Claims a partition that nobody owns, or whose lease has expired. One row: how many were claimed.
pub(in crate::mssql) fn claim(pipeline: &str, partition: usize, worker: &str, lease: Duration) -> String {
    format!(
        "UPDATE nats_sql_sink.leases SET owner = {}, expires_at = DATEADD(millisecond, {}, SYSUTCDATETIME()) \
         WHERE pipeline = {} AND partition_id = {partition} AND (owner IS NULL OR expires_at < SYSUTCDATETIME()); \
         SELECT @@ROWCOUNT AS claimed",
        literal(worker),
        lease.as_millis(),
        literal(pipeline)
    )
}

/// Gives a partition back.
pub(in crate::mssql) fn release(pipeline: &str, partition: usize, worker: &str) -> String {
    format!(
        "UPDATE nats_sql_sink.leases SET owner = NULL, expires_at = SYSUTCDATETIME() \
         WHERE pipeline = {} AND partition_id = {partition} AND owner = {}",
        literal(pipeline),
        literal(worker)
    )
}

/// Gives everything back, and takes leave. Workers that died without are forgotten after a day.
pub(in crate::mssql) fn leave(pipeline: &str, worker: &str) -> String {
    let (name, worker) = (literal(pipeline), literal(worker));
    format!(
        "UPDATE nats_sql_sink.leases SET owner = NULL, expires_at = SYSUTCDATETIME() \
         WHERE pipeline = {name} AND owner = {worker}; \
         DELETE FROM nats_sql_sink.workers WHERE pipeline = {name} \
         AND (worker = {worker} OR seen_at < DATEADD(day, -1, SYSUTCDATETIME()))"
    )
}
