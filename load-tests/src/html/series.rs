//! What is plotted over time, and how it follows from the samples.

use super::palette::{FIRST, Ink, LIMIT, SECOND, THIRD};
use crate::report::{Report, Sample};

/// What the values of a plot are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    PerSecond,
    Seconds,
    Bytes,
    /// Whole things.
    Count,
    /// Things of which there can be parts, on average.
    Number,
}

/// A moment in seconds since the run's start, and a value.
pub(super) type Point = (f64, f64);

/// One line of a plot.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) ink: Ink,
    /// Drawn broad, so that a line that runs over it does not hide it.
    pub(super) broad: bool,
    /// Stretches without a gap. Where nothing was measured there is a gap, and no value is made up.
    pub(super) stretches: Vec<Vec<Point>>,
}

impl Line {
    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.stretches.iter().flatten().map(|(_, value)| *value)
    }
}

/// A plot of one run.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) unit: Unit,
    pub(super) lines: Vec<Line>,
    /// What a reader should know beside it.
    pub(super) note: Option<String>,
}

/// The plots of every run. All runs have the same ones, in the same order.
pub(super) fn of(report: &Report) -> Vec<Vec<Plot>> {
    let any = |what: fn(&Sample) -> bool| report.runs.iter().flat_map(|run| &run.samples).any(what);
    let dead_letters = any(|sample| sample.dead_lettered > 0);
    let workers_change =
        report.runs.iter().any(|run| run.samples.windows(2).any(|pair| pair[0].workers != pair[1].workers));
    let (memory, memory_note) = match report.settings.get("memory").map(|text| text.parse()) {
        None => (None, None),
        Some(Ok(bytesize::ByteSize(bytes))) => (Some(bytes), None),
        Some(Err(_)) => (None, Some("the setting “memory” is no size, and is not drawn".to_owned())),
    };
    let plots = |samples: &[Sample]| {
        let mut plots = vec![
            throughput(samples),
            latency(samples),
            plot(
                "Lag, events",
                Unit::Count,
                vec![line("lag", FIRST, samples, |sample| as_value(sample.lag))],
            ),
            Plot { note: memory_note.clone(), ..memory_plot(samples, memory) },
            plot(
                "Writers",
                Unit::Number,
                vec![
                    line("limit", LIMIT, samples, |sample| sample.writers_limit),
                    line("busy", FIRST, samples, |sample| Some(sample.writers_busy)),
                ],
            ),
            Plot {
                note: Some(format!("the machine has {}", report.machine.cores)),
                ..plot(
                    "CPU, cores used",
                    Unit::Number,
                    vec![rate("all workers", FIRST, samples, |sample| sample.cpu_seconds)],
                )
            },
        ];
        if dead_letters {
            let line = line("so far", FIRST, samples, |sample| as_value(sample.dead_lettered));
            plots.push(plot("Dead letters, events", Unit::Count, vec![line]));
        }
        if workers_change {
            let line = line("running", FIRST, samples, |sample| Some(sample.workers as f64));
            plots.push(plot("Workers", Unit::Count, vec![line]));
        }
        plots
    };
    report.runs.iter().map(|run| plots(&run.samples)).collect()
}

fn throughput(samples: &[Sample]) -> Plot {
    let published = rate("published", SECOND, samples, |sample| sample.published as f64);
    let lines = vec![
        Line { broad: true, ..published },
        rate("committed", FIRST, samples, |sample| sample.committed as f64),
    ];
    plot("Throughput, events/s", Unit::PerSecond, lines)
}

fn latency(samples: &[Sample]) -> Plot {
    let lines = vec![
        line("p99", SECOND, samples, |sample| sample.latency.as_ref().map(|latency| latency.p99)),
        line("p90", THIRD, samples, |sample| sample.latency.as_ref().map(|latency| latency.p90)),
        line("p50", FIRST, samples, |sample| sample.latency.as_ref().map(|latency| latency.p50)),
    ];
    plot("Latency, publish to commit", Unit::Seconds, lines)
}

