//! The report: all of it is made by the program.

use std::fmt::Write as _;

use crate::cell::number;
use crate::run::Outcome;

/// When and where the table was made.
#[derive(Debug, Clone)]
pub(crate) struct Heading {
    pub(crate) version: &'static str,
    pub(crate) date: String,
    pub(crate) cores: usize,
    pub(crate) seconds: f64,
}

/// Cells that are wrong.
pub(crate) fn wrong_cells(outcomes: &[Outcome]) -> usize {
    outcomes.iter().flat_map(|outcome| &outcome.cells).filter(|cell| !cell.wrong().is_empty()).count()
}

/// The whole report as Markdown.
pub(crate) fn markdown(heading: &Heading, modes: &[&str], outcomes: &[Outcome]) -> String {
    let cells = outcomes.iter().map(|outcome| outcome.cells.len()).sum::<usize>();
    let published =
        outcomes.iter().flat_map(|outcome| &outcome.cells).map(|cell| cell.account.published).sum();
    let wrong = wrong_cells(outcomes);
    let verdict = match wrong {
        0 => "every cell is right".to_owned(),
        wrong => format!("**{wrong} of them wrong**"),
    };
    let mut text = format!(
        "# Reliability\n\n\
         Made by `make test-faults`; nothing here is written by hand.\n\n\
         | | |\n|---|---|\n\
         | version | {version} |\n| date | {date} |\n| machine | {cores} cores |\n| wall time | {minutes:.1} minutes |\n\
         | cells | {cells}, {verdict} |\n| events published | {published} |\n\n",
        version = heading.version,
        date = heading.date,
        cores = heading.cores,
        minutes = heading.seconds / 60.0,
        published = number(published),
    );
    text.push_str(EXPLANATION);
    let _ = writeln!(text, "\n## The faults\n\n| fault | {} |", modes.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(modes.len()));
    for outcome in outcomes {
        let cell = |mode: &&str| {
            let cell = outcome.cells.iter().find(|cell| cell.mode == *mode);
            cell.map_or_else(
                || "–".to_owned(),
                |cell| cell.lines().join("<br>").replace('|', "\\|").replace('\n', " "),
            )
        };
        let cells: Vec<String> = modes.iter().map(cell).collect();
        let _ = writeln!(text, "| {} | {} |", outcome.fault.title, cells.join(" | "));
    }
    text.push_str("\n## What was done\n\n");
    for outcome in outcomes {
        let fault = outcome.fault;
        let _ = writeln!(
            text,
            "- **{}** (`{}`, {:.0} s): {}",
            fault.title, fault.name, outcome.seconds, fault.does
        );
    }
    text
}

const EXPLANATION: &str = "\
Real workers, as processes of their own, move events under load from a real nats-server into the local stack's SQL server
in front of a real PostgreSQL. Each fault has servers of its own; the modes run side by side, as pipelines of the same
workers. Events are published until their stream has confirmed them, and what it confirmed is held against the table and
the dead-letter stream, both read by clients that are not the sink's.

- *missing*: confirmed by the stream, good, and not in the table (of the keyed modes: a key without a row).
- *duplicated*: rows beyond the one that an event, or a key, may have; in `append` with the reason why there may be some.
- *dead-lettered*: letters, of so many bad events; anything but exactly the bad ones is wrong.
- *lost by the stream*: removed from the stream itself, or deleted with it, before a worker had it.
- *recovered in*: from the fault's end until all that was published before it was in the table.
- *seen*: the evidence that the fault struck this pipeline.

A cell is also wrong where a key has another version than the one that must win, where rows of `exactly_once` are out of
order within a partition, where a row differs from what was published, where something stays unacknowledged, or where a
worker does not stop cleanly at the end.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::{Allowance, Cell};
    use crate::truth::Account;

    fn outcome(missing: u64) -> Outcome {
        let cell = Cell {
            mode: "append",
            account: Account { published: 1500, in_table: 1500, missing, ..Account::default() },
            allowance: Allowance::none(),
            recovered_seconds: Some(2.0),
            evidence: vec!["a | b".to_owned()],
            ..Cell::default()
        };
        Outcome { fault: crate::faults::all().next().unwrap(), cells: vec![cell], seconds: 12.0 }
    }

    fn heading() -> Heading {
        Heading { version: "0.1.0", date: "2026-01-02".to_owned(), cores: 2, seconds: 90.0 }
    }

    #[test]
    fn the_report_has_a_row_a_fault_and_a_column_a_mode() {
        let text = markdown(&heading(), &["append", "upsert"], &[outcome(0)]);
        assert!(text.contains("| fault | append | upsert |\n|---|---|---|\n"), "{text}");
        let row = text.lines().find(|line| line.starts_with("| worker SIGKILL")).unwrap();
        assert!(row.contains("published 1,500<br>in table 1,500<br>missing 0"), "{row}");
        assert!(row.contains("a \\| b") && row.ends_with(" | – |"), "{row}");
        assert!(text.contains("1, every cell is right") && text.contains("1.5 minutes"), "{text}");
        assert!(text.contains("- **worker SIGKILL"), "{text}");
    }

    #[test]
    fn a_wrong_cell_is_counted_and_shown() {
        let outcomes = [outcome(3), outcome(0)];
        assert_eq!(wrong_cells(&outcomes), 1);
        let text = markdown(&heading(), &["append"], &outcomes);
        assert!(text.contains("**1 of them wrong**") && text.contains("**WRONG**: 3 missing"), "{text}");
    }
}
