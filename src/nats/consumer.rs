//! The stream and the durable pull consumer that all workers of a pipeline share.

mod settings;

use async_nats::jetstream::consumer::{Config, Info, IntoConsumerConfig, PullConsumer, pull};
use async_nats::jetstream::context::{ConsumerInfoErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{ConsumerUpdateErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode};

use crate::config::PipelineConfig;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::nats::answers;

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
        GetStreamErrorKind::JetStream(refusal) => answered(phase, &format!("stream {name:?}"), &refusal),
        GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => {
            Error::new(phase, ErrorKind::StreamSetup, format!("{name:?} cannot be the name of a stream"))
        }
        GetStreamErrorKind::Request => unavailable(phase, &format!("asking for the stream {name:?}"), &error),
    })
}

/// What is to be done about a pipeline's consumer.
enum Plan {
    Create,
    Update(Box<pull::Config>),
    Keep(Box<Config>),
}

/// What [`ensure`] would do.
#[derive(Debug)]
pub struct Looked {
    /// In words.
    pub would: &'static str,
    /// What is not as it should be, and may be meant so.
    pub warnings: Vec<String>,
}

/// Finds the pipeline's consumer; creates it, or brings it in line with the configuration, where it is ours to manage.
///
/// # Errors
///
/// [`ErrorKind::StreamSetup`] where a consumer of this name exists with which the promises cannot be kept, or where none
/// exists and it is not ours to make.
pub async fn ensure(stream: &Stream, pipeline: &PipelineConfig) -> Result<PullConsumer> {
    let what = format!("consumer {:?}", pipeline.durable);
    let consumer = match plan(stream, pipeline, &what).await? {
        Plan::Create => {
            tracing::info!(pipeline = %pipeline.name, durable = %pipeline.durable, "creating the consumer");
            let created = stream.create_consumer(settings::wanted(pipeline)).await;
            created.map_err(|error| consumer_error(&what, &error, error.kind()))?
        }
        Plan::Update(config) => update(stream, pipeline, *config, &what).await?,
        Plan::Keep(_) => look_up(stream, pipeline, &what).await?,
    };
    for warning in settings::warnings(&consumer.cached_info().config) {
        tracing::warn!(pipeline = %pipeline.name, durable = %pipeline.durable, "consumer: {warning}");
    }
    Ok(consumer)
}

/// Tells what [`ensure`] would do, and does nothing.
///
/// # Errors
///
/// As of [`ensure`].
pub async fn look(stream: &Stream, pipeline: &PipelineConfig) -> Result<Looked> {
    let what = format!("consumer {:?}", pipeline.durable);
    let (would, config) = match plan(stream, pipeline, &what).await? {
        Plan::Create => {
            ("does not exist, a worker makes it", settings::wanted(pipeline).into_consumer_config())
        }
        Plan::Update(config) => {
            ("exists, a worker brings it in line with the configuration", config.into_consumer_config())
        }
        Plan::Keep(config) => ("exists, as it must be", *config),
    };
    Ok(Looked { would, warnings: settings::warnings(&config) })
}

async fn plan(stream: &Stream, pipeline: &PipelineConfig, what: &str) -> Result<Plan> {
    let refuse = |text: String| Err(Error::new(Phase::Nats, ErrorKind::StreamSetup, text));
    let config = match find(stream, pipeline, what).await? {
        Some(info) => info.config,
        None if pipeline.manage_consumer => return Ok(Plan::Create),
        None => {
            return refuse(format!(
                "the {what} does not exist: create it, or write `manage_consumer = true`"
            ));
        }
    };
    if let Some(conflict) = settings::conflict(&config) {
        return refuse(format!("the {what} exists and {conflict}: delete it, or choose another `durable`"));
    }
    if pipeline.manage_consumer {
        return Ok(match settings::brought_in_line(&config, pipeline) {
            Some(config) => Plan::Update(Box::new(config)),
            None => Plan::Keep(Box::new(config)),
        });
    }
    let refusals = settings::refusals(&config, pipeline);
    if !refusals.is_empty() {
        return refuse(format!(
            "the {what} is not ours to change (`manage_consumer = false`): {}",
            refusals.join("; ")
        ));
    }
    Ok(Plan::Keep(Box::new(config)))
}

async fn find(stream: &Stream, pipeline: &PipelineConfig, what: &str) -> Result<Option<Info>> {
    match stream.consumer_info(&pipeline.durable).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound => Ok(None),
            ConsumerInfoErrorKind::JetStream(refusal) => Err(answered(Phase::Nats, what, &refusal)),
            ConsumerInfoErrorKind::InvalidName => Err(refused(Phase::Nats, what, "invalid name")),
            _ => Err(unavailable(Phase::Nats, &format!("asking for the {what}"), &error)),
        },
    }
}

async fn look_up(stream: &Stream, pipeline: &PipelineConfig, what: &str) -> Result<PullConsumer> {
    stream.get_consumer(&pipeline.durable).await.map_err(|error| {
        Error::new(Phase::Nats, ErrorKind::NatsUnavailable, format!("looking up the {what}: {error}"))
    })
}

async fn update(
    stream: &Stream,
    pipeline: &PipelineConfig,
    config: pull::Config,
    what: &str,
) -> Result<PullConsumer> {
    tracing::info!(pipeline = %pipeline.name, durable = %pipeline.durable, "bringing the consumer in line");
    stream.update_consumer(config).await.map_err(|error| match error.kind() {
        ConsumerUpdateErrorKind::JetStream(refusal) => answered(Phase::Nats, what, &refusal),
        ConsumerUpdateErrorKind::InvalidConsumerType | ConsumerUpdateErrorKind::InvalidName => {
            refused(Phase::Nats, what, &error.to_string())
        }
        _ => unavailable(Phase::Nats, &format!("updating the {what}"), &error),
    })
}

fn consumer_error(
    what: &str,
    error: &async_nats::jetstream::stream::ConsumerError,
    kind: async_nats::jetstream::stream::ConsumerErrorKind,
) -> Error {
    use async_nats::jetstream::stream::ConsumerErrorKind as Kind;
    match kind {
        Kind::JetStream(refusal) => answered(Phase::Nats, what, &refusal),
        Kind::InvalidConsumerType | Kind::InvalidName => refused(Phase::Nats, what, &error.to_string()),
        Kind::TimedOut | Kind::Request | Kind::Other => {
            unavailable(Phase::Nats, &format!("creating the {what}"), error)
        }
    }
}

/// What JetStream answered with.
fn answered(phase: Phase, what: &str, answer: &async_nats::jetstream::Error) -> Error {
    match answers::kind(answer) {
        ErrorKind::StreamSetup => refused(phase, what, &answer.to_string()),
        kind => Error::new(phase, kind, format!("jetstream cannot look after the {what} just now: {answer}")),
    }
}

fn refused(phase: Phase, what: &str, why: &str) -> Error {
    Error::new(phase, ErrorKind::StreamSetup, format!("jetstream refuses the {what}: {why}"))
}

fn unavailable(phase: Phase, doing: &str, error: &dyn std::error::Error) -> Error {
    Error::new(phase, ErrorKind::NatsUnavailable, format!("{doing}: {error}"))
}
