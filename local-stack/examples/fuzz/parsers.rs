//! The parsers, in processes that may end.

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use local_stack::sql_server::fuzz::{Corpus, TARGETS, Target, input};

use crate::Options;
use crate::process::{MEMORY_LIMIT_KIB, peak_kib, report, this_thread, thread_time};

/// Of processor time, for one input.
const HANG: Duration = Duration::from_secs(1);
/// A worker that has found so much stops.
const MAX_FINDINGS: usize = 20;
/// As the threads have that serve connections.
const STACK_BYTES: usize = 2 * 1024 * 1024;
/// Inputs between two looks at the memory.
const MEMORY_STRIDE: u64 = 16;
/// Longer ones are not kept as news.
const MAX_KEPT_BYTES: usize = 2048;
/// Parsers have so many kept inputs at most.
const MAX_KEPT: usize = 48;
/// Exit codes of a worker.
const FOUND: i32 = 10;
const HUNG: i32 = 11;

fn target_of(options: &Options, index: u64) -> &'static Target {
    let only = options.only.as_deref();
    if let Some(target) = TARGETS.iter().find(|target| Some(target.name) == only) {
        return target;
    }
    &TARGETS[usize::try_from(index % TARGETS.len() as u64).unwrap_or(0)]
}

/// Starts the workers, and starts one again behind the input that ended it.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let corpus = Corpus::read(&Options::corpus())?;
    if options.replay.is_some() || options.input.is_some() {
        let index = options.replay.unwrap_or(0);
        let target = target_of(options, index);
        let bytes = match &options.input {
            Some(file) => std::fs::read(file)?,
            None => input(options.seed, index, target, &corpus),
        };
        let text = String::from_utf8_lossy(&bytes);
        eprintln!("{}: {} bytes: {text:?}", target.name, bytes.len());
        let before = peak_kib();
        let outcome = (target.run)(&bytes)?;
        println!(
            "outcome {outcome}; peak of resident memory grew by {} KiB",
            peak_kib().saturating_sub(before)
        );
        return Ok(());
    }
    let started = Instant::now();
    let folder = tempfile::tempdir()?;
    let failed = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..options.workers)
        .map(|worker| {
            let (options, place, failed) =
                (options.clone(), folder.path().join(worker.to_string()), failed.clone());
            std::thread::spawn(move || {
                if let Err(error) = supervise(&options, worker, &place, &failed) {
                    eprintln!("worker {worker}: {error}");
                    failed.store(true, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
    let mut done = 0;
    let mut growth = 0;
    for worker in 0..options.workers {
        let numbers = std::fs::read(folder.path().join(worker.to_string()))?;
        let number = |at: usize| {
            numbers.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        done += number(8);
        growth = growth.max(number(16));
    }
    println!(
        "{done} inputs of {} parsers in {} s with seed {}: peak of resident memory grew by {growth} KiB at most; {}",
        TARGETS.len(),
        started.elapsed().as_secs(),
        options.seed,
        if failed.load(Ordering::Relaxed) { "FAILED" } else { "no panic, no hang, no broken promise" },
    );
    if failed.load(Ordering::Relaxed) { Err("inputs were found that break something".into()) } else { Ok(()) }
}

fn supervise(
    options: &Options,
    worker: u64,
    place: &Path,
    failed: &AtomicBool,
) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let mut from = worker;
    for _ in 0..MAX_FINDINGS {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--worker").arg(worker.to_string()).arg(place);
        for (name, value) in [
            ("--inputs", options.inputs),
            ("--seed", options.seed),
            ("--workers", options.workers),
            ("--from", from),
        ] {
            command.arg(name).arg(value.to_string());
        }
        if let Some(limit) = options.limit {
            let left = limit.saturating_sub(started.elapsed());
            command.arg("--seconds").arg(left.as_secs().to_string());
        }
        if let Some(only) = &options.only {
            command.arg("--only").arg(only);
        }
        if options.keep {
            command.arg("--keep");
        }
        let status: ExitStatus = command.status()?;
        if status.success() {
            return Ok(());
        }
        failed.store(true, Ordering::Relaxed);
        if status.code() == Some(FOUND) {
            return Ok(());
        }
        let mut number = [0; 8];
        File::open(place)?.read_exact_at(&mut number, 0)?;
        let index = u64::from_le_bytes(number);
        if status.code() != Some(HUNG) {
            let corpus = Corpus::read(&Options::corpus())?;
            let target = target_of(options, index);
            let bytes = input(options.seed, index, target, &corpus);
            report(target.name, index, options.seed, &format!("the process ended: {status}"), &bytes)?;
        }
        from = index + options.workers;
    }
    Err("stopped: too many findings".into())
}

/// A worker: every `workers`th input.
pub(crate) fn work(options: &Options, worker: u64, place: &Path) -> Result<(), Box<dyn Error>> {
    let corpus = Arc::new(Corpus::read(&Options::corpus())?);
    let file = Arc::new(File::options().create(true).truncate(false).write(true).read(true).open(place)?);
    let at = Arc::new(AtomicU64::new(u64::MAX));
    let fuzzing = {
        let (options, corpus, at) = (options.clone(), corpus.clone(), at.clone());
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _ = sender.send(this_thread());
            fuzz(&options, &corpus, &file, &at).map_err(|error| error.to_string())
        })?;
        (thread, receiver.recv()??)
    };
    let (thread, path) = fuzzing;
    let mut seen = (u64::MAX, Duration::ZERO);
    while !thread.is_finished() {
        std::thread::sleep(Duration::from_millis(100));
        let (index, time) = (at.load(Ordering::Relaxed), thread_time(&path));
        if index != seen.0 {
            seen = (index, time);
        } else if time.saturating_sub(seen.1) > HANG {
            let target = target_of(options, index);
            let bytes = input(options.seed, index, target, &corpus);
            report(target.name, index, options.seed, "takes more than a second", &bytes)?;
            std::process::exit(HUNG);
        }
    }
    match thread.join() {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(_)) => std::process::exit(FOUND),
        Ok(Err(error)) => Err(format!("worker {worker}: {error}").into()),
        Err(_) => Err("the worker's own panic".into()),
    }
}

/// Gives the number of findings.
fn fuzz(options: &Options, corpus: &Corpus, file: &File, at: &AtomicU64) -> Result<usize, Box<dyn Error>> {
    // what the corpus itself takes counts
    let before = peak_kib();
    let mut known = HashSet::new();
    for target in TARGETS {
        for bytes in corpus.of(target.name) {
            known.insert((
                target.name,
                (target.run)(bytes).map_err(|what| format!("{}: {what}", target.name))?,
            ));
        }
    }
    let started = Instant::now();
    let (mut done, mut findings) = (0u64, 0);
    let mut highest = 0;
    let mut number = [0; 8];
    file.read_at(&mut number, 8)?;
    let earlier = u64::from_le_bytes(number);
    let mut index = options.from;
    while index < options.inputs {
        let target = target_of(options, index);
        let bytes = input(options.seed, index, target, corpus);
        file.write_all_at(&index.to_le_bytes(), 0)?;
        at.store(index, Ordering::Relaxed);
        let problem = match catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))) {
            Ok(Ok(outcome)) => {
                if options.keep && bytes.len() <= MAX_KEPT_BYTES && known.insert((target.name, outcome)) {
                    keep(target.name, index, options.seed, &bytes)?;
                }
                None
            }
            Ok(Err(what)) => Some(what),
            Err(_) => Some("panic".into()),
        };
        done += 1;
        let mut growth = 0;
        if done.is_multiple_of(MEMORY_STRIDE) {
            let peak = peak_kib().saturating_sub(before);
            if peak > highest + 4096 {
                eprintln!(
                    "{}: input {index} or one shortly before: memory +{} KiB, to {peak}",
                    target.name,
                    peak - highest
                );
                highest = peak;
            }
            growth = peak;
            file.write_all_at(&(earlier + done).to_le_bytes(), 8)?;
            file.write_all_at(&growth.to_le_bytes(), 16)?;
            if options.limit.is_some_and(|limit| started.elapsed() >= limit) {
                break;
            }
        }
        let problem = problem.or_else(|| {
            (growth > MEMORY_LIMIT_KIB)
                .then(|| format!("memory grew by {growth} KiB, here or within {MEMORY_STRIDE} inputs before"))
        });
        if let Some(what) = problem {
            findings += 1;
            report(target.name, index, options.seed, &what, &bytes)?;
            if findings >= MAX_FINDINGS || growth > MEMORY_LIMIT_KIB {
                break;
            }
        }
        index += options.workers;
    }
    file.write_all_at(&(earlier + done).to_le_bytes(), 8)?;
    file.write_all_at(&peak_kib().saturating_sub(before).to_le_bytes(), 16)?;
    Ok(findings)
}

/// Adds an input to the corpus, unless the parser has enough of them.
fn keep(target: &str, index: u64, seed: u64, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Options::corpus().join(target);
    std::fs::create_dir_all(&folder)?;
    if std::fs::read_dir(&folder)?.count() < MAX_KEPT {
        std::fs::write(folder.join(format!("mutant-{seed}-{index}")), bytes)?;
    }
    Ok(())
}
