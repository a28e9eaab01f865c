//! From what was measured to the figures of a report.

use crate::account::Account;
use crate::baseline::Baselines;
use crate::events::Good;
use crate::figures;
use crate::model;
use crate::report::{Figure, Latency, Mark, Run, Sample};
use crate::scenario::Scenario;
use crate::stand::sql_process::Counts;
use crate::timeline::Happened;

/// Everything that one run has measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) account: Account,
    /// What the SQL server has counted, where it is the run's own.
    pub(crate) counts: Option<Counts>,
    pub(crate) good: Good,
    pub(crate) published: u64,
    pub(crate) dead_letters: u64,
    pub(crate) redelivered: f64,
    pub(crate) sql_errors: f64,
    pub(crate) latency: Option<Latency>,
    pub(crate) seconds: f64,
    pub(crate) publish_seconds: f64,
    pub(crate) nats_cpu_seconds: Option<f64>,
    pub(crate) sql_cpu_seconds: Option<f64>,
    pub(crate) peak_rss_bytes: u64,
    pub(crate) samples: Vec<Sample>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) faults: Vec<Happened>,
    pub(crate) baselines: Option<Baselines>,
    pub(crate) cores: usize,
}

impl Measured {
    /// The run's part of a report.
    pub(crate) fn into_run(self, title: &str, scenario: &Scenario) -> Run {
        let values = self.values();
        Run {
            title: title.to_owned(),
            figures: with_expected(&values, scenario),
            samples: self.samples,
            marks: self.marks,
        }
    }

    fn values(&self) -> Vec<(&'static str, f64)> {
        let Self { account, good, .. } = self;
        let bad = self.published.saturating_sub(good.count);
        let rows_per_second = number(account.rows) / self.seconds;
        let mut values = vec![
            ("published", number(self.published)),
            ("published_per_second", number(self.published) / self.publish_seconds),
            ("rows_in_table", number(account.rows)),
            ("missing", number(account.missing)),
            ("duplicates", number(account.duplicates)),
            ("dead_lettered", number(self.dead_letters)),
            ("dead_letters_missing", number(bad.saturating_sub(self.dead_letters))),
            ("redelivered", self.redelivered),
            ("sql_errors", self.sql_errors),
            ("seconds", self.seconds),
            ("rows_per_second", rows_per_second),
            ("peak_rss_bytes", number(self.peak_rss_bytes)),
        ];
        values.extend(self.goodput().map(|rate| ("goodput", rate)));
        if let Some(latency) = self.latency {
            values.push(("latency_p50", latency.p50));
            values.push(("latency_p90", latency.p90));
            values.push(("latency_p99", latency.p99));
        }
        let peak_reserved = self.samples.iter().map(|sample| sample.reserved_bytes).max();
        values.push(("peak_reserved_bytes", number(peak_reserved.unwrap_or_default())));
        values.extend(self.processor_time());
        values.extend(self.writers());
        values.extend(self.database_counts());
        values.extend(self.return_to_full_speed().map(|s| ("seconds_until_full_speed", s)));
        values.extend(figures::memory_slope(&self.samples).map(|s| ("memory_slope_bytes_per_minute", s)));
        if let Some(baselines) = &self.baselines {
            values.extend(baselines.values());
            values.extend(baselines.beside_the_sink(rows_per_second, self.cores));
        }
        values
    }

    /// Rows committed a second while something went wrong; where nothing did, all events that have a row, a second.
    fn goodput(&self) -> Option<f64> {
        let Some((from, to)) = span(&self.faults) else {
            return Some(number(self.account.rows - self.account.duplicates) / self.seconds);
        };
        figures::committed_per_second(&self.samples, from, to)
    }

