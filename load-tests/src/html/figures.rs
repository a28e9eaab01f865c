//! The table of figures, and the verdict over them.

use maud::{Markup, html};

use super::format;
use crate::report::{Figure, Report, Run};

/// How many figures there are of which something was expected, and which of them are wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) judged: usize,
    /// Each with the run that it is of, where there are several.
    pub(super) wrong: Vec<String>,
}

impl Verdict {
    pub(super) fn of(report: &Report) -> Self {
        let figures =
            || report.runs.iter().flat_map(|run| run.figures.iter().map(move |figure| (run, figure)));
        let told = |run: &Run, figure: &Figure| {
            let name = format::name(&figure.name, &figure.unit);
            let range = figure.expected.as_ref().map(|range| format::range(range, &figure.unit));
            let value = format::figure(figure);
            let told = format!("{name} is {value}, expected {}", range.unwrap_or_default());
            if report.runs.len() > 1 { format!("{}: {told}", run.title) } else { told }
        };
        Self {
            judged: figures().filter(|(_, figure)| figure.expected.is_some()).count(),
            wrong: figures()
                .filter(|(_, figure)| !figure.is_right())
                .map(|(run, figure)| told(run, figure))
                .collect(),
        }
    }

    /// The verdict in a sentence.
    pub(super) fn sentence(&self) -> String {
        match (self.judged, self.wrong.len()) {
            (0, _) => "No figure has an expected range, so none is judged.".to_owned(),
            (1, 0) => "The one figure that has an expected range is right.".to_owned(),
            (judged, 0) => format!("All {judged} figures that have an expected range are right."),
            (judged, 1) => format!("1 of {judged} figures that have an expected range is wrong:"),
            (judged, wrong) => format!("{wrong} of {judged} figures that have an expected range are wrong:"),
        }
    }
}

/// A row: the figures of one name and unit, one a run.
struct Row<'a> {
    name: &'a str,
    unit: &'a str,
    /// `None` where the run has no such figure.
    figures: Vec<Option<&'a Figure>>,
}

impl Row<'_> {
    fn present(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().copied().flatten()
    }

    /// The expected ranges, told once where all runs have the same.
    fn expected(&self, runs: &[Run]) -> String {
        let told: Vec<(&str, String)> = runs
            .iter()
            .zip(&self.figures)
            .filter_map(|(run, figure)| {
                let range = figure.as_ref()?.expected.as_ref()?;
                Some((run.title.as_str(), format::range(range, self.unit)))
            })
            .collect();
        match told.first() {
            None => "–".to_owned(),
            Some((_, first)) if told.iter().all(|(_, range)| range == first) => first.clone(),
            Some(_) => {
                let each: Vec<String> = told.iter().map(|(run, range)| format!("{run}: {range}")).collect();
                each.join("; ")
            }
        }
    }
}

/// The rows of the table, in the order in which the runs name them first.
fn rows(runs: &[Run]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        for figure in &run.figures {
            // a run that has two figures of one name has two rows
            let row = rows.iter_mut().find(|row| {
                row.name == figure.name && row.unit == figure.unit && row.figures[index].is_none()
            });
            if let Some(row) = row {
                row.figures[index] = Some(figure);
            } else {
                let mut figures = vec![None; runs.len()];
                figures[index] = Some(figure);
                rows.push(Row { name: &figure.name, unit: &figure.unit, figures });
            }
        }
    }
    rows
}

/// The table, with a column for each run. Of medians it knows nothing: where a report has some, they are a run.
pub(super) fn table(runs: &[Run]) -> Markup {
    let rows = rows(runs);
    if rows.is_empty() {
        return html! { p { "There are no figures." } };
    }
    html! {
        div.wide tabindex="0" role="region" aria-label="figures" {
            table {
                thead {
                    tr {
                        th scope="col" { "Figure" }
                        @if let [_] = runs { th.number scope="col" { "Value" } }
                        th scope="col" { "Verdict" }
                        th scope="col" { "Expected" }
                        @if runs.len() > 1 { @for run in runs { th.number scope="col" { (run.title) } } }
                    }
                }
                tbody { @for row in &rows { (table_row(row, runs)) } }
            }
        }
    }
}

fn table_row(row: &Row<'_>, runs: &[Run]) -> Markup {
    let several = runs.len() > 1;
    html! {
        tr {
            th scope="row" title=(row.name) { (format::name(row.name, row.unit)) }
            @if !several { (cell(row.figures.first().copied().flatten())) }
            td { (verdict(row)) }
            td { (row.expected(runs)) }
            @if several { @for figure in &row.figures { (cell(*figure)) } }
        }
    }
}

fn cell(figure: Option<&Figure>) -> Markup {
    let Some(figure) = figure else {
        return html! { td.number { "–" } };
    };
    let exact = format!("{} {}", figure.value, figure.unit);
    html! {
        td.number.wrong[!figure.is_right()] title=(exact.trim_end()) {
            (format::figure(figure))
            @if !figure.is_right() { "\u{a0}✗" }
        }
    }
}

