//! `chaos`: a random schedule of faults on one stand, reproducible by its seed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use local_stack::proxy::{Cut, Direction, Proxy};
use local_stack::sql_server::faults::{Effect, Fault as Scripted, Moment, Occasion, ScriptedFault};
use nix::sys::signal::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::ModeArgs;
use crate::cell::Cell;
use crate::evidence::Proof;
use crate::faults::Duplicates;
use crate::mode::Mode;
use crate::schedule::{self, Planned, What};
use crate::stand::{Stand, StandOptions};
use crate::{run, say, table};

/// A worker that was asked to stop has this long: its grace, and the time of a busy machine.
const STOP: Duration = Duration::from_secs(15);

/// Arguments of `chaos`.
#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    /// Which schedule; the same seed gives the same one [default: by chance]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long faults go on
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// So many seeds, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeds: u64,
    /// Stands that run side by side
    #[arg(long, value_name = "N", default_value_t = 1)]
    side_by_side: usize,
    #[command(flatten)]
    modes: ModeArgs,
}

/// Runs the schedules; `true` where every mode is right in each.
pub(crate) async fn run(args: &ChaosArgs) -> anyhow::Result<bool> {
    test_bench::worker::program()?;
    let first = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let places = Arc::new(Semaphore::new(args.side_by_side.max(1)));
    let mut running = JoinSet::new();
    for seed in first..first.saturating_add(args.seeds) {
        let (places, modes, seconds) = (Arc::clone(&places), args.modes.modes.clone(), args.seconds);
        running.spawn(async move {
            // never closed
            let _permit = places.acquire_owned().await;
            let runtime = tokio::runtime::Handle::current();
            let run = move || (seed, runtime.block_on(run_seed(seed, seconds, &modes)));
            tokio::task::spawn_blocking(run).await
        });
    }
    let mut wrong = 0;
    while let Some(ended) = running.join_next().await {
        let (seed, cells) = ended.and_then(|ended| ended).context("a run ended by a defect")?;
        say::line(&format!("seed {seed}:"));
        let cells = cells.unwrap_or_else(|error| vec![Cell::broken("all", &format!("{error:#}"))]);
        for cell in &cells {
            say::line(&table::cell_line(cell));
        }
        let bad = cells.iter().filter(|cell| !cell.wrong().is_empty()).count();
        if bad > 0 {
            say::line(&format!("again: make chaos SEED={seed} SECONDS={}", args.seconds));
        }
        wrong += bad;
    }
    say::line(&format!("{} seeds of {} s, {wrong} modes wrong", args.seeds, args.seconds));
    Ok(wrong == 0)
}

