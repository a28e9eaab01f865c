//! Faults of NATS, and of the way to it.

use std::time::Duration;

use anyhow::Context as _;
use local_stack::proxy::Direction;
use test_bench::wait::{self, PATIENCE};

use super::{Duplicates, Fault};
use crate::evidence::Proof;
use crate::mode::Mode;
use crate::stand::nats::NatsOptions;
use crate::stand::{Stand, StandOptions};

/// How long NATS is cut off.
const CUT: Duration = Duration::from_secs(90);

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "nats-sigkill",
        title: "nats-server SIGKILL and restart",
        does: "The nats-server is killed by SIGKILL under load, and started again after 4 s, twice.",
        takes: 30,
        options: StandOptions::default,
        starts_workers: true,
        strike: |stand| Box::pin(kill_server(stand)),
        proofs: disconnected,
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "cluster-leader",
        title: "cluster leader killed",
        does: "Of a cluster of three nats-servers with three copies of each stream, the leader of each mode's stream is killed by SIGKILL and started again, one after the other; two workers.",
        takes: 60,
        options: || StandOptions {
            workers: 2,
            events_per_second: 300,
            nats: NatsOptions { cluster: true, max_payload: 1024 * 1024, ..NatsOptions::default() },
            ..StandOptions::default()
        },
        starts_workers: true,
        strike: |stand| Box::pin(kill_leaders(stand)),
        proofs: |_| Vec::new(),
        duplicates: Duplicates::AcksLost,
    },
    Fault {
        name: "nats-cut-both",
        title: "NATS cut off for 90 s, both directions",
        does: "Between the worker and NATS nothing passes for 90 s in either direction; connections stay open.",
        takes: 125,
        options: cut_options,
        starts_workers: true,
        strike: |stand| Box::pin(cut_off(stand, &[Direction::ToServer, Direction::ToClient])),
        proofs: disconnected,
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "nats-cut-answers",
        title: "NATS cut off for 90 s, its answers only",
        does: "For 90 s nothing reaches the worker from NATS, while NATS receives what the worker sends.",
        takes: 125,
        options: cut_options,
        starts_workers: true,
        strike: |stand| Box::pin(cut_off(stand, &[Direction::ToClient])),
        proofs: disconnected,
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "nats-cut-requests",
        title: "NATS cut off for 90 s, requests only",
        does: "For 90 s nothing reaches NATS from the worker, while the worker receives what NATS sends.",
        takes: 125,
        options: cut_options,
        starts_workers: true,
        strike: |stand| Box::pin(cut_off(stand, &[Direction::ToServer])),
        proofs: disconnected,
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "nats-disk-full",
        title: "disk of the NATS store full",
        does: "The disk that the streams are on runs full under load; after 5 s the server is moved to one with room, as a crash would, and started again.",
        takes: 40,
        options: || StandOptions {
            nats: NatsOptions {
                max_payload: 1024 * 1024,
                disk_bytes: Some(96 * 1024 * 1024),
                ..NatsOptions::default()
            },
            ..StandOptions::default()
        },
        starts_workers: true,
        strike: |stand| Box::pin(fill_disk(stand)),
        proofs: |_| Vec::new(),
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "slow-client",
        title: "messages dropped on their way to a slow client",
        does: "The worker's connection takes 2 MiB/s, and then nothing, while it is sent a backlog of large events; NATS drops what it has for it and closes the connection (slow consumer).",
        takes: 30,
        options: || StandOptions {
            nats: NatsOptions {
                max_payload: 1024 * 1024,
                extra_config: Some("write_deadline: \"1s\"".to_owned()),
                ..NatsOptions::default()
            },
            before_start: 8_000,
            note_bytes: 4_000,
            events_per_second: 200,
            ..StandOptions::default()
        },
        starts_workers: false,
        strike: |stand| Box::pin(slow_client(stand)),
        proofs: disconnected,
        duplicates: Duplicates::OnlyUnknown,
    },
];

fn cut_options() -> StandOptions {
    StandOptions { events_per_second: 200, ..StandOptions::default() }
}

fn disconnected(_: &Mode) -> Vec<Proof> {
    vec![Proof::disconnected()]
}

