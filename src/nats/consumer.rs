//! The stream and the durable pull consumer that all workers of a pipeline share.

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{ConsumerInfoErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{ConsumerUpdateErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode};

use crate::config::PipelineConfig;
use crate::error::{Error, ErrorKind, Phase, Result};

/// No limit: JetStream redelivers until an event is settled, and what is held is bounded by the byte budget of each
/// worker. A limit here would lose events quietly (`max_deliver`), or stall workers that are added (`max_ack_pending`).
const UNLIMITED: i64 = -1;

/// Looks up a stream.
///
/// # Errors
///
/// [`ErrorKind::StreamSetup`] where it does not exist, [`ErrorKind::NatsUnavailable`] where nobody answers.
pub async fn stream(jetstream: &Context, name: &str, phase: Phase) -> Result<Stream> {
    jetstream.get_stream(name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Error::new(
                phase,
                ErrorKind::StreamSetup,
                format!("the stream {name:?} does not exist: create it"),
            )
        }
        GetStreamErrorKind::JetStream(refusal) => {
            refused(phase, &format!("stream {name:?}"), &refusal.to_string())
        }
        GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => {
            Error::new(phase, ErrorKind::StreamSetup, format!("{name:?} cannot be the name of a stream"))
        }
        GetStreamErrorKind::Request => unavailable(phase, &format!("asking for the stream {name:?}"), &error),
    })
}

/// Finds the pipeline's consumer, creates it, or brings it in line with the configuration.
///
/// # Errors
///
/// [`ErrorKind::StreamSetup`] where a consumer of this name exists with which the promises cannot be kept.
pub async fn ensure(stream: &Stream, pipeline: &PipelineConfig) -> Result<PullConsumer> {
    let wanted = wanted(pipeline);
    let what = format!("consumer {:?}", pipeline.durable);
    let info = match stream.consumer_info(&pipeline.durable).await {
        Ok(info) => Some(info),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound => None,
            ConsumerInfoErrorKind::JetStream(refusal) => {
                return Err(refused(Phase::Nats, &what, &refusal.to_string()));
            }
            ConsumerInfoErrorKind::InvalidName => return Err(refused(Phase::Nats, &what, "invalid name")),
            _ => return Err(unavailable(Phase::Nats, &format!("asking for the {what}"), &error)),
        },
    };
    let Some(info) = info else {
        tracing::info!(pipeline = %pipeline.name, durable = %pipeline.durable, "creating the consumer");
        return stream
            .create_consumer(wanted)
            .await
            .map_err(|error| consumer_error(&what, &error, error.kind()));
    };

    if let Some(conflict) = conflict(&info.config) {
        return Err(Error::new(
            Phase::Nats,
            ErrorKind::StreamSetup,
            format!("the {what} exists and {conflict}: delete it, or choose another `durable`"),
        ));
    }
    if in_line(&info.config, &wanted) {
        return stream.get_consumer(&pipeline.durable).await.map_err(|error| {
            Error::new(Phase::Nats, ErrorKind::NatsUnavailable, format!("looking up the {what}: {error}"))
        });
    }
    tracing::info!(pipeline = %pipeline.name, durable = %pipeline.durable, "bringing the consumer in line");
    stream.update_consumer(wanted).await.map_err(|error| match error.kind() {
        ConsumerUpdateErrorKind::JetStream(refusal) => refused(Phase::Nats, &what, &refusal.to_string()),
        ConsumerUpdateErrorKind::InvalidConsumerType | ConsumerUpdateErrorKind::InvalidName => {
            refused(Phase::Nats, &what, &error.to_string())
        }
        _ => unavailable(Phase::Nats, &format!("updating the {what}"), &error),
    })
}

fn wanted(pipeline: &PipelineConfig) -> pull::Config {
    let mut config = pull::Config {
        durable_name: Some(pipeline.durable.clone()),
        description: Some(format!("nats-sql-sink, pipeline {}", pipeline.name)),
        ack_policy: AckPolicy::Explicit,
        ack_wait: pipeline.ack_wait,
        max_deliver: UNLIMITED,
        max_ack_pending: UNLIMITED,
        ..pull::Config::default()
    };
    match pipeline.subjects.as_slice() {
        [subject] => config.filter_subject.clone_from(subject),
        subjects => config.filter_subjects = subjects.to_vec(),
    }
    config
}

/// What cannot be changed on an existing consumer, and would break a promise.
fn conflict(existing: &async_nats::jetstream::consumer::Config) -> Option<&'static str> {
    if existing.deliver_subject.is_some() {
        return Some("is a push consumer");
    }
    if existing.ack_policy != AckPolicy::Explicit {
        return Some("does not ask for explicit acknowledgements, so a crash would lose events");
    }
    if existing.headers_only {
        return Some("delivers headers without payloads");
    }
    None
}

fn in_line(existing: &async_nats::jetstream::consumer::Config, wanted: &pull::Config) -> bool {
    let filters = |one: &str, many: &[String]| {
        let mut all: Vec<String> = many.to_vec();
        if !one.is_empty() {
            all.push(one.to_owned());
        }
        all.sort();
        all
    };
    existing.ack_wait == wanted.ack_wait
        && existing.max_deliver == wanted.max_deliver
        && existing.max_ack_pending == wanted.max_ack_pending
        && filters(&existing.filter_subject, &existing.filter_subjects)
            == filters(&wanted.filter_subject, &wanted.filter_subjects)
}

fn consumer_error(
    what: &str,
    error: &async_nats::jetstream::stream::ConsumerError,
    kind: async_nats::jetstream::stream::ConsumerErrorKind,
) -> Error {
    use async_nats::jetstream::stream::ConsumerErrorKind as Kind;
    match kind {
        Kind::JetStream(refusal) => refused(Phase::Nats, what, &refusal.to_string()),
        Kind::InvalidConsumerType | Kind::InvalidName => refused(Phase::Nats, what, &error.to_string()),
        Kind::TimedOut | Kind::Request | Kind::Other => {
            unavailable(Phase::Nats, &format!("creating the {what}"), error)
        }
    }
}

fn refused(phase: Phase, what: &str, why: &str) -> Error {
    Error::new(phase, ErrorKind::StreamSetup, format!("jetstream refuses the {what}: {why}"))
}

fn unavailable(phase: Phase, doing: &str, error: &dyn std::error::Error) -> Error {
    Error::new(phase, ErrorKind::NatsUnavailable, format!("{doing}: {error}"))
}