async fn run_seed(seed: u64, seconds: u64, modes: &[&'static Mode]) -> anyhow::Result<Vec<Cell>> {
    let workers = if seed.is_multiple_of(2) { 2 } else { 3 };
    let planned = schedule::plan(seed, seconds, workers);
    let mut text = format!("seed {seed}, {seconds} s, {workers} workers, {} faults:", planned.len());
    for Planned { at, lasts, what } in &planned {
        text.push_str(&format!("\n  {:>7.3} s  {what:?} for {:.3} s", at.as_secs_f64(), lasts.as_secs_f64()));
    }
    say::line(&text);
    let options = StandOptions { workers, events_per_second: 400, ..StandOptions::default() };
    let mut stand = Stand::start(options, modes).await?;
    let cells = on_stand(&mut stand, &planned).await;
    if let Some(folder) = std::env::var_os("FAULT_TESTS_KEEP") {
        let _ = stand.keep(&std::path::Path::new(&folder).join(format!("chaos-{seed}")));
    }
    cells
}

async fn on_stand(stand: &mut Stand, planned: &[Planned]) -> anyhow::Result<Vec<Cell>> {
    run::begin(stand, true).await?;
    strike_all(stand, planned).await?;
    stand.lift();
    let harmed = planned.iter().any(|planned| planned.what.harms_a_worker());
    let acks_lost = planned.iter().any(|planned| planned.what.loses_acks());
    let duplicates = match (harmed, acks_lost) {
        (true, _) => Duplicates::WorkerDied,
        (false, true) => Duplicates::AcksLost,
        (false, false) => Duplicates::OnlyUnknown,
    };
    run::end(stand, &proofs, duplicates).await
}

fn proofs(_: &Mode) -> Vec<Proof> {
    vec![Proof::Any(vec![
        Proof::Counter("sql_errors_total", &[], "errors of the database"),
        Proof::Counter("nats_errors_total", &[], "errors of NATS"),
        Proof::unknown(),
        Proof::redelivered(),
        Proof::disconnected(),
    ])]
}

/// A fault begins, or ends.
#[derive(Debug, Clone, Copy)]
enum Step {
    Begin(usize),
    End(usize),
}

async fn strike_all(stand: &mut Stand, planned: &[Planned]) -> anyhow::Result<()> {
    let mut steps: Vec<(Duration, Step)> = Vec::new();
    for (index, planned) in planned.iter().enumerate() {
        steps.push((planned.at, Step::Begin(index)));
        steps.push((planned.at + planned.lasts, Step::End(index)));
    }
    steps.sort_by_key(|(at, _)| *at);
    let started = Instant::now();
    let mut scripted: Vec<Option<ScriptedFault>> = vec![None; planned.len()];
    for (at, step) in steps {
        tokio::time::sleep(at.saturating_sub(started.elapsed())).await;
        match step {
            Step::Begin(index) => scripted[index] = begin(stand, &planned[index], index as u64).await?,
            Step::End(index) => {
                if let Some(scripted) = scripted[index].take() {
                    scripted.remove();
                }
                end(stand, &planned[index]).await?;
            }
        }
    }
    Ok(())
}

fn nats_proxy(stand: &Stand) -> anyhow::Result<&Proxy> {
    stand.nats_proxy.as_ref().context("a proxy")
}

async fn begin(stand: &mut Stand, planned: &Planned, chance: u64) -> anyhow::Result<Option<ScriptedFault>> {
    let script = |stand: &Stand, occasion, effect, share| -> anyhow::Result<Option<ScriptedFault>> {
        Ok(Some(stand.sql.faults.script(Scripted::new(occasion, effect).fraction(share, chance))?))
    };
    match planned.what {
        What::KillWorker(worker) => stand.workers.get_mut(worker).context("a worker")?.kill().await?,
        What::PauseWorker(worker) => {
            stand.workers.get(worker).context("a worker")?.signal(Signal::SIGSTOP)?;
        }
        What::RestartWorker(worker) => {
            stand.workers.get_mut(worker).context("a worker")?.terminate(STOP).await?;
        }
        What::KillNats => stand.nats.single()?.kill().await,
        What::CutNats => nats_proxy(stand)?.stall_both(),
        What::CutNatsAnswers => nats_proxy(stand)?.stall(Direction::ToClient),
        What::CutSql => stand.sql_proxy.stall_both(),
        What::ResetSql => stand.sql_proxy.cut(Cut::Reset),
        What::Deadlocks => return script(stand, Occasion::BulkLoad, Effect::Reject(1205.into()), 0.3),
        What::CutLoads => {
            return script(stand, Occasion::BulkLoad, Effect::Disconnect(Moment::After), 0.3);
        }
        What::CutCommits => {
            return script(stand, Occasion::Commit, Effect::Disconnect(Moment::Before), 0.3);
        }
        What::CutAnswers => {
            return script(stand, Occasion::Commit, Effect::Disconnect(Moment::After), 0.3);
        }
        What::SlowCommits => {
            let late = Effect::DelayAnswer(Duration::from_secs(3));
            return script(stand, Occasion::Commit, late, 0.5);
        }
        What::Throttle => return script(stand, Occasion::BulkLoad, Effect::Reject(40501.into()), 0.7),
        What::FailOver => stand.sql.faults.fail_over(planned.lasts),
        What::Full => stand.sql.faults.fill_database(1105, planned.lasts),
    }
    Ok(None)
}

async fn end(stand: &mut Stand, planned: &Planned) -> anyhow::Result<()> {
    match planned.what {
        What::KillWorker(worker) | What::RestartWorker(worker) => {
            stand.workers.get_mut(worker).context("a worker")?.start()?;
        }
        What::PauseWorker(worker) => {
            stand.workers.get(worker).context("a worker")?.signal(Signal::SIGCONT)?;
        }
        What::KillNats => stand.nats.single()?.restart().await.context("starting nats-server again")?,
        What::CutNats | What::CutNatsAnswers => nats_proxy(stand)?.pass(),
        What::CutSql => stand.sql_proxy.pass(),
        // these end by themselves, or with their script
        What::ResetSql
        | What::Deadlocks
        | What::CutLoads
        | What::CutCommits
        | What::CutAnswers
        | What::SlowCommits
        | What::Throttle
        | What::FailOver
        | What::Full => {}
    }
    Ok(())
}
