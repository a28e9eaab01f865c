//! Reading a stream as fast as one client can, and doing nothing with what it has.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use futures_util::future::try_join_all;

use super::Alone;
use crate::events::SUBJECT;
use crate::machine;
use crate::model;
use crate::scenario::PARTITIONS;
use crate::stand::{STREAM, Stand};

/// Messages of one pull.
const PULL: usize = 10_000;
/// With one acknowledgement for all before it, so many messages have one.
const ACK_ALL_EVERY: u64 = 1_000;
/// Without a message for so long there is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// A way to read.
#[derive(Debug)]
pub(crate) struct Way {
    /// The names of its figures.
    pub(crate) rate: &'static str,
    pub(crate) costs: &'static str,
    policy: AckPolicy,
    /// One consumer for each partition, as exactly_once reads, instead of one for all.
    is_filtered: bool,
}

pub(crate) const EXPLICIT: Way = Way {
    rate: "raw_drain_explicit",
    costs: "raw_drain_explicit_cpu_seconds_per_million",
    policy: AckPolicy::Explicit,
    is_filtered: false,
};
pub(crate) const NONE_FILTERED: Way = Way {
    rate: "raw_drain_none_filtered",
    costs: "raw_drain_none_filtered_cpu_seconds_per_million",
    policy: AckPolicy::None,
    is_filtered: true,
};
/// All of them.
pub(crate) const WAYS: &[Way] = &[
    EXPLICIT,
    Way {
        rate: "raw_drain_ack_all",
        costs: "raw_drain_ack_all_cpu_seconds_per_million",
        policy: AckPolicy::All,
        is_filtered: false,
    },
    Way {
        rate: "raw_drain_none",
        costs: "raw_drain_none_cpu_seconds_per_million",
        policy: AckPolicy::None,
        is_filtered: false,
    },
    NONE_FILTERED,
];

/// Reads `count` messages in this way, with a connection of its own.
pub(crate) async fn measure(stand: &Stand, way: &Way, count: u64) -> anyhow::Result<Alone> {
    let client = async_nats::connect(stand.nats_url()).await.context("connecting to NATS")?;
    let jetstream = async_nats::jetstream::new(client);
    let stream = jetstream.get_stream(STREAM).await.context("asking for the stream")?;
    let filters: Vec<String> = match way.is_filtered {
        true => (0..PARTITIONS).map(|number| format!("{SUBJECT}.{number}.>")).collect(),
        false => vec![format!("{SUBJECT}.>")],
    };
    let shares = filters.iter().zip(0..).map(|(_, index)| share(count, filters.len() as u64, index));
    let (server_before, own_before) = (stand.servers_cpu()?.nats_seconds, machine::own_cpu_seconds()?);
    let started = Instant::now();
    let readers = filters.iter().zip(shares).map(|(filter, share)| {
        let (stream, filter, policy) = (stream.clone(), filter.clone(), way.policy);
        // tasks of their own: several consumers are read at once
        let reading = tokio::spawn(async move { read(&stream, filter, policy, share).await });
        async move { reading.await.context("reading ended by a defect")? }
    });
    try_join_all(readers).await.with_context(|| way.rate.to_owned())?;
    let seconds = started.elapsed().as_secs_f64();
    let own = machine::own_cpu_seconds()? - own_before;
    let server = stand.servers_cpu()?.nats_seconds.zip(server_before).map(|(after, before)| after - before);
    #[allow(clippy::cast_precision_loss)] // numbers of events are far below 2^53
    let per_second = count as f64 / seconds;
    let cpu_seconds_per_million = server.and_then(|server| model::per_million(server + own, count));
    Ok(Alone { per_second, cpu_seconds_per_million })
}

/// The events of one of so many partitions, of events numbered from 1 that go to `number % partitions`.
fn share(count: u64, partitions: u64, index: u64) -> u64 {
    let first = if index == 0 { partitions } else { index };
    if count < first { 0 } else { (count - first) / partitions + 1 }
}

async fn read(stream: &Stream, filter: String, policy: AckPolicy, count: u64) -> anyhow::Result<()> {
    let consumer = stream
        .create_consumer(pull::Config {
            ack_policy: policy,
            filter_subject: filter,
            max_ack_pending: if policy == AckPolicy::None { 0 } else { -1 },
            // never again while this runs
            ack_wait: Duration::from_secs(600),
            inactive_threshold: Duration::from_secs(60),
            memory_storage: true,
            ..pull::Config::default()
        })
        .await
        .context("making a consumer")?;
    let messages = consumer.stream().max_messages_per_batch(PULL).messages().await;
    let mut messages = messages.context("asking for messages")?;
    for number in 1..=count {
        let next = tokio::time::timeout(PATIENCE, messages.next()).await;
        let Some(message) = next.context("no message comes")? else { bail!("the messages ended") };
        let message = message.context("reading a message")?;
        let acknowledges = match policy {
            AckPolicy::All => number.is_multiple_of(ACK_ALL_EVERY) || number == count,
            AckPolicy::None => false,
            _ => true,
        };
        if acknowledges {
            message.ack().await.map_err(|error| anyhow::anyhow!("acknowledging: {error}"))?;
        }
    }
    drop(messages);
    let name = consumer.cached_info().name.clone();
    stream.delete_consumer(&name).await.context("removing a consumer")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_have_the_events_whose_numbers_they_take() {
        for count in 0..40_u64 {
            for partitions in [1, 4] {
                for index in 0..partitions {
                    let counted = (1..=count).filter(|number| number % partitions == index).count() as u64;
                    assert_eq!(share(count, partitions, index), counted, "{count} {partitions} {index}");
                }
            }
        }
    }
}
