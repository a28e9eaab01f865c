//! Runs real workers under load that scenarios describe, and holds figures against what is expected.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use test_bench::say;

mod account;
mod baseline;
mod command;
mod events;
mod figures;
mod html;
mod machine;
mod measured;
mod model;
mod output;
mod participant;
mod progress;
mod publisher;
mod report;
mod run;
mod scenario;
mod stand;
mod timeline;
mod watch;

/// A figure is not as expected, or the run itself failed.
const FAILED: u8 = 1;
/// The arguments, or the scenario, are wrong. Also what clap exits with.
const USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario, print its figures, and exit with 1 where one is not as expected
    Run(command::RunArgs),
    /// Measure what the machine can do, each stage alone
    Baseline(command::BaselineArgs),
    /// Run the sink beside other programs that do its work, one after another, with the same events
    Compare(command::compare::CompareArgs),
    /// Make report.html anew beside a report.json
    #[command(hide = true)]
    Html {
        #[arg(value_name = "REPORT.JSON")]
        report: PathBuf,
    },
    /// List the scenarios
    List,
    /// Serve SQL as a process of its own
    #[command(hide = true)]
    ServeSql(stand::sql_process::ServeArguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // NATS and SQL clients speak TLS; a second provider in the dependency tree would make the choice ambiguous.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say::note(&format!("error: cannot start the runtime: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => command::run(&args).await,
            Command::Baseline(args) => command::baseline(&args).await,
            Command::Compare(args) => command::compare::compare(&args).await,
            Command::Html { report } => command::page_of(&report).map(|()| true),
            Command::List => command::list().map(|()| true),
            Command::ServeSql(args) => stand::sql_process::serve(&args).await.map(|()| true),
        }
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            say::note(&format!("error: {error:#}"));
            ExitCode::from(if error.is::<command::Usage>() { USAGE } else { FAILED })
        }
    }
}
