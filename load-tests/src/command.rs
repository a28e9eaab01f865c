//! `run`, `baseline` and `list`; `compare` has a file of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use test_bench::{say, worker};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(crate) mod compare;

use crate::report::{Report, Run};
use crate::scenario::{
    self, EventsSettings, Plan, Publish, Scenario, SinkSettings, StorageKind, TableKind, Workers,
};
use crate::stand::Stand;
use crate::stand::external::ExternalArgs;
use crate::{baseline, html, machine, output};

/// What is printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object: the report
    Json,
}

/// Arguments that all runs take.
#[derive(Debug, Args)]
struct CommonArgs {
    /// Print the report as JSON instead of a table
    #[arg(long, value_name = "FORMAT")]
    report: Option<Format>,
    /// Where to keep the report, configurations and logs [default: a new folder in ./load-test-runs]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// Run so often, and tell medians besides
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    #[command(flatten)]
    external: ExternalArgs,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The scenario: a name that `list` shows, or a file
    scenario: String,
    /// For how long events are published, where they are published steadily or in bursts
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// What becomes of the rows [default: as the scenario has it]
    #[arg(long, value_enum, value_name = "STORAGE")]
    sql_storage: Option<StorageKind>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Arguments of `baseline`.
#[derive(Debug, Args)]
pub(crate) struct BaselineArgs {
    /// What becomes of the rows
    #[arg(long, value_enum, value_name = "STORAGE", default_value = "discard")]
    sql_storage: StorageKind,
    #[command(flatten)]
    common: CommonArgs,
}

/// What was asked for cannot be done.
#[derive(Debug)]
pub(crate) struct Usage(anyhow::Error);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Usage {}

/// Events that `baseline` reads, unless it is told how many.
const BASELINE_EVENTS: u64 = 1_000_000;

/// Runs a scenario with all of its variants; `true` where every figure is as expected.
pub(crate) async fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let plan = plan(args).map_err(Usage)?;
    let external = args.common.external.servers().map_err(Usage)?;
    for (_, scenario) in &plan.variants {
        external.check(scenario).map_err(Usage)?;
    }
    worker::program()?;
    let folder = out_folder(args.common.out.as_deref(), &plan.name)?;
    let first = plan.variants.first().map(|(_, scenario)| scenario).context("a scenario")?;
    let mut report = report(&plan.name, &first.description, settings(&plan))?;
    for (variant, scenario) in &plan.variants {
        for workers in scenario.workers.counts() {
            let kind = title(variant.as_deref(), scenario, *workers);
            let mut kind = Kind::new(&mut report, &folder, kind);
            for number in 1..=args.common.repeat {
                let title = kind.title_of(number, args.common.repeat);
                let own_folder = folder.join(file_name(&title));
                let run = crate::run::run(scenario, &title, *workers, &external, &own_folder);
                kind.add(run.await.with_context(|| title.clone())?)?;
            }
        }
    }
    finish(&report, &folder, args.common.report)
}

/// Measures the machine.
pub(crate) async fn baseline(args: &BaselineArgs) -> anyhow::Result<bool> {
    let scenario = Scenario {
        description: "what the machine can do, each stage alone".to_owned(),
        storage: args.sql_storage,
        workers: Workers::One(1),
        baselines: false,
        sql_rows_per_second_of_a_load: None,
        table: TableKind::Heap,
        events: EventsSettings::default(),
        publish: Publish {
            waiting: args.common.events.unwrap_or(BASELINE_EVENTS),
            steady: None,
            burst: None,
            fastest: None,
        },
        sink: SinkSettings::default(),
        fault: Vec::new(),
        expect: BTreeMap::new(),
    };
    let external = args.common.external.servers().map_err(Usage)?;
    external.check(&scenario).map_err(Usage)?;
    let folder = out_folder(args.common.out.as_deref(), "baseline")?;
    let mut report = report("baseline", &scenario.description, BTreeMap::new())?;
    let mut kind = Kind::new(&mut report, &folder, title(None, &scenario, 0));
    for number in 1..=args.common.repeat {
        let title = kind.title_of(number, args.common.repeat);
        let stand = Stand::start(&scenario, 0, &external, &folder).await?;
        kind.add(baseline::run(&stand, &scenario, &title).await?)?;
    }
    finish(&report, &folder, args.common.report)
}

