//! Faults of the streams: other streams of the same name, limits, another layout of partitions.

use std::time::Duration;

use anyhow::Context as _;
use local_stack::sql_server::faults::{Effect, Fault as Scripted, Occasion};
use test_bench::wait::{self, PATIENCE};
use test_bench::worker::command;

use super::{Duplicates, Fault};
use crate::evidence::Proof;
use crate::mode::{Mode, PARTITIONS};
use crate::stand::{Stand, StandOptions};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "stream-recreated",
        title: "the stream deleted and created anew under the same name",
        does: "While SQL hangs and the worker holds events, each stream is deleted and made anew, and other events are published to it.",
        takes: 40,
        options: || StandOptions { versions: false, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(recreate(stand)),
        proofs: recreated,
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "stream-limits",
        title: "the stream's limits removing events not yet read",
        does: "While no worker runs, 12,000 events go to each stream, and its limit is then set to 4,000.",
        takes: 30,
        options: || StandOptions { versions: false, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(limit(stand)),
        proofs: removed_unseen,
        duplicates: Duplicates::OnlyUnknown,
    },
    Fault {
        name: "partition-layout",
        title: "the partition layout changed under a running worker",
        does: "While two workers run, `partitions change` leads exactly_once from four partitions to two. Then one worker is stopped and started again with the new division (of the other modes: with four filters in the place of one), while the other runs on with the old one; then the other, too.",
        takes: 30,
        options: || StandOptions { workers: 2, ..StandOptions::default() },
        starts_workers: true,
        strike: |stand| Box::pin(change_layout(stand)),
        proofs: |_| Vec::new(),
        duplicates: Duplicates::OnlyUnknown,
    },
];

fn recreated(mode: &Mode) -> Vec<Proof> {
    match mode.progress_in_sql {
        true => Vec::new(),
        false => vec![Proof::Counter("consumers_lost_total", &[], "consumers lost")],
    }
}

/// `exactly_once` counts and reports what it did not see.
fn removed_unseen(mode: &Mode) -> Vec<Proof> {
    match mode.progress_in_sql {
        true => vec![Proof::Counter("events_removed_unseen_total", &[], "events counted as removed unseen")],
        false => Vec::new(),
    }
}

