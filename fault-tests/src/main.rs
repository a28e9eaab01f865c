//! Runs real workers under load through faults, and holds the tables against what was published.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use test_bench::say;

mod cell;
mod chaos;
mod events;
mod evidence;
mod faults;
mod mode;
mod publisher;
mod reader;
mod report;
mod run;
mod schedule;
mod stand;
mod table;
mod truth;

use mode::Mode;

/// A cell is wrong, or the run itself failed.
const FAILED: u8 = 1;
/// The arguments are wrong. Also what clap exits with.
const USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the faults, print the table, and exit with 1 where a cell is wrong
    Table(table::TableArgs),
    /// Run faults at random moments on one stand, as the seed has it, and exit with 1 where a mode is wrong
    Chaos(chaos::ChaosArgs),
    /// List the faults
    List,
    /// Serve SQL as a process of its own, for a fault that kills it
    #[command(hide = true)]
    ServeSql(stand::sql::ServeArguments),
}

/// Which modes run side by side.
#[derive(Debug, Args)]
struct ModeArgs {
    /// The modes, as pipelines side by side
    #[arg(long, value_delimiter = ',', value_name = "MODE", value_parser = parse_mode,
          default_value = "append,insert_if_absent,upsert,exactly_once")]
    modes: Vec<&'static Mode>,
}

fn parse_mode(name: &str) -> Result<&'static Mode, String> {
    mode::named(name).ok_or_else(|| {
        let names: Vec<&str> = mode::MODES.iter().map(|mode| mode.name).collect();
        format!("it must be one of {}", names.join(", "))
    })
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
            Command::Table(args) => table::run(&args).await,
            Command::Chaos(args) => chaos::run(&args).await,
            Command::List => {
                faults::all().for_each(|fault| say::line(&format!("{:<24} {}", fault.name, fault.does)));
                Ok(true)
            }
            Command::ServeSql(args) => stand::sql::serve(&args).await.map(|()| true),
        }
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            say::note(&format!("error: {error:#}"));
            ExitCode::from(if error.is::<table::UnknownFault>() { USAGE } else { FAILED })
        }
    }
}