fn memory_plot(samples: &[Sample], limit: Option<u64>) -> Plot {
    let mut lines = vec![
        line("resident, largest worker", FIRST, samples, |sample| as_value(sample.rss_bytes)),
        line("reserved for events", THIRD, samples, |sample| as_value(sample.reserved_bytes)),
    ];
    if let Some(limit) = limit {
        lines.insert(0, line("setting “memory”", LIMIT, samples, |_| as_value(limit)));
    }
    plot("Memory", Unit::Bytes, lines)
}

fn plot(title: &'static str, unit: Unit, lines: Vec<Line>) -> Plot {
    Plot { title, unit, lines, note: None }
}

#[expect(clippy::unnecessary_wraps, reason = "what a line asks of a sample")]
fn as_value(count: u64) -> Option<f64> {
    Some(count as f64)
}

/// A line through the values of samples that have one.
fn line(name: &'static str, ink: Ink, samples: &[Sample], value: impl Fn(&Sample) -> Option<f64>) -> Line {
    let points = samples.iter().map(|sample| value(sample).map(|value| (sample.at, value)));
    Line { name, ink, broad: false, stretches: stretches(points) }
}

/// A line of what a counter grows by in a second, on average since the sample before. A counter that went back was
/// begun anew: how far it had come is not known, and there is a gap.
fn rate(name: &'static str, ink: Ink, samples: &[Sample], counter: impl Fn(&Sample) -> f64) -> Line {
    let points = samples.windows(2).map(|pair| {
        let (seconds, grown) = (pair[1].at - pair[0].at, counter(&pair[1]) - counter(&pair[0]));
        (seconds > 0.0 && grown >= 0.0).then(|| (pair[1].at, grown / seconds))
    });
    Line { name, ink, broad: false, stretches: stretches(points) }
}

fn stretches(points: impl Iterator<Item = Option<Point>>) -> Vec<Vec<Point>> {
    let mut stretches = vec![Vec::new()];
    for point in points {
        match (point.filter(|(at, value)| at.is_finite() && value.is_finite()), stretches.last_mut()) {
            (Some(point), Some(stretch)) => stretch.push(point),
            _ => stretches.push(Vec::new()),
        }
    }
    stretches.retain(|stretch| !stretch.is_empty());
    stretches
}

