//! The axes of a plot: from where to where, and which values are named.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;

use super::format;
use super::series::Unit;

/// A logarithmic axis is worth its trouble where the largest value is so many times the smallest.
const LOGARITHMIC_FROM: f64 = 50.0;
/// Values that are named on an axis, at most.
const TICKS: f64 = 6.0;
/// Seconds between two named moments: what a clock has.
const TIME_STEPS: &[f64] = &[
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0,
    7200.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0,
];

/// An axis, as plotters takes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) range: Range<f64>,
    /// The values that are named.
    ticks: Vec<f64>,
    labels: Labels,
    logarithmic: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Labels {
    Numbers,
    Seconds,
    /// Each is so many bytes.
    Bytes(f64, &'static str),
    /// The seconds, and the name, of the unit in which moments are counted.
    Clock(f64, &'static str),
}

impl Axis {
    /// The axis of values for all `values`, which are numbers.
    pub(super) fn of_values(values: impl Iterator<Item = f64>, unit: Unit) -> Self {
        let (min, max) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| (min.min(value), max.max(value)));
        if unit == Unit::Seconds && min > 0.0 && max / min >= LOGARITHMIC_FROM {
            return Self::logarithmic(min, max);
        }
        let (min, max) = (min.min(0.0), if max > 0.0 { max } else { 1.0 });
        let labels = match unit {
            Unit::Seconds => Labels::Seconds,
            Unit::Bytes => match max / format::MEBIBYTE {
                size if size >= 2048.0 => Labels::Bytes(format::MEBIBYTE * 1024.0, "GiB"),
                size if size >= 1.0 => Labels::Bytes(format::MEBIBYTE, "MiB"),
                _ => Labels::Bytes(format::MEBIBYTE / 1024.0, "KiB"),
            },
            Unit::PerSecond | Unit::Count | Unit::Number => Labels::Numbers,
        };
        let divisor = if let Labels::Bytes(divisor, _) = labels { divisor } else { 1.0 };
        let least = if unit == Unit::Count { 1.0 } else { 0.0 };
        let step = round_step((max - min) / divisor).max(least) * divisor;
        let (first, last) = ((min / step).floor(), (max / step).ceil());
        Self {
            range: first * step..last * step,
            ticks: multiples(first, last, step),
            labels,
            logarithmic: false,
        }
    }

    fn logarithmic(min: f64, max: f64) -> Self {
        let (first, last) = (min.log10().floor(), max.log10().ceil());
        let step = ((last - first) / TICKS).ceil();
        let ticks = multiples((first / step).ceil(), (last / step).floor(), step);
        Self {
            range: 10_f64.powf(first)..10_f64.powf(last),
            ticks: ticks.into_iter().map(|tick| 10_f64.powf(tick)).collect(),
            labels: Labels::Seconds,
            logarithmic: true,
        }
    }

    /// The axis of time. `moments` may be none.
    pub(super) fn of_time(moments: impl Iterator<Item = f64>) -> Self {
        let (from, to) = moments
            .filter(|moment| moment.is_finite())
            .fold((0.0, 0.0), |(from, to): (f64, f64), at| (from.min(at), to.max(at)));
        let to = if to > from { to } else { from + 1.0 };
        let enough = |step: f64| (to - from) / step <= TICKS;
        let step = TIME_STEPS.iter().copied().find(|step| enough(*step));
        let step = step.unwrap_or_else(|| ((to - from) / 86_400.0 / TICKS).ceil() * 86_400.0);
        let labels = match step {
            step if step < 60.0 => Labels::Clock(1.0, "s"),
            step if step < 3600.0 => Labels::Clock(60.0, "min"),
            step if step < 86_400.0 => Labels::Clock(3600.0, "h"),
            _ => Labels::Clock(86_400.0, "d"),
        };
        let ticks = multiples((from / step).ceil(), (to / step).floor(), step);
        Self { range: from..to, ticks, labels, logarithmic: false }
    }

    /// What stands at a tick.
    fn label(&self, value: f64) -> String {
        match self.labels {
            Labels::Numbers => format::compact(value),
            Labels::Bytes(divisor, _) => format::compact(value / divisor),
            Labels::Clock(divisor, unit) => format!("{} {unit}", format::compact(value / divisor)),
            Labels::Seconds => match value {
                0.0 => "0".to_owned(),
                value if value >= 1.0 => format!("{} s", format::number(value)),
                value if value >= 1e-3 => format!("{} ms", format::compact(value * 1e3)),
                value => format!("{} µs", format::compact(value * 1e6)),
            },
        }
    }

    /// What a reader has to know of the axis beside its labels.
    pub(super) fn told(&self) -> Option<&'static str> {
        match self.labels {
            Labels::Bytes(_, unit) => Some(unit),
            _ if self.logarithmic => Some("logarithmic"),
            _ => None,
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let position = |value: f64| if self.logarithmic { value.log10() } else { value };
        let range = position(self.range.start)..position(self.range.end);
        RangedCoordf64::from(range).map(&position(*value), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // asked for twice, for bold lines and for light ones: there are no light ones
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

/// The round number that divides `span` into at most five parts.
fn round_step(span: f64) -> f64 {
    let least = span / 5.0;
    let magnitude = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0].map(|step| step * magnitude).into_iter().find(|step| *step >= least);
    step.unwrap_or(10.0 * magnitude)
}

fn multiples(first: f64, last: f64, step: f64) -> Vec<f64> {
    // at most a few: the step was chosen so
    std::iter::successors(Some(first), |multiple| Some(multiple + 1.0))
        .take_while(|multiple| *multiple <= last)
        .map(|multiple| multiple * step)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn values_have_round_ticks_from_zero_to_beyond_the_largest() {
        let cases = [
            (vec![0.0, 1e9], Unit::PerSecond, vec!["0", "200 M", "400 M", "600 M", "800 M", "1 G"]),
            (vec![251_234.0, 3.0], Unit::PerSecond, vec!["0", "100 k", "200 k", "300 k"]),
            (vec![0.003], Unit::Number, vec!["0", "0.001", "0.002", "0.003"]),
            (vec![2.0], Unit::Number, vec!["0", "0.5", "1", "1.5", "2"]),
            (vec![2.0], Unit::Count, vec!["0", "1", "2"]),
            (vec![0.2, 0.05], Unit::Seconds, vec!["0", "50 ms", "100 ms", "150 ms", "200 ms"]),
            (vec![0.0], Unit::Count, vec!["0", "1"]),
            (vec![], Unit::PerSecond, vec!["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ];
        for (values, unit, expected) in cases {
            let axis = Axis::of_values(values.iter().copied(), unit);
            assert_eq!(labels(&axis), expected, "{values:?}");
            assert!(
                values.iter().all(|value| axis.range.start <= *value && *value <= axis.range.end),
                "{axis:?}"
            );
        }
    }

    #[test]
    fn bytes_are_counted_in_the_unit_that_suits_the_largest() {
        let cases = [
            (200.0 * 1024.0, "KiB"),
            (300.0 * format::MEBIBYTE, "MiB"),
            (20_000.0 * format::MEBIBYTE, "GiB"),
        ];
        for (size, unit) in cases {
            assert_eq!(Axis::of_values([size].into_iter(), Unit::Bytes).told(), Some(unit));
        }
        let axis = Axis::of_values([300.0 * format::MEBIBYTE].into_iter(), Unit::Bytes);
        assert_eq!(labels(&axis), ["0", "100", "200", "300"]);
    }

    #[test]
    fn latencies_far_apart_have_a_logarithmic_axis() {
        let axis = Axis::of_values([0.004, 12.0].into_iter(), Unit::Seconds);
        assert_eq!(axis.told(), Some("logarithmic"));
        assert_eq!(labels(&axis), ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"]);
        let far = Axis::of_values([0.5, 900.0].into_iter(), Unit::Seconds);
        assert_eq!(labels(&far), ["100 ms", "1 s", "10 s", "100 s", "1,000 s"]);
        let near = Axis::of_values([0.004, 0.19].into_iter(), Unit::Seconds);
        assert_eq!(near.told(), None);
        // zero has no logarithm
        assert_eq!(Axis::of_values([0.0, 12.0].into_iter(), Unit::Seconds).told(), None);
        let wide = Axis::of_values([1e-9, 1e6].into_iter(), Unit::Seconds);
        assert!((3..=7).contains(&wide.ticks.len()), "{wide:?}");
    }

    #[test]
    fn time_has_the_steps_of_a_clock() {
        let cases = [
            (vec![], vec!["0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1 s"]),
            (vec![0.25], vec!["0 s", "0.1 s", "0.2 s"]),
            (vec![2.0, f64::NAN], vec!["0 s", "0.5 s", "1 s", "1.5 s", "2 s"]),
            (vec![100.0], vec!["0 s", "20 s", "40 s", "60 s", "80 s", "100 s"]),
            (vec![600.0], vec!["0 min", "2 min", "4 min", "6 min", "8 min", "10 min"]),
            (vec![7300.0], vec!["0 min", "30 min", "60 min", "90 min", "120 min"]),
            (vec![1_000_000.0], vec!["0 d", "2 d", "4 d", "6 d", "8 d", "10 d"]),
            (vec![-3.0, 7.0], vec!["-2 s", "0 s", "2 s", "4 s", "6 s"]),
        ];
        for (moments, expected) in cases {
            assert_eq!(labels(&Axis::of_time(moments.iter().copied())), expected, "{moments:?}");
        }
    }
}
