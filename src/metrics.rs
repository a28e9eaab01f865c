//! Every metric: a constant with its type, labels and description, in one table, and the functions that record
//! them. Each has a line in `docs/metrics.md`; a test says so.

mod buckets;
mod record;

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

pub use buckets::Buckets;
pub use record::*;

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets, whose upper bounds these are.
    Histogram(Buckets),
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub description: &'static str,
}

const fn counter(description: &'static str, name: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: Kind::Counter, labels, description }
}

const fn gauge(description: &'static str, name: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, description }
}

const fn histogram(
    description: &'static str,
    name: &'static str,
    buckets: Buckets,
    labels: &'static [&'static str],
) -> Metric {
    Metric { name, kind: Kind::Histogram(buckets), labels, description }
}

/// Defines each metric as a constant, and [`ALL`] of them: none can be forgotten there.
macro_rules! metrics {
    ($($constant:ident = $constructor:ident($description:literal, $($argument:expr),+);)*) => {
        $(
            #[doc = $description]
            pub const $constant: Metric = $constructor($description, $($argument),+);
        )*

        /// Every metric of this program.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO = gauge(
        "always 1, labelled with the program's version",
        "nats_sql_sink_build_info", &["version"]
    );
    PIPELINE_READY = gauge(
        "1 while the pipeline can move events, else 0",
        "nats_sql_sink_pipeline_ready", &["pipeline"]
    );

    PULLS_TOTAL = counter(
        "requests for events sent to JetStream",
        "nats_sql_sink_pulls_total", &["pipeline"]
    );
    PULL_RESTARTS_TOTAL = counter(
        "requests given up because their answer was lost or stalled, and sent again",
        "nats_sql_sink_pull_restarts_total", &["pipeline", "reason"]
    );
    EVENTS_RECEIVED_TOTAL = counter(
        "deliveries received, redeliveries included, other than those that events_repeated_total counts",
        "nats_sql_sink_events_received_total", &["pipeline"]
    );
    EVENTS_REDELIVERED_TOTAL = counter(
        "deliveries received that were not an event's first",
        "nats_sql_sink_events_redelivered_total", &["pipeline"]
    );
    EVENTS_REPEATED_TOTAL = counter(
        "deliveries of events that were held already, or not yet confirmed as acknowledged: settled, not written again",
        "nats_sql_sink_events_repeated_total", &["pipeline"]
    );
    CONSUMER_PENDING_EVENTS = gauge(
        "events that the consumer has still to deliver, to whichever worker",
        "nats_sql_sink_consumer_pending_events", &["pipeline"]
    );
    CONSUMER_UNACKNOWLEDGED_EVENTS = gauge(
        "events delivered to whichever worker and not acknowledged",
        "nats_sql_sink_consumer_unacknowledged_events", &["pipeline"]
    );
    CONSUMERS_LOST_TOTAL = counter(
        "times that the consumer was found deleted or made anew under the same name",
        "nats_sql_sink_consumers_lost_total", &["pipeline"]
    );
    EVENTS_REMOVED_UNSEEN_TOTAL = counter(
        "events, at most, that the stream's limits removed before they were read; each worker counts all that it meets",
        "nats_sql_sink_events_removed_unseen_total", &["pipeline"]
    );
    PARTITIONS_OWNED = gauge(
        "partitions that this worker reads, in exactly_once",
        "nats_sql_sink_partitions_owned", &["pipeline"]
    );
    PARTITIONS_CLAIMED_TOTAL = counter(
        "partitions that this worker began to read, in exactly_once: free ones, and those of an expired lease",
        "nats_sql_sink_partitions_claimed_total", &["pipeline", "from"]
    );
    PARTITION_RESTARTS_TOTAL = counter(
        "times that a partition was begun again from the progress in the database, in exactly_once",
        "nats_sql_sink_partition_restarts_total", &["pipeline"]
    );
    RECEIPTS_PUBLISHED_TOTAL = counter(
        "receipts that their stream confirmed",
        "nats_sql_sink_receipts_published_total", &["pipeline"]
    );
    RECEIPTS_WAITING = gauge(
        "receipts in the database that are not confirmed yet, as the worker sees it that publishes them",
        "nats_sql_sink_receipts_waiting", &["pipeline"]
    );
    HELD_EVENTS = gauge(
        "events received and neither acknowledged nor given back",
        "nats_sql_sink_held_events", &["pipeline"]
    );
    BUDGET_BYTES = gauge(
        "memory that may be held for events, from the configuration",
        "nats_sql_sink_budget_bytes", &[]
    );
    BUDGET_RESERVED_BYTES = gauge(
        "memory held for events, or reserved for events asked for",
        "nats_sql_sink_budget_reserved_bytes", &[]
    );

    BATCHES_CUT_TOTAL = counter(
        "batches made, by what ended them",
        "nats_sql_sink_batches_cut_total", &["pipeline", "reason"]
    );
    BATCH_ROWS = histogram(
        "events in a batch",
        "nats_sql_sink_batch_rows", Buckets::Rows, &["pipeline"]
    );
    BATCH_BYTES = histogram(
        "bytes of subjects, headers and payloads in a batch",
        "nats_sql_sink_batch_bytes", Buckets::Bytes, &["pipeline"]
    );
    DECODE_SECONDS = histogram(
        "from handing a batch to the decoders until its rows are there",
        "nats_sql_sink_decode_seconds", Buckets::StepSeconds, &["pipeline"]
    );
    DECODE_TRIALS_TOTAL = counter(
        "processes started to decode suspect events on trial, by how they ended",
        "nats_sql_sink_decode_trials_total", &["pipeline", "outcome"]
    );
    LOAD_SECONDS = histogram(
        "from the begin of a transaction until the server has counted its rows",
        "nats_sql_sink_load_seconds", Buckets::StepSeconds, &["pipeline"]
    );
    COMMIT_LATENCY_SECONDS = histogram(
        "from sending a commit until its answer",
        "nats_sql_sink_commit_latency_seconds", Buckets::StepSeconds, &["pipeline"]
    );
    END_TO_END_LATENCY_SECONDS = histogram(
        "from the publishing of an event until the commit of its row; a sample of the events of each batch",
        "nats_sql_sink_end_to_end_latency_seconds", Buckets::EndToEndSeconds, &["pipeline"]
    );
    WRITERS_BUSY = gauge(
        "batches being written now",
        "nats_sql_sink_writers_busy", &["pipeline"]
    );
    WRITERS_LIMIT = gauge(
        "batches that may be written at once, which follows what the database makes of them",
        "nats_sql_sink_writers_limit", &["pipeline"]
    );
    WRITERS_DECREASES_TOTAL = counter(
        "times that writers_limit was lowered: the database asked for less (throttled), or took longer for nothing (latency)",
        "nats_sql_sink_writers_decreases_total", &["pipeline", "reason"]
    );

    BATCHES_COMMITTED_TOTAL = counter(
        "transactions that the database confirmed",
        "nats_sql_sink_batches_committed_total", &["pipeline"]
    );
    EVENTS_COMMITTED_TOTAL = counter(
        "events whose row the database confirmed",
        "nats_sql_sink_events_committed_total", &["pipeline"]
    );
    ROWS_LOADED_TOTAL = counter(
        "rows that came into the table, by whether as many came at once as a columnstore compresses: 102,400 (large), or fewer (small)",
        "nats_sql_sink_rows_loaded_total", &["pipeline", "load"]
    );
    KEYED_ROWS_TOTAL = counter(
        "rows committed by key: inserted, updated, or ignored because the table or the batch has one that wins",
        "nats_sql_sink_keyed_rows_total", &["pipeline", "outcome"]
    );
    EVENTS_DEAD_LETTERED_TOTAL = counter(
        "events that the dead-letter stream confirmed",
        "nats_sql_sink_events_dead_lettered_total", &["pipeline", "reason"]
    );
    BISECTION_LOADS_TOTAL = counter(
        "loads beyond the first that it took to find rows which the database refuses",
        "nats_sql_sink_bisection_loads_total", &["pipeline"]
    );
    BISECTION_SECONDS = histogram(
        "finding the rows of one batch that the database refuses, and writing the others",
        "nats_sql_sink_bisection_seconds", Buckets::StepSeconds, &["pipeline"]
    );
    OUTCOMES_UNKNOWN_TOTAL = counter(
        "commits whose answer was lost: their rows were written again",
        "nats_sql_sink_outcomes_unknown_total", &["pipeline"]
    );
    OUTCOMES_UNKNOWN_EVENTS_TOTAL = counter(
        "events in commits whose answer was lost: at most so many are in the table twice, and none where rows go by key",
        "nats_sql_sink_outcomes_unknown_events_total", &["pipeline"]
    );
    ACKS_CONFIRMED_TOTAL = counter(
        "acknowledgements that reached the server",
        "nats_sql_sink_acks_confirmed_total", &["pipeline"]
    );
    NAKS_TOTAL = counter(
        "events given back for redelivery",
        "nats_sql_sink_naks_total", &["pipeline"]
    );

    SQL_CONNECTIONS_IN_USE = gauge(
        "connections on loan from the pool",
        "nats_sql_sink_sql_connections_in_use", &[]
    );
    SQL_CONNECTION_WAIT_SECONDS = histogram(
        "from asking the pool for a connection until having it, a login included",
        "nats_sql_sink_sql_connection_wait_seconds", Buckets::StepSeconds, &[]
    );
    SQL_ERRORS_TOTAL = counter(
        "errors of the database, by its number or `client`, and what was done about them",
        "nats_sql_sink_sql_errors_total", &["pipeline", "number", "disposition"]
    );
    NATS_ERRORS_TOTAL = counter(
        "errors of NATS, by where they were met and what was done about them",
        "nats_sql_sink_nats_errors_total", &["pipeline", "phase", "disposition"]
    );
    NATS_CONNECTION_EVENTS_TOTAL = counter(
        "what happened to the connection with NATS: connected, disconnected, slow_consumer and others",
        "nats_sql_sink_nats_connection_events_total", &["event"]
    );
    CREDENTIAL_AGE_SECONDS = gauge(
        "age of what the process shows to nats or to the database (sql): since it was issued, or since its file was written",
        "nats_sql_sink_credential_age_seconds", &["plane"]
    );
    CREDENTIAL_EXPIRES_IN_SECONDS = gauge(
        "until what the process shows to nats or to the database (sql) ends, negative afterwards, +Inf where it has no end",
        "nats_sql_sink_credential_expires_in_seconds", &["plane"]
    );
    RETRIES_TOTAL = counter(
        "errors after which something was tried again",
        "nats_sql_sink_retries_total", &["pipeline", "phase", "disposition"]
    );
}

