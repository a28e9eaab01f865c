//! Whether every event of a stream stays until it is read, and is in one of a pipeline's partitions.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::{Info, RetentionPolicy, Stream};

use crate::config::{Layout, PipelineConfig};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::nats::reader::random_name;

/// Counts the events of the stream that no partition would read: an event that nobody reads would be missing in the
/// table without a trace.
///
/// # Errors
///
/// [`ErrorKind::StreamSetup`] where there are any, [`ErrorKind::NatsUnavailable`] where nobody answers.
pub async fn check(stream: &Stream, pipeline: &PipelineConfig, layout: &Layout) -> Result<()> {
    if pipeline.partitions.as_ref().is_none_or(|partitions| partitions.count.is_none()) {
        // lists are held against `subjects` when the configuration is read
        return Ok(());
    }
    let all = matching(stream, pipeline, &pipeline.subjects).await?;
    let filters: Vec<String> = layout.partitions.iter().flatten().cloned().collect();
    let covered = matching(stream, pipeline, &filters).await?;
    if covered < all {
        let text = format!(
            "{} events of the stream {:?} are in none of the {} partitions: `partitions.count` and \
             `partitions.subject` must follow the stream's subject transform",
            all - covered,
            pipeline.stream,
            layout.partitions.len()
        );
        return Err(Error::new(Phase::Nats, ErrorKind::StreamSetup, text));
    }
    Ok(())
}

/// In `exactly_once` nothing is acknowledged: the stream must not wait for that, nor remove what somebody else acknowledges.
///
/// # Errors
///
/// [`ErrorKind::StreamSetup`] where the stream has another retention than limits.
pub fn refuse_other_retention(info: &Info) -> Result<()> {
    if info.config.retention == RetentionPolicy::Limits {
        return Ok(());
    }
    let text = format!(
        "the stream {:?} keeps events only until they are acknowledged, and exactly_once acknowledges none: it needs a \
         stream with limits retention",
        info.config.name
    );
    Err(Error::new(Phase::Nats, ErrorKind::StreamSetup, text))
}

/// How many events of the stream these filters match.
async fn matching(stream: &Stream, pipeline: &PipelineConfig, filters: &[String]) -> Result<u64> {
    let mut config = PullConfig {
        // with a name the filter is part of the subject of the request, by which what may be read can be narrowed down
        name: Some(format!("{}-count-{}", pipeline.consumer_name(), random_name())),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: Duration::from_secs(5),
        ..PullConfig::default()
    };
    match filters {
        [filter] => config.filter_subject.clone_from(filter),
        filters => config.filter_subjects = filters.to_vec(),
    }
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(
            Phase::Nats,
            ErrorKind::NatsUnavailable,
            format!("counting the events of partitions: {error}"),
        )
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
    let info = consumer.cached_info();
    // Where it stays, the server removes it by itself.
    if let Err(error) = stream.delete_consumer(&info.name).await {
        tracing::debug!(%error, "a consumer that counted is not deleted");
    }
    Ok(info.num_pending)
}
