//! A small comparison, from the servers' start to the report. It needs what the peers are made of, which `make test` does
//! not install: `make test-peers` runs it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

use std::process::Command;

use serde_json::Value;

fn figure(run: &Value, name: &str) -> f64 {
    let figure = run["figures"].as_array().unwrap().iter().find(|figure| figure["name"] == name);
    figure.unwrap_or_else(|| panic!("{name} of {}", run["title"]))["value"].as_f64().unwrap()
}

fn compare(storage: &str, only: &str, more: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .args(["compare", "--events", "2000", "--sql-storage", storage, "--only", only])
        .args(["--report", "json", "--out"])
        .arg(&out)
        .args(more)
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let printed: Value = serde_json::from_str(&stdout).unwrap();
    let kept: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(printed, kept);
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains("ratio to best peer"));
    printed
}

fn check(run: &Value) {
    assert!((figure(run, "rows_in_table") - 2_000.0).abs() < 1e-9, "{run}");
    for name in ["missing", "duplicates", "redelivered"] {
        assert!(figure(run, name).abs() < 1e-9, "{name}: {run}");
    }
    for name in ["seconds", "rows_per_second", "cpu_seconds_per_million", "peak_rss_bytes"] {
        assert!(figure(run, name) > 0.0, "{name}: {run}");
    }
}

#[test]
#[ignore = "needs the peers: make test-peers"]
fn the_sink_and_a_peer_write_the_same_events_and_each_has_its_figures() {
    let report = compare("postgres", "bulk_load,sink", &["--round-trip", "5ms"]);
    let runs = report["runs"].as_array().unwrap();
    let titles: Vec<&Value> = runs.iter().map(|run| &run["title"]).collect();
    assert_eq!(titles, ["sink", "bulk_load"]);
    runs.iter().for_each(check);
    let ratio = figure(&runs[0], "rows_per_second") / figure(&runs[1], "rows_per_second");
    assert!((figure(&runs[0], "ratio_to_best_peer") - ratio).abs() < 1e-9);
}

/// Where no row is kept it is the server's count that a peer is held against, also of one that knows no bulk load.
#[test]
#[ignore = "needs the peers: make test-peers"]
fn repeats_have_their_medians_and_rows_that_nobody_keeps_are_counted() {
    let report = compare("discard", "insert_many,sink", &["--repeat", "2"]);
    let runs = report["runs"].as_array().unwrap();
    let titles: Vec<&str> = runs.iter().map(|run| run["title"].as_str().unwrap()).collect();
    let of = |name: &str| {
        [format!("{name}, median of 2"), format!("{name}, repeat 1"), format!("{name}, repeat 2")]
    };
    assert_eq!(titles, [of("sink"), of("insert_many")].concat());
    runs.iter().for_each(check);
}