/// Describes every metric to the recorder that is installed.
pub fn describe_all() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => ::metrics::describe_counter!(metric.name, metric.description),
            Kind::Gauge => ::metrics::describe_gauge!(metric.name, metric.description),
            Kind::Histogram(_) => ::metrics::describe_histogram!(metric.name, metric.description),
        }
    }
}

/// Starts to collect metrics for the whole process. The handle renders them; `http.rs` serves that.
///
/// # Errors
///
/// Something else in this process collects them already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder)?;
    describe_all();
    record::build_info();
    Ok(handle)
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            builder =
                builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets.bounds())?;
        }
    }
    Ok(builder.build_recorder())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::disposition::Disposition;
    use crate::error::{Error, ErrorKind, Phase};

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name is there twice");
        for metric in ALL {
            let Metric { name, kind, labels, description } = metric;
            assert!(name.starts_with("nats_sql_sink_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            if let Kind::Histogram(buckets) = kind {
                let unit = match buckets {
                    Buckets::StepSeconds | Buckets::EndToEndSeconds => "_seconds",
                    Buckets::Rows => "_rows",
                    Buckets::Bytes => "_bytes",
                };
                assert!(name.ends_with(unit), "{name}");
                assert!(buckets.bounds().is_sorted_by(|one, other| one < other), "{name}");
            }
            for label in *labels {
                assert!(label.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name} {label}");
            }
            assert!(!description.is_empty() && !description.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn the_documentation_has_a_line_for_each() {
        let page = include_str!("../docs/metrics.md");
        for metric in ALL {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            let line = format!(
                "| `{}` | {kind} | {} | {} |",
                metric.name,
                metric.labels.join(", "),
                metric.description
            );
            assert!(page.lines().any(|found| found == line), "docs/metrics.md wants the line\n{line}");
        }
        let documented = page.lines().filter(|line| line.starts_with("| `nats_sql_sink_")).count();
        assert_eq!(documented, ALL.len(), "docs/metrics.md has lines of metrics that are no more");
    }

    /// The samples' names and labels, without values.
    fn rendered(record: impl FnOnce()) -> (String, BTreeSet<String>) {
        let recorder = recorder().expect("the buckets are not empty");
        let handle = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            describe_all();
            record();
        });
        handle.run_upkeep();
        let text = handle.render();
        let names = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
            .collect();
        (text, names)
    }

    #[test]
    fn everything_that_is_recorded_is_in_the_table_and_the_reverse() {
        let (text, names) = rendered(|| {
            let error = |phase, kind| Error::new(phase, kind, "");
            build_info();
            pipeline_added("p");
            pulled("p");
            pull_restarted("p", "stalled");
            received("p", [1, 2].into_iter());
            repeated("p", 1);
            consumer("p", 5, 2);
            consumer_lost("p");
            removed_unseen("p", 3);
            partitions_owned("p", 2);
            partition_claimed("p", "expired");
            partition_restarted("p");
            receipts_published("p", 1);
            receipts_waiting("p", 1);
            held("p", 2);
            budget(1000, 500);
            batch_cut("p", 2, 100, "age");
            decoded("p", Duration::from_millis(3));
            decode_trial("p", "survived");
            let _busy = WriterBusy::enter("p");
            writers_limit("p", 2);
            writers_decreased("p", "throttled");
            committed("p", Duration::from_millis(2), Duration::from_millis(1));
            bisected("p", 18, Duration::from_millis(5));
            rows_committed("p", 2);
            rows_loaded("p", 2, false);
            merged("p", 1, 2, 5);
            end_to_end("p", [5_000_000].into_iter());
            dead_lettered("p", "not_json");
            outcome_unknown("p", 2);
            acks_confirmed("p", 2);
            given_back("p", 1);
            sql_connections_in_use(1);
            sql_connection_waited(Duration::from_millis(1));
            error_met(
                "p",
                &error(Phase::Load, ErrorKind::Server { number: 1205, class: 13 }),
                Disposition::Retry,
            );
            error_met("p", &error(Phase::Pull, ErrorKind::NatsUnavailable), Disposition::Retry);
            nats_event("connected");
            credential("nats", 5.0, Some(-1.0));
            credential("sql", 6.0, None);
        });
        let table: BTreeSet<_> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
        assert_eq!(names, table, "{text}");
        for line in [
            "nats_sql_sink_events_received_total{pipeline=\"p\"} 2",
            "nats_sql_sink_events_redelivered_total{pipeline=\"p\"} 1",
            "nats_sql_sink_events_committed_total{pipeline=\"p\"} 2",
            "nats_sql_sink_keyed_rows_total{pipeline=\"p\",outcome=\"ignored\"} 2",
            "nats_sql_sink_outcomes_unknown_events_total{pipeline=\"p\"} 2",
            "nats_sql_sink_pipeline_ready{pipeline=\"p\"} 0",
            "nats_sql_sink_credential_age_seconds{plane=\"sql\"} 6",
            "nats_sql_sink_credential_expires_in_seconds{plane=\"nats\"} -1",
            "nats_sql_sink_credential_expires_in_seconds{plane=\"sql\"} inf",
            "nats_sql_sink_writers_busy{pipeline=\"p\"} 0",
            "nats_sql_sink_sql_errors_total{pipeline=\"p\",number=\"1205\",disposition=\"retry\"} 1",
            "nats_sql_sink_load_seconds_bucket{pipeline=\"p\",le=\"0.0025\"} 1",
            "nats_sql_sink_end_to_end_latency_seconds_bucket{pipeline=\"p\",le=\"0.01\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn labels_are_those_of_the_table() {
        let (text, _) = rendered(|| {
            error_met("p", &Error::new(Phase::Connect, ErrorKind::SqlTls, ""), Disposition::Stop);
        });
        assert!(
            text.contains("sql_errors_total{pipeline=\"p\",number=\"client\",disposition=\"stop\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("retries_total{pipeline=\"p\",phase=\"connect\",disposition=\"stop\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn a_pipeline_begins_with_counters_at_zero() {
        let (text, _) = rendered(|| pipeline_added("p"));
        assert!(text.contains("nats_sql_sink_events_committed_total{pipeline=\"p\"} 0"), "{text}");
    }
}