/// The scenarios, and what they are for.
pub(crate) fn list() -> anyhow::Result<()> {
    for name in scenario::names() {
        let plan = Plan::load(name)?;
        let description = plan.variants.first().map(|(_, scenario)| scenario.description.as_str());
        say::line(&format!("{name:<24} {}", description.unwrap_or_default()));
    }
    Ok(())
}

/// The scenario as the arguments have it.
fn plan(args: &RunArgs) -> anyhow::Result<Plan> {
    let mut plan = Plan::load(&args.scenario)?;
    for (_, scenario) in &mut plan.variants {
        if let Some(events) = args.common.events {
            scenario.set_events(events);
        }
        if let Some(seconds) = args.seconds {
            anyhow::ensure!(seconds > 0.0, "--seconds must be above 0");
            scenario.set_seconds(seconds)?;
        }
        if let Some(storage) = args.sql_storage {
            scenario.storage = storage;
        }
    }
    Ok(plan)
}

fn report(name: &str, description: &str, settings: BTreeMap<String, String>) -> anyhow::Result<Report> {
    Ok(Report {
        scenario: name.to_owned(),
        description: description.to_owned(),
        started_at: OffsetDateTime::now_utc().format(&Rfc3339)?,
        machine: machine::describe()?,
        settings,
        runs: Vec::new(),
    })
}

/// The sink's settings; those in which variants differ once for each.
fn settings(plan: &Plan) -> BTreeMap<String, String> {
    let tables: Vec<_> =
        plan.variants.iter().map(|(title, scenario)| (title, scenario.sink.table())).collect();
    let mut settings = BTreeMap::new();
    for (title, table) in &tables {
        for (name, value) in table {
            let is_common = tables.iter().all(|(_, other)| other.get(name) == Some(value));
            let name = match title {
                Some(title) if !is_common => format!("{title}: {name}"),
                _ => name.clone(),
            };
            settings.insert(name, value.clone());
        }
    }
    settings
}

/// Runs of one kind as they are added to a report: what was measured stays, also where a later run fails.
struct Kind<'a> {
    report: &'a mut Report,
    folder: &'a Path,
    title: String,
    runs: Vec<Run>,
}

impl<'a> Kind<'a> {
    fn new(report: &'a mut Report, folder: &'a Path, title: String) -> Self {
        Self { report, folder, title, runs: Vec::new() }
    }

    fn title_of(&self, number: u32, of: u32) -> String {
        if of > 1 { format!("{}, repeat {number}", self.title) } else { self.title.clone() }
    }

    fn add(&mut self, run: Run) -> anyhow::Result<()> {
        let before = self.report.runs.len() - output::of_one_kind(&self.runs, &self.title).len();
        self.runs.push(run);
        self.report.runs.truncate(before);
        self.report.runs.extend(output::of_one_kind(&self.runs, &self.title));
        write_report(self.report, self.folder)
    }
}

/// What runs of one kind are called.
fn title(variant: Option<&str>, scenario: &Scenario, workers: usize) -> String {
    let mut parts: Vec<String> = variant.map(str::to_owned).into_iter().collect();
    match workers {
        0 => {}
        1 if scenario.workers.counts().len() == 1 && variant.is_some() => {}
        1 => parts.push("1 worker".to_owned()),
        workers => parts.push(format!("{workers} workers")),
    }
    if parts.is_empty() {
        parts.push("alone".to_owned());
    }
    parts.join(", ")
}