fn verdict(row: &Row<'_>) -> Markup {
    let judged = row.present().filter(|figure| figure.expected.is_some()).count();
    let wrong = row.present().filter(|figure| !figure.is_right()).count();
    match (judged, wrong) {
        (0, _) => html! { "–" },
        (_, 0) => html! { span.right { "✓ right" } },
        (1, _) => html! { span.wrong { "✗ wrong" } },
        (judged, wrong) => html! { span.wrong { "✗ " (wrong) " of " (judged) " wrong" } },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Machine, Range};

    fn figure(name: &str, value: f64, min: Option<f64>) -> Figure {
        let expected = min.map(|min| Range { min: Some(min), max: None });
        Figure { name: name.to_owned(), value, unit: "rows/s".to_owned(), expected }
    }

    fn run(title: &str, figures: Vec<Figure>) -> Run {
        Run { title: title.to_owned(), figures, samples: vec![], marks: vec![] }
    }

    fn verdict(runs: Vec<Run>) -> Verdict {
        Verdict::of(&Report {
            scenario: String::new(),
            description: String::new(),
            started_at: String::new(),
            machine: Machine { cores: 1, memory_bytes: 0, kernel: String::new() },
            settings: std::collections::BTreeMap::new(),
            runs,
        })
    }

    #[test]
    fn a_verdict_names_what_is_wrong() {
        let verdict = verdict(vec![
            run(
                "repeat 1",
                vec![figure("rows_per_second", 120_000.0, Some(100_000.0)), figure("other", 1.0, None)],
            ),
            run("repeat 2", vec![figure("rows_per_second", 90_000.0, Some(100_000.0))]),
        ]);
        assert_eq!(verdict.sentence(), "1 of 2 figures that have an expected range is wrong:");
        assert_eq!(
            verdict.wrong,
            ["repeat 2: rows per second is 90,000 rows/s, expected at least 100,000 rows/s"]
        );
    }

    #[test]
    fn a_verdict_is_good_only_where_something_was_expected() {
        let right = verdict(vec![run("one", vec![figure("a", 1.0, Some(1.0)), figure("b", 2.0, Some(1.0))])]);
        assert_eq!(right.sentence(), "All 2 figures that have an expected range are right.");
        let nothing = verdict(vec![run("one", vec![figure("a", 1.0, None)])]);
        assert_eq!(nothing.sentence(), "No figure has an expected range, so none is judged.");
        let no_number = verdict(vec![run("one", vec![figure("a", f64::NAN, Some(1.0))])]);
        assert_eq!(no_number.wrong, ["a is NaN, expected at least 1 rows/s"]);
    }

    #[test]
    fn one_run_has_a_row_with_its_value() {
        let table = table(&[run("one", vec![figure("rows_per_second", 90_000.0, Some(100_000.0))])]);
        insta::assert_snapshot!(table.into_string().replace("><", ">\n<"), @r##"
        <div class="wide" tabindex="0" role="region" aria-label="figures">
        <table>
        <thead>
        <tr>
        <th scope="col">Figure</th>
        <th class="number" scope="col">Value</th>
        <th scope="col">Verdict</th>
        <th scope="col">Expected</th>
        </tr>
        </thead>
        <tbody>
        <tr>
        <th scope="row" title="rows_per_second">rows per second</th>
        <td class="number wrong" title="90000 rows/s">90,000 rows/s ✗</td>
        <td>
        <span class="wrong">✗ wrong</span>
        </td>
        <td>at least 100,000 rows/s</td>
        </tr>
        </tbody>
        </table>
        </div>
        "##);
    }

    #[test]
    fn several_runs_have_a_column_each_and_no_other() {
        let table = table(&[
            run("1 worker", vec![figure("rows_per_second", 100_000.0, None)]),
            run(
                "2 workers",
                vec![figure("rows_per_second", 180_000.0, Some(150_000.0)), figure("extra", 1.0, None)],
            ),
            run("<4> workers", vec![figure("rows_per_second", 200_000.0, Some(300_000.0))]),
        ]);
        insta::assert_snapshot!(table.into_string().replace("><", ">\n<"), @r##"
        <div class="wide" tabindex="0" role="region" aria-label="figures">
        <table>
        <thead>
        <tr>
        <th scope="col">Figure</th>
        <th scope="col">Verdict</th>
        <th scope="col">Expected</th>
        <th class="number" scope="col">1 worker</th>
        <th class="number" scope="col">2 workers</th>
        <th class="number" scope="col">&lt;4&gt; workers</th>
        </tr>
        </thead>
        <tbody>
        <tr>
        <th scope="row" title="rows_per_second">rows per second</th>
        <td>
        <span class="wrong">✗ 1 of 2 wrong</span>
        </td>
        <td>2 workers: at least 150,000 rows/s; &lt;4&gt; workers: at least 300,000 rows/s</td>
        <td class="number" title="100000 rows/s">100,000 rows/s</td>
        <td class="number" title="180000 rows/s">180,000 rows/s</td>
        <td class="number wrong" title="200000 rows/s">200,000 rows/s ✗</td>
        </tr>
        <tr>
        <th scope="row" title="extra">extra</th>
        <td>–</td>
        <td>–</td>
        <td class="number">–</td>
        <td class="number" title="1 rows/s">1 rows/s</td>
        <td class="number">–</td>
        </tr>
        </tbody>
        </table>
        </div>
        "##);
    }
}
