//! What a run of the demo found.

use serde::Serialize;

use super::sink::{Progress, Sink};
use super::table::Account;
use crate::output;

/// The figures of a run. The names are part of the command line's contract.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    published: u64,
    rows_in_table: u64,
    distinct_event_ids: u64,
    dead_lettered: u64,
    seconds: f64,
    rows_per_second: f64,
    batches: u64,
    peak_rss_bytes: u64,
}

impl Figures {
    pub(super) fn of(
        published: u64,
        account: &Account,
        progress: &Progress,
        seconds: f64,
        sink: &Sink,
    ) -> Self {
        #[allow(clippy::cast_precision_loss)] // a rate is read with three digits
        let rows_per_second = (account.rows as f64 / seconds).round();
        Self {
            published,
            rows_in_table: account.rows,
            distinct_event_ids: account.distinct_event_ids,
            dead_lettered: progress.dead_lettered,
            seconds: (seconds * 1000.0).round() / 1000.0,
            rows_per_second,
            batches: progress.batches,
            peak_rss_bytes: sink.peak_rss_bytes(),
        }
    }

    /// For people.
    pub(super) fn print(&self, exact: bool) {
        let verdict = if exact { "each of them once" } else { "NOT exactly what was published" };
        #[allow(clippy::cast_precision_loss)] // shown in whole mebibytes
        let peak = self.peak_rss_bytes as f64 / 1_048_576.0;
        let lines = [
            ("published", self.published.to_string()),
            ("rows in the table", format!("{} ({verdict})", self.rows_in_table)),
            ("distinct event ids", self.distinct_event_ids.to_string()),
            ("dead-lettered", self.dead_lettered.to_string()),
            ("seconds", format!("{:.1}", self.seconds)),
            ("rows per second", format!("{:.0}", self.rows_per_second)),
            ("batches", self.batches.to_string()),
            ("the sink's memory", format!("{peak:.0} MiB at most")),
        ];
        output::line("");
        for (name, value) in lines {
            output::line(&format!("  {name:<20} {value}"));
        }
    }
}
