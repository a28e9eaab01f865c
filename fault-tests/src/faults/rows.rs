//! Bad events, and what becomes of them.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use local_stack::proxy::Direction;
use sha2::{Digest as _, Sha256};
use test_bench::wait::{self, PATIENCE};

use super::{Duplicates, Fault};
use crate::events::{Bad, BadRule};
use crate::evidence::Proof;
use crate::stand::{Lane, Stand, StandOptions};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "bad-rows-scattered",
        title: "1% rows that break a constraint, scattered",
        does: "Every hundredth of 1,000 events and more breaks the table's CHECK constraint.",
        takes: 30,
        options: || StandOptions {
            workers: 2,
            before_start: 1_000,
            events_per_second: 50,
            bad: vec![BadRule::every(487, Bad::Malformed), BadRule::every(100, Bad::Constraint)],
            ..StandOptions::default()
        },
        starts_workers: true,
        strike: |stand| Box::pin(bad_rows(stand)),
        proofs: |_| vec![Proof::Any(vec![Proof::SqlError(&["547"]), refused()])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "bad-rows-in-one-batch",
        title: "1% rows that break a constraint, all in one batch",
        does: "Of a backlog of 4,000 events 40 in a row break the table's CHECK constraint, so that one batch of 2,000 has them all (in exactly_once one batch of each partition).",
        takes: 30,
        options: || StandOptions {
            max_age: "3s",
            before_start: 4_000,
            events_per_second: 50,
            bad: vec![BadRule::range(2_401, 2_441, Bad::Constraint), BadRule::every(487, Bad::Malformed)],
            ..StandOptions::default()
        },
        starts_workers: true,
        strike: |stand| Box::pin(bad_rows(stand)),
        proofs: |_| vec![Proof::Any(vec![Proof::SqlError(&["547"]), refused()])],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "dead-letters-missing",
        title: "dead-letter stream missing, then created",
        does: "The workers start without a dead-letter stream, which is made when each pipeline has said that it is missing.",
        takes: 45,
        options: || StandOptions { with_dead_letters: false, ..StandOptions::default() },
        starts_workers: false,
        strike: |stand| Box::pin(dead_letters_missing(stand)),
        proofs: |_| Vec::new(),
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "dead-letter-window",
        title: "an outage longer than the dead-letter stream's duplicate window",
        does: "Nothing passes from NATS to the worker for 10 s, again and again until each pipeline has had dead letters without a confirmation; the dead-letter streams know repeats for 2 s.",
        takes: 60,
        options: || StandOptions {
            duplicate_window: Duration::from_secs(2),
            bad: vec![BadRule::every(7, Bad::Malformed)],
            ..StandOptions::default()
        },
        starts_workers: true,
        strike: |stand| Box::pin(outlast_window(stand)),
        proofs: |_| {
            vec![Proof::Counter(
                "nats_errors_total",
                &[("phase", "dead_letter")],
                "dead letters without a confirmation",
            )]
        },
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "dead-letters-shared",
        title: "two pipelines that share one dead-letter stream",
        does: "All pipelines dead-letter every 50th event into one stream; one of two workers is killed meanwhile.",
        takes: 25,
        options: || StandOptions {
            workers: 2,
            shared_dead_letters: true,
            bad: vec![BadRule::every(50, Bad::Malformed)],
            ..StandOptions::default()
        },
        starts_workers: true,
        strike: |stand| Box::pin(shared_dead_letters(stand)),
        proofs: |_| vec![dead_lettered()],
        duplicates: Duplicates::WorkerDied,
    },
    Fault {
        name: "largest-event",
        title: "an event of the largest size that NATS takes, dead-lettered",
        does: "Three events fill max_payload (1 MiB) to the last byte and are too long for their column; each has to be dead-lettered cut, with the length and the digest of the whole.",
        takes: 25,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| Box::pin(largest_events(stand)),
        proofs: |_| vec![dead_lettered()],
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "decoder-crash",
        title: "a message that crashes the decoder",
        does: "One event of each stream ends the process whenever it is decoded (test hook); the worker is started again each time, and max_deliveries is 3.",
        takes: 60,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| Box::pin(crash_decoder(stand)),
        proofs: |_| vec![dead_lettered()],
        duplicates: Duplicates::WorkerDied,
    },
];

fn dead_lettered() -> Proof {
    Proof::Counter("events_dead_lettered_total", &[], "dead letters counted by workers")
}

fn refused() -> Proof {
    Proof::Counter("bisection_loads_total", &[], "loads to find bad rows")
}

const REFUSED: [(&str, &str); 1] = [("reason", "refused_by_database")];

/// The bad rows are published already, or as the load goes on.
async fn bad_rows(stand: &mut Stand) -> anyhow::Result<()> {
    stand
        .every_lane("rows are refused", 2 * PATIENCE, |stand, mode| {
            stand.count_of(mode, "events_dead_lettered_total", &REFUSED) > 5.0
        })
        .await?;
    stand.lift();
    Ok(())
}