async fn kill_server(stand: &mut Stand) -> anyhow::Result<()> {
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = stand.ack_floors().await?;
        let server = stand.nats.single()?;
        server.kill().await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.restart().await.context("starting nats-server again")?;
        stand.note_forgotten_acks(&before).await?;
    }
    stand.lift();
    Ok(())
}

/// The name of the server that leads a stream.
async fn leader(stand: &Stand, mode: &Mode) -> Option<String> {
    let stream = stand.jetstream.get_stream(mode.stream()).await.ok()?;
    stream.cached_info().cluster.as_ref()?.leader.clone()
}

async fn kill_leaders(stand: &mut Stand) -> anyhow::Result<()> {
    for index in 0..stand.lanes.len() {
        let mode = stand.lanes[index].mode;
        let what = format!("the stream {} has a leader", mode.stream());
        let before = wait::until(&what, PATIENCE, async || Ok(leader(stand, mode).await)).await?;
        let node = stand.nats.cluster()?.node(&before).context("the leader is one of the cluster")?;
        node.kill().await;
        let what = format!("the stream {} has another leader", mode.stream());
        wait::until(&what, PATIENCE, async || {
            Ok(leader(stand, mode).await.filter(|leader| *leader != before))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let node = stand.nats.cluster()?.node(&before).context("the leader is one of the cluster")?;
        node.restart().await.context("starting a nats-server again")?;
        stand.lanes[index].seen.push("its stream's leader killed, another elected".to_owned());
        // three copies again, before the next is killed
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    stand.lift();
    Ok(())
}

async fn cut_off(stand: &mut Stand, directions: &[Direction]) -> anyhow::Result<()> {
    let proxy = stand.nats_proxy.as_ref().context("a proxy")?;
    for direction in directions {
        proxy.stall(*direction);
    }
    tokio::time::sleep(CUT).await;
    proxy.pass();
    stand.lift();
    Ok(())
}

async fn fill_disk(stand: &mut Stand) -> anyhow::Result<()> {
    use std::io::Write as _;
    let server = stand.nats.single()?;
    let log = server.store_dir().join("nats-server.log");
    let filler = server.visible_store().join("filler");
    let mut file = std::fs::File::create(&filler).with_context(|| format!("making {}", filler.display()))?;
    let block = vec![0; 64 * 1024];
    while file.write_all(&block).is_ok() {}
    for lane in &mut stand.lanes {
        let stream = format!("'$G > {}'", lane.mode.stream());
        let full = |line: &str| line.contains(&stream) && line.contains("no space left on device");
        wait::until(&format!("no room for {stream}"), PATIENCE, async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            Ok(text.lines().find(|line| full(line)).map(|_| ()))
        })
        .await?;
        lane.seen.push("no space left on device".to_owned());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(file);
    std::fs::remove_file(&filler).context("making room")?;
    let before = stand.ack_floors().await?;
    stand.nats.single()?.move_to_larger_disk().await.context("moving the streams")?;
    stand.note_forgotten_acks(&before).await?;
    stand.lift();
    Ok(())
}

async fn slow_client(stand: &mut Stand) -> anyhow::Result<()> {
    stand.start_load();
    let log = stand.nats.single()?.store_dir().join("nats-server.log");
    // slow from the start: the backlog must not be through before nothing passes any more
    stand.nats_proxy.as_ref().context("a proxy")?.limit(Direction::ToClient, Some(2 * 1024 * 1024));
    stand.start_workers()?;
    let received = |stand: &Stand| stand.count("events_received_total", &[]) > 0.0;
    wait::until("the worker receives events", PATIENCE, async || Ok(received(stand).then_some(()))).await?;
    let proxy = stand.nats_proxy.as_ref().context("a proxy")?;
    proxy.stall(Direction::ToClient);
    wait::until("NATS drops a slow consumer", PATIENCE, async || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(text.contains("Slow Consumer").then_some(()))
    })
    .await?;
    proxy.pass();
    stand.lift();
    for lane in &mut stand.lanes {
        lane.seen.push("slow consumer, by the server's log".to_owned());
    }
    Ok(())
}
