//! A mutation fuzz of everything that reads what a client sends. `make fuzz` runs it.
//!
//! Inputs are made from the corpus by a seeded generator, without coverage, which needs a nightly compiler: the
//! `n`th input of a seed is the same in every run, and `--replay N` runs it alone. The parsers run in processes of
//! their own, so that a stack overflow, which nobody can catch, ends one of them and is found by its parent. Each
//! watches what it does: an input that takes a second of processor time is a hang, and the process' peak of resident
//! memory (VmHWM) may grow by 64 MiB from before its first input. An address space limit would count what is reserved
//! and never touched.

#![allow(clippy::print_stdout, reason = "what a run found is its result")]
#![allow(clippy::disallowed_methods, reason = "a watchdog looks now and then, and has no runtime")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

mod parsers;
mod process;
mod record;
mod sessions;

/// What is asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) inputs: u64,
    /// Ends the run earlier.
    pub(crate) limit: Option<Duration>,
    pub(crate) seed: u64,
    pub(crate) workers: u64,
    pub(crate) sessions: bool,
    /// Of one parser alone.
    pub(crate) only: Option<String>,
    /// Where inputs go that are unlike all before them.
    pub(crate) keep: bool,
    pub(crate) replay: Option<u64>,
    /// A file, as the input of one parser.
    pub(crate) input: Option<PathBuf>,
    /// In a child: which of the workers it is, and where it writes which input it is at.
    pub(crate) worker: Option<(u64, PathBuf)>,
    pub(crate) from: u64,
}

impl Options {
    pub(crate) fn corpus() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
    }

    pub(crate) fn artifacts() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/artifacts")
    }
}

const USAGE: &str =
    "fuzz [--inputs N] [--seconds N] [--seed N] [--workers N] [--only PARSER] [--keep] [--replay N]
fuzz --only PARSER --input FILE
fuzz --sessions [--inputs N] [--seconds N] [--seed N] [--replay N]
fuzz --record FOLDER       sessions of tiberius";

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        inputs: 10_000_000,
        limit: None,
        seed: 1,
        workers: 2,
        sessions: false,
        only: None,
        keep: false,
        replay: None,
        input: None,
        worker: None,
        from: 0,
    };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut next = || rest.next().ok_or(USAGE);
        match argument.as_str() {
            "--inputs" => options.inputs = next()?.parse()?,
            "--seconds" => options.limit = Some(Duration::from_secs(next()?.parse()?)),
            "--seed" => options.seed = next()?.parse()?,
            "--workers" => options.workers = next()?.parse::<u64>()?.max(1),
            "--only" => options.only = Some(next()?),
            "--replay" => options.replay = Some(next()?.parse()?),
            "--input" => options.input = Some(next()?.into()),
            "--from" => options.from = next()?.parse()?,
            "--worker" => options.worker = Some((next()?.parse()?, next()?.into())),
            "--sessions" => options.sessions = true,
            "--keep" => options.keep = true,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).as_deref() == Some("--record") {
        return record::run(&PathBuf::from(std::env::args().nth(2).ok_or(USAGE)?));
    }
    let options = options()?;
    match &options.worker {
        _ if options.sessions => sessions::run(&options),
        Some((worker, place)) => parsers::work(&options, *worker, place),
        None => parsers::run(&options),
    }
}
