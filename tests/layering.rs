//! The order of the source: a file uses only modules above it, the production code does not know the local
//! stack, and no file grows too long to be read in one sitting.

#![allow(clippy::unwrap_used, reason = "what tests share says what it expects by panicking, as tests do")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The modules of `src/`, top to bottom. The files of a folder (`nats/intake.rs`) belong to its module (`nats`).
const ORDER: &[&str] = &[
    "error",
    "sql_name",
    "disposition",
    "retry",
    "concurrency",
    "metrics",
    "telemetry",
    "shutdown",
    "status",
    "config",
    "identity",
    "schema",
    "keyed",
    "rights",
    "fair",
    // a delivery carries the permit for its bytes
    "budget",
    "delivery",
    "nats",
    "batcher",
    "decode",
    "mssql",
    "sizing",
    "bisect",
    "refusals",
    "trouble",
    "writers",
    "writer",
    "worker",
    "partition",
    "sharing",
    "receipts",
    "pipeline",
    "http",
    "output",
    "run",
    "operate",
    "dlq",
    "grants",
    "check",
    // `cli` hands its commands to `demo`, and only that way round
    "demo",
    "cli",
    "main",
];

/// The roots of the crate: they name every module, and belong to none.
const ROOTS: &[&str] = &["lib"];

/// The only modules that may use the local stack, behind its feature.
const USERS_OF_LOCAL_STACK: &[&str] = &["demo", "cli"];

const MAX_LINES: usize = 500;

struct SourceFile {
    /// Relative to its source folder.
    path: PathBuf,
    text: String,
}

impl SourceFile {
    /// `nats/intake.rs` and `nats.rs` are of the module `nats`.
    fn module(&self) -> String {
        let first = self.path.components().next().unwrap();
        first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
    }

    fn is_root(&self) -> bool {
        ROOTS.contains(&self.module().as_str())
    }
}

