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

/// The runs of one kind as a report has them: a single one as it is; of several the medians first, which alone are
/// judged, and then the runs themselves.
pub(crate) fn of_one_kind(runs: &[Run], title: &str) -> Vec<Run> {
    if runs.len() < 2 {
        return runs.to_vec();
    }
    std::iter::once(medians(runs, title)).chain(runs.iter().map(not_judged)).collect()
}

/// A run whose figures nothing is expected of: one of several, of which the medians are judged.
pub(crate) fn not_judged(run: &Run) -> Run {
    let figure = |figure: &Figure| Figure { expected: None, ..figure.clone() };
    Run { figures: run.figures.iter().map(figure).collect(), ..run.clone() }
}

/// The medians, figure by figure, of those figures that every run has. Where nothing is to be lost or doubled a median
/// would hide the run in which it was: of a figure that should be 0 the greatest counts.
fn medians(runs: &[Run], title: &str) -> Run {
    let mut figures: Vec<Figure> = Vec::new();
    for figure in runs.iter().flat_map(|run| &run.figures) {
        if figures.iter().any(|known| known.name == figure.name) {
            continue;
        }
        let values: Option<Vec<f64>> =
            runs.iter().map(|run| run.value(&figure.name).filter(|value| !value.is_nan())).collect();
        let should_be_nothing = figure.expected.is_some_and(|range| range.max == Some(0.0));
        let value = values.and_then(|values| match should_be_nothing {
            true => values.into_iter().reduce(f64::max),
            false => median(&values),
        });
        if value.is_some() || figure.expected.is_some() {
            figures.push(Figure { value: value.unwrap_or(f64::NAN), ..figure.clone() });
        }
    }
    Run {
        title: format!("{title}, median of {}", runs.len()),
        figures,
        samples: Vec::new(),
        marks: Vec::new(),
    }
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
    fn of_several_runs_the_medians_come_first_and_are_judged_alone() {
        let runs = of_one_kind(&[run(3.0), run(1.0), run(2.0)], "1 worker");
        let titles: Vec<&str> = runs.iter().map(|run| run.title.as_str()).collect();
        assert_eq!(titles, ["1 worker, median of 3", "repeat", "repeat", "repeat"]);
        assert_eq!(runs[0].value("seconds"), Some(2.0));
        assert!(runs[0].figures.iter().all(|figure| figure.expected.is_some()));
        assert!(runs[0].figures[0].is_right());
        // 3.0 is too much, but one run alone is not judged
        assert_eq!(runs[1].value("seconds"), Some(3.0));
        assert!(runs[1..].iter().flat_map(|run| &run.figures).all(|figure| figure.expected.is_none()));
    }

    #[test]
    fn a_single_run_is_judged_itself() {
        let runs = of_one_kind(&[run(3.0)], "1 worker");
        assert_eq!(runs.len(), 1);
        assert!(!runs[0].figures[0].is_right());
        assert!(of_one_kind(&[], "1 worker").is_empty());
    }

    #[test]
    fn what_should_be_nothing_has_no_median_that_hides_it() {
        let lost = |value| {
            let mut run = run(1.0);
            run.figures[0].expected = Some(Range { min: None, max: Some(0.0) });
            run.figures[0].value = value;
            run
        };
        let median = medians(&[lost(0.0), lost(7.0), lost(0.0)], "1 worker");
        assert_eq!(median.value("seconds"), Some(7.0));
        assert!(!median.figures[0].is_right());
    }

    #[test]
    fn what_one_run_did_not_measure_has_no_median() {
        let mut without = run(1.0);
        without.figures.remove(0);
        let median = medians(&[run(1.0), without.clone(), run(2.0)], "1 worker");
        assert!(median.value("seconds").is_some_and(f64::is_nan) && !median.figures[0].is_right());
        // and is not told where nothing was expected of it
        let runs = [without, not_judged(&run(1.0))];
        assert_eq!(medians(&runs, "1 worker").value("seconds"), None);
    }

    #[test]
    fn a_line_says_the_figure_and_whether_it_is_right() {
        let lines = lines(&run(2.5));
        assert_eq!(lines[0], "repeat");
        assert!(lines[1].contains("2.500 s") && lines[1].contains("WRONG, should be at most 2"), "{lines:?}");
        assert!(lines[2].contains("2.00 MiB"), "{lines:?}");
    }
}
