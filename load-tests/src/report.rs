//! What a run of a scenario found, as it is kept in `report.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A scenario's runs, and where they were made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) description: String,
    /// RFC 3339.
    pub(crate) started_at: String,
    pub(crate) machine: Machine,
    /// Of the sink, as configured.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) runs: Vec<Run>,
}

/// What the scenario was run on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
}

/// One run of the scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// What tells it from the others: `2 workers`, `repeat 3`.
    pub(crate) title: String,
    pub(crate) figures: Vec<Figure>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) marks: Vec<Mark>,
}

/// A number that a run is judged by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// `rows_per_second`, `peak_rss_bytes`, `ratio_to_best_peer`.
    pub(crate) name: String,
    pub(crate) value: f64,
    /// `rows/s`, `bytes`, `s`, `events`, or nothing.
    pub(crate) unit: String,
    pub(crate) expected: Option<Range>,
}

impl Figure {
    /// What nothing was expected of cannot be wrong; what is no number is wrong wherever there is a bound.
    pub(crate) fn is_right(&self) -> bool {
        self.expected.as_ref().is_none_or(|range| {
            range.min.is_none_or(|min| self.value >= min) && range.max.is_none_or(|max| self.value <= max)
        })
    }
}

/// What a figure should be, with its bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

/// Something that happened: `SQL away`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Seconds since the run's start.
    pub(crate) at: f64,
    pub(crate) label: String,
}

/// The state of things at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds since the run's start.
    pub(crate) at: f64,
    /// Events so far.
    pub(crate) published: u64,
    /// Rows so far.
    pub(crate) committed: u64,
    /// Events that are published and not yet settled.
    pub(crate) lag: u64,
    pub(crate) dead_lettered: u64,
    /// Of the largest worker.
    pub(crate) rss_bytes: u64,
    pub(crate) reserved_bytes: u64,
    /// Of all workers, so far.
    pub(crate) cpu_seconds: f64,
    pub(crate) writers_busy: f64,
    pub(crate) writers_limit: f64,
    pub(crate) workers: usize,
    /// Of the last interval; none where nothing was committed in it.
    pub(crate) latency: Option<Latency>,
}

/// Percentiles of the time from publish to commit, in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}
