//! One function for each thing that happens, so that who sees it need not know the metrics.

use std::time::Duration;

use ::metrics::{counter, gauge, histogram};

use super::*;
use crate::disposition::Disposition;
use crate::error::{Error, ErrorKind};

/// The program's version, once.
pub fn build_info() {
    gauge!(BUILD_INFO.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// A pipeline exists: its counters begin at 0, so that a rate is right from the first event on.
pub fn pipeline_added(pipeline: &str) {
    for metric in ALL {
        if metric.kind == Kind::Counter && metric.labels == ["pipeline"] {
            counter!(metric.name, "pipeline" => pipeline.to_owned()).increment(0);
        }
    }
    pipeline_ready(pipeline, false);
}

/// A pipeline can move events, or cannot.
pub fn pipeline_ready(pipeline: &str, ready: bool) {
    gauge!(PIPELINE_READY.name, "pipeline" => pipeline.to_owned()).set(f64::from(u8::from(ready)));
}

/// Events were asked for.
pub fn pulled(pipeline: &str) {
    counter!(PULLS_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(1);
}

/// A request for events was given up, and is sent again.
pub fn pull_restarted(pipeline: &str, reason: &'static str) {
    counter!(PULL_RESTARTS_TOTAL.name, "pipeline" => pipeline.to_owned(), "reason" => reason).increment(1);
}

/// Events arrived: how often each has been delivered, this time included.
pub fn received(pipeline: &str, deliveries: impl Iterator<Item = u64>) {
    let (mut events, mut redelivered) = (0, 0);
    for count in deliveries {
        events += 1;
        redelivered += u64::from(count > 1);
    }
    counter!(EVENTS_RECEIVED_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(events);
    counter!(EVENTS_REDELIVERED_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(redelivered);
}

/// Events that are held already were delivered once more.
pub fn repeated(pipeline: &str, events: u64) {
    counter!(EVENTS_REPEATED_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(events);
}

/// What the consumer says of itself.
pub fn consumer(pipeline: &str, pending: u64, unacknowledged: usize) {
    gauge!(CONSUMER_PENDING_EVENTS.name, "pipeline" => pipeline.to_owned()).set(pending as f64);
    gauge!(CONSUMER_UNACKNOWLEDGED_EVENTS.name, "pipeline" => pipeline.to_owned()).set(unacknowledged as f64);
}

/// The consumer is gone, or another one of its name stands in its place.
pub fn consumer_lost(pipeline: &str) {
    counter!(CONSUMERS_LOST_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(1);
}

/// The stream's limits removed so many events, at most, before they were read.
pub fn removed_unseen(pipeline: &str, events: u64) {
    counter!(EVENTS_REMOVED_UNSEEN_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(events);
}

/// This worker reads so many partitions now.
pub fn partitions_owned(pipeline: &str, partitions: usize) {
    gauge!(PARTITIONS_OWNED.name, "pipeline" => pipeline.to_owned()).set(partitions as f64);
}

/// A partition was claimed: `from` nobody, or from an owner whose lease has expired.
pub fn partition_claimed(pipeline: &str, from: &'static str) {
    counter!(PARTITIONS_CLAIMED_TOTAL.name, "pipeline" => pipeline.to_owned(), "from" => from).increment(1);
}

/// A partition is begun again from its progress.
pub fn partition_restarted(pipeline: &str) {
    counter!(PARTITION_RESTARTS_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(1);
}

/// Their stream confirmed so many receipts.
pub fn receipts_published(pipeline: &str, receipts: usize) {
    counter!(RECEIPTS_PUBLISHED_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(receipts as u64);
}

/// So many receipts wait in the database.
pub fn receipts_waiting(pipeline: &str, receipts: usize) {
    gauge!(RECEIPTS_WAITING.name, "pipeline" => pipeline.to_owned()).set(receipts as f64);
}

/// So many events are held now.
pub fn held(pipeline: &str, events: usize) {
    gauge!(HELD_EVENTS.name, "pipeline" => pipeline.to_owned()).set(events as f64);
}

/// The byte budget, and what of it is reserved now.
pub fn budget(capacity: usize, reserved: usize) {
    gauge!(BUDGET_BYTES.name).set(capacity as f64);
    gauge!(BUDGET_RESERVED_BYTES.name).set(reserved as f64);
}

/// A batch was cut, for this reason.
pub fn batch_cut(pipeline: &str, rows: usize, bytes: usize, reason: &'static str) {
    counter!(BATCHES_CUT_TOTAL.name, "pipeline" => pipeline.to_owned(), "reason" => reason).increment(1);
    histogram!(BATCH_ROWS.name, "pipeline" => pipeline.to_owned()).record(rows as f64);
    histogram!(BATCH_BYTES.name, "pipeline" => pipeline.to_owned()).record(bytes as f64);
}

/// A batch was decoded.
pub fn decoded(pipeline: &str, elapsed: Duration) {
    histogram!(DECODE_SECONDS.name, "pipeline" => pipeline.to_owned()).record(elapsed.as_secs_f64());
}

/// Events were decoded on trial.
pub fn decode_trial(pipeline: &str, outcome: &'static str) {
    counter!(DECODE_TRIALS_TOTAL.name, "pipeline" => pipeline.to_owned(), "outcome" => outcome).increment(1);
}

/// Counts a writer as busy until it is dropped.
#[derive(Debug)]
pub struct WriterBusy {
    gauge: ::metrics::Gauge,
}

impl WriterBusy {
    /// A writer begins with a batch.
    pub fn enter(pipeline: &str) -> Self {
        let gauge = gauge!(WRITERS_BUSY.name, "pipeline" => pipeline.to_owned());
        gauge.increment(1.0);
        Self { gauge }
    }
}

impl Drop for WriterBusy {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

/// So many batches may be written at once now.
pub fn writers_limit(pipeline: &str, limit: usize) {
    gauge!(WRITERS_LIMIT.name, "pipeline" => pipeline.to_owned()).set(limit as f64);
}

/// The database is given fewer batches at once, for this reason.
pub fn writers_decreased(pipeline: &str, reason: &'static str) {
    counter!(WRITERS_DECREASES_TOTAL.name, "pipeline" => pipeline.to_owned(), "reason" => reason)
        .increment(1);
}

/// A transaction was committed: how long its load and its commit took.
pub fn committed(pipeline: &str, load: Duration, commit: Duration) {
    counter!(BATCHES_COMMITTED_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(1);
    histogram!(LOAD_SECONDS.name, "pipeline" => pipeline.to_owned()).record(load.as_secs_f64());
    histogram!(COMMIT_LATENCY_SECONDS.name, "pipeline" => pipeline.to_owned()).record(commit.as_secs_f64());
}

/// Rows were committed.
pub fn rows_committed(pipeline: &str, rows: usize) {
    counter!(EVENTS_COMMITTED_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(rows as u64);
}

/// So many rows came into the table, by a load that a columnstore compresses at once or not.
pub fn rows_loaded(pipeline: &str, rows: u64, is_large: bool) {
    let load = if is_large { "large" } else { "small" };
    counter!(ROWS_LOADED_TOTAL.name, "pipeline" => pipeline.to_owned(), "load" => load).increment(rows);
}

/// Of so many rows that were committed by key, these were updated and inserted.
pub fn merged(pipeline: &str, updated: u64, inserted: u64, rows: usize) {
    let ignored = (rows as u64).saturating_sub(updated).saturating_sub(inserted);
    for (outcome, count) in [("inserted", inserted), ("updated", updated), ("ignored", ignored)] {
        counter!(KEYED_ROWS_TOTAL.name, "pipeline" => pipeline.to_owned(), "outcome" => outcome)
            .increment(count);
    }
}

/// Nanoseconds from publishing to commit, of some of the events that were committed. A negative one, from two
/// clocks that differ, counts as none.
pub fn end_to_end(pipeline: &str, nanoseconds: impl Iterator<Item = i64>) {
    let latency = histogram!(END_TO_END_LATENCY_SECONDS.name, "pipeline" => pipeline.to_owned());
    for nanoseconds in nanoseconds {
        latency.record(nanoseconds.max(0) as f64 / 1e9);
    }
}

/// The dead-letter stream confirmed an event.
pub fn dead_lettered(pipeline: &str, reason: &'static str) {
    counter!(EVENTS_DEAD_LETTERED_TOTAL.name, "pipeline" => pipeline.to_owned(), "reason" => reason)
        .increment(1);
}

/// The rows of a batch that the database refuses were found, and the others written, with so many loads.
pub fn bisected(pipeline: &str, loads: u64, elapsed: Duration) {
    counter!(BISECTION_LOADS_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(loads);
    histogram!(BISECTION_SECONDS.name, "pipeline" => pipeline.to_owned()).record(elapsed);
}

/// The answer to a commit of so many rows was lost.
pub fn outcome_unknown(pipeline: &str, rows: usize) {
    counter!(OUTCOMES_UNKNOWN_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(1);
    counter!(OUTCOMES_UNKNOWN_EVENTS_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(rows as u64);
}

/// Acknowledgements reached the server.
pub fn acks_confirmed(pipeline: &str, events: usize) {
    counter!(ACKS_CONFIRMED_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(events as u64);
}

/// Events were given back for redelivery.
pub fn given_back(pipeline: &str, events: usize) {
    counter!(NAKS_TOTAL.name, "pipeline" => pipeline.to_owned()).increment(events as u64);
}

/// So many connections are on loan.
pub fn sql_connections_in_use(connections: usize) {
    gauge!(SQL_CONNECTIONS_IN_USE.name).set(connections as f64);
}

/// A connection was waited for.
pub fn sql_connection_waited(elapsed: Duration) {
    histogram!(SQL_CONNECTION_WAIT_SECONDS.name).record(elapsed.as_secs_f64());
}

/// Something happened to the connection with NATS.
pub fn nats_event(event: &'static str) {
    counter!(NATS_CONNECTION_EVENTS_TOTAL.name, "event" => event).increment(1);
}

/// How old what is shown to NATS (`nats`) or to the database (`sql`) is, and how long it still holds, where it ends.
pub fn credential(plane: &'static str, age_seconds: f64, expires_in_seconds: Option<f64>) {
    gauge!(CREDENTIAL_AGE_SECONDS.name, "plane" => plane).set(age_seconds);
    gauge!(CREDENTIAL_EXPIRES_IN_SECONDS.name, "plane" => plane)
        .set(expires_in_seconds.unwrap_or(f64::INFINITY));
}

/// An error was met, after which something is tried again.
pub fn error_met(pipeline: &str, error: &Error, disposition: Disposition) {
    let (phase, done) = (error.phase.as_str(), disposition.as_str());
    counter!(
        RETRIES_TOTAL.name, "pipeline" => pipeline.to_owned(), "phase" => phase, "disposition" => done
    )
    .increment(1);
    let number = match &error.kind {
        ErrorKind::Server { number, .. } | ErrorKind::RowsRefused { number: Some(number) } => {
            number.to_string()
        }
        ErrorKind::SqlIo(_)
        | ErrorKind::SqlTls
        | ErrorKind::SqlProtocol
        | ErrorKind::BulkInput
        | ErrorKind::RowCount { .. }
        | ErrorKind::RowsRefused { number: None }
        | ErrorKind::TableShape => "client".to_owned(),
        ErrorKind::NatsUnavailable | ErrorKind::NatsRefused | ErrorKind::StreamSetup => {
            counter!(
                NATS_ERRORS_TOTAL.name,
                "pipeline" => pipeline.to_owned(), "phase" => phase, "disposition" => done
            )
            .increment(1);
            return;
        }
        ErrorKind::Credential
        | ErrorKind::CredentialUnavailable
        | ErrorKind::DecoderFailed
        | ErrorKind::Internal => return,
    };
    counter!(
        SQL_ERRORS_TOTAL.name, "pipeline" => pipeline.to_owned(), "number" => number, "disposition" => done
    )
    .increment(1);
}
