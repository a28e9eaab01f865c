//! Every figure by its name and unit, and how those are computed that want more than a sum.

use crate::report::{Latency, Mark, Sample};

/// Every figure that a report may have, and its unit.
const FIGURES: &[(&str, &str)] = &[
    ("published", "events"),
    ("published_per_second", "events/s"),
    ("rows_in_table", "rows"),
    ("missing", "events"),
    ("duplicates", "rows"),
    ("dead_lettered", "events"),
    ("dead_letters_missing", "events"),
    ("redelivered", "events"),
    ("sql_errors", "errors"),
    ("seconds", "s"),
    ("rows_per_second", "rows/s"),
    ("goodput", "rows/s"),
    ("useful_share_of_loads", ""),
    ("share_of_rows_in_loads_of_102400", ""),
    ("latency_p50", "s"),
    ("latency_p90", "s"),
    ("latency_p99", "s"),
    ("peak_rss_bytes", "bytes"),
    ("peak_reserved_bytes", "bytes"),
    ("cpu_seconds_per_million", "s"),
    ("nats_cpu_seconds_per_million", "s"),
    ("sql_cpu_seconds_per_million", "s"),
    ("writers_min", "writers"),
    ("writers_max", "writers"),
    ("writers_before_faults", "writers"),
    ("writers_under_faults", "writers"),
    ("writers_after_faults", "writers"),
    ("seconds_until_full_speed", "s"),
    ("memory_slope_bytes_per_minute", "bytes/min"),
    ("raw_drain_explicit", "events/s"),
    ("raw_drain_explicit_cpu_seconds_per_million", "s"),
    ("raw_drain_ack_all", "events/s"),
    ("raw_drain_ack_all_cpu_seconds_per_million", "s"),
    ("raw_drain_none", "events/s"),
    ("raw_drain_none_cpu_seconds_per_million", "s"),
    ("raw_drain_none_filtered", "events/s"),
    ("raw_drain_none_filtered_cpu_seconds_per_million", "s"),
    ("decode_one_core", "events/s"),
    ("decode_cpu_seconds_per_million", "s"),
    ("decode_arrow_json_one_core", "events/s"),
    ("load_one_connection", "rows/s"),
    ("load_cpu_seconds_per_million", "s"),
    ("load_tiberius_one_connection", "rows/s"),
    ("load_tiberius_cpu_seconds_per_million", "s"),
    ("ratio_to_raw_drain_explicit", ""),
    ("ratio_to_raw_drain_none", ""),
    ("ratio_to_python_bulk", ""),
    ("ratio_to_best_peer", ""),
    ("ceiling_explicit", ""),
    ("ceiling_none", ""),
    ("ceiling_events_per_second", "events/s"),
];

/// The unit of a figure; `None` where there is no such figure.
pub(crate) fn unit(name: &str) -> Option<&'static str> {
    FIGURES.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit)
}

/// A histogram's buckets: upper bounds, and how many observations are at or below each.
pub(crate) type Buckets = Vec<(f64, f64)>;

/// What was observed between two looks at a histogram.
pub(crate) fn since(before: &Buckets, now: &Buckets) -> Buckets {
    let count_before = |bound: f64| before.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
    now.iter()
        .map(|(bound, count)| (*bound, count - count_before(*bound).map_or(0.0, |(_, count)| *count)))
        .collect()
}

/// The percentiles of a histogram; `None` where nothing was observed.
pub(crate) fn latency(buckets: &Buckets) -> Option<Latency> {
    Some(Latency {
        p50: quantile(buckets, 0.50)?,
        p90: quantile(buckets, 0.90)?,
        p99: quantile(buckets, 0.99)?,
    })
}