/// The title as the name of a folder.
fn file_name(title: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = title.chars().map(allowed).collect();
    name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// The folder asked for, or a new one.
fn out_folder(asked: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let folder = match asked {
        Some(folder) => folder.to_path_buf(),
        None => {
            let format = time::macros::format_description!("[year][month][day]-[hour][minute][second]");
            let now = OffsetDateTime::now_utc().format(&format)?;
            PathBuf::from("load-test-runs").join(format!("{name}-{now}"))
        }
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
    folder.canonicalize().with_context(|| format!("finding the folder {}", folder.display()))
}

fn write_report(report: &Report, folder: &Path) -> anyhow::Result<()> {
    let file = folder.join("report.json");
    std::fs::write(&file, serde_json::to_string_pretty(report)?)
        .with_context(|| format!("writing {}", file.display()))?;
    write_page(report, &file)
}

fn write_page(report: &Report, beside: &Path) -> anyhow::Result<()> {
    let page = beside.with_file_name("report.html");
    std::fs::write(&page, html::page(report)?).with_context(|| format!("writing {}", page.display()))
}

/// Makes the page anew from what was kept.
pub(crate) fn page_of(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let report: Report =
        serde_json::from_str(&text).with_context(|| format!("{} is not a report", path.display()))?;
    write_page(&report, path)
}

/// Keeps and prints the report; `true` where everything is as expected.
fn finish(report: &Report, folder: &Path, format: Option<Format>) -> anyhow::Result<bool> {
    write_report(report, folder)?;
    match format {
        Some(Format::Json) => say::line(&serde_json::to_string(report)?),
        None => report.runs.iter().flat_map(output_lines).for_each(|line| say::line(&line)),
    }
    let wrong = report.wrong();
    for line in &wrong {
        say::note(&format!("not as expected: {line}"));
    }
    say::note(&format!("the report is in {}", folder.display()));
    Ok(wrong.is_empty())
}

fn output_lines(run: &Run) -> Vec<String> {
    output::lines(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Figure, Range};

    #[test]
    fn titles_tell_runs_apart_and_make_folder_names() {
        let plan = Plan::load("steady").unwrap();
        let scenario = &plan.variants[0].1;
        assert_eq!(title(Some("max_age 1 s"), scenario, 1), "max_age 1 s");
        assert_eq!(title(None, scenario, 1), "1 worker");
        assert_eq!(title(None, scenario, 4), "4 workers");
        assert_eq!(title(None, scenario, 0), "alone");
        assert_eq!(file_name("max_age 1 s, repeat 2"), "max_age-1-s-repeat-2");
    }

    #[test]
    fn each_repeat_is_kept_at_once_and_only_the_medians_of_all_are_judged() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = report("s", "d", BTreeMap::new()).unwrap();
        let figure = |value| Figure {
            name: "seconds".to_owned(),
            value,
            unit: "s".to_owned(),
            expected: Some(Range { min: None, max: Some(2.0) }),
        };
        let run = |title: &str, value| Run {
            title: title.to_owned(),
            figures: vec![figure(value)],
            samples: Vec::new(),
            marks: Vec::new(),
        };
        for (kind, values) in [("1 worker", vec![9.0, 1.0, 1.5]), ("2 workers", vec![1.0, 9.0, 9.0])] {
            let mut kind = Kind::new(&mut report, folder.path(), kind.to_owned());
            for (number, value) in (1..).zip(&values) {
                let title = kind.title_of(number, 3);
                kind.add(run(&title, *value)).unwrap();
                let kept = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
                assert!(kept.contains(&title), "{kept}");
            }
        }
        let titles: Vec<&str> = report.runs.iter().map(|run| run.title.as_str()).collect();
        let repeats =
            |kind: &str| (1..=3).map(|number| format!("{kind}, repeat {number}")).collect::<Vec<_>>();
        let expected = [
            vec!["1 worker, median of 3".to_owned()],
            repeats("1 worker"),
            vec!["2 workers, median of 3".to_owned()],
            repeats("2 workers"),
        ];
        assert_eq!(titles, expected.concat());
        // the exit code follows from this: the slow first repeat is none, two slow repeats of three are
        assert_eq!(report.wrong(), ["2 workers, median of 3: seconds is 9 s, and should be at most 2"]);
    }

    #[test]
    fn settings_in_which_variants_differ_are_told_for_each() {
        let settings = settings(&Plan::load("steady").unwrap());
        assert_eq!(settings["max_age 1 s: batch.max_age"], "1s");
        assert_eq!(settings["max_age 100 ms: batch.max_age"], "100ms");
        assert_eq!(settings["memory"], "256MiB");
        // what the sink decides is not told as if it were configured
        assert!(!settings.contains_key("batch.max_rows"));
        assert!(!settings.contains_key("batch.max_age"));
    }
}
