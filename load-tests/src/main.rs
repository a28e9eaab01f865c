//! Runs real workers under load, and reports how they did.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

mod report;
mod html;

use report::Report;

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make report.html anew beside a report.json
    #[command(hide = true)]
    Html {
        #[arg(value_name = "REPORT.JSON")]
        report: PathBuf,
    },
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Html { report: path } => {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let report: Report =
                serde_json::from_str(&text).with_context(|| format!("{} is not a report", path.display()))?;
            let page = path.with_file_name("report.html");
            std::fs::write(&page, html::page(&report)?)
                .with_context(|| format!("cannot write {}", page.display()))
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