#[test]
fn a_file_uses_only_modules_above_it() {
    let found = violations_of_order(ORDER, &read_sources("src"));
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_production_code_does_not_know_the_local_stack() {
    let found = violations_of_isolation(&read_sources("src"));
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_file_is_longer_than_can_be_read_in_one_sitting() {
    let found: Vec<_> = ["src", "local-stack/src", "test-bench/src", "fault-tests/src", "load-tests/src"]
        .iter()
        .flat_map(|folder| violations_of_length(&read_sources(folder)))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn violations_of_order(order: &[&str], files: &[SourceFile]) -> Vec<String> {
    let place = |module: &str| order.iter().position(|known| *known == module);
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.is_root()) {
        let (path, module) = (file.path.display(), file.module());
        let Some(own) = place(&module) else {
            found.push(format!(
                "{path}: `{module}` has no place in the order; give it one in tests/layering.rs"
            ));
            continue;
        };
        for used in used_modules(file) {
            // what is no module is an item of the crate's root, and that belongs to nobody's layer
            match place(&used) {
                Some(other) if other > own => {
                    found.push(format!("{path} uses `crate::{used}`, which is below `{module}`"));
                }
                None if files.iter().any(|other| other.module() == used) => {
                    found.push(format!("{path} uses `crate::{used}`, which has no place in the order"));
                }
                _ => {}
            }
        }
    }
    found
}

fn violations_of_isolation(files: &[SourceFile]) -> Vec<String> {
    let outside = files.iter().filter(|file| !USERS_OF_LOCAL_STACK.contains(&file.module().as_str()));
    let naming =
        outside.filter(|file| words(&without_comments(&file.text)).any(|word| word == "local_stack"));
    naming.map(|file| format!("{} names the crate `local_stack`", file.path.display())).collect()
}

fn violations_of_length(files: &[SourceFile]) -> Vec<String> {
    let lengths = files.iter().map(|file| (file, file.text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > MAX_LINES);
    long.map(|(file, lines)| format!("{}: {lines} lines of at most {MAX_LINES}", file.path.display()))
        .collect()
}

/// The modules that a file names as `crate::module` or in a group `crate::{module::a, other}`, and by `super`
/// where that leads to the crate's root.
fn used_modules(file: &SourceFile) -> BTreeSet<String> {
    let text = without_comments(&file.text);
    let depth = file.path.components().count();
    let to_root = format!("{}::", vec!["super"; depth].join("::"));
    let mut used = BTreeSet::new();
    for prefix in ["crate::", to_root.as_str()] {
        for (start, _) in text.match_indices(prefix) {
            let inside_a_name =
                text[..start].ends_with(|character: char| is_word(character) || character == ':');
            if !inside_a_name {
                used.extend(first_names(&text[start + prefix.len()..]));
            }
        }
    }
    // `use super::*` in a file's own tests means the file
    used.remove("");
    used.remove("super");
    used
}

/// `a::b` names `a`; `{a::b, c::{d, e}}` names `a` and `c`.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![words(path).next().filter(|word| path.starts_with(word)).unwrap_or_default().to_owned()];
    };
    let (mut names, mut depth, mut at_start) = (Vec::new(), 0, true);
    for (index, character) in group.char_indices() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && is_word(character) => {
                names.extend(words(&group[index..]).next().map(str::to_owned));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character| !is_word(character)).filter(|word| !word.is_empty())
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Comments may point anywhere: a link in a doc line uses nothing.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn read_sources(folder: &str) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push(SourceFile { path: path.strip_prefix(&root).unwrap().to_path_buf(), text });
            }
        }
    }
    assert!(!files.is_empty(), "{folder} holds no source");
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// That these rules can fail, on made-up files.
mod the_rules_themselves {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.to_owned() }
    }

    fn order(files: &[SourceFile]) -> Vec<String> {
        violations_of_order(&["error", "nats", "worker"], files)
    }

    #[test]
    fn using_a_module_above_is_allowed() {
        let files = [
            file("worker.rs", "use crate::error::Error;\nuse crate::nats::{intake, lease};"),
            file("nats.rs", ""),
        ];
        assert!(order(&files).is_empty());
    }

    #[test]
    fn using_a_module_below_is_found_in_every_spelling() {
        for text in [
            "use crate::worker::Worker;",
            "use crate::worker;",
            "fn f() { crate::worker::run() }",
            "use crate::{error::Error, worker::{A, B}};",
            "use crate::{\n    error,\n    worker,\n};",
            "pub(crate) use crate::worker as other;",
            "use super::super::worker::Worker;",
        ] {
            let found = order(&[file("nats/intake.rs", text), file("worker.rs", "")]);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains("nats/intake.rs uses `crate::worker`"), "{found:?}");
        }
        assert_eq!(order(&[file("error.rs", "use super::worker::Worker;")]).len(), 1);
    }

    #[test]
    fn what_only_looks_like_a_use_is_not_one() {
        for text in [
            "// use crate::worker::Worker;",
            "/// See [`crate::worker`].",
            "use other_crate::worker::Worker;",
            "use tokio::worker;",
            "use super::worker::Worker;",
            "use crate::{error::worker, nats::{worker}};",
            "pub(crate) fn worker() {}",
            "use crate::SomeItem;",
        ] {
            let found = order(&[file("nats/intake.rs", text)]);
            assert!(found.is_empty(), "{text}: {found:?}");
        }
    }

    #[test]
    fn a_module_without_a_place_is_found_also_where_it_is_used() {
        let files = [file("extra.rs", ""), file("worker.rs", "use crate::extra;")];
        assert_eq!(order(&files).len(), 2);
    }

    #[test]
    fn the_root_may_name_every_module() {
        assert!(order(&[file("lib.rs", "pub use crate::worker::Worker;")]).is_empty());
    }

    #[test]
    fn the_local_stack_is_found_outside_the_demo() {
        let text = "use local_stack::tools::Tools;";
        assert_eq!(violations_of_isolation(&[file("worker.rs", text), file("nats/lease.rs", text)]).len(), 2);
        let allowed = [file("demo.rs", text), file("demo/report.rs", text), file("cli.rs", text)];
        assert!(violations_of_isolation(&allowed).is_empty());
        assert!(violations_of_isolation(&[file("worker.rs", "// unlike local_stack")]).is_empty());
    }

    #[test]
    fn a_long_file_is_found() {
        assert!(violations_of_length(&[file("a.rs", &"\n".repeat(MAX_LINES))]).is_empty());
        assert_eq!(violations_of_length(&[file("a.rs", &"\n".repeat(MAX_LINES + 1))]).len(), 1);
    }
}
