//! The examples that people copy: schemas, and the configurations of Compose and Kubernetes.

#![allow(clippy::unwrap_used, reason = "what tests share says what it expects by panicking, as tests do")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use nats_sql_sink::config::Config;
use nats_sql_sink::schema::Schema;

const CONFIG_PATH: &str = "/etc/nats-sql-sink/sink.toml";

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project(path)).unwrap()
}

fn config(text: &str) -> Config {
    Config::from_toml(text, Path::new(CONFIG_PATH), &|_| None).unwrap()
}

/// A file inside a ConfigMap: the lines indented below `name: |`.
fn embedded(yaml: &str, name: &str) -> String {
    let key = format!("  {name}: |");
    let block = yaml.lines().skip_while(|line| *line != key).skip(1);
    let block = block.take_while(|line| line.is_empty() || line.starts_with("    "));
    block.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect()
}

/// The seconds of a line such as `stop_grace_period: 40s`.
fn seconds(yaml: &str, name: &str) -> Duration {
    let line = yaml.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':')).unwrap();
    Duration::from_secs(line.trim().trim_end_matches('s').parse().unwrap())
}

#[test]
fn every_example_schema_is_accepted() {
    let mut count = 0;
    for entry in std::fs::read_dir(project("schemas")).unwrap() {
        let path = entry.unwrap().path();
        Schema::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn the_configuration_for_compose_is_accepted_and_stops_before_it_is_killed() {
    let config = config(&read("deploy/compose/sink.toml"));
    assert!(config.shutdown_grace < seconds(&read("compose.yaml"), "stop_grace_period"));
}

#[test]
fn the_configuration_for_kubernetes_is_accepted_and_stops_before_it_is_killed() {
    let config = config(&embedded(&read("deploy/kubernetes/configmap.yaml"), "sink.toml"));
    let deployment = read("deploy/kubernetes/deployment.yaml");
    assert!(config.shutdown_grace < seconds(&deployment, "terminationGracePeriodSeconds"));
}

#[test]
fn the_schema_for_kubernetes_is_the_example() {
    let schema = embedded(&read("deploy/kubernetes/configmap.yaml"), "telemetry.toml");
    assert_eq!(schema, read("schemas/telemetry.toml"));
}
