//! The dead-letter stream: where a bad event goes, whole and with the reason, before it is acknowledged.

mod letter;
mod stream;

use std::error::Error as _;
use std::sync::Arc;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;

pub use letter::{
    DELIVERIES, DETAIL, ERROR_NUMBER, HEADERS_LEFT_OUT, ORIGINAL_PREFIX, PAYLOAD_BYTES, PAYLOAD_SHA256,
    PHASE, PIPELINE, PUBLISHED_AT, REASON, SEQUENCE, STREAM, SUBJECT, TRUNCATED, UNREADABLE_HEADERS,
    UNREADABLE_HEADERS_BYTES,
};

use self::letter::Frame;
use crate::config::{DeadLetterConfig, PipelineConfig};
use crate::delivery::{Durable, Event};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::nats::{answers, consumer};

/// Publishes that wait for their confirmation at once. Below the number at which a stream's ingest begins to drop.
const WINDOW: usize = 256;

/// Why an event is rejected, in words that hold no value of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A stable word: a metric's label and a header.
    pub kind: &'static str,
    /// A sentence for a person.
    pub detail: String,
    /// Where on its way.
    pub phase: Phase,
    /// The database's error number, where that refused the event's row.
    pub error_number: Option<u32>,
}

/// Publishes one pipeline's bad events.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    jetstream: Context,
    pipeline: Arc<str>,
    /// Most bytes of one message that the dead-letter stream takes, where it has a limit of its own.
    max_message_bytes: Option<usize>,
    target: DeadLetterConfig,
    source: Source,
}

/// The stream that the events come from.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    /// Tells a stream from a later one of the same name: nanoseconds since 1970-01-01 UTC.
    created_at: i128,
}

impl DeadLetters {
    /// Checks that the dead-letter stream is there and keeps what is published below the configured subject.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StreamSetup`] where it is missing, or is set up so that letters would be lost.
    pub async fn prepare(
        jetstream: Context,
        pipeline: &PipelineConfig,
        source: &async_nats::jetstream::stream::Info,
    ) -> Result<Self> {
        let (letters, warnings) = Self::look(jetstream, pipeline, source).await?;
        for warning in warnings {
            tracing::warn!(
                pipeline = %pipeline.name, stream = %letters.target.stream, "dead-letter stream: {warning}"
            );
        }
        Ok(letters)
    }

    /// As [`DeadLetters::prepare`], with what may remove letters, for the caller to say.
    ///
    /// # Errors
    ///
    /// As of [`DeadLetters::prepare`].
    pub async fn look(
        jetstream: Context,
        pipeline: &PipelineConfig,
        source: &async_nats::jetstream::stream::Info,
    ) -> Result<(Self, Vec<String>)> {
        let target = pipeline.dead_letter.clone();
        let stream = consumer::stream(&jetstream, &target.stream, Phase::DeadLetter).await?;
        let info = stream.cached_info();
        let source =
            Source { name: source.config.name.clone(), created_at: source.created.unix_timestamp_nanos() };
        let subjects = letters_of(&target, &pipeline.name, &source);
        if let Some(refusal) = stream::refusal(info, &target.subject, &subjects) {
            return Err(Error::new(
                Phase::DeadLetter,
                ErrorKind::StreamSetup,
                format!("the dead-letter stream {:?} {refusal}", target.stream),
            ));
        }
        let warnings = stream::warnings(&info.config);
        let letters = Self {
            jetstream,
            pipeline: Arc::from(pipeline.name.as_str()),
            max_message_bytes: usize::try_from(info.config.max_message_size).ok().filter(|most| *most > 0),
            target,
            source,
        };
        Ok((letters, warnings))
    }

    /// Publishes the rejected events, and returns when the stream has confirmed every one.
    ///
    /// # Errors
    ///
    /// One of them was not confirmed. Those that were are kept out as repeats when the call is made again, for as long
    /// as they are in the stream.
    pub async fn publish(&self, rejected: &[(&Event, Reason)]) -> Result<Durable> {
        let mut unconfirmed = FuturesUnordered::new();
        for (event, reason) in rejected {
            if unconfirmed.len() >= WINDOW {
                unconfirmed.try_next().await?;
            }
            unconfirmed.push(self.publish_one(event, reason, None));
        }
        while unconfirmed.try_next().await?.is_some() {}
        Ok(Durable::dead_lettered())
    }

    /// As [`DeadLetters::publish`], of one event with headers that cannot be read.
    ///
    /// # Errors
    ///
    /// As of [`DeadLetters::publish`].
    pub async fn publish_unreadable(
        &self,
        event: &Event,
        reason: &Reason,
        headers: &[u8],
    ) -> Result<Durable> {
        self.publish_one(event, reason, Some(headers)).await?;
        Ok(Durable::dead_lettered())
    }

