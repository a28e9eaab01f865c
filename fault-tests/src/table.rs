//! `table`: the faults, several stands side by side, and the report.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use test_bench::{say, worker};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::ModeArgs;
use crate::cell::Cell;
use crate::faults::{self, Fault};
use crate::report::{self, Heading};
use crate::run::{self, Outcome};

/// Arguments of `table`.
#[derive(Debug, Args)]
pub(crate) struct TableArgs {
    /// These faults only, by the names that `list` shows
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    only: Vec<String>,
    /// Where to write the report as Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Stands that run side by side; most faults are waited for
    #[arg(long, value_name = "N", default_value_t = 4)]
    side_by_side: usize,
    #[command(flatten)]
    modes: ModeArgs,
}

/// A fault of this name does not exist.
#[derive(Debug)]
pub(crate) struct UnknownFault(String);

impl std::fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there is no fault {:?}: `list` shows all of them", self.0)
    }
}

impl std::error::Error for UnknownFault {}

/// Runs the faults; `true` where every cell is right.
pub(crate) async fn run(args: &TableArgs) -> anyhow::Result<bool> {
    let chosen = choose(&args.only)?;
    worker::program()?;
    let started = Instant::now();
    let outcomes = run_all(&chosen, args).await?;
    let heading = Heading {
        version: env!("CARGO_PKG_VERSION"),
        date: today()?,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        seconds: started.elapsed().as_secs_f64(),
    };
    let modes: Vec<&str> = args.modes.modes.iter().map(|mode| mode.name).collect();
    let text = report::markdown(&heading, &modes, &outcomes);
    say::line(&text);
    if let Some(file) = &args.report {
        std::fs::write(file, &text).with_context(|| format!("writing {}", file.display()))?;
    }
    let wrong = report::wrong_cells(&outcomes);
    let cells: usize = outcomes.iter().map(|outcome| outcome.cells.len()).sum();
    say::line(&format!(
        "{} faults, {cells} cells, {wrong} wrong, in {:.0} s",
        outcomes.len(),
        heading.seconds
    ));
    Ok(wrong == 0)
}

fn choose(only: &[String]) -> anyhow::Result<Vec<&'static Fault>> {
    if let Some(unknown) = only.iter().find(|name| !faults::all().any(|fault| fault.name == **name)) {
        return Err(UnknownFault(unknown.clone()).into());
    }
    Ok(faults::all().filter(|fault| only.is_empty() || only.iter().any(|name| name == fault.name)).collect())
}

async fn run_all(chosen: &[&'static Fault], args: &TableArgs) -> anyhow::Result<Vec<Outcome>> {
    let places = Arc::new(Semaphore::new(args.side_by_side.max(1)));
    let mut by_length: Vec<(usize, &'static Fault)> = chosen.iter().copied().enumerate().collect();
    by_length.sort_by_key(|(_, fault)| std::cmp::Reverse(fault.takes));
    let mut running = JoinSet::new();
    for (place, fault) in by_length {
        let (places, modes) = (Arc::clone(&places), args.modes.modes.clone());
        running.spawn(async move {
            // never closed
            let _permit = places.acquire_owned().await;
            // on a thread of its own: comparing tables keeps no other stand waiting
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || (place, runtime.block_on(run::run(fault, &modes)))).await
        });
    }
    let mut outcomes = Vec::new();
    while let Some(ended) = running.join_next().await {
        let ended = ended.and_then(|ended| ended);
        let (place, outcome) = ended.context("a fault's run ended by a defect")?;
        say_outcome(outcomes.len() + 1, chosen.len(), &outcome);
        outcomes.push((place, outcome));
    }
    outcomes.sort_by_key(|(place, _)| *place);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn say_outcome(done: usize, of: usize, outcome: &Outcome) {
    say::note(&format!("[{done}/{of}] {} ({:.0} s)", outcome.fault.title, outcome.seconds));
    for cell in &outcome.cells {
        say::note(&cell_line(cell));
    }
}

/// A cell on one line.
pub(crate) fn cell_line(cell: &Cell) -> String {
    let word = if cell.wrong().is_empty() { "ok   " } else { "WRONG" };
    format!("    {word} {:<16} {}", cell.mode, cell.lines().join(" · "))
}

fn today() -> anyhow::Result<String> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    Ok(time::OffsetDateTime::now_utc().format(&format)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_chosen_by_name_and_unknown_ones_refused() {
        assert_eq!(choose(&[]).unwrap().len(), faults::all().count());
        let chosen = choose(&["worker-sigkill".to_owned()]).unwrap();
        assert_eq!(chosen.iter().map(|fault| fault.name).collect::<Vec<_>>(), ["worker-sigkill"]);
        let error = choose(&["nothing".to_owned()]).unwrap_err();
        assert!(error.is::<UnknownFault>() && error.to_string().contains("nothing"));
    }
}