    fn processor_time(&self) -> Vec<(&'static str, f64)> {
        let workers = self.samples.iter().map(|sample| sample.cpu_seconds).fold(0.0, f64::max);
        let of = |name, seconds: Option<f64>| Some((name, model::per_million(seconds?, self.good.count)?));
        [
            of("cpu_seconds_per_million", Some(workers)),
            of("nats_cpu_seconds_per_million", self.nats_cpu_seconds),
            of("sql_cpu_seconds_per_million", self.sql_cpu_seconds),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The least and the most of the limit that the workers told, and how it followed what went wrong.
    fn writers(&self) -> Vec<(&'static str, f64)> {
        let limits = || self.samples.iter().filter_map(|sample| Some((sample.at, sample.writers_limit?)));
        let most = |from: f64, to: f64| {
            limits().filter(|(at, _)| (from..to).contains(at)).map(|(_, limit)| limit).reduce(f64::max)
        };
        let least = limits().map(|(_, limit)| limit).reduce(f64::min);
        let mut values = vec![("writers_min", least), ("writers_max", most(0.0, f64::INFINITY))];
        if let Some((from, to)) = span(&self.faults) {
            let under: Vec<f64> =
                limits().filter(|(at, _)| (from..to).contains(at)).map(|(_, limit)| limit).collect();
            values.push(("writers_before_faults", most(0.0, from)));
            values.push(("writers_under_faults", figures::median(&under)));
            values.push(("writers_after_faults", most(to, f64::INFINITY)));
        }
        values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn database_counts(&self) -> Vec<(&'static str, f64)> {
        let Some(counts) = self.counts else { return Vec::new() };
        let share = |name, part: u64, all: u64| (all > 0).then(|| (name, number(part) / number(all)));
        [
            share(
                "share_of_rows_in_loads_of_102400",
                counts.rows_committed_in_large_loads,
                counts.rows_committed,
            ),
            share("useful_share_of_loads", counts.loads_committed, counts.loads_begun),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn return_to_full_speed(&self) -> Option<f64> {
        let outage: Vec<Happened> =
            self.faults.iter().filter(|fault| fault.fault.sql_away).cloned().collect();
        let (away, back) = span(&outage)?;
        figures::seconds_until_full_speed(&self.samples, away, back)
    }
}

/// From the first fault's beginning to the last one's end, in seconds.
fn span(faults: &[Happened]) -> Option<(f64, f64)> {
    let from = faults.iter().map(|fault| fault.from).reduce(f64::min)?;
    let to = faults.iter().map(|fault| fault.to).reduce(f64::max)?;
    Some((from, to))
}

/// The figures with their units and ranges; what is expected and was not measured is among them, without a value.
pub(crate) fn with_expected(values: &[(&'static str, f64)], scenario: &Scenario) -> Vec<Figure> {
    let figure = |name: &str, value| Figure {
        name: name.to_owned(),
        value,
        unit: figures::unit(name).unwrap_or_default().to_owned(),
        expected: scenario.expect.get(name).copied(),
    };
    let mut figures: Vec<Figure> = values.iter().map(|(name, value)| figure(name, *value)).collect();
    let missing = scenario.expect.keys().filter(|name| values.iter().all(|(known, _)| known != name));
    figures.extend(missing.map(|name| figure(name, f64::NAN)));
    figures
}

#[allow(clippy::cast_precision_loss)] // numbers of events and bytes are far below 2^53
fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Range;
    use crate::scenario::Plan;

    fn scenario(name: &str) -> Scenario {
        Plan::load(name).unwrap().variants.remove(0).1
    }

    fn measured() -> Measured {
        Measured {
            account: Account { rows: 900, missing: 0, duplicates: 0, is_strange: false },
            counts: Some(Counts {
                loads_begun: 5,
                rows_committed: 900,
                rows_committed_in_large_loads: 450,
                loads_committed: 2,
                rows_inserted_and_discarded: 0,
            }),
            good: Good { count: 900, sum: 0, last: 1_000 },
            published: 1_000,
            dead_letters: 60,
            redelivered: 0.0,
            sql_errors: 0.0,
            latency: Some(Latency { p50: 0.5, p90: 0.9, p99: 1.0 }),
            seconds: 3.0,
            publish_seconds: 2.0,
            nats_cpu_seconds: Some(0.9),
            sql_cpu_seconds: None,
            peak_rss_bytes: 7,
            samples: vec![
                Sample { workers: 1, writers_limit: None, ..Sample::default() },
                Sample { at: 1.0, cpu_seconds: 1.0, writers_limit: Some(4.0), ..Sample::default() },
                Sample { at: 2.0, cpu_seconds: 1.8, writers_limit: Some(2.0), ..Sample::default() },
            ],
            marks: Vec::new(),
            faults: Vec::new(),
            baselines: None,
            cores: 2,
        }
    }

    #[test]
    fn figures_follow_from_what_was_measured_and_only_from_that() {
        let run = measured().into_run("1 worker", &scenario("steady"));
        for (name, value) in [
            ("rows_per_second", 300.0),
            ("goodput", 300.0),
            ("published_per_second", 500.0),
            ("dead_letters_missing", 40.0),
            ("share_of_rows_in_loads_of_102400", 0.5),
            ("useful_share_of_loads", 0.4),
            ("cpu_seconds_per_million", 2_000.0),
            ("nats_cpu_seconds_per_million", 1_000.0),
            ("writers_min", 2.0),
            ("writers_max", 4.0),
        ] {
            let found = run.value(name).unwrap();
            assert!((found - value).abs() < 1e-9, "{name}: {found}");
        }
        for name in ["sql_cpu_seconds_per_million", "seconds_until_full_speed"] {
            assert_eq!(run.value(name), None, "{name}");
        }
        assert!(run.figures.iter().all(|figure| figures::unit(&figure.name).is_some()));
    }

    #[test]
    fn writers_are_told_before_under_and_after_faults() {
        let mut measured = measured();
        let limits = [(1.0, 2.0), (2.0, 8.0), (3.0, 5.0), (4.0, 3.0), (5.0, 3.0), (6.0, 4.0), (7.0, 6.0)];
        measured.samples = limits
            .iter()
            .map(|(at, limit)| Sample { at: *at, writers_limit: Some(*limit), ..Sample::default() })
            .collect();
        measured.faults = vec![Happened { fault: scenario("throttled").fault.remove(0), from: 2.5, to: 5.5 }];
        let run = measured.into_run("1 worker", &scenario("throttled"));
        for (name, value) in
            [("writers_before_faults", 8.0), ("writers_under_faults", 3.0), ("writers_after_faults", 6.0)]
        {
            let found = run.value(name).unwrap();
            assert!((found - value).abs() < 1e-9, "{name}: {found}");
        }
    }

    #[test]
    fn what_is_expected_and_not_measured_is_wrong() {
        let mut scenario = scenario("steady");
        let name = "seconds_until_full_speed";
        scenario.expect.insert(name.to_owned(), Range { min: Some(1.0), max: None });
        let run = measured().into_run("1 worker", &scenario);
        let figure = run.figures.iter().find(|figure| figure.name == name).unwrap();
        assert!(figure.value.is_nan() && !figure.is_right());
    }
}