    async fn publish_one(&self, event: &Event, reason: &Reason, unreadable: Option<&[u8]>) -> Result<()> {
        let max_payload = self.jetstream.client().max_payload();
        let frame = Frame {
            pipeline: &self.pipeline,
            stream: &self.source.name,
            max_bytes: self.max_message_bytes.map_or(max_payload, |most| most.min(max_payload)),
        };
        let (headers, payload) = frame.letter(event, reason, unreadable);
        let id = format!(
            "{}:{}:{}:{}",
            self.pipeline, self.source.name, self.source.created_at, event.stream_sequence
        );
        let message = PublishMessage::build()
            .headers(headers)
            .payload(payload)
            .message_id(id)
            .expected_stream(&self.target.stream)
            .expected_last_subject_sequence(0);
        let confirmed = match self.jetstream.send_publish(self.subject(event), message).await {
            Ok(confirmation) => confirmation.await,
            Err(error) => Err(error),
        };
        match confirmed {
            Ok(_ack) => Ok(()),
            Err(error) if is_there_already(&error) => Ok(()),
            // Seldom needed, and large.
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                Err(Box::pin(self.why_nobody_answers()).await)
            }
            Err(error) => Err(self.not_confirmed(&error)),
        }
    }

    /// Where the letter of an event goes: nothing else is ever published there. The time at which the event was stored
    /// tells a stream from a later one of the same name, and from one that was restored to an earlier state.
    fn subject(&self, event: &Event) -> String {
        let (prefix, pipeline, stream) = (&self.target.subject, &self.pipeline, &self.source.name);
        format!("{prefix}.{pipeline}.{stream}.{}.{}", event.published_at, event.stream_sequence)
    }

    /// Nobody listens on the subject: the stream is gone, or does not take it any more, or has no leader just now.
    async fn why_nobody_answers(&self) -> Error {
        let stream = match consumer::stream(&self.jetstream, &self.target.stream, Phase::DeadLetter).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let (prefix, subjects) =
            (&self.target.subject, letters_of(&self.target, &self.pipeline, &self.source));
        let (kind, why) = match stream::refusal(stream.cached_info(), prefix, &subjects) {
            Some(refusal) => (ErrorKind::StreamSetup, refusal),
            None => (ErrorKind::NatsUnavailable, "does not answer: it may be choosing a leader".to_owned()),
        };
        Error::new(Phase::DeadLetter, kind, format!("the dead-letter stream {:?} {why}", self.target.stream))
    }

    fn not_confirmed(&self, error: &PublishError) -> Error {
        let kind = match error.kind() {
            PublishErrorKind::TimedOut
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::MaxAckPending
            // its last message could not be read: whether the letter is there is not known
            | PublishErrorKind::WrongLastSequence => ErrorKind::NatsUnavailable,
            _ => api_error(error).map_or(ErrorKind::StreamSetup, answers::kind),
        };
        Error::new(
            Phase::DeadLetter,
            kind,
            format!("the dead-letter stream {:?} did not confirm: {error}", self.target.stream),
        )
    }
}

/// The filter for the letters of one pipeline.
fn letters_of(target: &DeadLetterConfig, pipeline: &str, source: &Source) -> String {
    format!("{}.{pipeline}.{}.*.*", target.subject, source.name)
}

fn api_error(error: &PublishError) -> Option<&async_nats::jetstream::Error> {
    error.source()?.downcast_ref()
}

/// Whether the subject has a letter.
fn is_there_already(error: &PublishError) -> bool {
    error.kind() == PublishErrorKind::WrongLastSequence
        && api_error(error).is_some_and(|error| names_a_letter(&error.to_string()))
}

/// The server answers "wrong last sequence: 17". With 0 in its place it could not look. Source: nats-server,
/// `JSStreamWrongLastSequenceErrF`, and where it is used with the sequence of nothing.
fn names_a_letter(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("wrong last sequence: ") else { return false };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u64>().is_ok_and(|sequence| sequence > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sequence_tells_that_a_letter_is_there() {
        for (text, expected) in [
            ("wrong last sequence: 17 (code 400, error code 10071)", true),
            ("wrong last sequence: 0 (code 400, error code 10071)", false),
            ("wrong last sequence (code 400, error code 10164)", false),
            ("wrong last sequence: ", false),
        ] {
            assert_eq!(names_a_letter(text), expected, "{text}");
        }
    }
}
