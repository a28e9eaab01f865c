//! The program as it is called: a small scenario from the servers' start to the report. The workers' program has to be
//! there, as `cargo build --package nats-sql-sink` builds it; the tests of the whole workspace do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn load_tests(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_load-tests")).args(arguments).output().unwrap()
}

fn run(folder: &Path, scenario: &str, more: &[&str]) -> (Output, Value) {
    let file = folder.join("small.toml");
    std::fs::write(&file, scenario).unwrap();
    let (file, out) = (file.display().to_string(), folder.join("out").display().to_string());
    let mut arguments = vec!["run", &file, "--report", "json", "--out", &out];
    arguments.extend(more);
    let output = load_tests(&arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let printed = serde_json::from_str(&text);
    let printed: Value = printed.unwrap_or_else(|_| panic!("{text}{}", stderr(&output)));
    let kept: Value =
        serde_json::from_slice(&std::fs::read(folder.join("out/report.json")).unwrap()).unwrap();
    assert_eq!(printed, kept);
    (output, printed)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn figure(report: &Value, name: &str) -> f64 {
    let figures = report["runs"][0]["figures"].as_array().unwrap();
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure.unwrap_or_else(|| panic!("{name}"))["value"].as_f64().unwrap()
}

#[test]
fn a_steady_load_arrives_and_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = r#"
description = "a small load"
[events]
bad_share = 0.01
[publish]
steady = { events_per_second = 1_000, seconds = 3 }
[sink]
max_age = "100ms"
[expect]
missing = { max = 0 }
duplicates = { max = 0 }
dead_letters_missing = { max = 0 }
rows_in_table = { min = 2970, max = 2970 }
"#;
    let (output, report) = run(folder.path(), scenario, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    for (name, value) in [("published", 3000.0), ("rows_in_table", 2970.0), ("dead_lettered", 30.0)] {
        assert!((figure(&report, name) - value).abs() < 1e-9, "{name}");
    }
    for name in ["latency_p99", "peak_rss_bytes", "cpu_seconds_per_million", "rows_per_second", "goodput"] {
        assert!(figure(&report, name) > 0.0, "{name}");
    }
    let samples = report["runs"][0]["samples"].as_array().unwrap();
    assert!(samples.len() >= 3 && samples.last().unwrap()["committed"] == 2970, "{samples:?}");
    let own = folder.path().join("out/1-worker");
    for file in ["worker-1.toml", "worker-1.log", "schema.toml"] {
        assert!(own.join(file).is_file(), "{file}");
    }
}

#[test]
fn a_figure_out_of_range_is_said_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    // counted by the server, as no row is kept
    let scenario = "description = \"d\"\nstorage = \"discard\"\n[publish]\nfastest = { events = 1 }\n\
                    [expect]\nmissing = { max = 0 }\nrows_in_table = { max = 499 }\n";
    let (output, report) = run(folder.path(), scenario, &["--events", "500"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!((figure(&report, "rows_in_table") - 500.0).abs() < 1e-9);
    let text = stderr(&output);
    let complaints: Vec<&str> = text.lines().filter(|line| line.starts_with("not as expected")).collect();
    assert_eq!(complaints.len(), 1, "{text}");
    assert!(complaints[0].contains("rows_in_table is 500") && complaints[0].contains("at most 499"));
}

#[test]
fn a_scenario_that_is_not_there_is_a_usage_error_that_names_those_that_are() {
    let output = load_tests(&["run", "nothing"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("\"nothing\"") && text.contains("steady, burst"), "{text}");
}
