//! Arguments, commands and exit codes. Results go to stdout, logs to stderr.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::check;
use crate::config::{Config, DeliveryGuarantee, PipelineConfig};
use crate::decode::trial;
use crate::dlq::DeadLettersArgs;
use crate::error::Error;
use crate::grants::GrantsArgs;
use crate::keyed::Keyed;
use crate::mssql::statements;
use crate::operate;
use crate::output;
use crate::run::{self, Planned};
use crate::shutdown::Shutdown;
use crate::telemetry;

#[derive(Debug, Parser)]
#[command(version, about, long_about = LONG_ABOUT, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "Moves events from NATS JetStream into Azure SQL (and any SQL Server since 2016) in bulk.

No event is acknowledged before it is committed, a bad one goes to the dead-letter stream with its reason, and what \
is held never exceeds the memory it was given.

Exit codes: 0 done, 1 failed at work, 2 wrong arguments or configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker until SIGTERM or SIGINT
    ///
    /// What the outside world can mend (a server away, a table missing, a right not yet granted) does not end it: it is
    /// not ready, says why on /readyz and in the log, and tries again.
    Run(ConfigArgs),
    /// Look whether everything is there that `run` would need, and print a line for each finding
    ///
    /// Nothing is created or changed. The rights of both identities are among it: what is missing, and what is more than is
    /// needed. Exit code 1 where something would keep `run` from working.
    Check(CheckArgs),
    /// Print the CREATE TABLE statements for the tables of the configuration, and for those that the sink keeps its own
    Ddl(ConfigArgs),
    /// Print who has to be granted what for this configuration, in the database and on NATS, and no more
    ///
    /// Five roles: the worker, publishers, who looks after dead letters, who reads receipts, and who reads the tables.
    /// Nothing is granted by it: run what it prints as an owner of the database, and put it into the configuration of NATS.
    Grants(GrantsArgs),
    /// See and change how the streams of pipelines in exactly_once are divided
    Partitions(operate::Partitions),
    /// See dead letters, and publish their events again
    Dlq(DeadLettersArgs),
    /// Decode what stdin holds, for a worker that suspects it
    #[command(name = trial::COMMAND, hide = true)]
    TryDecode,
    /// See the whole thing work on this machine: a NATS server, a database, events, and the comparison at the end
    #[cfg(feature = "local-stack")]
    Demo(crate::demo::DemoArgs),
    /// Start the local stack alone, to try one's own configuration against
    ///
    /// A real nats-server, and a stand-in for SQL Server in front of a real PostgreSQL. For development only.
    #[cfg(feature = "local-stack")]
    Local(crate::demo::LocalArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Fail where an identity may do more than is needed, too
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "NATS_SQL_SINK_CONFIG")]
    config: PathBuf,
}

/// Runs the command of the process' arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Both ends of the program speak TLS; a second provider in the dependency tree would make the choice ambiguous.
    // It fails only where one is installed already, and then that one is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli.command {
        Command::Run(args) => run_command(&args),
        Command::Check(args) => check_command(&args),
        Command::Ddl(args) => ddl(&args),
        Command::Grants(args) => grants(&args),
        Command::Partitions(args) => partitions(&args),
        Command::Dlq(args) => dead_letters(&args),
        Command::TryDecode => trial::main(),
        #[cfg(feature = "local-stack")]
        Command::Demo(args) => crate::demo::demo(&args),
        #[cfg(feature = "local-stack")]
        Command::Local(args) => crate::demo::local(&args),
    }
}

fn run_command(args: &ConfigArgs) -> ExitCode {
    let (config, planned) = match load(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Err(error) = telemetry::init(&config.log) {
        return output::usage(&format!("log: {error}"));
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = run::runtime_threads() {
        builder.worker_threads(threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&format!("cannot start the runtime: {error}")),
    };
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.listen(config.shutdown_grace)?;
        run::run(config, planned, shutdown).await
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&format!("{error:#}")),
    }
}

fn check_command(args: &CheckArgs) -> ExitCode {
    let (config, planned) = match load(&args.config.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Err(error) = telemetry::init(&config.log) {
        return output::usage(&format!("log: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&format!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(check::check(&config, &planned, args.strict)) {
        true => ExitCode::SUCCESS,
        false => output::fail("not everything that `run` needs is there"),
    }
}

fn partitions(args: &operate::Partitions) -> ExitCode {
    let config = match Config::load(args.config_file()) {
        Ok(config) => config,
        Err(error) => return output::usage(&error.to_string()),
    };
    if let Err(error) = telemetry::init(&config.log) {
        return output::usage(&format!("log: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&format!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(args.run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&said(&error)),
    }
}

fn dead_letters(args: &DeadLettersArgs) -> ExitCode {
    let config = match Config::load(args.config_file()) {
        Ok(config) => config,
        Err(error) => return output::usage(&error.to_string()),
    };
    if let Err(error) = telemetry::init(&config.log) {
        return output::usage(&format!("log: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&format!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(args.run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&said(&error)),
    }
}

/// An error with its causes; of the database's own what it says of objects and rights.
fn said(error: &anyhow::Error) -> String {
    let causes = error.chain().map(|cause| match cause.downcast_ref::<Error>() {
        Some(own) => telemetry::describe(own),
        None => cause.to_string(),
    });
    causes.collect::<Vec<_>>().join(": ")
}

fn grants(args: &GrantsArgs) -> ExitCode {
    match load(&args.config) {
        Ok((config, planned)) => {
            args.print(&config, &planned);
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn ddl(args: &ConfigArgs) -> ExitCode {
    let (_, planned) = match load(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    for (pipeline, schema) in &planned {
        let keyed = Keyed::of(pipeline, schema);
        output::line(&format!("{};\n", statements::create_table(&pipeline.table, schema, keyed.as_ref())));
    }
    let keeps_state = |pipeline: &PipelineConfig| {
        pipeline.delivery == DeliveryGuarantee::ExactlyOnce || pipeline.receipts.is_some()
    };
    if planned.iter().any(|(pipeline, _)| keeps_state(pipeline)) {
        for statement in statements::state::create_state() {
            output::line(&format!("{statement};\n"));
        }
    }
    ExitCode::SUCCESS
}

fn load(path: &Path) -> Result<(Config, Vec<Planned>), ExitCode> {
    let config = Config::load(path).map_err(|error| output::usage(&error.to_string()))?;
    let planned = run::load_schemas(&config)
        .map_err(|(path, error)| output::usage(&format!("schema {}: {error}", path.display())))?;
    let planned = run::plan_keyed(planned).map_err(|message| output::usage(&message))?;
    run::check_memory(&config, &planned).map_err(|message| output::usage(&message))?;
    Ok((config, planned))
}