/// A quantile of a histogram as Prometheus' `histogram_quantile` has it: within a bucket observations are taken to be
/// evenly spread, from 0 on in the first one, and what is above the last bound is told as that bound.
pub(crate) fn quantile(buckets: &Buckets, share: f64) -> Option<f64> {
    let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let rank = share * all;
    let (mut bound_below, mut count_below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            if bound.is_infinite() {
                return Some(bound_below);
            }
            let within = count - count_below;
            let part = if within > 0.0 { (rank - count_below) / within } else { 1.0 };
            return Some(bound_below + (bound - bound_below) * part);
        }
        (bound_below, count_below) = (*bound, *count);
    }
    Some(bound_below)
}

/// The middle one of some values; the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(sorted.len() / 2 - 1).map(|lower| f64::midpoint(*lower, upper))
}

/// The slope of the line that is nearest to some points, by least squares; `None` where there are not two of them that
/// differ in x.
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // a number of samples
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let together: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (spread > 0.0).then(|| together / spread)
}

/// What warms up until then says nothing about growth.
const WARM_SECONDS: f64 = 120.0;

/// How fast the largest worker's memory grows, in bytes a minute, after the first two minutes; `None` of a run that is
/// not longer.
pub(crate) fn memory_slope(samples: &[Sample]) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // bytes of a process are far below 2^53
    let points: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| sample.at >= WARM_SECONDS && sample.workers > 0)
        .map(|sample| (sample.at / 60.0, sample.rss_bytes as f64))
        .collect();
    slope(&points)
}

/// As fast as before is at least this part of the median.
const FULL_SPEED: f64 = 0.8;

/// How long after the return of the database, at `back`, it takes until in one interval between samples as much is
/// committed a second as 80% of the median of the intervals before it went, at `away`. Intervals in which nothing was
/// committed before, as at the start, do not count. `None` where there is nothing to compare with, or it never happens.
pub(crate) fn seconds_until_full_speed(samples: &[Sample], away: f64, back: f64) -> Option<f64> {
    let rates = rates(samples);
    let before: Vec<f64> =
        rates.iter().filter(|(at, rate)| *at <= away && *rate > 0.0).map(|(_, rate)| *rate).collect();
    let full = FULL_SPEED * median(&before)?;
    rates.iter().find(|(at, rate)| *at > back && *rate >= full).map(|(at, _)| at - back)
}

/// The rows committed a second in each interval between samples, with the interval's end.
fn rates(samples: &[Sample]) -> Vec<(f64, f64)> {
    samples
        .windows(2)
        .filter_map(|pair| {
            let [one, other] = pair else { return None };
            let seconds = other.at - one.at;
            #[allow(clippy::cast_precision_loss)] // numbers of events are far below 2^53
            let rows = other.committed.saturating_sub(one.committed) as f64;
            (seconds > 0.0).then(|| (other.at, rows / seconds))
        })
        .collect()
}

/// The rows committed a second from one moment to another, by the samples nearest to them; `None` where the two are
/// one.
pub(crate) fn committed_per_second(samples: &[Sample], from: f64, to: f64) -> Option<f64> {
    let nearest =
        |at: f64| samples.iter().min_by(|one, other| (one.at - at).abs().total_cmp(&(other.at - at).abs()));
    let (first, last) = (nearest(from)?, nearest(to)?);
    let seconds = last.at - first.at;
    #[allow(clippy::cast_precision_loss)] // numbers of events are far below 2^53
    let rows = last.committed.saturating_sub(first.committed) as f64;
    (seconds > 0.0).then(|| rows / seconds)
}

