//! The binary: see `cli.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nats_sql_sink::cli::main()
}
