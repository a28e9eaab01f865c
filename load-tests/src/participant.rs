//! What takes part in a comparison, the sink and the peers: each runs alone, on a table and a consumer of its own, and
//! is measured alike.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use clap::ValueEnum;

mod peer;
mod sink;

pub(crate) use peer::Peers;

use crate::account::Account;
use crate::events::Good;
use crate::figures;
use crate::machine;
use crate::model;
use crate::scenario::StorageKind;
use crate::stand::sql_process::Request;
use crate::stand::{STREAM, Stand};

/// How many events a consumer may have given out: above two batches of any peer.
const MAX_ACK_PENDING: i64 = 1_000_000;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Participant {
    /// One worker of nats-sql-sink
    Sink,
    /// nats-py, and the bulk copy of mssql-python
    BulkCopy,
    /// nats-py, and INSERT with parameters
    InsertMany,
    /// Node.js, and the bulk load of tedious
    BulkLoad,
}

impl Participant {
    /// As arguments and reports have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::BulkCopy => "bulk_copy",
            Self::InsertMany => "insert_many",
            Self::BulkLoad => "bulk_load",
        }
    }
}

/// What all of them get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// All events of the stream, each of them good.
    pub(crate) good: Good,
    /// From the first pull on.
    pub(crate) stop_after: Duration,
    pub(crate) storage: StorageKind,
}

/// What a participant has done when it ended, or when its time was over.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Done {
    /// Rows whose commit it knows of.
    rows: u64,
    /// From its first pull until the last of these commits.
    seconds: f64,
    peak_rss_bytes: u64,
}

/// What was measured of a participant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    done: Done,
    account: Account,
    redelivered: u64,
    cpu_seconds: f64,
    nats_cpu_seconds: Option<f64>,
    sql_cpu_seconds: Option<f64>,
}

/// Runs one of them, and looks at what came of it.
pub(crate) async fn run(
    participant: Participant,
    stand: &mut Stand,
    peers: Option<&Peers>,
    task: &Task,
) -> anyhow::Result<Measured> {
    stand.make_table().await?;
    let counts_before = stand.ask_sql(&Request::Count).await?;
    let servers_before = stand.servers_cpu()?;
    // a process has its whole processor time only when it has ended, and is waited for
    let children_before = machine::ended_children_cpu_seconds()?;
    let (done, consumer) = match participant {
        Participant::Sink => (sink::run(stand, task).await?, stand.pipeline().to_owned()),
        peer => {
            let consumer = format!("{}-{}", stand.pipeline(), peer.name());
            make_consumer(stand, &consumer, task).await?;
            let peers = peers.context("the peers")?;
            (peers.run(peer, stand, &consumer, task).await?, consumer)
        }
    };
    let cpu_seconds = machine::ended_children_cpu_seconds()? - children_before;
    let servers_after = stand.servers_cpu()?;
    let counts_after = stand.ask_sql(&Request::Count).await?;
    let counts = counts_after.zip(counts_before).map(|(after, before)| after.since(before));
    let account = if done.rows == task.good.count {
        Account::read(stand, task.storage, counts, task.good).await?
    } else {
        Account::read_part(stand, task.storage, counts, task.good, done.rows).await?
    };
    if account.is_strange {
        bail!("the table has rows that nobody published");
    }
    if participant != Participant::Sink {
        // it stops after what it has told; a worker may commit after it was last asked
        ensure!(account.rows == done.rows, "it told of {} rows, and there are {}", done.rows, account.rows);
    }
    let difference = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
    Ok(Measured {
        done,
        account,
        redelivered: end_consumer(stand, &consumer).await?,
        cpu_seconds,
        nats_cpu_seconds: difference(servers_before.nats_seconds, servers_after.nats_seconds),
        sql_cpu_seconds: difference(servers_before.sql_seconds, servers_after.sql_seconds),
    })
}

impl Measured {
    /// Rows a second.
    pub(crate) fn rows_per_second(&self) -> f64 {
        number(self.done.rows) / self.done.seconds
    }

    /// The figures of one participant alone.
    pub(crate) fn values(&self) -> Vec<(&'static str, f64)> {
        let Self { done, account, .. } = self;
        let mut values = vec![
            ("rows_in_table", number(account.rows)),
            ("missing", number(account.missing)),
            ("duplicates", number(account.duplicates)),
            ("redelivered", number(self.redelivered)),
            ("seconds", done.seconds),
            ("rows_per_second", self.rows_per_second()),
            ("peak_rss_bytes", number(done.peak_rss_bytes)),
        ];
        let of = |name, seconds: Option<f64>| Some((name, model::per_million(seconds?, account.rows)?));
        let costs = [
            of("cpu_seconds_per_million", Some(self.cpu_seconds)),
            of("nats_cpu_seconds_per_million", self.nats_cpu_seconds),
            of("sql_cpu_seconds_per_million", self.sql_cpu_seconds),
        ];
        values.extend(costs.into_iter().flatten());
        debug_assert!(values.iter().all(|(name, _)| figures::unit(name).is_some()));
        values
    }
}

async fn make_consumer(stand: &Stand, name: &str, task: &Task) -> anyhow::Result<()> {
    let config = pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        // a peer says nothing of events that it holds, and ends long before one is given out again
        ack_wait: 2 * task.stop_after + Duration::from_secs(60),
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    };
    let stream = stand.jetstream.get_stream(STREAM).await.context("asking for the stream")?;
    stream.create_consumer(config).await.context("making a consumer")?;
    Ok(())
}

/// Removes the consumer, for the next run to begin anew; gives how many deliveries were not an event's first.
async fn end_consumer(stand: &Stand, name: &str) -> anyhow::Result<u64> {
    let stream = stand.jetstream.get_stream(STREAM).await.context("asking for the stream")?;
    let consumer: async_nats::jetstream::consumer::Consumer<pull::Config> =
        stream
            .get_consumer(name)
            .await
            .map_err(|error| anyhow::anyhow!("asking for the consumer: {error}"))?;
    let delivered = &consumer.cached_info().delivered;
    // the stream begins at 1 and the consumer takes all of it
    let redelivered = delivered.consumer_sequence.saturating_sub(delivered.stream_sequence);
    stream.delete_consumer(name).await.context("removing the consumer")?;
    Ok(redelivered)
}

#[allow(clippy::cast_precision_loss)] // numbers of events and bytes are far below 2^53
fn number(value: u64) -> f64 {
    value as f64
}
