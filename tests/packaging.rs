//! What ends up in the production image: the sink without the local stack, run by a user without rights.

#![allow(clippy::unwrap_used, reason = "what tests share says what it expects by panicking, as tests do")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The local stack, and what only it brings: a database's driver, a parser of SQL, a maker of certificates.
const NOT_IN_PRODUCTION: &[&str] = &["local-stack", "tokio-postgres", "sqlparser", "rcgen"];

/// The names of the crates that the binary is linked from.
fn dependencies(arguments: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--package", "nats-sql-sink", "--edges", "normal", "--prefix", "none"])
        .args(["--format", "{p}"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn unwanted(dependencies: &BTreeSet<String>) -> Vec<&'static str> {
    NOT_IN_PRODUCTION.iter().copied().filter(|name| dependencies.contains(*name)).collect()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The instructions of a Dockerfile's last stage: those that the image is made by.
fn last_stage(dockerfile: &str) -> Vec<(String, String)> {
    let text = dockerfile.replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut stage = Vec::new();
    for (instruction, value) in lines.filter_map(|line| line.split_once(' ')) {
        if instruction.eq_ignore_ascii_case("FROM") {
            stage.clear();
        }
        stage.push((instruction.to_ascii_uppercase(), value.trim().to_owned()));
    }
    stage
}

/// The numeric user that the image runs as; `None` is root, or a name that Kubernetes cannot check.
fn user(dockerfile: &str) -> Option<u32> {
    let stage = last_stage(dockerfile);
    let (_, user) = stage.iter().rev().find(|(instruction, _)| instruction == "USER")?;
    user.split(':').next()?.parse().ok().filter(|uid| *uid != 0)
}

#[test]
fn the_production_build_holds_nothing_of_the_local_stack() {
    assert_eq!(unwanted(&dependencies(&["--no-default-features"])), Vec::<&str>::new());
}

/// The cargo features that the binary is built with.
fn features(arguments: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--package", "nats-sql-sink", "--depth", "0", "--prefix", "none"])
        .args(["--format", "{f}"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().split(',').map(str::to_owned).collect()
}

#[test]
fn no_build_but_that_of_the_tests_fails_on_request() {
    for arguments in [&["--edges", "normal"][..], &["--edges", "normal", "--no-default-features"]] {
        let features = features(arguments);
        assert!(!features.contains("test-hooks"), "{arguments:?}: {features:?}");
    }
    assert!(features(&[]).contains("test-hooks"), "the tests themselves need it");
}

#[test]
fn the_search_finds_the_local_stack_where_it_is_wanted() {
    assert_eq!(unwanted(&dependencies(&[])), NOT_IN_PRODUCTION);
}

#[test]
fn the_image_is_built_without_the_local_stack_from_the_locked_versions() {
    let dockerfile = read("Dockerfile").replace("\\\n", " ");
    let builds: Vec<_> = dockerfile.lines().filter(|line| line.contains("cargo build")).collect();
    assert!(!builds.is_empty(), "the Dockerfile builds nothing");
    for build in builds {
        for option in ["--release", "--locked", "--no-default-features"] {
            assert!(build.contains(option), "`{build}` lacks {option}");
        }
    }
}

#[test]
fn the_image_runs_the_sink_as_a_user_without_rights() {
    let dockerfile = read("Dockerfile");
    assert!(user(&dockerfile).is_some(), "the last USER is to be a number other than 0");
    let stage = last_stage(&dockerfile);
    let value = |name: &str| {
        stage.iter().find(|(instruction, _)| instruction == name).map(|(_, value)| value.as_str())
    };
    assert_eq!(value("ENTRYPOINT"), Some(r#"["nats-sql-sink"]"#));
    assert_eq!(value("CMD"), Some(r#"["run", "--config", "/etc/nats-sql-sink/sink.toml"]"#));
    assert_eq!(value("EXPOSE"), Some("9464"));
}

#[test]
fn a_root_user_is_found() {
    assert_eq!(user("FROM a\nUSER 10001:10001\n"), Some(10_001));
    assert_eq!(user("FROM a\nUSER 10001\nUSER root\n"), None);
    assert_eq!(user("FROM a\nUSER 0:10001\n"), None);
    assert_eq!(user("FROM a\nUSER 10001\nFROM b\nRUN x\n"), None);
}
