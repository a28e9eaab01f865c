//! Faults of the workers themselves.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use local_stack::sql_server::faults::{Effect, Fault as Scripted, Occasion};
use nix::sys::signal::Signal;
use test_bench::wait::{self, PATIENCE};
use test_bench::worker::Worker;

use super::{Duplicates, Fault, taken_over};
use crate::evidence::Proof;
use crate::mode::Mode;
use crate::stand::{Stand, StandOptions};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "worker-sigkill",
        title: "worker SIGKILL, 20 times",
        does: "One of three workers at a time is killed by SIGKILL, at 20 random moments, and started again at once.",
        takes: 40,
        options: || StandOptions { workers: 3, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(kill_workers(stand)),
        proofs: taken_over_from_the_expired,
        duplicates: Duplicates::WorkerDied,
    },
    Fault {
        name: "worker-sigstop",
        title: "worker SIGSTOP, longer than ack_wait and lease, then SIGCONT",
        does: "One of two workers is stopped for 12 s (ack_wait 5 s, lease 3 s) while the other works on, and then goes on.",
        takes: 35,
        options: || StandOptions { workers: 2, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(pause_worker(stand)),
        proofs: taken_over_from_the_expired,
        duplicates: Duplicates::WorkerPaused,
    },
    Fault {
        name: "sigterm-while-sql-hangs",
        title: "SIGTERM while SQL hangs",
        does: "Every bulk load goes without an answer; the worker is asked to stop, has to end with 0 within its grace of 5 s, and is started again when SQL answers.",
        takes: 25,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| Box::pin(terminate_while_sql_hangs(stand)),
        proofs: taken_over,
        duplicates: Duplicates::OnlyUnknown,
    },
];

/// The lease of the one that was harmed had expired.
fn taken_over_from_the_expired(mode: &Mode) -> Vec<Proof> {
    const EXPIRED: &[(&str, &str)] = &[("from", "expired")];
    match mode.progress_in_sql {
        true => vec![Proof::Counter(
            "partitions_claimed_total",
            EXPIRED,
            "partitions taken over from an expired lease",
        )],
        false => taken_over(mode),
    }
}

async fn kill_workers(stand: &mut Stand) -> anyhow::Result<()> {
    const KILLS: usize = 20;
    // which worker, and when: the same in every run
    let mut random = fastrand::Rng::with_seed(0x5eed);
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(random.u64(50..1_200))).await;
        let chosen = random.usize(..stand.workers.len());
        let worker = stand.workers.get_mut(chosen).context("a worker")?;
        worker.kill().await?;
        worker.start()?;
    }
    stand.lift();
    for lane in &mut stand.lanes {
        lane.seen.push(format!("{KILLS} × SIGKILL"));
    }
    Ok(())
}

async fn pause_worker(stand: &mut Stand) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_secs(12);
    shared_out(stand).await?;
    let before: Vec<f64> = committed(stand, 1);
    stand.workers.first().context("a worker")?.signal(Signal::SIGSTOP)?;
    tokio::time::sleep(PAUSE).await;
    let after = committed(stand, 1);
    stand.workers.first().context("a worker")?.signal(Signal::SIGCONT)?;
    stand.lift();
    let mut works_on = false;
    for (lane, (before, after)) in stand.lanes.iter_mut().zip(before.into_iter().zip(after)) {
        works_on |= after > before;
        // a session of the one that is paused may hold locks, and the other waits for them
        lane.seen.push(match after > before {
            true => format!("the other worker wrote {:.0} events meanwhile", after - before),
            false => "the other worker waited for the paused one's locks".to_owned(),
        });
    }
    ensure!(works_on, "the other worker wrote nothing");
    Ok(())
}

/// Waits until the one that is to be paused has a share of the partitions, where there are any.
async fn shared_out(stand: &Stand) -> anyhow::Result<()> {
    if !stand.lanes.iter().any(|lane| lane.mode.progress_in_sql) {
        return Ok(());
    }
    wait::until("each worker has partitions", PATIENCE, async || {
        let has_some = |worker: &Worker| worker.counters().sum("partitions_owned", &[]) > 0.0;
        Ok(stand.workers.iter().all(has_some).then_some(()))
    })
    .await
}

/// What one worker has committed of each lane.
fn committed(stand: &Stand, worker: usize) -> Vec<f64> {
    let count = |lane: &crate::stand::Lane| {
        let counters = stand.workers.get(worker).map(Worker::counters).unwrap_or_default();
        counters.sum("events_committed_total", &[("pipeline", lane.mode.name)])
    };
    stand.lanes.iter().map(count).collect()
}

async fn terminate_while_sql_hangs(stand: &mut Stand) -> anyhow::Result<()> {
    let held = stand.sql.faults.script(Scripted::new(Occasion::BulkLoad, Effect::HoldAnswer))?;
    stand
        .every_lane("a writer waits for SQL", PATIENCE, |stand, mode| {
            stand.count_of(mode, "writers_busy", &[]) > 0.0
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    let worker = stand.workers.first_mut().context("a worker")?;
    let status = worker.terminate(Duration::from_secs(15)).await?.context("the worker ran")?;
    let seconds = asked.elapsed().as_secs_f64();
    ensure!(status.success(), "the worker ended with {status}");
    // a grace of 5 s, the last word to NATS, and the time that a process takes to end on a busy machine
    ensure!(seconds < 9.0, "the worker took {seconds:.1} s to stop");
    held.remove();
    stand.start_workers()?;
    stand.lift();
    let strikes = held.strikes();
    for lane in &mut stand.lanes {
        lane.seen.push(format!("ended with 0 after {seconds:.1} s, {strikes} loads without an answer"));
    }
    Ok(())
}
