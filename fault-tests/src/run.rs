//! Runs one fault on a stand of its own, and fills its row of the table.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use test_bench::sql_client::SqlClient;
use test_bench::wait::PATIENCE;

use crate::cell::{Allowance, Cell};
use crate::faults::{Duplicates, Fault};
use crate::mode::Mode;
use crate::reader;
use crate::stand::{Lane, Stand};
use crate::truth::{self, Account, Rules};

/// How long a stand may take to be as if nothing had been.
const RECOVERY: Duration = Duration::from_secs(180);
/// How often the tables are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(250);
/// The load goes on for so long after the recovery.
const AFTERWARDS: Duration = Duration::from_millis(1500);

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) fault: &'static Fault,
    pub(crate) cells: Vec<Cell>,
    pub(crate) seconds: f64,
}

/// Runs a fault. Whatever goes wrong is in its cells.
pub(crate) async fn run(fault: &'static Fault, modes: &[&'static Mode]) -> Outcome {
    let started = Instant::now();
    let cells = match Stand::start((fault.options)(), modes).await {
        Ok(mut stand) => {
            let cells = match on_stand(fault, &mut stand).await {
                Ok(cells) => cells,
                Err(error) => broken(modes, &format!("{error:#}")),
            };
            if let Some(folder) = std::env::var_os("FAULT_TESTS_KEEP") {
                let _ = stand.keep(&std::path::Path::new(&folder).join(fault.name));
            }
            cells
        }
        Err(error) => broken(modes, &format!("{error:#}")),
    };
    Outcome { fault, cells, seconds: started.elapsed().as_secs_f64() }
}