async fn recreate(stand: &mut Stand) -> anyhow::Result<()> {
    let held = stand.sql.faults.script(Scripted::new(Occasion::BulkLoad, Effect::HoldAnswer))?;
    stand
        .every_lane("a writer waits for SQL", PATIENCE, |stand, mode| {
            stand.count_of(mode, "writers_busy", &[]) > 0.0
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stand.pause_load().await?;
    for lane in &stand.lanes {
        let stream = lane.mode.stream();
        let delivered = match lane.mode.durable() {
            Some(durable) => {
                let consumer = stand.jetstream.get_stream(&stream).await?.consumer_info(durable).await;
                consumer.context("asking for the consumer")?.delivered.stream_sequence
            }
            None => 0,
        };
        // what was not delivered is gone with the stream
        let events = lane.publisher.events();
        let gone = events.iter().filter(|event| event.sequence.is_none_or(|sequence| sequence > delivered));
        lane.publisher.lose(gone.map(|event| event.serial));
        stand.jetstream.delete_stream(&stream).await.context("deleting a stream")?;
        stand.make_stream(&stream, vec![format!("{}.>", lane.mode.name)]).await?;
        lane.publisher.stream_made_anew();
    }
    stand.start_load();
    stand
        .every_lane("the consumer is found gone", PATIENCE, |stand, mode| {
            mode.progress_in_sql || stand.count_of(mode, "consumers_lost_total", &[]) > 0.0
        })
        .await?;
    held.remove();
    for index in 0..stand.lanes.len() {
        let mode = stand.lanes[index].mode;
        stand.lanes[index].seen.push("stream made anew".to_owned());
        if mode.progress_in_sql {
            begin_new_stream(stand, mode).await?;
            stand.lanes[index].seen.push("stopped until `partitions new-stream`".to_owned());
        }
    }
    stand.lift();
    Ok(())
}

/// Progress of another stream is no progress of this one: the pipeline stops, and an operator says that it is to begin.
async fn begin_new_stream(stand: &Stand, mode: &Mode) -> anyhow::Result<()> {
    let worker = stand.workers.first().context("a worker")?;
    let what = format!("{} is not ready because of the other stream", mode.name);
    wait::until(&what, PATIENCE, async || {
        let Ok((status, text)) = worker.readiness().await else { return Ok(None) };
        Ok((status == 503 && text.contains("new-stream")).then_some(()))
    })
    .await?;
    let config = worker.config.display().to_string();
    let arguments = ["partitions", "new-stream", "--config", &config, "--pipeline", mode.name];
    command(&arguments, PATIENCE).await.map(|_| ())
}

async fn limit(stand: &mut Stand) -> anyhow::Result<()> {
    const EVENTS: u64 = 12_000;
    const KEPT: i64 = 4_000;
    stand.pause_load().await?;
    // all that is there so far is read: what is lost is known from then on
    for lane in &stand.lanes {
        let what = format!("{} has read everything", lane.mode.name);
        let mut client = stand.sql_client().await?;
        let keys = i64::try_from(lane.publisher.keys_up_to(u64::MAX))?;
        wait::until(&what, PATIENCE, async || {
            let sql = format!("SELECT COUNT_BIG(DISTINCT event_id) FROM {}", lane.mode.table());
            let unsettled = stand.unsettled(lane.mode).await;
            Ok((client.number(&sql).await? >= keys && unsettled.is_none_or(|left| left == (0, 0)))
                .then_some(()))
        })
        .await?;
    }
    stand.stop_workers().await?;
    for index in 0..stand.lanes.len() {
        let lane = &stand.lanes[index];
        let read = lane.publisher.published();
        lane.publisher.burst(EVENTS).await?;
        let mut stream = stand.jetstream.get_stream(lane.mode.stream()).await?;
        let mut config = stream.info().await?.config.clone();
        config.max_messages = KEPT;
        stand.jetstream.update_stream(config).await.context("limiting a stream")?;
        let first = stream.info().await?.state.first_sequence;
        let removed: Vec<u64> = lane
            .publisher
            .events()
            .iter()
            .filter(|event| event.serial > read && event.sequence.is_none_or(|sequence| sequence < first))
            .map(|event| event.serial)
            .collect();
        let count = removed.len();
        lane.publisher.lose(removed);
        stand.lanes[index].seen.push(format!("{count} events removed by the stream's limit"));
    }
    // the limit is lifted again: the load would push out what is not read yet
    for lane in &stand.lanes {
        let mut stream = stand.jetstream.get_stream(lane.mode.stream()).await?;
        let mut config = stream.info().await?.config.clone();
        config.max_messages = -1;
        stand.jetstream.update_stream(config).await.context("lifting a stream's limit")?;
    }
    stand.start_load();
    stand.start_workers()?;
    stand.lift();
    Ok(())
}

async fn change_layout(stand: &mut Stand) -> anyhow::Result<()> {
    let modes: Vec<&Mode> = stand.lanes.iter().map(|lane| lane.mode).collect();
    let first = stand.workers.first().context("a worker")?;
    let text = std::fs::read_to_string(&first.config).context("reading a configuration")?;
    let other = stand.write("other-layout.toml", &with_other_layout(text, &modes))?;
    let mut said = String::new();
    if let Some(mode) = modes.iter().find(|mode| mode.progress_in_sql) {
        let config = other.display().to_string();
        let arguments = ["partitions", "change", "--config", &config, "--pipeline", mode.name];
        said = command(&arguments, 2 * PATIENCE).await?;
    }
    for index in 0..stand.workers.len() {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let worker = stand.workers.get_mut(index).context("a worker")?;
        worker.terminate(Duration::from_secs(15)).await?;
        let text = std::fs::read_to_string(&worker.config).context("reading a configuration")?;
        std::fs::write(&worker.config, with_other_layout(text, &modes)).context("writing a configuration")?;
        worker.start()?;
    }
    stand.lift();
    for lane in &mut stand.lanes {
        lane.seen.push(match lane.mode.progress_in_sql {
            true => said.lines().collect::<Vec<_>>().join(", "),
            false => "one filter became four, one worker after the other".to_owned(),
        });
    }
    Ok(())
}

/// Four filters where there was one, and of partitions two where there were four.
fn with_other_layout(text: String, modes: &[&Mode]) -> String {
    modes.iter().fold(text, |text, mode| {
        let name = mode.name;
        let filter = |partition| format!("\"{name}.{partition}.>\"");
        let each: Vec<String> = (0..PARTITIONS).map(filter).collect();
        let pairs: Vec<String> = each.chunks(2).map(|pair| format!("[{}]", pair.join(", "))).collect();
        text.replace(&format!("subjects = [\"{name}.>\"]"), &format!("subjects = [{}]", each.join(", ")))
            .replace(
                &format!("{{ count = {PARTITIONS}, subject = \"{name}.{{partition}}.>\" }}"),
                &format!("{{ subjects = [{}] }}", pairs.join(", ")),
            )
    })
}
