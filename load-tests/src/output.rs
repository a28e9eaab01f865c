//! What a run looks like on a terminal, and the middle of several.

use indicatif::{HumanBytes, HumanCount};

use crate::figures::median;
use crate::report::{Figure, Run};

/// A run's figures, a line each.
pub(crate) fn lines(run: &Run) -> Vec<String> {
    let width = run.figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
    let line = |figure: &Figure| {
        let verdict = match &figure.expected {
            None => String::new(),
            Some(range) if figure.is_right() => format!("  ok, {range}"),
            Some(range) => format!("  WRONG, should be {range}"),
        };
        format!("  {:<width$}  {:>16}{verdict}", figure.name, value(figure))
    };
    std::iter::once(run.title.clone()).chain(run.figures.iter().map(line)).collect()
}

fn value(figure: &Figure) -> String {
    let Figure { value, unit, .. } = figure;
    if value.is_nan() {
        return "not measured".to_owned();
    }
    // a figure for people; what is below 0 has a line of its own below
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = value.abs().round() as u64;
    let sign = if *value < 0.0 { "-" } else { "" };
    if unit.starts_with("bytes") {
        return format!("{sign}{}{}", HumanBytes(whole), unit.trim_start_matches("bytes"));
    }
    let number = if value.abs() >= 1_000.0 || value.fract() == 0.0 {
        format!("{sign}{}", HumanCount(whole))
    } else {
        format!("{value:.3}")
    };
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// The medians of several runs of one kind, figure by figure; nothing where there is one run alone. Each keeps its
/// range, and the runs themselves are in the report as well.
pub(crate) fn medians(runs: &[Run], title: &str) -> Option<Run> {
    let [first, _, ..] = runs else { return None };
    let middle = |figure: &Figure| {
        let values: Vec<f64> = runs
            .iter()
            .flat_map(|run| run.figures.iter().filter(|other| other.name == figure.name))
            .map(|figure| figure.value)
            .collect();
        Figure { value: median(&values).unwrap_or(f64::NAN), ..figure.clone() }
    };
    Some(Run {
        title: format!("{title}, median of {}", runs.len()),
        figures: first.figures.iter().map(middle).collect(),
        samples: Vec::new(),
        marks: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Range;

    fn run(value: f64) -> Run {
        let figure = |name: &str, value, unit: &str| Figure {
            name: name.into(),
            value,
            unit: unit.into(),
            expected: Some(Range { min: None, max: Some(2.0) }),
        };
        Run {
            title: "repeat".into(),
            figures: vec![figure("seconds", value, "s"), figure("rss", 2_097_152.0, "bytes")],
            samples: Vec::new(),
            marks: Vec::new(),
        }
    }

    #[test]
    fn medians_are_of_each_figure_and_only_of_several_runs() {
        let median = medians(&[run(3.0), run(1.0), run(2.0)], "1 worker").unwrap();
        assert_eq!(median.title, "1 worker, median of 3");
        assert_eq!(median.value("seconds"), Some(2.0));
        assert!(median.figures[0].is_right());
        assert!(medians(&[run(1.0)], "1 worker").is_none());
        assert!(medians(&[], "1 worker").is_none());
    }

    #[test]
    fn a_line_says_the_figure_and_whether_it_is_right() {
        let lines = lines(&run(2.5));
        assert_eq!(lines[0], "repeat");
        assert!(lines[1].contains("2.500 s") && lines[1].contains("WRONG, should be at most 2"), "{lines:?}");
        assert!(lines[2].contains("2.00 MiB"), "{lines:?}");
    }
}
