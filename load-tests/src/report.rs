//! What a run tells: the shape of `report.json`, which pages and tables are made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One scenario, with all of its runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) description: String,
    /// RFC 3339.
    pub(crate) started_at: String,
    pub(crate) machine: Machine,
    /// Of the sink, as configured; where variants differ, with the variant before the name.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) runs: Vec<Run>,
}

impl Report {
    /// What is not as expected, a line each.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let of_run = |run: &Run| -> Vec<String> {
            let wrong = run.figures.iter().filter(|figure| !figure.is_right());
            wrong.map(|figure| format!("{}: {}", run.title, figure.complaint())).collect()
        };
        self.runs.iter().flat_map(of_run).collect()
    }
}

/// What it ran on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Such as "2 workers" or "repeat 3".
    pub(crate) title: String,
    pub(crate) figures: Vec<Figure>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) marks: Vec<Mark>,
}

impl Run {
    /// The value of a figure.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }
}

/// The values that a figure may have; both ends are right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    #[serde(default)]
    pub(crate) min: Option<f64>,
    #[serde(default)]
    pub(crate) max: Option<f64>,
}

/// A figure, and what it should be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    /// Not a number where it was expected and could not be measured; JSON has null for that.
    #[serde(deserialize_with = "number_or_null")]
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) expected: Option<Range>,
}

impl Figure {
    /// Whether it is in its range; what is not a number is in none.
    pub(crate) fn is_right(&self) -> bool {
        let Some(Range { min, max }) = self.expected else { return true };
        !self.value.is_nan()
            && min.is_none_or(|min| self.value >= min)
            && max.is_none_or(|max| self.value <= max)
    }

    fn complaint(&self) -> String {
        let Self { name, value, unit, .. } = self;
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let range = self.expected.map(|range| range.to_string()).unwrap_or_default();
        if value.is_nan() {
            return format!("{name} was not measured, and should be {range}");
        }
        format!("{name} is {value}{unit}, and should be {range}")
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.min, self.max) {
            (Some(min), Some(max)) => write!(f, "from {min} to {max}"),
            (Some(min), None) => write!(f, "at least {min}"),
            (None, Some(max)) => write!(f, "at most {max}"),
            (None, None) => f.write_str("anything"),
        }
    }
}

fn number_or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Seconds since the run's start.
    pub(crate) at: f64,
    /// Such as "SQL away".
    pub(crate) label: String,
}

/// How things stood at a moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds since the run's start.
    pub(crate) at: f64,
    pub(crate) published: u64,
    pub(crate) committed: u64,
    /// Published and not yet committed or dead-lettered.
    pub(crate) lag: u64,
    pub(crate) dead_lettered: u64,
    /// Of the largest worker.
    pub(crate) rss_bytes: u64,
    pub(crate) reserved_bytes: u64,
    /// Of all workers, since their start.
    pub(crate) cpu_seconds: f64,
    pub(crate) writers_busy: f64,
    /// Of all workers together; not known until each of them has told its own.
    pub(crate) writers_limit: Option<f64>,
    pub(crate) workers: usize,
    /// Of what was committed since the sample before.
    pub(crate) latency: Option<Latency>,
}

/// From the publishing of an event until the commit of its row, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, min: Option<f64>, max: Option<f64>) -> Figure {
        Figure { name: "a".into(), value, unit: "s".into(), expected: Some(Range { min, max }) }
    }

    #[test]
    fn a_figure_is_right_within_its_range_ends_included() {
        assert!(figure(1.0, Some(1.0), Some(2.0)).is_right());
        assert!(figure(2.0, Some(1.0), Some(2.0)).is_right());
        assert!(!figure(0.9, Some(1.0), None).is_right());
        assert!(!figure(2.1, None, Some(2.0)).is_right());
        assert!(figure(2.1, None, None).is_right());
        assert!(Figure { expected: None, ..figure(f64::NAN, None, None) }.is_right());
    }

    #[test]
    fn what_was_not_measured_is_wrong_where_it_is_expected_and_survives_json() {
        let missing = figure(f64::NAN, None, Some(2.0));
        assert!(!missing.is_right());
        assert_eq!(missing.complaint(), "a was not measured, and should be at most 2");
        let text = serde_json::to_string(&missing).unwrap();
        let read: Figure = serde_json::from_str(&text).unwrap();
        assert!(read.value.is_nan() && !read.is_right());
    }

    #[test]
    fn each_figure_out_of_range_is_said_with_its_run() {
        let run = |title: &str, value| Run {
            title: title.into(),
            figures: vec![figure(value, Some(1.0), Some(2.0)), figure(1.5, None, None)],
            samples: Vec::new(),
            marks: Vec::new(),
        };
        let report = Report {
            scenario: "s".into(),
            description: String::new(),
            started_at: String::new(),
            machine: Machine { cores: 1, memory_bytes: 1, kernel: String::new() },
            settings: BTreeMap::new(),
            runs: vec![run("1 worker", 1.0), run("2 workers", 3.0)],
        };
        assert_eq!(report.wrong(), ["2 workers: a is 3 s, and should be from 1 to 2"]);
    }
}