/// A mark.
pub(crate) fn mark(at: f64, label: impl Into<String>) -> Mark {
    Mark { at, label: label.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    fn committed(counts: &[u64]) -> Vec<Sample> {
        let sample = |(index, count): (usize, &u64)| Sample {
            at: f64::from(u32::try_from(index).unwrap()),
            committed: *count,
            workers: 1,
            ..Sample::default()
        };
        counts.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn names_of_figures_are_unique_and_have_a_unit() {
        for (index, (name, unit_of)) in FIGURES.iter().enumerate() {
            assert!(FIGURES.iter().skip(index + 1).all(|(other, _)| other != name), "{name}");
            assert_eq!(unit(name), Some(*unit_of));
        }
        assert_eq!(unit("nothing"), None);
    }

    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let buckets = vec![(0.1, 50.0), (0.2, 90.0), (0.4, 100.0), (f64::INFINITY, 100.0)];
        assert!(close(quantile(&buckets, 0.5).unwrap(), 0.1));
        assert!(close(quantile(&buckets, 0.25).unwrap(), 0.05));
        assert!(close(quantile(&buckets, 0.7).unwrap(), 0.15));
        assert!(close(quantile(&buckets, 0.95).unwrap(), 0.3));
        // nobody knows how far above the last bound it is
        let above = vec![(0.1, 1.0), (f64::INFINITY, 100.0)];
        assert!(close(quantile(&above, 0.99).unwrap(), 0.1));
        assert_eq!(quantile(&vec![(0.1, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
        assert_eq!(quantile(&Vec::new(), 0.5), None);
    }

    #[test]
    fn an_interval_has_its_own_latency() {
        let before = vec![(0.1, 100.0), (1.0, 100.0), (f64::INFINITY, 100.0)];
        let now = vec![(0.1, 100.0), (1.0, 110.0), (f64::INFINITY, 110.0)];
        assert_eq!(since(&before, &now), [(0.1, 0.0), (1.0, 10.0), (f64::INFINITY, 10.0)]);
        assert!(latency(&since(&before, &now)).unwrap().p50 > 0.1);
        assert!(latency(&now).unwrap().p50 < 0.1);
        assert_eq!(latency(&since(&now, &now)), None);
        assert_eq!(since(&Vec::new(), &now), now);
    }

    #[test]
    fn the_median_is_the_middle_value() {
        assert_eq!(median(&[]), None);
        assert!(close(median(&[3.0, 1.0, 2.0]).unwrap(), 2.0));
        assert!(close(median(&[4.0, 1.0, 2.0, 3.0]).unwrap(), 2.5));
        assert!(close(median(&[f64::NAN, 7.0]).unwrap(), 7.0));
    }

    #[test]
    fn the_slope_is_that_of_the_nearest_line() {
        assert!(close(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]).unwrap(), 2.0));
        // the outer points pull alike
        assert!(close(slope(&[(0.0, 1.0), (1.0, -5.0), (2.0, 1.0)]).unwrap(), 0.0));
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(slope(&[]), None);
    }

    #[test]
    fn growth_of_memory_counts_after_the_first_two_minutes() {
        let sample = |at: f64, rss_bytes| Sample { at, rss_bytes, workers: 1, ..Sample::default() };
        let mut samples = vec![sample(0.0, 10), sample(60.0, 900_000)];
        assert_eq!(memory_slope(&samples), None);
        samples.extend([sample(120.0, 1_000_000), sample(180.0, 1_001_000), sample(240.0, 1_002_000)]);
        assert!(close(memory_slope(&samples).unwrap(), 1000.0));
    }

    #[test]
    fn full_speed_is_eighty_percent_of_the_median_before() {
        // 100 a second before, away from 4 to 7, then 50, 80 and 100
        let samples = committed(&[0, 0, 100, 200, 300, 300, 300, 300, 350, 430, 530]);
        let seconds = seconds_until_full_speed(&samples, 4.0, 7.0).unwrap();
        assert!(close(seconds, 2.0), "{seconds}");
        // never again
        let samples = committed(&[0, 100, 200, 200, 200, 210, 220]);
        assert_eq!(seconds_until_full_speed(&samples, 2.0, 4.0), None);
        // nothing before
        assert_eq!(seconds_until_full_speed(&committed(&[0, 0, 0, 10]), 1.0, 2.0), None);
    }

    #[test]
    fn rows_are_counted_between_the_nearest_samples() {
        let samples = committed(&[0, 100, 300, 600]);
        assert!(close(committed_per_second(&samples, 0.9, 3.2).unwrap(), 250.0));
        assert_eq!(committed_per_second(&samples, 1.0, 1.2), None);
        assert_eq!(committed_per_second(&[], 0.0, 1.0), None);
    }
}