async fn dead_letters_missing(stand: &mut Stand) -> anyhow::Result<()> {
    stand.start_workers()?;
    stand.start_load();
    let mut seen = Vec::new();
    for lane in &stand.lanes {
        let stream = stand.dead_letter_stream(lane.mode);
        let what = format!("not ready because {stream} is missing");
        let worker = stand.workers.first().context("a worker")?;
        wait::until(&what, PATIENCE, async || {
            let Ok((status, text)) = worker.readiness().await else { return Ok(None) };
            Ok((status == 503 && text.contains(&stream)).then_some(()))
        })
        .await?;
        seen.push(format!("not ready: {stream} is missing"));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    stand.make_dead_letter_streams().await?;
    stand.lift();
    for (lane, seen) in stand.lanes.iter_mut().zip(seen) {
        lane.seen.push(seen);
    }
    Ok(())
}

async fn outlast_window(stand: &mut Stand) -> anyhow::Result<()> {
    /// A worker has letters on their way for nearly as long as that, and is not yet told that they are lost (after 5 s): so
    /// some are when answers stop.
    const ROUND_TRIP: Duration = Duration::from_secs(4);
    /// Outages, at most: each finds letters on their way by chance.
    const OUTAGES: usize = 8;
    let proxy = stand.nats_proxy.as_ref().context("a proxy")?;
    let mut outages = 0;
    let struck = |stand: &Stand| {
        let unconfirmed =
            |lane: &Lane| stand.count_of(lane.mode, "nats_errors_total", &[("phase", "dead_letter")]) > 0.0;
        stand.lanes.iter().all(unconfirmed)
    };
    while outages < OUTAGES && !struck(stand) {
        outages += 1;
        proxy.add_latency(ROUND_TRIP);
        tokio::time::sleep(3 * ROUND_TRIP).await;
        proxy.stall(Direction::ToClient);
        tokio::time::sleep(Duration::from_secs(10)).await;
        proxy.pass();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    stand.lift();
    for lane in &mut stand.lanes {
        lane.seen.push(format!("{outages} outages of 10 s"));
    }
    Ok(())
}

async fn shared_dead_letters(stand: &mut Stand) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(4)).await;
    let worker = stand.workers.first_mut().context("a worker")?;
    worker.kill().await?;
    worker.start()?;
    stand.lift();
    let count = stand.lanes.len();
    for lane in &mut stand.lanes {
        lane.seen.push(format!("one stream for {count} pipelines"));
    }
    Ok(())
}

async fn largest_events(stand: &mut Stand) -> anyhow::Result<()> {
    const EVENTS: u64 = 3;
    for lane in &stand.lanes {
        // only those that are published from now on can be chosen: their numbers follow
        lane.publisher.next_are(EVENTS, Bad::Largest);
    }
    let max_payload = stand.options.nats.max_payload as usize;
    for lane in &stand.lanes {
        let what = format!("{}: {EVENTS} letters of the largest events", lane.mode.name);
        let letters = wait::until(&what, PATIENCE, async || {
            let mut letters = stand.letters(lane.mode).await?;
            letters.retain(|letter| letter.header("Dead-Letter-Truncated") == Some("true"));
            Ok((letters.len() as u64 == EVENTS).then_some(letters))
        })
        .await?;
        let events = lane.publisher.events();
        for letter in letters {
            let event = events.iter().find(|event| event.serial == letter.serial).context("its event")?;
            let whole = event.payload(max_payload);
            let digest: String = Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
            ensure!(whole.len() == max_payload, "the event does not fill max_payload");
            ensure!(whole.starts_with(&letter.message.payload), "the letter is not the event's beginning");
            ensure!(
                letter.header("Dead-Letter-Payload-Bytes") == Some(&whole.len().to_string()),
                "the letter tells another length"
            );
            ensure!(
                letter.header("Dead-Letter-Payload-Sha256") == Some(&digest),
                "the letter tells another digest"
            );
        }
    }
    stand.lift();
    for lane in &mut stand.lanes {
        lane.seen.push(format!("{EVENTS} letters of events of {max_payload} bytes, with length and digest"));
    }
    Ok(())
}

async fn crash_decoder(stand: &mut Stand) -> anyhow::Result<()> {
    let mut crashes = vec![0; stand.lanes.len()];
    // one lane after the other, so that it is known whose event it was
    for (index, crashes) in crashes.iter_mut().enumerate() {
        let lane = stand.lanes.get(index).context("a lane")?;
        lane.publisher.next_are(1, Bad::Crash);
        let mode = lane.mode;
        let what = format!("{}: the event that crashes the decoder is dead-lettered", mode.name);
        let serials: Vec<u64> = wait::until("it is published", PATIENCE, async || {
            let events = lane.publisher.events();
            let found: Vec<u64> =
                events.iter().filter(|e| e.bad == Some(Bad::Crash)).map(|e| e.serial).collect();
            Ok((!found.is_empty()).then_some(found))
        })
        .await?;
        wait::until(&what, 2 * PATIENCE, async || {
            for worker in &mut stand.workers {
                if worker.ended_by_itself()?.is_some() {
                    *crashes += 1;
                    worker.start()?;
                }
            }
            let letters = stand.letters(mode).await?;
            Ok(letters.iter().any(|letter| serials.contains(&letter.serial)).then_some(()))
        })
        .await?;
        ensure!(*crashes > 0, "{}: no worker crashed; is the program built with its test hooks?", mode.name);
    }
    stand.lift();
    for (lane, crashes) in stand.lanes.iter_mut().zip(crashes) {
        lane.seen.push(format!("the process ended {crashes} times over one event"));
    }
    Ok(())
}