/// The points that can be told apart where only so many columns are drawn between two moments: of each column the
/// first, the lowest, the highest and the last, so that no peak is lost.
pub(super) fn thinned(stretch: &[Point], from: f64, to: f64, columns: u32) -> Vec<Point> {
    let column = |point: &Point| ((point.0 - from) / (to - from) * f64::from(columns)).floor();
    let mut thinned = Vec::new();
    for points in stretch.chunk_by(|one, other| column(one) == column(other)) {
        let by_value = |one: &&usize, other: &&usize| points[**one].1.total_cmp(&points[**other].1);
        let indexes: Vec<usize> = (0..points.len()).collect();
        let kept = [
            indexes.first(),
            indexes.iter().min_by(by_value),
            indexes.iter().max_by(by_value),
            indexes.last(),
        ];
        let mut kept: Vec<usize> = kept.into_iter().flatten().copied().collect();
        kept.sort_unstable();
        kept.dedup();
        thinned.extend(kept.into_iter().map(|index| points[index]));
    }
    thinned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Latency, Machine, Run};

    fn sample(at: f64, committed: u64) -> Sample {
        Sample { at, committed, ..Sample::default() }
    }

    fn committed(samples: &[Sample]) -> Vec<Vec<Point>> {
        rate("committed", FIRST, samples, |sample| sample.committed as f64).stretches
    }

    fn report(memory: &str, samples: Vec<Sample>) -> Report {
        Report {
            scenario: "steady".to_owned(),
            description: String::new(),
            started_at: "2026-01-02T03:04:05Z".to_owned(),
            machine: Machine { cores: 2, memory_bytes: 0, kernel: String::new() },
            settings: [("memory".to_owned(), memory.to_owned())].into(),
            runs: vec![Run { title: "one".to_owned(), figures: vec![], samples, marks: vec![] }],
        }
    }

    #[test]
    fn a_rate_is_what_a_counter_grew_by_since_the_sample_before() {
        let samples = [sample(0.0, 0), sample(2.0, 100), sample(3.0, 100), sample(3.5, 200)];
        assert_eq!(committed(&samples), [[(2.0, 50.0), (3.0, 0.0), (3.5, 200.0)]]);
    }

    #[test]
    fn a_counter_that_went_back_leaves_a_gap() {
        let samples = [sample(0.0, 0), sample(1.0, 100), sample(2.0, 10), sample(3.0, 30)];
        assert_eq!(committed(&samples), [[(1.0, 100.0)], [(3.0, 20.0)]]);
    }

    #[test]
    fn a_moment_that_did_not_pass_has_no_rate() {
        assert_eq!(committed(&[sample(1.0, 0), sample(1.0, 100)]), Vec::<Vec<Point>>::new());
        assert_eq!(committed(&[sample(1.0, 0), sample(f64::NAN, 100)]), Vec::<Vec<Point>>::new());
        assert_eq!(committed(&[sample(1.0, 0)]), Vec::<Vec<Point>>::new());
    }

    #[test]
    fn where_no_latency_was_measured_there_is_a_gap() {
        let measured =
            |at, p50| Sample { at, latency: Some(Latency { p50, p90: p50, p99: p50 }), ..Sample::default() };
        let samples = [measured(0.0, 1.0), sample(1.0, 0), measured(2.0, f64::INFINITY), measured(3.0, 4.0)];
        let plot = latency(&samples);
        assert_eq!(plot.lines[2].stretches, [[(0.0, 1.0)], [(3.0, 4.0)]]);
    }

    #[test]
    fn the_memory_that_is_configured_is_a_line() {
        let plots = of(&report("256MiB", vec![sample(0.0, 0), sample(1.0, 0)]));
        let memory = plots[0].iter().find(|plot| plot.title == "Memory").unwrap();
        assert_eq!(memory.lines[0].values().collect::<Vec<_>>(), [268_435_456.0; 2]);
        assert_eq!(memory.note, None);
    }

    #[test]
    fn a_setting_that_is_no_size_is_told() {
        let plots = of(&report("much", vec![sample(0.0, 0)]));
        let memory = plots[0].iter().find(|plot| plot.title == "Memory").unwrap();
        assert_eq!(memory.lines.len(), 2);
        assert!(memory.note.as_ref().is_some_and(|note| note.contains("no size")), "{memory:?}");
    }

    #[test]
    fn dead_letters_and_workers_are_plotted_where_there_is_something_to_see() {
        let titles =
            |samples| of(&report("1GiB", samples))[0].iter().map(|plot| plot.title).collect::<Vec<_>>();
        let quiet = titles(vec![sample(0.0, 0), sample(1.0, 5)]);
        let lively = vec![sample(0.0, 0), Sample { workers: 2, dead_lettered: 1, ..sample(1.0, 5) }];
        assert_eq!(titles(lively), [&quiet[..], &["Dead letters, events", "Workers"]].concat());
    }

    #[test]
    fn thinning_keeps_first_lowest_highest_and_last_of_each_column() {
        let points: Vec<Point> = [5.0, 9.0, 7.0, 1.0, 6.0, 3.0, 3.0, 3.0]
            .iter()
            .enumerate()
            .map(|(index, value)| (index as f64, *value))
            .collect();
        let expected = [(0.0, 5.0), (1.0, 9.0), (3.0, 1.0), (4.0, 6.0), (5.0, 3.0), (7.0, 3.0)];
        assert_eq!(thinned(&points, 0.0, 10.0, 2), expected);
        assert_eq!(thinned(&points, 0.0, 10.0, 100), points);
    }
}
