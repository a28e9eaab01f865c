//! The report as one page of HTML that fetches nothing, and needs no script to be read.

use std::ops::Range;

use maud::{DOCTYPE, Markup, PreEscaped, html};

mod format;
mod palette;
mod series;
mod axis;
mod marks;
mod plot;
mod figures;

use crate::report::{Mark, Report, Run};
use axis::Axis;
use figures::Verdict;
use marks::Layout;
use series::{Line, Plot, Unit};

const STYLE: &str = include_str!("html/style.css");
/// Nothing is fetched, also where a text of the report should get by the escaping.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The page of a report.
pub(crate) fn page(report: &Report) -> anyhow::Result<String> {
    let plots = series::of(report);
    let axes = Axes::of(report, &plots);
    // medians, and what has no course over time, have nothing to be drawn
    let drawn: Vec<(usize, &Run, &Vec<Plot>)> = (1..)
        .zip(&report.runs)
        .zip(&plots)
        .map(|((number, run), plots)| (number, run, plots))
        .filter(|(_, run, _)| !run.samples.is_empty())
        .collect();
    let sections = drawn
        .iter()
        .map(|(number, run, plots)| section(*number, run, plots, &axes))
        .collect::<anyhow::Result<Vec<Markup>>>()?;
    let several = drawn.len() > 1;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width";
                title { (report.scenario) " – load test of nats-sql-sink" }
                style { (PreEscaped(palette::style())) (PreEscaped(STYLE)) }
            }
            body {
                header { (head(report)) }
                main {
                    h2 { "Figures" }
                    (figures::table(&report.runs))
                    @if several {
                        h2 { "Over time" }
                        p { "All runs are drawn to the same scale." }
                        nav { @for (number, run, _) in &drawn { a href={ "#run-" (number) } { (run.title) } } }
                    }
                    @for section in &sections { (section) }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn head(report: &Report) -> Markup {
    let machine = &report.machine;
    html! {
        h1 { (report.scenario) }
        p { (report.description) }
        (verdict(&Verdict::of(report)))
        dl {
            (fact("started", &report.started_at))
            (fact("processors", &machine.cores.to_string()))
            (fact("memory of the machine", &format::bytes(machine.memory_bytes as f64)))
            (fact("kernel", &machine.kernel))
        }
        @if !report.settings.is_empty() {
            details open {
                summary { "Settings of the sink" }
                dl { @for (name, value) in &report.settings { (fact(name, value)) } }
            }
        }
    }
}

fn verdict(verdict: &Verdict) -> Markup {
    let (judged, wrong) = (verdict.judged > 0, !verdict.wrong.is_empty());
    html! {
        div.verdict.right[judged && !wrong].wrong[wrong] role="status" {
            p { @if wrong { "✗ " } @else if judged { "✓ " } (verdict.sentence()) }
            @if wrong { ul { @for figure in &verdict.wrong { li { (figure) } } } }
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// The axes, which the plots of all runs share, so that they can be compared.
struct Axes {
    time: Axis,
    /// One a plot of a run.
    values: Vec<Axis>,
}

impl Axes {
    fn of(report: &Report, plots: &[Vec<Plot>]) -> Self {
        let moments = report.runs.iter().flat_map(|run| {
            run.samples.iter().map(|sample| sample.at).chain(run.marks.iter().map(|mark| mark.at))
        });
        let of_plot = |(index, plot): (usize, &Plot)| {
            let same = plots.iter().filter_map(|plots| plots.get(index));
            Axis::of_values(same.flat_map(|plot| plot.lines.iter().flat_map(Line::values)), plot.unit)
        };
        let values = plots.first().map(|plots| plots.iter().enumerate().map(of_plot).collect());
        Self { time: Axis::of_time(moments), values: values.unwrap_or_default() }
    }
}

/// What one run did over time.
fn section(number: usize, run: &Run, plots: &[Plot], axes: &Axes) -> anyhow::Result<Markup> {
    let marks = marks::sorted(&run.marks);
    let layout = plot::layout(&marks, &axes.time);
    let figures = plots
        .iter()
        .zip(&axes.values)
        .map(|(plot, values)| figure(plot, &axes.time, values, &layout))
        .collect::<anyhow::Result<Vec<Markup>>>()?;
    Ok(html! {
        section id={ "run-" (number) } {
            h2 { (run.title) }
            @if !marks.is_empty() { (list(&marks)) }
            div.plots { @for figure in &figures { (figure) } }
        }
    })
}

fn list(marks: &[&Mark]) -> Markup {
    html! {
        ol.marks { @for mark in marks { li { time { (format::seconds(mark.at)) } " " (mark.label) } } }
    }
}

fn figure(plot: &Plot, time: &Axis, values: &Axis, layout: &Layout) -> anyhow::Result<Markup> {
    let measured = plot.lines.iter().any(|line| !line.stretches.is_empty());
    let told = values.told().filter(|_| measured);
    let key: Vec<(&Line, String)> = plot
        .lines
        .iter()
        .filter_map(|line| Some((line, format!("{} {}", line.name, extent(line, plot.unit)?))))
        .collect();
    let described: Vec<&str> = key.iter().map(|(_, text)| text.as_str()).collect();
    Ok(html! {
        figure {
            figcaption {
                b { (plot.title) @if let Some(told) = told { ", " (told) } }
                @if let Some(note) = &plot.note { span { "(" (note) ")" } }
                ul.key { @for (line, text) in &key { li { i class={ "ink-" (line.ink.name) } {} (text) } } }
            }
            @if measured {
                div role="img" aria-label={ (plot.title) " over time: " (described.join("; ")) } {
                    (PreEscaped(plot::svg(plot, time, values, layout)?))
                }
            } @else {
                p.empty { "not measured" }
            }
        }
    })
}

/// How far a line goes.
fn extent(line: &Line, unit: Unit) -> Option<String> {
    let Range { start: min, end: max } = line.values().fold(None, |range: Option<Range<f64>>, value| {
        let range = range.unwrap_or(value..value);
        Some(range.start.min(value)..range.end.max(value))
    })?;
    let told = |value| match unit {
        Unit::PerSecond => format!("{}/s", format::grouped(value)),
        Unit::Seconds => format::seconds(value),
        Unit::Bytes => format::bytes(value),
        Unit::Count | Unit::Number => format::number(value),
    };
    Some(if min == max { told(max) } else { format!("up to {}", told(max)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Figure, Latency, Machine, Range as Expected, Sample};

    const HOSTILE: &str = "</style></title><script>alert(1)</script>\"'&";

    fn report() -> Report {
        let sample = |second: u32| Sample {
            at: f64::from(second),
            published: u64::from(second) * 200_000,
            committed: u64::from(second) * 190_000,
            lag: u64::from(second) * 10_000,
            rss_bytes: 100 << 20,
            reserved_bytes: 50 << 20,
            cpu_seconds: f64::from(second) * 1.5,
            writers_busy: 1.5,
            writers_limit: Some(4.0),
            workers: 2,
            latency: (!second.is_multiple_of(10)).then_some(Latency { p50: 0.01, p90: 0.1, p99: 1.0 }),
            ..Sample::default()
        };
        let figure = |value| Figure {
            name: "rows_per_second".to_owned(),
            value,
            unit: "rows/s".to_owned(),
            expected: Some(Expected { min: Some(100_000.0), max: None }),
        };
        let run = |title: &str, value| Run {
            title: title.to_owned(),
            figures: vec![figure(value)],
            samples: (0..60).map(sample).collect(),
            marks: vec![Mark { at: 20.0, label: "SQL away".to_owned() }],
        };
        Report {
            scenario: "steady".to_owned(),
            description: "A steady load.".to_owned(),
            started_at: "2026-01-02T03:04:05Z".to_owned(),
            machine: Machine { cores: 2, memory_bytes: 8 << 30, kernel: "Linux 6.1".to_owned() },
            settings: [("memory".to_owned(), "256MiB".to_owned())].into(),
            runs: vec![run("1 worker", 120_000.0), run("2 workers", 130_000.0)],
        }
    }

    #[test]
    fn a_page_has_its_parts() {
        let page = page(&report()).unwrap();
        for part in [
            "<h1>steady</h1>",
            "A steady load.",
            "✓ All 2 figures",
            "2026-01-02T03:04:05Z",
            "8,192 MiB",
            "Linux 6.1",
            "<dt>memory</dt><dd>256MiB</dd>",
            "120,000 rows/s",
            "130,000 rows/s",
            "<h2>1 worker</h2>",
            "<h2>2 workers</h2>",
            "SQL away",
            "setting “memory” 256 MiB",
            "logarithmic",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert_eq!(page.matches("<svg").count(), 12);
        assert_eq!(page.matches("not measured").count(), 0);
    }

    #[test]
    fn a_run_without_samples_is_a_column_and_has_no_plots() {
        let mut report = report();
        let medians = Run {
            title: "median of 2".to_owned(),
            figures: report.runs[0].figures.clone(),
            samples: vec![],
            marks: vec![],
        };
        report.runs.insert(0, medians);
        let page = page(&report).unwrap();
        assert_eq!(page.matches("<svg").count(), 12, "those of the two runs that have samples");
        assert!(page.contains("scope=\"col\">median of 2</th>"), "{page}");
        assert!(!page.contains("<h2>median of 2</h2>") && !page.contains("href=\"#run-1\""), "{page}");
        assert!(page.contains("href=\"#run-2\"") && page.contains("id=\"run-3\""), "{page}");
        assert!(!page.contains("not measured"), "{page}");
    }

    #[test]
    fn a_page_fetches_nothing_and_has_no_script() {
        let page = page(&report()).unwrap().replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for part in
            ["<script", "<img", "<link", "<iframe", "http:", "https:", "url(", "@import", " src=", "href=\"/"]
        {
            assert!(!page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn every_text_is_escaped() {
        let mut report = report();
        for text in [
            &mut report.scenario,
            &mut report.description,
            &mut report.started_at,
            &mut report.machine.kernel,
        ] {
            HOSTILE.clone_into(text);
        }
        report.settings = [(HOSTILE.to_owned(), HOSTILE.to_owned())].into();
        for run in &mut report.runs {
            HOSTILE.clone_into(&mut run.title);
            HOSTILE.clone_into(&mut run.marks[0].label);
            HOSTILE.clone_into(&mut run.figures[0].name);
            HOSTILE.clone_into(&mut run.figures[0].unit);
        }
        let page = page(&report).unwrap();
        assert!(!page.contains("<script"), "{page}");
        assert_eq!((page.matches("</style>").count(), page.matches("</title>").count()), (1, 1));
        // in an attribute, a quotation mark would end it
        let title = page.split_once("title=\"").map(|(_, rest)| rest.split_once('"').unwrap().0);
        assert_eq!(
            title,
            Some("&lt;/style&gt;&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&amp;")
        );
    }

    #[test]
    fn a_wrong_figure_makes_the_verdict_wrong() {
        let mut report = report();
        report.runs[1].figures[0].value = 90_000.0;
        let page = page(&report).unwrap();
        let (_, verdict) = page.split_once("<div class=\"verdict").unwrap();
        assert!(verdict.starts_with(" wrong\""), "{verdict}");
        assert!(verdict.contains("2 workers: rows per second is 90,000 rows/s"), "{verdict}");
        assert!(!page.contains("✓"), "{page}");
    }

    #[test]
    fn every_colour_of_a_drawing_follows_the_scheme() {
        let page = page(&report()).unwrap();
        let style = palette::style();
        let drawn = page.split("<svg").skip(1).filter_map(|rest| rest.split("</svg>").next());
        let mut colours = 0;
        for value in drawn.flat_map(|drawing| drawing.split('"')).filter(|value| value.starts_with('#')) {
            assert!(style.contains(&format!("[stroke=\"{value}\"]")), "{value} has no role");
            colours += 1;
        }
        assert!(colours > 100, "{colours}");
    }

    #[test]
    fn what_is_no_number_is_in_no_drawing() {
        let mut report = report();
        for sample in &mut report.runs[0].samples {
            (sample.cpu_seconds, sample.writers_busy) = (f64::NAN, f64::INFINITY);
            sample.latency = Some(Latency { p50: f64::NAN, p90: 0.0, p99: f64::NEG_INFINITY });
        }
        report.runs[0].samples[7].at = f64::NAN;
        report.runs[0].marks.push(Mark { at: f64::INFINITY, label: "never".to_owned() });
        let page = page(&report).unwrap();
        for drawing in page.split("<svg").skip(1).filter_map(|rest| rest.split("</svg>").next()) {
            assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "{drawing}");
        }
        assert_eq!(page.matches("not measured").count(), 1, "the processor time of the first run");
    }

    #[test]
    fn a_report_of_nothing_is_a_page() {
        let report = Report { runs: vec![], settings: std::collections::BTreeMap::new(), ..report() };
        let page = page(&report).unwrap();
        assert!(page.contains("No figure has an expected range"), "{page}");
        assert!(page.contains("There are no figures."), "{page}");
        assert!(!page.contains("✓"), "{page}");
    }
}