fn broken(modes: &[&'static Mode], why: &str) -> Vec<Cell> {
    modes.iter().map(|mode| Cell::broken(mode.name, why)).collect()
}

async fn on_stand(fault: &Fault, stand: &mut Stand) -> anyhow::Result<Vec<Cell>> {
    begin(stand, fault.starts_workers).await?;
    (fault.strike)(stand).await?;
    end(stand, &fault.proofs, fault.duplicates).await
}

/// Brings the stand to work.
pub(crate) async fn begin(stand: &mut Stand, starts_workers: bool) -> anyhow::Result<()> {
    let count = stand.options.before_start;
    if count > 0 {
        futures_util::future::try_join_all(stand.lanes.iter().map(|lane| lane.publisher.burst(count)))
            .await?;
    }
    if starts_workers {
        stand.start_workers()?;
        stand.start_load();
        stand.warm().await?;
    }
    Ok(())
}

/// Waits for the recovery, ends the load and the workers, and compares.
pub(crate) async fn end(
    stand: &mut Stand,
    proofs: &dyn Fn(&Mode) -> Vec<crate::evidence::Proof>,
    duplicates: Duplicates,
) -> anyhow::Result<Vec<Cell>> {
    if stand.lifted.is_none() {
        stand.lift();
    }
    let recovered = recovered(stand).await?;
    tokio::time::sleep(AFTERWARDS).await;
    stand.pause_load().await?;
    let settled = settled(stand).await?;
    for worker in &stand.workers {
        worker.read_counters().await;
    }
    let mut trouble = Vec::new();
    for worker in &mut stand.workers {
        if let Some(status) = worker.ended_by_itself()? {
            trouble.push(format!("a worker ended by itself: {status}"));
        }
    }
    if let Err(error) = stand.stop_workers().await {
        trouble.push(format!("{error:#}"));
    }
    let mut client = stand.sql_client().await?;
    let mut cells = Vec::new();
    for ((lane, recovered_seconds), unsettled) in stand.lanes.iter().zip(recovered).zip(settled) {
        let mut evidence = lane.seen.clone();
        let mut without = Vec::new();
        for proof in proofs(lane.mode) {
            match proof.find(stand, lane.mode) {
                Some(found) => evidence.push(found),
                None => without.push(proof.name()),
            }
        }
        let mut trouble = trouble.clone();
        trouble.extend(unsettled);
        if lane.acks_forgotten > 0 {
            let back = lane.acks_forgotten;
            evidence.push(format!(
                "NATS went back by {back} sequences behind acknowledgements that it had confirmed"
            ));
        }
        let account = account(stand, lane, &mut client).await?;
        if account.duplicated > 0 {
            let several = truth::several(lane.mode.rows, &reader::rows(&mut client, lane.mode).await?);
            let lines: Vec<String> = several.iter().map(|row| format!("{row:?}")).collect();
            stand.write(&format!("several-{}.txt", lane.mode.name), &lines.join("\n"))?;
        }
        cells.push(Cell {
            mode: lane.mode.name,
            allowance: allowance(stand, lane, &account, duplicates),
            account,
            recovered_seconds,
            evidence,
            without,
            trouble,
        });
    }
    Ok(cells)
}

/// How the lane's table and letters compare now.
async fn account(stand: &Stand, lane: &Lane, client: &mut SqlClient) -> anyhow::Result<Account> {
    account_up_to(stand, lane, client, u64::MAX).await
}

/// The same, of the events up to this serial number.
async fn account_up_to(
    stand: &Stand,
    lane: &Lane,
    client: &mut SqlClient,
    serial: u64,
) -> anyhow::Result<Account> {
    let mut rows = reader::rows(client, lane.mode).await?;
    rows.retain(|row| row.serial <= serial);
    let letters = stand.letters(lane.mode).await?;
    let letters: Vec<u64> = letters.iter().map(|letter| letter.serial).filter(|one| *one <= serial).collect();
    let mut events = lane.publisher.events();
    events.retain(|event| event.serial <= serial);
    let lost = lane.publisher.lost();
    let rules = Rules { rows: lane.mode.rows, ordered: lane.mode.progress_in_sql, lost: &lost };
    Ok(truth::compare(rules, &events, &rows, &letters))
}

/// For each lane the seconds from the fault's end until all that was published before is in the table; `None` where
/// that took too long.
async fn recovered(stand: &Stand) -> anyhow::Result<Vec<Option<f64>>> {
    let lifted = stand.lifted.context("the fault is over")?;
    let started = Instant::now();
    let expected: Vec<u64> =
        stand.lanes.iter().map(|lane| lane.publisher.keys_up_to(lane.watermark)).collect();
    let mut seconds = vec![None; stand.lanes.len()];
    let mut client = stand.sql_client().await?;
    while started.elapsed() < RECOVERY && seconds.contains(&None) {
        for (index, lane) in stand.lanes.iter().enumerate() {
            if seconds[index].is_some() {
                continue;
            }
            let sql = format!(
                "SELECT COUNT_BIG(DISTINCT event_id) FROM {} WHERE event_id <= {}",
                lane.mode.table(),
                lane.watermark
            );
            let is_there = if lane.publisher.lost().is_empty() {
                u64::try_from(client.number(&sql).await?)? >= expected[index]
            } else {
                account_up_to(stand, lane, &mut client, lane.watermark).await?.missing == 0
            };
            if is_there {
                seconds[index] = Some(lifted.elapsed().as_secs_f64());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(seconds)
}

/// Waits until everything is where it belongs and acknowledged. For each lane what kept it from that.
async fn settled(stand: &Stand) -> anyhow::Result<Vec<Option<String>>> {
    let mut client = stand.sql_client().await?;
    let mut kept = vec![Some(String::new()); stand.lanes.len()];
    let mut before = Vec::new();
    let mut changed = Instant::now();
    while changed.elapsed() < PATIENCE && kept.iter().any(Option::is_some) {
        let mut now = Vec::new();
        for (index, lane) in stand.lanes.iter().enumerate() {
            let account = account(stand, lane, &mut client).await?;
            let unsettled = stand.unsettled(lane.mode).await;
            kept[index] = match (account.is_complete(), unsettled, lane.mode.progress_in_sql) {
                (true, Some((0, 0)), false) | (true, None, true) => None,
                (true, None, false) => Some("its consumer does not answer".to_owned()),
                (true, Some((pending, unacknowledged)), _) => {
                    Some(format!("{pending} not delivered and {unacknowledged} not acknowledged at the end"))
                }
                (false, ..) => Some("not everything arrived".to_owned()),
            };
            now.push((account, unsettled));
        }
        if now != before {
            (before, changed) = (now, Instant::now());
        }
        tokio::time::sleep(2 * LOOK).await;
    }
    Ok(kept)
}

/// How many rows an event may have twice, and why.
fn allowance(stand: &Stand, lane: &Lane, account: &Account, duplicates: Duplicates) -> Allowance {
    let mode = lane.mode;
    if !mode.may_duplicate {
        return Allowance::none();
    }
    let without_end = |why: &str| Allowance { most: None, why: why.to_owned() };
    match duplicates {
        Duplicates::WorkerDied => without_end("a worker died"),
        Duplicates::WorkerPaused => without_end("a worker was paused"),
        Duplicates::AcksLost => without_end("acknowledgements were lost"),
        Duplicates::OnlyUnknown => {
            let unknown = stand.count_of(mode, "outcomes_unknown_events_total", &[]);
            // counters of events are whole numbers, far below what an f64 holds exactly
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let unknown = unknown as u64;
            let (mut most, mut why) = (unknown, Vec::new());
            if unknown > 0 {
                why.push(format!("{unknown} events in commits of unknown outcome"));
            }
            if lane.acks_forgotten > 0 && account.duplicated_again > 0 {
                most += account.duplicated_again;
                why.push(format!(
                    "{} events that NATS delivered, did not store, and was sent again",
                    account.duplicated_again
                ));
            }
            Allowance { most: Some(most), why: why.join("; ") }
        }
    }
}
